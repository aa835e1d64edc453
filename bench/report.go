package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
)

// report is everything that a run found out. It is also the JSON.
type report struct {
	Machine  string        `json:"machine"`
	Settings string        `json:"settings"`
	Versions []string      `json:"versions"`
	Skipped  []string      `json:"skipped,omitempty"`
	Loads    []loadResult  `json:"loads,omitempty"`
	Idle     []idleResult  `json:"idle,omitempty"`
	Storms   []stormResult `json:"storms,omitempty"`
	Fair     *fairResult   `json:"fair,omitempty"`
	Verdicts []verdict     `json:"verdicts"`
}

// loadResult is what the targets did under one load.
type loadResult struct {
	load
	Targets []targetResult `json:"targets"`
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
	ofFigures, toFigures := r.figures(m, of), r.figures(m, to)
	switch {
	case len(ofFigures) == 0:
		return spread{}, fmt.Errorf("%s did not take part", of)
	case len(toFigures) == 0:
		return spread{}, fmt.Errorf("%s did not take part", to)
	}
	quotients, err := ratios(ofFigures, toFigures)
	if err != nil {
		return spread{}, err
	}
	return spreadOf(quotients)
}

func (r *report) printHeader(w io.Writer) {
	fmt.Fprintln(w, "machine: ", r.Machine)
	fmt.Fprintln(w, "settings:", r.Settings)
	for _, v := range r.Versions {
		fmt.Fprintln(w, "beside:  ", v)
	}
	for _, s := range r.Skipped {
		fmt.Fprintln(w, "missing: ", s)
	}
}

func printLoads(w io.Writer, r *report) {
	for _, result := range r.Loads {
		fmt.Fprintf(w, "\n%s: GET of %d bytes; median of %d rounds (lowest to highest); us of CPU a command\n\n",
			result.Name, valueSize, len(result.Targets[0].Rounds))
		t := newTable(w, "", "requests/s", "of direct", "CPU", "of "+twemproxy, "Redis CPU", "of direct")
		for _, target := range result.Targets {
			name := target.Name
			t.row(name,
				result.cell(throughput, name, thousands), result.ratioCell(throughput, name, direct),
				result.cell(proxyCPU, name, asMicroseconds), result.ratioCell(proxyCPU, name, twemproxy),
				result.cell(redisCPU, name, asMicroseconds), result.ratioCell(redisCPU, name, direct))
		}
		t.flush()
	}
}

func (r loadResult) cell(m metric, target string, format func(float64) string) string {
	got, err := spreadOf(r.figures(m, target))
	if err != nil || got.Max == 0 {
		return notMeasured
	}
	return withRange(got, format)
}

func (r loadResult) ratioCell(m metric, of, to string) string {
	if of == to {
		return "1"
	}
	got, err := r.compare(m, of, to)
	if err != nil {
		return notMeasured
	}
	return withRange(got, asRatio)
}

func printIdle(w io.Writer, r *report) {
	if len(r.Idle) == 0 {
		fmt.Fprintf(w, "\nidle clients: %v\n", errNotMeasured)
		return
	}
	fmt.Fprintf(w, "\n%s idle clients that have spoken once: resident memory of the server process\n\n",
		thousands(float64(r.Idle[0].Clients)))
	t := newTable(w, "", "no client", "all connected", fmt.Sprintf("%s later", r.Idle[0].Settled), "a client")
	for _, result := range r.Idle {
		t.row(result.Name, asMegabytes(result.Before), asMegabytes(result.Connected), asMegabytes(result.After),
			asBytes(result.perClient()))
	}
	t.flush()
}

func (r *report) printVerdicts(w io.Writer) {
	fmt.Fprint(w, "\ntargets: ratios are the median over the rounds (lowest to highest)\n\n")
	t := newTable(w, "goal", "target", "measured", "")
	for _, v := range r.Verdicts {
		t.row(v.Promise, v.Target, v.measured, v.Outcome)
	}
	t.flush()
}

func (r *report) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// table lines up columns. Errors of writing to the terminal are of no interest.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, titles ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	t.row(titles...)
	return t
}

func (t table) row(cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, cell)
	}
	fmt.Fprintln(t.w)
}

func (t table) flush() { _ = t.w.Flush() }
