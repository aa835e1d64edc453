package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is everything that a run found out. It is also the JSON.
type report struct {
	Command  string    `json:"command"`
	Commit   string    `json:"commit"`
	At       time.Time `json:"at"`
	Machine  string    `json:"machine"`
	Settings string    `json:"settings"`
	Versions []string  `json:"versions"`
	Skipped  []string  `json:"skipped,omitempty"`

	Loads     []loadResult     `json:"loads,omitempty"`
	Upstreams []upstreamResult `json:"upstreams,omitempty"`
	Idle      []idleResult     `json:"idle,omitempty"`
	Storms    []stormResult    `json:"storms,omitempty"`
	Fair      *fairResult      `json:"fair,omitempty"`
	Starts    []startResult    `json:"starts,omitempty"`
	Leaks     []leakResult     `json:"leaks,omitempty"`
	Soaks     []soakResult     `json:"soaks,omitempty"`

	Took     time.Duration `json:"took_ns"`
	Verdicts []verdict     `json:"verdicts"`
}

// loadResult is what the targets did under one load.
type loadResult struct {
	Scenario string `json:"scenario"`
	load
	// Rate is what was sent a second. 0: as fast as it was answered.
	Rate    float64        `json:"rate,omitempty"`
	Targets []targetResult `json:"targets"`
	// LeftOut says who did not take part, and why.
	LeftOut []string `json:"left_out,omitempty"`
}

// targetResult has a sample a round; the same index is the same round in every target.
type targetResult struct {
	Name   string   `json:"name"`
	Rounds []sample `json:"rounds"`
}

func (r *report) load(name string) (loadResult, error) {
	for _, result := range r.Loads {
		if result.Name == name {
			return result, nil
		}
	}
	return loadResult{}, fmt.Errorf("the load %q was not run", name)
}

// figures returns one figure a round, or none if the target did not take part.
func (r loadResult) figures(m metric, target string) []float64 {
	var figures []float64
	for _, t := range r.Targets {
		if t.Name != target {
			continue
		}
		for _, s := range t.Rounds {
			figures = append(figures, m(s))
		}
	}
	return figures
}

// compare divides a figure of one target by another's, round by round.
func (r loadResult) compare(m metric, of, to string) (spread, error) {
	return r.against(m, m, [2]string{of, to})
}

// against divides one figure of a target by another of another, round by round.
func (r loadResult) against(m, by metric, names [2]string) (spread, error) {
	of, to, err := r.pair(m, by, names)
	if err != nil {
		return spread{}, err
	}
	quotients, err := ratios(of, to)
	if err != nil {
		return spread{}, err
	}
	return spreadOf(quotients)
}

// added is what a target adds to direct, round by round.
func (r loadResult) added(m metric, target string) (spread, error) {
	of, to, err := r.pair(m, m, [2]string{target, direct})
	if err != nil {
		return spread{}, err
	}
	for i := range min(len(of), len(to)) {
		of[i] -= to[i]
	}
	return spreadOf(of)
}

func (r loadResult) pair(m, by metric, names [2]string) (of, to []float64, err error) {
	of, to = r.figures(m, names[0]), r.figures(by, names[1])
	switch {
	case len(of) == 0:
		return nil, nil, fmt.Errorf("%s did not take part", names[0])
	case len(to) == 0:
		return nil, nil, fmt.Errorf("%s did not take part", names[1])
	}
	return of, to, nil
}

// describe notes what a reader must know before comparing figures with another run's.
func (r *report) describe(args []string) {
	r.At = time.Now().UTC().Truncate(time.Second)
	r.Machine = describeMachine()
	r.Commit = describeCommit()
	r.Command = "go run ./bench"
	for i, arg := range args {
		if before, after, found := strings.Cut(arg, "@"); found && strings.Contains(before, "://") {
			args[i] = "redis://...@" + after // not with the password
		}
	}
	r.Command = strings.TrimSpace(r.Command + " " + strings.Join(args, " "))
}

// describeCommit is the commit of the working tree, marked if there are changes that are not in it.
func describeCommit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// describeMachine says what it ran on.
func describeMachine() string {
	text := fmt.Sprintf("%s, %d CPUs, %s/%s, %s", cpuModel(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		text += ", kernel " + strings.TrimSpace(string(kernel))
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return text
	}
	var lastMinute float64
	if _, err := fmt.Sscan(string(load), &lastMinute); err != nil {
		return text
	}
	text += fmt.Sprintf(", load average before the start %.2f", lastMinute)
	if lastMinute > float64(runtime.NumCPU())/2 {
		text += " (busy: trust the ranges, not the medians)"
	}
	return text
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

func (r *report) printHeader(w io.Writer) {
	fmt.Fprintln(w, "command: ", r.Command)
	fmt.Fprintln(w, "commit:  ", r.Commit)
	fmt.Fprintln(w, "machine: ", r.Machine)
	fmt.Fprintln(w, "settings:", r.Settings)
	for _, v := range r.Versions {
		fmt.Fprintln(w, "beside:  ", v)
	}
	for _, s := range r.Skipped {
		fmt.Fprintln(w, "missing: ", s)
	}
}

// write leaves the report in a directory, as a page and as data.
func (r *report) write(dir string, stdout io.Writer) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	page, err := r.page()
	if err != nil {
		return err
	}
	html, data := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.json")
	fmt.Fprintf(stdout, "\nwritten: %s, %s\n", html, data)
	return errors.Join(os.WriteFile(data, append(text, '\n'), 0o644), os.WriteFile(html, page, 0o644))
}
