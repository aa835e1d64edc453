package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

// pageTemplate is one file that needs no other: it can be sent by mail.
var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"mark": func(style int) string { return marks[style%len(marks)] },
}).Parse(pageText))

// page is the report for people.
func (r *report) page() ([]byte, error) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, r)
	return b.Bytes(), err
}

// section is a table of the page.
type section struct {
	Title string
	Grid  grid
	Notes []string
}

func (g grid) Titles() []string { return g[0] }

// cell is a figure and its range, which the page puts below it.
type cell struct{ Figure, Range string }

func (g grid) Rows() (rows [][]cell) {
	for _, row := range g[1:] {
		var cells []cell
		for _, text := range row {
			figure, ends, found := strings.Cut(text, " (")
			if found {
				ends = "(" + ends
			}
			cells = append(cells, cell{figure, ends})
		}
		rows = append(rows, cells)
	}
	return rows
}

// When is the time of the run.
func (r *report) When() string { return r.At.Format("2 January 2006, 15:04 MST") }

// Met is how many goals were, of those that were measured.
func (r *report) Met() string {
	met, measured := 0, 0
	for _, v := range r.Verdicts {
		if v.Got != nil {
			measured++
		}
		if v.Class() == "met" {
			met++
		}
	}
	return fmt.Sprintf("%d of %d goals met", met, measured)
}

// Class is what the verdict looks like.
func (v verdict) Class() string {
	switch {
	case v.Outcome == "met":
		return "met"
	case v.Got == nil:
		return "unmeasured"
	}
	return "missed"
}

// Sections are all tables, in the order of the terminal's.
func (r *report) Sections() (all []section) {
	for _, l := range r.Loads {
		if len(l.Targets) == 0 {
			continue
		}
		all = append(all, section{
			Title: fmt.Sprintf("%s: %s", l.Scenario, l.heading()), Grid: gridOf(l, columnsOf(l)), Notes: l.notes(),
		})
	}
	if len(r.Upstreams) > 0 {
		all = append(all, section{Title: fmt.Sprintf("upstreams: connections to Redis, with so many clients that ask %s times a second in all",
			thousands(upstreamRate)), Grid: upstreamGrid(r)})
	}
	if len(r.Idle) > 0 {
		all = append(all, section{Title: "idle: clients that have spoken once; resident memory", Grid: idleGrid(r)})
	}
	if len(r.Storms) > 0 {
		all = append(all, section{Title: "storm: latency in us of clients that are in", Grid: stormGrid(r)})
	}
	if r.Fair != nil {
		all = append(all, section{Title: "fair: from connecting to the first answer, in ms", Grid: fairGrid(r)})
	}
	if len(r.Starts) > 0 {
		all = append(all, section{Title: "start: to the first served command", Grid: startGrid(r)})
	}
	if len(r.Leaks) > 0 {
		all = append(all, section{Title: "leak: how long after its beginning each leak was named", Grid: leakGrid(r)})
	}
	if len(r.Soaks) > 0 {
		all = append(all, section{Title: "soak: " + soakLoad.Name + ", and visitors, at the end of each quarter", Grid: soakGrid(r)})
	}
	return all
}

// notes are what a reader of the load's table should know.
func (r loadResult) notes() []string {
	notes := []string{fmt.Sprintf("Medians of %d rounds (lowest to highest); CPU a %s.", len(r.Targets[0].Rounds), r.unit())}
	for _, why := range r.LeftOut {
		if !strings.HasPrefix(why, withLimits) {
			notes = append(notes, why+".")
		}
	}
	return notes
}

// Duration is how long the run took.
func (r *report) Duration() string { return r.Took.Round(time.Second).String() }
