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

// idleResult is the memory of one target's process, in bytes.
type idleResult struct {
	Name    string        `json:"name"`
	Clients int           `json:"clients"`
	Settled time.Duration `json:"settled_ns"`
	// Before is with no client, After with all of them, Connected as soon as the last one was answered.
	Before    int64 `json:"rss_before"`
	Connected int64 `json:"rss_connected"`
	After     int64 `json:"rss_after"`
}

// perClient is the memory that one more client costs, in bytes.
func (r idleResult) perClient() float64 { return float64(r.After-r.Before) / float64(r.Clients) }

// measureIdle is the scenario idle.
func measureIdle(ctx context.Context, s *session) error {
	if err := raiseOpenFiles(s.idleMaxClients() + spareFiles); err != nil {
		return fmt.Errorf("%d clients (--idle-clients): %w", s.idleClients, err)
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

// idleMaxClients is what the servers are told to admit: a fifth more than come.
func (s *session) idleMaxClients() int { return s.idleClients + s.idleClients/5 + 10 }

func (s *session) measureIdleOf(ctx context.Context, c contender) (idleResult, error) {
	result := idleResult{Name: c.name, Clients: s.idleClients, Settled: s.settle}
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

	s.progress.say("idle clients: connecting %s to %s", thousands(float64(s.idleClients)), c.name)
	crowd := &crowd{addr: t.addr, conns: make([]net.Conn, s.idleClients)}
	defer crowd.leave()
	if err := crowd.eachOf(ctx, crowd.join); err != nil {
		return result, r.explain(t, err)
	}
	if result.Connected, err = residentMemory(server.pid()); err != nil {
		return result, err
	}
	s.progress.say("idle clients: leaving %s alone for %s", c.name, s.settle)
	select {
	case <-ctx.Done():
		return result, ctx.Err()
	case <-time.After(s.settle):
	}
	if result.After, err = residentMemory(server.pid()); err != nil {
		return result, err
	}
	if err := crowd.eachOf(ctx, crowd.speak); err != nil {
		return result, r.explain(t, fmt.Errorf("after %s of silence: %w", s.settle, err))
	}
	return result, nil
}

// crowd is the clients of one target.
type crowd struct {
	addr string
	// conns has one place a client; a place is written by the one worker that was given its number.
	conns []net.Conn
}

// eachOf calls do for every client, a few at a time, and returns the first error of each worker.
func (c *crowd) eachOf(ctx context.Context, do func(context.Context, int) error) error {
	numbers := make(chan int, len(c.conns))
	for i := range c.conns {
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
