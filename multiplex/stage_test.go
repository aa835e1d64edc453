package multiplex_test

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// The tests of lanes and pins are conversations between clients on one side and a Redis that says what the test has
// it say on the other. ">" goes to Redis, "<" comes back:
//
//	a> SET k v         client a submits a command that changes something
//	a? GET k           one that only reads
//	a< +OK\r\n         a gets these bytes
//	a: lost            a is told that its commands are lost; see client.event for more
//	up1> SET k v       the first connection that Redis sees gets this command; * stands for any word
//	up1< +OK\r\n       and sends these bytes; {nonce} is the last word that a * has stood for
//	up1> (end)         the proxy has closed its side
//	up1: close         Redis closes; also "reset", "silent" (nothing more has come), and "handshake", which
//	                   answers what a new link says
//
// At the end, nobody may have got anything more.

// patience is how long a test waits for what must happen. Only a test that fails waits for so long.
const patience = 20 * time.Second

// settings of a stage. The zero value is one of 16 connections, that is patient.
type settings struct {
	size    int
	path    string // of the upstream's URL
	login   string // of the upstream's URL
	timeout time.Duration
	streams bool
}

// stage is a pool, its loop, and the Redis in front of which they are.
type stage struct {
	// Static after construction.
	t      *testing.T
	loop   *eventloop.Loop
	pool   *multiplex.Pool
	budget *limits.Budget
	redis  *fake
	up     *multiplex.Upstream

	// Owned by the loop.
	vanished []string // users whose clients would have been closed

	// The test's.
	clients map[string]*client
	keys    map[string]multiplex.Key // of clients that are in another context than the first
	nonce   string
}

// bothWays runs a test on a loop that polls sockets, where the system has that, and on one of streams.
func bothWays(t *testing.T, cfg settings, f func(s *stage)) {
	t.Helper()
	for name, streams := range map[string]bool{"polled": false, "streams": true} {
		t.Run(name, func(t *testing.T) {
			cfg.streams = streams
			f(newStage(t, cfg))
		})
	}
}

// converse plays one conversation.
func converse(t *testing.T, cfg settings, script string) {
	t.Helper()
	bothWays(t, cfg, func(s *stage) { s.t.Helper(); s.play(script) })
}

func newStage(t *testing.T, cfg settings) *stage {
	t.Helper()
	if cfg.size == 0 {
		cfg.size = 16
	}
	if cfg.timeout == 0 {
		cfg.timeout = patience
	}
	redis := newFake(t)
	up, err := multiplex.ParseUpstream("redis://" + cfg.login + redis.addr + cfg.path)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, redis: redis, up: up, clients: map[string]*client{}, keys: map[string]multiplex.Key{}}
	loop, err := eventloop.New(eventloop.Options{Streams: cfg.streams, Flush: func() { s.pool.Flush() }})
	if err != nil {
		t.Fatal(err)
	}
	s.loop = loop
	s.budget = limits.NewBudget(cfg.size, 1, func() { s.pool.Relieve() })
	s.pool = multiplex.NewPool(multiplex.Config{
		Loop: loop, Upstream: up, Budget: s.budget, UpstreamTimeout: cfg.timeout, Log: slog.New(slog.DiscardHandler),
		Vanished: func(user string) { s.vanished = append(s.vanished, user) },
	})
	ended := make(chan struct{})
	go s.run(ended)
	t.Cleanup(func() {
		loop.Post(s.nothingMore)
		loop.Post(s.pool.Close)
		loop.Stop()
		wait(t, "the loop's end", ended)
	})
	return s
}

// run serves the pool until the loop is stopped.
func (s *stage) run(ended chan<- struct{}) {
	defer close(ended)
	s.loop.Run()
}

func wait(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		b := make([]byte, 1<<20)
		t.Fatalf("waited in vain for %s\n%s", what, b[:runtime.Stack(b, true)])
	}
}

// do runs f on the loop and waits for it.
func (s *stage) do(f func()) {
	s.t.Helper()
	done := make(chan struct{})
	s.loop.Post(func() { defer close(done); f() })
	wait(s.t, "the loop", done)
}

// until waits until something holds, which is looked at on the loop.
func (s *stage) until(what string, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var ok bool
		s.do(func() { ok = holds() })
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

var scriptLine = regexp.MustCompile(`^(\w+)([>?<:])(?: (.*))?$`)

// play plays a part of a conversation.
func (s *stage) play(script string) {
	s.t.Helper()
	lines := 0
	for n, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		lines++
		m := scriptLine.FindStringSubmatch(line)
		if m == nil {
			s.t.Fatalf("line %d, %s: want a name and one of > ? < :", n+1, line)
		}
		name, verb, rest := m[1], m[2], m[3]
		var err error
		if number, ok := strings.CutPrefix(name, "up"); ok {
			err = s.upstreamLine(number, verb, rest)
		} else {
			err = s.clientLine(name, verb, rest)
		}
		if err != nil {
			s.t.Fatalf("line %d, %s\n%v", n+1, line, err)
		}
	}
	if lines == 0 {
		s.t.Fatal("this conversation has no lines")
	}
}

// nothingMore checks that nobody has got anything that no line speaks of.
func (s *stage) nothingMore() {
	for name, c := range s.clients {
		if len(c.got) > 0 || len(c.events) > 0 {
			s.t.Errorf("at the end, client %s has %q left, and %v", name, c.got, c.events)
		}
	}
}

func (s *stage) upstreamLine(number, verb, rest string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	c, err := s.redis.conn(n)
	if err != nil {
		return err
	}
	switch verb {
	case ">":
		if rest == "(end)" {
			return c.expectEnd()
		}
		return s.expectCommand(c, strings.Fields(rest))
	case "<":
		raw, err := unescape(strings.ReplaceAll(rest, "{nonce}", s.nonce))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(raw))
		return err
	}
	switch rest {
	case "close":
		return c.Close()
	case "reset":
		_ = c.SetLinger(0)
		return c.Close()
	case "handshake":
		return s.handshake(c)
	case "silent": // it has said no more than what has been read
		if n := c.r.Buffered(); n > 0 {
			b, _ := c.r.Peek(n)
			return fmt.Errorf("got  %q", b)
		}
		return nil
	}
	return errors.New("want close, reset, handshake or silent")
}

// expectCommand reads a command.
func (s *stage) expectCommand(c *fakeConn, want []string) error {
	got, err := c.command()
	if err != nil {
		return err
	}
	ok := len(got) == len(want)
	for i := 0; ok && i < len(want); i++ {
		if want[i] == "*" {
			s.nonce = got[i]
			continue
		}
		ok = got[i] == want[i]
	}
	if !ok {
		return fmt.Errorf("got  %.200q", got)
	}
	return nil
}

// handshake answers what a new link says, as far as it is the same for all.
func (s *stage) handshake(c *fakeConn) error {
	hello, err := c.command()
	if err != nil {
		return err
	}
	if hello[0] != "HELLO" {
		return fmt.Errorf("got  %q first", hello)
	}
	if _, err := c.Write([]byte(helloReply)); err != nil {
		return err
	}
	for _, want := range []string{"CLIENT SETNAME *", "CLIENT NO-EVICT ON", "ECHO redbouncer", "PING"} {
		if err := s.expectCommand(c, strings.Fields(want)); err != nil {
			return fmt.Errorf("want %s: %w", want, err)
		}
	}
	_, err = c.Write([]byte("+OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n"))
	return err
}

// unescape reads Go's escapes in a line that has no quotes around it.
func unescape(s string) (string, error) {
	return strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
}

func (s *stage) clientLine(name, verb, rest string) error {
	c := s.client(name)
	switch verb {
	case ">":
		s.do(func() { c.submit(resp.AppendCommand(nil, strings.Fields(rest)...), 0) })
	case "?":
		s.do(func() { c.submit(resp.AppendCommand(nil, strings.Fields(rest)...), multiplex.Safe) })
	case "<":
		want, err := unescape(rest)
		if err != nil {
			return err
		}
		return c.expect(want)
	case ":":
		return c.event(rest)
	}
	return nil
}
