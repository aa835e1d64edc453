package main

import (
	"fmt"
	"io"
	"os"
	"time"
)

// progress tells whoever waits what is being done: one line that changes on a terminal, a line a step in a log.
type progress struct {
	w        io.Writer
	begin    time.Time
	terminal bool
	open     bool // the terminal's last line is ours and has no end yet
	// where it is: scenario number so many of so many. 0: not begun.
	scenario, of int
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, begin: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

// say shows the next step.
func (p *progress) say(format string, args ...any) {
	line := fmt.Sprintf("%4.0fs  ", time.Since(p.begin).Seconds())
	if p.of > 0 {
		line += fmt.Sprintf("[%d/%d] ", p.scenario, p.of)
	}
	line += fmt.Sprintf(format, args...)
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
		p.open = true
		return
	}
	fmt.Fprintln(p.w, line)
}

// part says that scenario i of n begins, counted from 0.
func (p *progress) part(i, n int) { p.scenario, p.of = i+1, n }

// done clears the line, so that a table can be printed.
func (p *progress) done() {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}
