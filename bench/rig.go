package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// readyTimeout is how long a process may take from its start to its first +PONG.
const readyTimeout = 10 * time.Second

// rig is one Redis and some targets, all running. The caller must close it.
type rig struct {
	redis     *process
	redisAddr string
	targets   []target
}

// target is a contender that runs.
type target struct {
	name string
	addr string
	// proxy is the process between client and Redis. Nil for direct.
	proxy *process
}

// newRig starts a Redis of its own and the contenders in front of it, each ready to serve maxClients clients.
func (s *session) newRig(ctx context.Context, line []contender, maxClients int) (*rig, error) {
	ports, err := freePorts(1 + 2*len(line))
	if err != nil {
		return nil, err
	}
	r := &rig{redisAddr: loopback(ports[0])}
	r.redis, err = start("redis-server", s.pinned(serverCPU, s.redisServer,
		"--bind", "127.0.0.1", "--port", strconv.Itoa(ports[0]), "--save", "", "--appendonly", "no",
		"--dir", s.dir, "--loglevel", "warning", "--maxclients", strconv.Itoa(maxClients)))
	if err != nil {
		return nil, err
	}
	if err := r.redis.await(ctx, r.redisAddr); err != nil {
		r.close()
		return nil, err
	}
	for i, c := range line {
		at := place{
			listen:     loopback(ports[1+2*i]),
			extraPort:  ports[2+2*i],
			redis:      r.redisAddr,
			config:     filepath.Join(s.dir, c.name+".conf"),
			maxClients: maxClients,
		}
		if err := s.add(ctx, r, c, at); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// add starts a contender and waits until it serves. What it started is stopped by r.close, also on an error.
func (s *session) add(ctx context.Context, r *rig, c contender, at place) error {
	if c.args == nil {
		r.targets = append(r.targets, target{name: c.name, addr: r.redisAddr})
		return nil
	}
	if c.config != nil {
		if err := os.WriteFile(at.config, []byte(c.config(at)), 0o600); err != nil {
			return err
		}
	}
	p, err := start(c.name, s.pinned(serverCPU, c.binary, c.args(at)...))
	if err != nil {
		return err
	}
	r.targets = append(r.targets, target{name: c.name, addr: at.listen, proxy: p})
	return p.await(ctx, at.listen)
}

// close ends every process of the rig, those in front first.
func (r *rig) close() {
	for _, t := range r.targets {
		if t.proxy != nil {
			t.proxy.stop()
		}
	}
	r.redis.stop()
}

// exitGrace is how much later than its sockets a process's end may be seen.
const exitGrace = 200 * time.Millisecond

// explain returns the error of a measurement of t, with the end of a process if that was the reason.
func (r *rig) explain(t target, err error) error {
	time.Sleep(exitGrace)
	if t.proxy != nil {
		err = errors.Join(err, t.proxy.running())
	}
	return errors.Join(err, r.redis.running())
}

// await waits until a PING at addr is answered.
func (p *process) await(ctx context.Context, addr string) error {
	deadline := time.Now().Add(readyTimeout)
	for {
		_, err := ask(ctx, addr, "PING")
		if err == nil {
			return nil
		}
		if ended := p.running(); ended != nil {
			return ended
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer at %s after %s: %w; its last words:\n%s", p.name, addr, readyTimeout, err, p.output)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// freePorts returns ports of 127.0.0.1 that nobody listens at. Somebody else may take one before we do; the
// process that wanted it then says so and the run ends.
func freePorts(n int) ([]int, error) {
	var ports []int
	var listeners []net.Listener
	var err error
	for range n {
		l, listenErr := net.Listen("tcp", "127.0.0.1:0")
		if listenErr != nil {
			err = listenErr
			break
		}
		listeners = append(listeners, l) // all stay open until the last is found: no port comes twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return ports, err
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
