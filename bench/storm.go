package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Rules of the scenario storm:
//
//   - the server has room for the established clients and for nobody else;
//   - each established client asks at fixed times, whatever becomes of the answers: a latency is counted from when the
//     command was to be sent, so that a server that stalls is charged for all that it makes wait;
//   - then the same again, while others knock at a fixed rate, write a command and read what they are told;
//   - only loopback, for a bounded time, with a bounded number of connections at once.

const (
	stormClients  = 50
	stormRate     = 2000 // commands a second, of all established clients together
	stormKnocks   = 10000
	stormAtOnce   = 2000 // connections of the storm at once; beyond them, a knock is left out and counted
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
	calm := &settled{addr: t.addr}
	if err := calm.connect(); err != nil {
		return result, err
	}
	defer calm.close()
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
	if result.Calm, err = calm.run(ctx, s.storm); err != nil {
		return result, r.explain(t, err)
	}
	middle, _ := cpuTime(server.pid())
	s.progress.say("storm: %s, the same with %s knocks a second", c.name, thousands(stormKnocks))
	k := &knocker{addr: t.addr, places: make(chan struct{}, stormAtOnce)}
	done := make(chan struct{})
	go k.run(ctx, s.storm, done)
	result.Storm, err = calm.run(ctx, s.storm)
	<-done
	end, _ := cpuTime(server.pid())
	result.Knocks, result.Told, result.NotTold, result.LeftOut = k.knocks.Load(), k.told.Load(), k.notTold.Load(), k.leftOut.Load()
	result.KnockCPU = max(float64((end-middle)-(middle-begin))/float64(max(result.Knocks, 1)), 0) / float64(time.Microsecond)
	if err != nil {
		return result, r.explain(t, err)
	}
	return result, nil
}

// settled are established clients that ask at fixed times.
type settled struct {
	addr  string
	conns []net.Conn
}

func (s *settled) connect() error {
	for range stormClients {
		c, err := net.Dial("tcp", s.addr)
		if err != nil {
			return err
		}
		s.conns = append(s.conns, c)
		if _, err := talk(c, "PING"); err != nil {
			return err
		}
	}
	return nil
}

func (s *settled) close() {
	for _, c := range s.conns {
		_ = c.Close()
	}
}

// run asks for so long, and returns how long the answers took.
func (s *settled) run(ctx context.Context, d time.Duration) (latencies, error) {
	all := make([][]time.Duration, len(s.conns))
	errs := make([]error, len(s.conns))
	var clients sync.WaitGroup
	begin := time.Now()
	for i, c := range s.conns {
		clients.Go(func() { all[i], errs[i] = ask1(ctx, c, begin, i, d) })
	}
	clients.Wait()
	for _, err := range errs {
		if err != nil {
			return latencies{}, fmt.Errorf("an established client: %w", err)
		}
	}
	return percentiles(slices.Concat(all...)), nil
}

// ask1 is one client: the i-th of all, whose times lie between those of the others.
func ask1(ctx context.Context, c net.Conn, begin time.Time, i int, d time.Duration) (took []time.Duration, err error) {
	every := time.Second * stormClients / stormRate
	r := bufio.NewReaderSize(c, 64)
	due := begin.Add(every * time.Duration(i) / stormClients)
	for ; due.Sub(begin) < d && ctx.Err() == nil; due = due.Add(every) {
		time.Sleep(time.Until(due))
		_ = c.SetDeadline(time.Now().Add(replyTimeout))
		if _, err := io.WriteString(c, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"); err != nil {
			return took, err
		}
		if line, err := r.ReadString('\n'); err != nil || line != "$-1\r\n" {
			return took, fmt.Errorf("the answer is %q, %w", line, err)
		}
		took = append(took, time.Since(due))
	}
	return took, ctx.Err()
}

// knocker opens connections at a fixed rate, which are to be refused.
type knocker struct {
	addr                           string
	places                         chan struct{}
	knocks, told, notTold, leftOut atomic.Int64
}

func (k *knocker) run(ctx context.Context, d time.Duration, done chan<- struct{}) {
	defer close(done)
	var knocks sync.WaitGroup
	begin := time.Now()
	for n := 0; time.Since(begin) < d && ctx.Err() == nil; {
		due := int(time.Since(begin) * stormKnocks / time.Second)
		for ; n < due; n++ {
			select {
			case k.places <- struct{}{}:
				knocks.Go(k.knock)
			default:
				k.leftOut.Add(1)
			}
		}
		time.Sleep(time.Millisecond)
	}
	knocks.Wait()
}

func (k *knocker) knock() {
	defer func() { <-k.places }()
	k.knocks.Add(1)
	c, err := net.DialTimeout("tcp", k.addr, stormPatience)
	if err != nil {
		k.notTold.Add(1)
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(stormPatience))
	_, _ = io.WriteString(c, "*1\r\n$4\r\nPING\r\n")
	b, _ := io.ReadAll(c)
	if string(b) == stormRefusal {
		k.told.Add(1)
	} else {
		k.notTold.Add(1)
	}
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
