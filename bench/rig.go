package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readyTimeout is how long a process may take from its start to its first +PONG.
const readyTimeout = 10 * time.Second

// rig is one Redis and some targets, all running. The caller must close it.
type rig struct {
	redis     *process // nil: it is not ours
	redisAddr string
	targets   []target
}

// target is a contender that runs.
type target struct {
	contender
	addr string
	// password and user are what to log in with. Empty: do not.
	user, password string
	// proxy is the process between client and Redis. Nil for direct.
	proxy *process
	// redis is the address under which it knows Redis; no other target uses that one.
	redis string
	// base is its memory before any client, in bytes.
	base int64
	// hello is what a client says first.
	hello batch
}

func newTarget(c contender, addr string) target {
	return target{contender: c, addr: addr, hello: batch{bytes: appendCommand(nil, "PING"), replies: 1}}
}

// cannot returns why a target does not take part in a load. Empty: it does.
func (t target) cannot(l load) string {
	switch {
	case t.ours && !l.WithLimits:
		return t.name + " is measured with other loads"
	case l.Needs != "" && slices.Contains(t.lacks, l.Needs):
		return fmt.Sprintf("%s has no %s", t.name, l.Needs)
	}
	return ""
}

// newRig starts a Redis of its own and the contenders in front of it, each ready to serve maxClients clients.
func (s *session) newRig(ctx context.Context, line []contender, maxClients int) (*rig, error) {
	var addresses []string
	for i := range line {
		addresses = append(addresses, ownAddress(i)...)
	}
	port, err := freePortAt(addresses)
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * len(line))
	if err != nil {
		return nil, err
	}
	r := &rig{redisAddr: loopback(port)}
	args := []string{
		"--port", strconv.Itoa(port), "--save", "", "--appendonly", "no", "--dir", s.dir,
		"--loglevel", "warning", "--protected-mode", "no", "--maxclients", strconv.Itoa(maxClients),
		"--bind", "127.0.0.1",
	}
	args = append(args, addresses...)
	r.redis, err = start("redis-server", s.pinned(serverCPU, s.redisServer, args...))
	if err != nil {
		return nil, err
	}
	if err := r.redis.await(ctx, r.redisAddr); err != nil {
		r.close()
		return nil, err
	}
	for i, c := range line {
		at := place{
			listen:     loopback(ports[2*i]),
			extraPort:  ports[1+2*i],
			redis:      r.redisAddr,
			config:     filepath.Join(s.dir, c.name+".conf"),
			maxClients: maxClients,
		}
		if own := ownAddress(i); len(own) > 0 && c.args != nil {
			at.redis = net.JoinHostPort(own[0], strconv.Itoa(port))
		}
		if err := s.add(ctx, r, c, at); err != nil {
			r.close()
			return nil, err
		}
	}
	return r, nil
}

// ownAddress is where the i-th contender finds Redis, so that Redis can tell whose a connection is. Only Linux has all
// of 127.0.0.0/8 without being told.
func ownAddress(i int) []string {
	if runtime.GOOS != "linux" {
		return nil
	}
	return []string{fmt.Sprintf("127.0.0.%d", 2+i)}
}

// add starts a contender and waits until it serves. What it started is stopped by r.close, also on an error.
func (s *session) add(ctx context.Context, r *rig, c contender, at place) error {
	if c.args == nil {
		t := newTarget(c, r.redisAddr)
		t.redis = r.redisAddr
		r.targets = append(r.targets, t)
		return nil
	}
	if c.config != nil {
		if err := os.WriteFile(at.config, []byte(c.config(at)), 0o600); err != nil {
			return err
		}
	}
	p, err := startWatched(c.name, s.pinned(serverCPU, c.binary, c.args(at)...), c.watch)
	if err != nil {
		return err
	}
	t := newTarget(c, at.listen)
	t.proxy, t.redis = p, at.redis
	r.targets = append(r.targets, t)
	if err := p.await(ctx, at.listen); err != nil {
		return err
	}
	base, err := residentMemory(p.pid())
	r.targets[len(r.targets)-1].base = base
	if errors.Is(err, errNotMeasured) {
		return nil
	}
	return err
}

// close ends every process of the rig, those in front first.
func (r *rig) close() {
	for _, t := range r.targets {
		if t.proxy != nil {
			t.proxy.stop()
		}
	}
	if r.redis != nil {
		r.redis.stop()
	}
}

// exitGrace is how much later than its sockets a process's end may be seen.
const exitGrace = 200 * time.Millisecond

// explain returns the error of a measurement of t, with the end of a process if that was the reason.
func (r *rig) explain(t target, err error) error {
	time.Sleep(exitGrace)
	if t.proxy != nil {
		err = errors.Join(err, t.proxy.running())
	}
	if r.redis != nil {
		err = errors.Join(err, r.redis.running())
	}
	return err
}

// pollEvery is how often a process that starts is asked whether it serves. The scenario start measures with it.
const pollEvery = time.Millisecond

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
		case <-time.After(pollEvery):
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

// freePortAt returns a port that is free at 127.0.0.1 and at all of these. What is free at the one may be in use at another,
// by a connection that went out from there and has not been over for a minute.
func freePortAt(addresses []string) (int, error) {
	const attempts = 100
	var err error
	for range attempts {
		var ports []int
		if ports, err = freePorts(1); err != nil {
			return 0, err
		}
		for _, address := range addresses {
			l, listenErr := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(ports[0])))
			if listenErr != nil {
				err = listenErr
				break
			}
			l.Close()
		}
		if err == nil {
			return ports[0], nil
		}
	}
	return 0, fmt.Errorf("no port is free at 127.0.0.1 and %s: %w", strings.Join(addresses, ", "), err)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
