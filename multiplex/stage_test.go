package multiplex_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// helloReply is what a Redis of these tests says of itself.
const helloReply = "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n"

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
	for _, want := range []string{"CLIENT SETNAME *", "CLIENT NO-EVICT ON", "ECHO redbouncer"} {
		if err := s.expectCommand(c, strings.Fields(want)); err != nil {
			return fmt.Errorf("want %s: %w", want, err)
		}
	}
	_, err = c.Write([]byte("+OK\r\n+OK\r\n$10\r\nredbouncer\r\n"))
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

// client returns the client of a name, who enters the context that keys has for it.
func (s *stage) client(name string) *client {
	c := s.clients[name]
	if c == nil {
		key, ok := s.keys[name]
		if !ok {
			key = s.pool.Initial()
		}
		c = &client{s: s}
		s.do(func() {
			c.ctx = s.pool.Context(key)
			c.ctx.Enter()
		})
		s.clients[name] = c
	}
	return c
}

// client is a session as far as the pool can tell. It is owned by the loop.
type client struct {
	s   *stage
	ctx *multiplex.Context
	pin *multiplex.Link // submits to it, while there is one

	request  *multiplex.PinRequest
	waiting  []func(*multiplex.Link) // until there is a lane
	inFlight int
	got      []byte
	events   []string // lost, failed
	err      error    // that came with the last of them
	gone     bool
}

func (c *client) submit(raw []byte, flags multiplex.Flags) {
	c.onLink(func(k *multiplex.Link) { k.Submit(c, raw, flags) })
	c.inFlight++
}

// onLink has f called with the lane, or the pin, at once or when it is there.
func (c *client) onLink(f func(*multiplex.Link)) {
	switch link := c.ctx.Link(); {
	case c.pin != nil:
		f(c.pin)
	case link != nil:
		f(link)
	default:
		c.waiting = append(c.waiting, f)
		c.ctx.Await(c)
	}
}

// pinDone receives the pin that was asked for.
func (c *client) pinDone(k *multiplex.Link, err error) {
	if c.pin = k; err != nil {
		c.happened("failed", err)
	}
}

// LaneReady implements multiplex.Waiter.
func (c *client) LaneReady() {
	for _, f := range c.waiting {
		f(c.ctx.Link())
	}
	c.waiting = nil
}

// LaneFailed implements multiplex.Waiter.
func (c *client) LaneFailed(err error) {
	c.waiting, c.inFlight = nil, 0
	c.happened("failed", err)
}

// Reply implements multiplex.Client.
func (c *client) Reply(b []byte, done int) {
	c.got = append(c.got, b...)
	if c.inFlight -= done; c.inFlight < 0 {
		c.s.t.Errorf("more replies are complete than commands were sent, with %q", b)
	}
}

// Lost implements multiplex.Client.
func (c *client) Lost(err error) {
	c.pin, c.inFlight = nil, 0
	c.happened("lost", err)
}

// Gone implements multiplex.Client.
func (c *client) Gone() bool { return c.gone }

func (c *client) happened(event string, err error) {
	c.events = append(c.events, event)
	c.err = err
}

// expect waits for these bytes, and takes them.
func (c *client) expect(want string) error {
	var got string
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c.s.do(func() {
			if got = string(c.got[:min(len(c.got), len(want))]); got == want {
				c.got = c.got[len(want):]
			}
		})
		switch {
		case got == want:
			return nil
		case !strings.HasPrefix(want, got) || time.Now().After(deadline):
			return fmt.Errorf("got  %q", got)
		}
	}
}

// event makes something happen to a client, or waits for what has: "open" (it asks for a lane), "linked", "unlinked",
// "leave" (it goes), "barrier" (behind what it has submitted), "mute CMD", "idle" (all is answered), "lost", "failed";
// "pin" (it asks for one), "pinned", "release", "discard", "cancel".
func (c *client) event(what string) error {
	verb, rest, _ := strings.Cut(what, " ")
	switch verb {
	case "open":
		c.s.do(func() { c.onLink(func(*multiplex.Link) {}) })
	case "linked":
		c.s.until("a lane", func() bool { return c.ctx.Link() != nil })
	case "unlinked":
		c.s.until("the lane to go", func() bool { return c.ctx.Link() == nil })
	case "leave":
		c.s.do(func() { c.gone = true; c.ctx.Abandon(c); c.ctx.Leave() })
	case "barrier":
		c.s.do(func() { c.onLink((*multiplex.Link).Barrier) })
	case "mute":
		raw := resp.AppendCommand(nil, strings.Fields(rest)...)
		c.s.do(func() { c.submit(raw, multiplex.Safe|multiplex.Mute) })
	case "idle":
		c.s.until("all to be answered", func() bool { return c.inFlight == 0 })
	case "pin":
		c.s.do(func() {
			if c.pin, c.request = c.s.pool.AcquirePin(c.ctx, c, c.pinDone); c.pin != nil && c.request != nil {
				c.s.t.Error("there is a pin and a request for one")
			}
		})
	case "pinned":
		c.s.until("a pin", func() bool { return c.pin != nil })
	case "release":
		c.s.do(func() { c.s.pool.ReleasePin(c.pin); c.pin = nil })
	case "discard":
		c.s.do(func() { c.s.pool.DiscardPin(c.pin); c.pin = nil })
	case "cancel":
		c.s.do(func() { c.request.Cancel() })
	case "lost", "failed":
		c.s.until("the client to be told "+what, func() bool {
			i := slices.Index(c.events, what)
			if i >= 0 {
				c.events = slices.Delete(c.events, i, i+1)
			}
			return i >= 0
		})
	default:
		return fmt.Errorf("%s: no such event", what)
	}
	return nil
}

// fake is a Redis that accepts connections and leaves them to the test.
type fake struct {
	t    testing.TB
	ln   net.Listener
	addr string

	// mu guards the following fields.
	mu    sync.Mutex
	conns []*fakeConn
}

func newFake(t testing.TB) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ln: ln, addr: ln.Addr().String()}
	var accepting sync.WaitGroup
	accepting.Go(f.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		accepting.Wait()
		f.hangUp()
	})
	return f
}

// hangUp closes all connections.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// accept ends when the listener is closed.
func (f *fake) accept() {
	for {
		nc, err := f.ln.Accept()
		if err != nil {
			return
		}
		c := &fakeConn{TCPConn: nc.(*net.TCPConn), r: bufio.NewReader(nc)}
		_ = nc.SetDeadline(time.Now().Add(patience))
		f.mu.Lock()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
	}
}

// accepted returns how many connections there have been.
func (f *fake) accepted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// conn returns the n-th connection, from 1, once it has been accepted.
func (f *fake) conn(n int) (*fakeConn, error) {
	for deadline := time.Now().Add(patience); f.accepted() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("there were only %d connections", f.accepted())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[n-1], nil
}

// fakeConn is a connection as Redis sees it.
type fakeConn struct {
	*net.TCPConn
	r *bufio.Reader
}

// command reads one command, which has to be an array of bulk strings.
func (c *fakeConn) command() ([]string, error) {
	n, err := c.number('*')
	if err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		size, err := c.number('$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		words[i] = string(b[:size])
	}
	return words, nil
}

func (c *fakeConn) number(kind byte) (int, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("got  %q %w", line, err)
	}
	if line[0] != kind {
		return 0, fmt.Errorf("got  %q", line)
	}
	return strconv.Atoi(strings.TrimSuffix(line[1:], "\r\n"))
}

// expectEnd reads the end.
func (c *fakeConn) expectEnd() error {
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		return fmt.Errorf("got  %q %w", b, err)
	}
	return nil
}
