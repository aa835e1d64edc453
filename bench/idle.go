package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Rules of the scenario idle:
//
//   - every contender gets a fresh rig: what a load left behind in a heap is not the clients' memory;
//   - a client counts once it has sent PING and read +PONG, so every lazy allocation has happened;
//   - memory is read after some seconds without traffic, as the operating system sees it. For a program in Go
//     that includes garbage which its collector has not returned: it is what the operator pays;
//   - afterwards every client must be served again: a server that dropped its idle clients has not held them.

const (
	// idleDialers is how many clients connect at once; less than anybody's listen queue.
	idleDialers = 64
	// spareFiles is what a process opens besides its clients, generously.
	spareFiles = 256
)

// idleResult is what one target's process used for clients that do nothing.
type idleResult struct {
	Name   string     `json:"name"`
	Before int64      `json:"rss_before"` // with no client, in bytes
	Steps  []idleStep `json:"steps"`
}

// idleStep is that many clients.
type idleStep struct {
	Clients int `json:"clients"`
	// Connected is as soon as the last one was answered, After when all have been left alone.
	Connected int64 `json:"rss_connected"`
	After     int64 `json:"rss_after"`
	// CPU is what the process used meanwhile, in milliseconds a second.
	CPU float64 `json:"cpu_ms_per_second"`
}

// perClient is the memory that a client costs, in bytes, at the step.
func (r idleResult) perClient(x idleStep) float64 {
	return float64(x.After-r.Before) / float64(x.Clients)
}

// last is the step with the most clients.
func (r idleResult) last() (idleStep, bool) {
	if len(r.Steps) == 0 {
		return idleStep{}, false
	}
	return r.Steps[len(r.Steps)-1], true
}

func planIdle(s *session) string {
	return fmt.Sprintf("%v clients, one PING each, left alone for %s", s.idleClients, s.settle)
}

// measureIdle is the scenario idle.
func measureIdle(ctx context.Context, s *session, _ scenario) error {
	if err := raiseOpenFiles(s.idleMaxClients() + spareFiles); err != nil {
		return fmt.Errorf("%d clients (--idle-clients): %w", s.idleClients[len(s.idleClients)-1], err)
	}
	for _, c := range s.contenders {
		result, err := s.measureIdleOf(ctx, c)
		if errors.Is(err, errNotMeasured) {
			return nil // and the report has no figures, which it says
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		s.report.Idle = append(s.report.Idle, result)
	}
	return nil
}

// idleMaxClients is what the servers are told to admit: a tenth more than come.
func (s *session) idleMaxClients() int {
	most := s.idleClients[len(s.idleClients)-1]
	return most + most/10 + 50
}

func (s *session) measureIdleOf(ctx context.Context, c contender) (idleResult, error) {
	result := idleResult{Name: c.name}
	s.progress.say("idle clients: starting %s", c.name)
	r, err := s.newRig(ctx, []contender{c}, s.idleMaxClients())
	if err != nil {
		return result, err
	}
	defer r.close()
	t := r.targets[0]
	server := t.proxy
	if server == nil {
		server = r.redis
	}
	if result.Before, err = residentMemory(server.pid()); err != nil {
		return result, err
	}
	all := &crowd{addr: t.addr}
	defer all.leave()
	for _, n := range s.idleClients {
		if most, err := openFilesLimit(); err == nil && c.perClient && 2*n+spareFiles > most {
			s.report.Skipped = append(s.report.Skipped,
				fmt.Sprintf("%s: %s idle clients take two files each, and %s are allowed", c.name, thousands(float64(n)), thousands(float64(most))))
			break
		}
		step, err := s.idleStep(ctx, all, server, n)
		if err != nil {
			return result, r.explain(t, err)
		}
		result.Steps = append(result.Steps, step)
	}
	all.first = 0
	if err := all.eachOf(ctx, all.speak); err != nil {
		return result, r.explain(t, fmt.Errorf("after %s of silence: %w", s.settle, err))
	}
	return result, nil
}

// idleStep lets more clients come, and leaves all of them alone.
func (s *session) idleStep(ctx context.Context, all *crowd, server *process, n int) (step idleStep, err error) {
	s.progress.say("idle clients: %s connect to %s", thousands(float64(n)), server.name)
	step.Clients = n
	all.first = len(all.conns)
	all.conns = append(all.conns, make([]net.Conn, n-len(all.conns))...)
	if err := all.eachOf(ctx, all.join); err != nil {
		return step, err
	}
	if step.Connected, err = residentMemory(server.pid()); err != nil {
		return step, err
	}
	s.progress.say("idle clients: %s at %s are left alone for %s", thousands(float64(n)), server.name, s.settle)
	clock, begin := startMeter(server), time.Now()
	select {
	case <-ctx.Done():
		return step, ctx.Err()
	case <-time.After(s.settle):
	}
	used, err := clock.read()
	if err != nil {
		return step, err
	}
	step.CPU = used.cpu.Seconds() * 1000 / max(time.Since(begin).Seconds(), 0.001)
	step.After, err = residentMemory(server.pid())
	return step, err
}

// crowd is the clients of one target.
type crowd struct {
	addr string
	// conns has one place a client; a place is written by the one worker that was given its number.
	conns []net.Conn
	// first is the number of the first whose turn it is.
	first int
}

// eachOf calls do for every client from first on, a few at a time, and returns the first error of each worker.
func (c *crowd) eachOf(ctx context.Context, do func(context.Context, int) error) error {
	numbers := make(chan int, len(c.conns))
	for i := c.first; i < len(c.conns); i++ {
		numbers <- i
	}
	close(numbers)
	errs := make([]error, idleDialers)
	var workers sync.WaitGroup
	for w := range errs {
		workers.Go(func() { errs[w] = work(ctx, numbers, do) })
	}
	workers.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// work calls do for every number until there are no more or one fails.
func work(ctx context.Context, numbers <-chan int, do func(context.Context, int) error) error {
	for i := range numbers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := do(ctx, i); err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
	}
	return nil
}

// join connects client i and lets it speak.
func (c *crowd) join(ctx context.Context, i int) error {
	dialer := net.Dialer{Timeout: replyTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	c.conns[i] = conn
	return c.speak(ctx, i)
}

// speak sends PING as client i and reads the reply.
func (c *crowd) speak(_ context.Context, i int) error {
	reply, err := talk(c.conns[i], "PING")
	if err == nil && reply != "PONG" {
		return fmt.Errorf("PING was answered with %q", reply)
	}
	return err
}

// leave disconnects everybody who joined.
func (c *crowd) leave() {
	for _, conn := range c.conns {
		if conn != nil {
			conn.Close()
		}
	}
}
