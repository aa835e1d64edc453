package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Rules of the scenario fair:
//
//   - redbouncer has room for 200 clients, and a queue;
//   - one address opens 5,000 connections within a second; each that is let in holds its place for a tenth of a second, more or less, so
//     that a place comes free every half millisecond, and they take two and a half seconds in all;
//   - meanwhile, clients from another address come one at a time: how long each waits from connecting to its first answer.

const (
	fairPlaces = 200
	fairFlood  = 5000
	fairHold   = 100 * time.Millisecond
	fairEvery  = 10 * time.Millisecond
	floodAddr  = "127.0.0.1"
	singleAddr = "127.0.0.2"
)

// fairResult is how long clients waited for their first answer.
type fairResult struct {
	Flood  latencies `json:"flood"`
	Single latencies `json:"single"`
	Failed int       `json:"failed"`
}

func planFair(*session) string {
	return fmt.Sprintf("%s connections within a second, PING; one at a time beside them", thousands(fairFlood))
}

func measureFair(ctx context.Context, s *session, _ scenario) error {
	if err := raiseOpenFiles(2*fairFlood + spareFiles); err != nil {
		return err
	}
	c, err := s.ourselves()
	if err != nil {
		return err
	}
	c.args = func(at place) []string {
		return append(redbouncerArgs(at), "--limit", "total overflow queue queue-size 6000 queue-timeout 30s")
	}
	r, err := s.newRig(ctx, []contender{c}, fairPlaces)
	if err != nil {
		return err
	}
	defer r.close()
	addr := r.targets[0].addr
	s.progress.say("fair: %s connections from one address", thousands(fairFlood))
	f := &fairness{addr: addr}
	f.run(ctx)
	if len(f.single) == 0 {
		return r.explain(r.targets[0], errors.New("no client from the other address was answered"))
	}
	single := percentiles(f.single)
	s.report.Fair = &fairResult{percentiles(f.flood), single, f.failed}
	return nil
}

// fairness is one run.
type fairness struct {
	addr string

	// mu guards the following fields.
	mu            sync.Mutex
	flood, single []time.Duration
	failed        int
}

func (f *fairness) run(ctx context.Context) {
	var flood sync.WaitGroup
	begin := time.Now()
	for n := range fairFlood {
		time.Sleep(time.Until(begin.Add(time.Duration(n) * time.Second / fairFlood)))
		flood.Go(func() { f.come(floodAddr, fairHold/2+rand.N(fairHold), &f.flood) }) //nolint:gosec // chance, no secret
	}
	done := make(chan struct{})
	go func() { flood.Wait(); close(done) }()
	for ctx.Err() == nil {
		select {
		case <-done:
			return
		case <-time.After(fairEvery):
			f.come(singleAddr, 0, &f.single)
		}
	}
	<-done
}

// come is one client: it connects, asks, holds its place and goes.
func (f *fairness) come(from string, hold time.Duration, waits *[]time.Duration) {
	begin := time.Now()
	took, err := f.visit(from, begin, hold)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.failed++
		return
	}
	*waits = append(*waits, took)
}

func (f *fairness) visit(from string, begin time.Time, hold time.Duration) (time.Duration, error) {
	d := net.Dialer{Timeout: readyTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", f.addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(begin.Add(time.Minute))
	if _, err := io.WriteString(c, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return 0, err
	}
	answer := make([]byte, 7)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "+PONG\r\n" {
		return 0, fmt.Errorf("the answer is %q, %w", answer, err)
	}
	took := time.Since(begin)
	time.Sleep(hold)
	return took, nil
}

func printFair(w io.Writer, r *report, _ scenario) {
	if r.Fair == nil {
		return
	}
	x := r.Fair
	fmt.Fprintf(w, "\n%s connections from one address within a second, %d places and a queue; a place comes free every %s. From connecting to the first answer, in ms\n\n",
		thousands(fairFlood), fairPlaces, fairHold/fairPlaces)
	fairGrid(r).print(w)
	if x.Failed > 0 {
		fmt.Fprintf(w, "%s were not answered\n", thousands(float64(x.Failed)))
	}
}

func fairGrid(r *report) grid {
	g := grid{{"", "clients", "p50", "p90", "p99", "longest"}}
	ms := func(d time.Duration) string { return asOneDigit(float64(d) / float64(time.Millisecond)) }
	for _, x := range []struct {
		name string
		latencies
	}{{"the flood", r.Fair.Flood}, {"one at a time from another address", r.Fair.Single}} {
		g = append(g, []string{x.name, thousands(float64(x.Commands)), ms(x.P50), ms(x.P90), ms(x.P99), ms(x.Max)})
	}
	return g
}

// fairWait is the longest wait of a client from another address, in ms.
func fairWait(r *report) (spread, error) {
	if r.Fair == nil {
		return spread{}, errors.New("the scenario fair has no figure")
	}
	return spreadOf([]float64{float64(r.Fair.Single.Max) / float64(time.Millisecond)})
}
