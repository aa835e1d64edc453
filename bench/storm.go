package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
)

// Rules of the scenario storm:
//
//   - the server has room for the established clients and for nobody else;
//   - each established client asks at fixed times, whatever becomes of the answers: a latency is counted from when the
//     command was to be sent, so that a server that stalls is charged for all that it makes wait;
//   - then the same again, while others knock at a fixed rate, write a command and read what they are told;
//   - both have a thread each, and no goroutine for a connection: what is measured is the server's doing, as far as two loads
//     and a server on one machine allow;
//   - only loopback, for a bounded time, with a bounded number of connections at once.

const (
	stormClients  = 50
	stormRate     = 2000 // commands a second, of all established clients together
	stormKnocks   = 10000
	stormAtOnce   = 2000 // connections of the storm at once; beyond them, a knock is left out and counted
	stormCommand  = "*1\r\n$4\r\nPING\r\n"
	stormRefusal  = "-ERR max number of clients reached\r\n"
	stormPatience = 2 * time.Second
)

// stormResult is what the established clients of one target met.
type stormResult struct {
	Name  string    `json:"name"`
	Calm  latencies `json:"calm"`
	Storm latencies `json:"storm"`

	Knocks  int64 `json:"knocks"`   // connections tried
	Told    int64 `json:"told"`     // that read the refusal
	NotTold int64 `json:"not_told"` // that were reset, or closed without it
	LeftOut int64 `json:"left_out"` // that this machine could not try in time
	// KnockCPU is what a knock cost the server, in microseconds of CPU: what it used more than in calm, by the knocks. Zero:
	// not measured on this system.
	KnockCPU float64       `json:"knock_cpu_us,omitempty"`
	Duration time.Duration `json:"duration_ns"`
}

func planStorm(s *session) string {
	return fmt.Sprintf("%d clients, %s GET/s, for %s; then the same with %s refused connections/s",
		stormClients, thousands(stormRate), s.storm, thousands(stormKnocks))
}

func measureStorm(ctx context.Context, s *session, _ scenario) error {
	if err := raiseOpenFiles(2*stormAtOnce + spareFiles); err != nil {
		return err
	}
	for _, c := range s.contenders {
		if c.peer() {
			continue // twemproxy has no limit on clients
		}
		result, err := s.measureStormOf(ctx, c)
		if errors.Is(err, errNotMeasured) {
			return nil // and the report has no figures, which it says
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		s.report.Storms = append(s.report.Storms, result)
	}
	return nil
}

func (s *session) measureStormOf(ctx context.Context, c contender) (stormResult, error) {
	result := stormResult{Name: c.name, Duration: s.storm}
	room := stormClients
	if c.args != nil {
		room++ // what redbouncer itself has open before Redis; the storm meets the proxy's limit
	}
	r, err := s.newRig(ctx, []contender{c}, room)
	if err != nil {
		return result, err
	}
	defer r.close()
	t := r.targets[0]
	j := s.job(load{Name: "established clients", Clients: stormClients, Pipeline: 1, Writes: [][]string{{"GET key"}}}, t)
	j.rate = stormRate
	calm := newLoopDriver(s, j)
	defer calm.stop()
	if err := calm.start(ctx); err != nil {
		return result, r.explain(t, err)
	}
	if c.args != nil { // the proxy has one place more than clients
		spare, err := net.Dial("tcp", t.addr)
		if err != nil {
			return result, err
		}
		defer spare.Close()
		if _, err := talk(spare, "PING"); err != nil {
			return result, err
		}
	}
	s.progress.say("storm: %s, %d clients at %d commands/s in calm", c.name, stormClients, stormRate)
	server := t.proxy
	if server == nil {
		server = r.redis
	}
	begin, _ := cpuTime(server.pid())
	got, err := calm.run(ctx, s.storm)
	if err != nil {
		return result, r.explain(t, err)
	}
	result.Calm = got.took
	middle, _ := cpuTime(server.pid())
	s.progress.say("storm: %s, the same with %s knocks a second", c.name, thousands(stormKnocks))
	k, err := newKnocker(s, t)
	if err != nil {
		return result, err
	}
	var knocking errgroup.Group
	knocking.Go(func() error { return k.run(ctx, s.storm) })
	got, err = calm.run(ctx, s.storm)
	err = errors.Join(err, knocking.Wait())
	end, _ := cpuTime(server.pid())
	result.Storm = got.took
	result.Knocks, result.Told, result.NotTold, result.LeftOut = k.knocks, k.told, k.notTold, k.leftOut
	result.KnockCPU = max(float64((end-middle)-(middle-begin))/float64(max(result.Knocks, 1)), 0) / float64(time.Microsecond)
	if err != nil {
		return result, r.explain(t, err)
	}
	return result, nil
}

func printStorms(w io.Writer, r *report, _ scenario) {
	for i, x := range r.Storms {
		if i == 0 {
			fmt.Fprintf(w, "\n%d established clients, %d commands/s in all, for %s in calm and as long with %s knocks/s that are refused; latency in us from the time due\n\n",
				stormClients, stormRate, x.Duration, thousands(stormKnocks))
		}
	}
	if len(r.Storms) > 0 {
		stormGrid(r).print(w)
	}
}

func stormGrid(r *report) grid {
	g := grid{{"", "calm p50", "p99", "max", "storm p50", "p99", "max", "p99 storm / calm", "knocks", "told", "not told", "left out", "CPU a knock"}}
	us := func(d time.Duration) string { return thousands(asUS(d)) }
	for _, x := range r.Storms {
		g = append(g, []string{x.Name, us(x.Calm.P50), us(x.Calm.P99), us(x.Calm.Max), us(x.Storm.P50), us(x.Storm.P99), us(x.Storm.Max),
			asRatio(float64(x.Storm.P99) / float64(x.Calm.P99)), thousands(float64(x.Knocks)), thousands(float64(x.Told)),
			thousands(float64(x.NotTold)), thousands(float64(x.LeftOut)), asMicroseconds(x.KnockCPU)})
	}
	return g
}
