package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Rules of the scenario upstreams:
//
//   - clients become more in steps, and all of them ask, at a low rate, as most clients of a Redis do;
//   - meanwhile Redis is asked for its clients, several times a second; whose they are, the address tells at which Redis
//     was called;
//   - then all clients go at once.

// upstreamSteps are how many clients there are.
var upstreamSteps = []int{50, 200, 500, 1000, 2000}

const (
	upstreamEvery = 100 * time.Millisecond
	upstreamRate  = 5000 // commands a second
)

// upstreamResult is what Redis saw of one target.
type upstreamResult struct {
	Name   string          `json:"name"`
	Points []upstreamPoint `json:"points"`
}

type upstreamPoint struct {
	At        time.Duration `json:"at_ns"`
	Clients   int           `json:"clients"`
	Upstreams int           `json:"upstream_connections"`
}

// at is the largest number of connections at so many clients.
func (r upstreamResult) at(clients int) (most int) {
	for _, p := range r.Points {
		if p.Clients == clients {
			most = max(most, p.Upstreams)
		}
	}
	return most
}

func planUpstreams(*session) string {
	steps := make([]string, len(upstreamSteps))
	for i, n := range upstreamSteps {
		steps[i] = thousands(float64(n))
	}
	return fmt.Sprintf("%s clients, %s GET/s", strings.Join(steps, ", "), thousands(upstreamRate))
}

func measureUpstreams(ctx context.Context, s *session, sc scenario) error {
	if err := raiseOpenFiles(2*upstreamSteps[len(upstreamSteps)-1] + spareFiles); err != nil {
		return err
	}
	r, err := s.newRig(ctx, s.contenders, rigMaxClients)
	if err != nil {
		return err
	}
	defer r.close()
	for _, t := range r.targets {
		if t.ours {
			continue
		}
		s.progress.say("%s: %s", sc.name, t.name)
		ramp := &ramp{s: s, r: r, t: t, begin: time.Now()}
		err := ramp.run(ctx)
		if errors.Is(err, errNotMeasured) {
			return nil
		}
		if err != nil {
			return r.explain(t, fmt.Errorf("%s: %w", t.name, err))
		}
		s.report.Upstreams = append(s.report.Upstreams, upstreamResult{t.name, ramp.points})
	}
	return nil
}

// ramp is one target with more and more clients.
type ramp struct {
	s       *session
	r       *rig
	t       target
	begin   time.Time
	clients int
	drivers []driver // one a step: those that came with it
	points  []upstreamPoint
}

func (x *ramp) run(ctx context.Context) error {
	defer x.leave()
	for _, n := range upstreamSteps {
		more := x.s.job(load{Clients: n - x.clients, Pipeline: 1, Writes: get}, x.t)
		more.rate = upstreamRate / float64(len(upstreamSteps))
		d := newLoopDriver(x.s, more)
		x.drivers = append(x.drivers, d)
		if err := d.start(ctx); err != nil {
			return err
		}
		x.clients = n
		if err := x.ask(ctx); err != nil {
			return err
		}
	}
	x.leave()
	time.Sleep(time.Duration(x.clients) * leaveTime)
	x.clients = 0
	for range 4 {
		if err := x.look(ctx); err != nil {
			return err
		}
		time.Sleep(upstreamEvery)
	}
	return nil
}

// ask has everybody ask for as long as a measurement takes, and looks meanwhile.
func (x *ramp) ask(ctx context.Context) error {
	results := make(chan error, len(x.drivers))
	for _, d := range x.drivers {
		go func() {
			_, err := d.run(ctx, x.s.duration)
			results <- err
		}()
	}
	var errs []error
	ticker := time.NewTicker(upstreamEvery)
	defer ticker.Stop()
	for waiting := len(x.drivers); waiting > 0; {
		select {
		case err := <-results:
			errs = append(errs, err)
			waiting--
		case <-ticker.C:
			errs = append(errs, x.look(ctx))
		}
	}
	return errors.Join(errs...)
}

func (x *ramp) look(ctx context.Context) error {
	n, err := x.r.upstreams(ctx, x.t)
	x.points = append(x.points, upstreamPoint{time.Since(x.begin), x.clients, n})
	return err
}

func (x *ramp) leave() {
	for _, d := range x.drivers {
		d.stop()
	}
	x.drivers = nil
}

func printUpstreams(w io.Writer, r *report, _ scenario) {
	if len(r.Upstreams) == 0 {
		fmt.Fprintf(w, "\nupstreams: %v\n", errNotMeasured)
		return
	}
	fmt.Fprintf(w, "\nupstreams: connections to Redis, with so many clients that ask %s times a second in all\n\n", thousands(upstreamRate))
	upstreamGrid(r).print(w)
}

func upstreamGrid(r *report) grid {
	titles := []string{"clients"}
	for _, n := range upstreamSteps {
		titles = append(titles, thousands(float64(n)))
	}
	g := grid{titles}
	for _, x := range r.Upstreams {
		cells := []string{x.Name}
		for _, n := range upstreamSteps {
			cells = append(cells, thousands(float64(x.at(n))))
		}
		g = append(g, cells)
	}
	return g
}
