package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// column is one figure of the targets of a load, as the terminal and the page show it.
type column struct {
	title string
	cell  func(r loadResult, target string) string
}

func figureColumn(title string, m metric, format func(float64) string) column {
	return column{title, func(r loadResult, target string) string { return r.cell(m, target, format) }}
}

func ratioColumn(m metric, to string) column {
	return column{"of " + to, func(r loadResult, target string) string { return r.ratioCell(m, target, to) }}
}

// throughputColumns are the figures of a load that is sent as fast as it is answered.
func throughputColumns(r loadResult) []column {
	columns := []column{
		figureColumn(r.units()+"/s", throughput, thousands), ratioColumn(throughput, direct),
		figureColumn("CPU us", proxyCPU, asMicroseconds),
	}
	for _, t := range r.Targets {
		if c, _ := contenderNamed(t.Name); c.peer() {
			columns = append(columns, ratioColumn(proxyCPU, t.Name))
		}
	}
	columns = append(columns,
		figureColumn("Redis CPU us", redisCPU, asMicroseconds), ratioColumn(redisCPU, direct),
		medianColumn("reads+writes", func(s sample) float64 { return s.ProxyCalls }, asRatio),
		medianColumn("Redis r+w", func(s sample) float64 { return s.RedisCalls }, asRatio),
		medianColumn("memory", func(s sample) float64 { return float64(s.ProxyPeak) }, asMegabytes),
		medianColumn("upstreams", upstreamCount, thousands))
	if r.Scenario != "throughput" { // as fast as answered, a latency says how many clients there are
		columns = append(columns, medianColumn("p50 us", p50, asWhole), medianColumn("p99 us", p99, asWhole))
	}
	return columns
}

// latencyColumns are the figures of a load at a fixed rate.
func latencyColumns(loadResult) []column {
	us := func(title string, m metric) column { return figureColumn(title, m, asWhole) }
	return []column{
		us("p50 us", p50), {"added", func(r loadResult, target string) string { return r.addedCell(p50, target) }},
		us("p99 us", p99), {"added", func(r loadResult, target string) string { return r.addedCell(p99, target) }},
		medianColumn("p99.9 us", func(s sample) float64 { return asUS(s.Latency.P999) }, asWhole),
		medianColumn("longest us", func(s sample) float64 { return asUS(s.Latency.Max) }, asWhole),
		figureColumn("CPU us", proxyCPU, asMicroseconds),
		medianColumn("client late, p99 us", func(s sample) float64 {
			if s.Late == nil {
				return 0
			}
			return asUS(s.Late.P99)
		}, asWhole),
		medianColumn("memory", func(s sample) float64 { return float64(s.ProxyPeak) }, asMegabytes),
	}
}

// largeColumns are the figures of large values.
func largeColumns(l loadResult) []column {
	value := float64(l.Value)
	return []column{
		figureColumn("MB/s", func(s sample) float64 { return s.RequestsPerSecond * value / (1 << 20) }, asWhole),
		ratioColumn(throughput, direct),
		figureColumn("CPU us a MB", func(s sample) float64 { return s.ProxyCPU / value * (1 << 20) }, asWhole),
		figureColumn("peak memory", func(s sample) float64 { return float64(s.ProxyPeak) }, asMegabytes),
		figureColumn("more than before, of the value", valueMemory(l.Value), asRatio),
	}
}

// medianColumn leaves out the range, where it says little.
func medianColumn(title string, m metric, format func(float64) string) column {
	return column{title, func(r loadResult, target string) string {
		got, err := spreadOf(r.figures(m, target))
		if err != nil || got.Max == 0 {
			return notMeasured
		}
		return format(got.Median)
	}}
}

// grid is a table as text: the first row has the titles.
type grid [][]string

// gridOf lays out the targets of a load. A column without any figure is left out.
func gridOf(r loadResult, columns []column) grid {
	g := grid{{""}}
	for _, t := range r.Targets {
		g = append(g, []string{t.Name})
	}
	for _, c := range columns {
		var cells []string
		some := false
		for _, t := range r.Targets {
			cell := c.cell(r, t.Name)
			some = some || cell != notMeasured && cell != "1"
			cells = append(cells, cell)
		}
		if !some {
			continue
		}
		g[0] = append(g[0], c.title)
		for i, cell := range cells {
			g[i+1] = append(g[i+1], cell)
		}
	}
	return g
}

func (g grid) print(w io.Writer) {
	t := newTable(w, g[0]...)
	for _, row := range g[1:] {
		t.row(row...)
	}
	t.flush()
}

// heading says what a load was.
func (r loadResult) heading() string {
	text := r.Name
	if r.Value > 0 && r.Value < megabytes && !strings.Contains(text, "B") {
		text += fmt.Sprintf(", values of %s bytes", thousands(float64(r.Value)))
	}
	if r.Rate > 0 {
		text += fmt.Sprintf(", %s commands/s", thousands(r.Rate))
	}
	return text
}

// columnsOf are the columns of a scenario of loads.
func columnsOf(r loadResult) []column {
	switch r.Scenario {
	case "latency", "slow-reader":
		return latencyColumns(r)
	case "large":
		return largeColumns(r)
	}
	return throughputColumns(r)
}

func printLoads(w io.Writer, r *report, sc scenario) {
	for _, result := range r.Loads {
		if result.Scenario != sc.name || len(result.Targets) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s; median of %d rounds (lowest to highest), CPU a %s\n\n",
			sc.name, result.heading(), len(result.Targets[0].Rounds), result.unit())
		gridOf(result, columnsOf(result)).print(w)
		for _, why := range result.LeftOut {
			if !strings.Contains(why, withLimits) {
				fmt.Fprintln(w, why)
			}
		}
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

func (r loadResult) addedCell(m metric, target string) string {
	if target == direct {
		return notMeasured
	}
	got, err := r.added(m, target)
	if err != nil {
		return notMeasured
	}
	return withRange(got, asWhole)
}

func asUS(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// idleGrid has a row a target and a step.
func idleGrid(r *report) grid {
	g := grid{{"", "clients", "memory before", "all connected", "later", "a client", "CPU ms/s"}}
	for _, x := range r.Idle {
		for i, step := range x.Steps {
			name, before := "", ""
			if i == 0 {
				name, before = x.Name, asMegabytes(float64(x.Before))
			}
			g = append(g, []string{name, thousands(float64(step.Clients)), before, asMegabytes(float64(step.Connected)),
				asMegabytes(float64(step.After)), asBytes(x.perClient(step)), fmt.Sprintf("%.1f", step.CPU)})
		}
	}
	return g
}

func printIdle(w io.Writer, r *report, _ scenario) {
	if len(r.Idle) == 0 {
		fmt.Fprintf(w, "\nidle clients: %v\n", errNotMeasured)
		return
	}
	fmt.Fprint(w, "\nidle: clients that have spoken once; resident memory of the server process\n\n")
	idleGrid(r).print(w)
}

// printVerdicts leaves out what belongs to scenarios that were not asked for.
func (r *report) printVerdicts(w io.Writer, all bool) {
	fmt.Fprint(w, "\ntargets: ratios are the median over the rounds (lowest to highest)\n\n")
	t := newTable(w, "goal", "target", "measured", "")
	left := 0
	for _, v := range r.Verdicts {
		if v.Got == nil && !all {
			left++
			continue
		}
		t.row(v.Promise, v.Target, v.Measured, v.Outcome)
	}
	t.flush()
	if left > 0 {
		fmt.Fprintf(w, "%d other goals were not measured in this run\n", left)
	}
}

// table lines up columns. Errors of writing to the terminal are of no interest.
type table struct{ w *tabwriter.Writer }

func newTable(w io.Writer, titles ...string) table {
	t := table{tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)}
	t.row(titles...)
	return t
}

func (t table) row(cells ...string) { fmt.Fprintln(t.w, strings.Join(cells, "\t")) }

func (t table) flush() { _ = t.w.Flush() }
