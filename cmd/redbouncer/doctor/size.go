package doctor

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// SizeReport is what --size has worked out, and its JSON output.
type SizeReport struct {
	Schema      int    `json:"schema"`
	Status      string `json:"status"`
	ExitStatus  int    `json:"exit_status"`
	Pods        int    `json:"pods"`
	Workers     int    `json:"workers"`     // processes of a pod
	Threads     int    `json:"threads"`     // of a process, or what else uses Redis at once in it
	Connections int    `json:"connections"` // that a thread holds at once
	Surge       int    `json:"surge_percent"`

	Pool       int     `json:"pool"`       // connections of a process
	Total      int     `json:"total"`      // of all
	WithSurge  int     `json:"with_surge"` // while a deployment starts the new pods
	MaxClients int     `json:"maxclients"`
	Others     int     `json:"used_now"`     // connections that the server has now, whoever's they are; 0 without a URL
	Percent    float64 `json:"percent"`      // of maxclients, with the surge
	LargestFit int     `json:"largest_pool"` // of a process, so that a fifth of maxclients stays free
	Needed     int     `json:"maxclients_needed"`
	OpenFiles  int     `json:"open_files_needed"`
	Command    string  `json:"command"`
}

// stayFree is how many percent of maxclients should stay free, for operators, replicas and what was forgotten.
const stayFree = 20

// defaultSurge is how many percent of the pods a deployment of Kubernetes adds by default while it replaces them.
const defaultSurge = 25

const wantSize = "want pods=30,workers=8,threads=4 and, if need be, connections=1 (held by a thread at once) and surge=25 " +
	"(percent of pods that a deployment adds)"

// parseSize reads what --size says.
func parseSize(text string) (*SizeReport, error) {
	r := &SizeReport{Schema: schema, Pods: 1, Workers: 1, Threads: 1, Connections: 1, Surge: defaultSurge}
	into := map[string]*int{"pods": &r.Pods, "workers": &r.Workers, "threads": &r.Threads, "connections": &r.Connections, "surge": &r.Surge}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		at := into[key]
		if at == nil {
			return nil, fmt.Errorf("--size %q: %q is not known, or given twice; %s", text, key, wantSize)
		}
		delete(into, key)
		n := number(value)
		if n < 0 || n > 100_000 || n == 0 && key != "surge" || n == 0 && value != "0" {
			return nil, fmt.Errorf("--size %q: %s=%s is no number from 1 to 100000; %s", text, key, value, wantSize)
		}
		*at = n
	}
	return r, nil
}

// runSize works out pool sizes, with the server's maxclients if there is a URL.
func runSize(ctx context.Context, cfg *Config, out io.Writer) (int, error) {
	r, err := parseSize(cfg.Size)
	if err != nil {
		return ExitUnknown, err
	}
	r.MaxClients = cfg.MaxClients
	if cfg.URL != "" {
		s, err := newServer(cfg)
		if err != nil {
			return ExitUnknown, err
		}
		defer s.close()
		tries, err := s.enter(ctx, cfg.For)
		var v *survey
		if err == nil {
			v, err = newSurvey(ctx, cfg, s)
		}
		if err != nil {
			t := troubleReport(cfg, s, tries, err)
			return t.ExitStatus, t.write(out, cfg)
		}
		r.Others = max(v.used(), 0)
		if r.MaxClients == 0 {
			r.MaxClients = max(v.maxclients, 0)
		}
		if r.MaxClients == 0 {
			return ExitUnknown, fmt.Errorf("this user sees no maxclients, in INFO or with CONFIG GET: say it with --maxclients N")
		}
	}
	r.work(cfg.Threshold)
	if cfg.JSON {
		return r.ExitStatus, writeJSON(out, r)
	}
	return r.ExitStatus, r.writeText(out, cfg.Colour)
}

// work works it out. Healthy is below the threshold, critical more than there is.
func (r *SizeReport) work(threshold int) {
	processes := r.Pods * r.Workers
	surged := (r.Pods + (r.Pods*r.Surge+99)/100) * r.Workers
	r.Pool = r.Threads * r.Connections
	r.Total, r.WithSurge = processes*r.Pool, surged*r.Pool
	r.Percent = round(float64(r.WithSurge) * 100 / float64(r.MaxClients))
	r.LargestFit = r.MaxClients * (100 - stayFree) / 100 / surged
	r.Needed = roundUp((r.WithSurge*100 + 100 - stayFree - 1) / (100 - stayFree))
	r.OpenFiles = r.Needed + spare
	level := Notice
	switch {
	case r.WithSurge > r.MaxClients:
		level = Critical
	case r.Percent >= float64(threshold):
		level = Warning
	}
	r.Status, r.ExitStatus = statusWord(level), exitStatus(level)
	r.Command = fmt.Sprintf("redis-cli CONFIG SET maxclients %d", r.Needed)
	if level > Notice {
		r.Command = fmt.Sprintf("redbouncer serve --upstream URL --maxclients %d --pool-size %d", r.Needed, min(max(16, roundUp(r.WithSurge/100)), r.MaxClients/2))
	}
}

func (r *SizeReport) writeText(out io.Writer, colour bool) error {
	p := newPrinter(out, colour)
	fmt.Fprintf(p, "%s\n\n", strings.ToUpper(r.Status))
	line := func(name, format string, args ...any) {
		p.wrap(fmt.Sprintf("%-22s", name), strings.Repeat(" ", 22), fmt.Sprintf(format, args...))
	}
	line("pool of a process", "%d   %d threads x %d connections", r.Pool, r.Threads, r.Connections)
	line("all together", "%d   %d pods x %d workers x %d", r.Total, r.Pods, r.Workers, r.Pool)
	line("during a deployment", "%d   with %d %% more pods", r.WithSurge, r.Surge)
	line("maxclients", "%d   %.1f %% of it, %d left", r.MaxClients, r.Percent, max(r.MaxClients-r.WithSurge, 0))
	if r.Others > 0 {
		line("used now", "%d   by whomever; what is not of these programs comes on top", r.Others)
	}
	if r.LargestFit > 0 {
		line("largest pool", "%d   of a process, so that %d %% of maxclients stay free", r.LargestFit, stayFree)
	} else {
		line("largest pool", "none: with one connection each, these processes take more than %d %% of maxclients", 100-stayFree)
	}
	line("maxclients for this", "%d   and %d open files", r.Needed, r.OpenFiles)
	p.title("WHAT TO DO")
	if r.Status == statusWord(Notice) {
		p.wrap("  ", "  ", fmt.Sprintf("Set the largest size of each pool to %d: PoolSize, max_connections, maxTotal.", r.Pool))
		return p.Flush()
	}
	if r.LargestFit > 0 {
		p.wrap("  ", "  ", fmt.Sprintf("Set the largest size of each pool to %d, so that threads wait for a connection and not for Redis to "+
			"refuse one; or raise maxclients to %d and the open-file limit to %d:", r.LargestFit, r.Needed, r.OpenFiles))
	} else {
		p.wrap("  ", "  ", fmt.Sprintf("Raise maxclients to %d and the open-file limit to %d:", r.Needed, r.OpenFiles))
	}
	p.command(fmt.Sprintf("redis-cli CONFIG SET maxclients %d", r.Needed))
	p.wrap("  ", "  ", "or let the processes share connections:")
	p.command(r.Command)
	return p.Flush()
}

func sortedKeys(m map[string]int) []string { return slices.Sorted(maps.Keys(m)) }
