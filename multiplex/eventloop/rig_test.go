package eventloop_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// A Handler cannot tell a socket that the loop reads itself from a stream: so every test here runs for both, and
// afterwards no goroutine and no descriptor may be left.

// patience is how long a test waits for what must happen. Only a test that fails waits for so long.
const patience = 20 * time.Second

func TestMain(m *testing.M) {
	if ln, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		_ = ln.Close() // has the runtime open what it needs for itself, before descriptors are counted
	}
	os.Exit(m.Run())
}

// bothWays runs a test on a loop that polls sockets itself, where the system has that, and on one of streams.
func bothWays(t *testing.T, f func(t *testing.T, r *rig)) {
	t.Helper()
	for name, opt := range map[string]eventloop.Options{"polled": {}, "streams": {Streams: true}} {
		t.Run(name, func(t *testing.T) { f(t, newRig(t, opt)) })
	}
}

// rig is a loop that accepts connections.
type rig struct {
	// Static after construction.
	t        *testing.T
	loop     *eventloop.Loop
	polled   bool
	addr     string
	ended    chan struct{} // closed when Run has returned
	accepted chan *peer

	// Owned by the loop.
	prepare    func(*peer)
	stopAccept func()
	peers      []*peer
}

func newRig(t *testing.T, opt eventloop.Options) *rig {
	t.Helper()
	descriptors := countDescriptors()
	loop, err := eventloop.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{
		t: t, loop: loop, polled: !opt.Streams && runtime.GOOS == "linux", ended: make(chan struct{}),
		accepted: make(chan *peer, 1),
	}
	go r.run()
	t.Cleanup(func() {
		r.stop()
		eventually(t, "an end of all goroutines", func() bool { return goroutines() == "" })
		eventually(t, "an end of all descriptors", func() bool { return countDescriptors() <= descriptors })
	})
	ln := listen(t, "tcp", "127.0.0.1:0")
	r.addr = ln.Addr().String()
	r.do(func() {
		r.stopAccept, err = r.loop.Listen(ln, r.accept)
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func listen(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (r *rig) run() {
	defer close(r.ended)
	r.loop.Run()
}

// stop closes what is open and ends the loop. It may be called more than once.
func (r *rig) stop() {
	r.loop.Post(r.closeAll)
	r.loop.Stop()
	r.wait("the loop's end", r.ended)
	r.closeAll() // where the test has stopped the loop itself, it has been left to us
}

func (r *rig) closeAll() {
	if r.stopAccept != nil {
		r.stopAccept()
	}
	for _, p := range r.peers {
		p.conn.Close()
	}
}

func (r *rig) wait(what string, c <-chan struct{}) {
	r.t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		r.t.Fatalf("waited in vain for %s\n%s", what, stacks())
	}
}

// do runs f on the loop and waits for it.
func (r *rig) do(f func()) {
	r.t.Helper()
	done := make(chan struct{})
	if !r.loop.Post(func() { defer close(done); f() }) {
		r.t.Fatal("the loop takes nothing any more")
	}
	r.wait("the loop", done)
}

// until waits until something holds, which is looked at on the loop.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	eventually(r.t, what, func() (ok bool) {
		r.do(func() { ok = holds() })
		return ok
	})
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s\n%s", what, stacks())
		}
	}
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// goroutines returns the stacks of the goroutines that loops have started.
func goroutines() string {
	var left []string
	for _, g := range strings.Split(stacks(), "\n\n") {
		if strings.Contains(g, "eventloop.(*stream)") || strings.Contains(g, "eventloop.(*Loop)") {
			left = append(left, g)
		}
	}
	return strings.Join(left, "\n\n")
}

// countDescriptors returns how many descriptors this process has, where the system tells.
func countDescriptors() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(d)
}

// peer is the loop's side of a connection. It does what its functions say, and notes what it is told.
type peer struct {
	r    *rig
	conn *eventloop.Conn
	in   eventloop.Incoming

	// Owned by the loop.
	onData     func(b []byte)
	onWritable func()
	got        []byte
	notes      []string // EOF, HungUp, Writable, Failed, and Data, once in a row
}

func (p *peer) note(what string) {
	if n := len(p.notes); what != "Data" || n == 0 || p.notes[n-1] != what {
		p.notes = append(p.notes, what)
	}
}

func (p *peer) Data(b []byte) {
	p.note("Data")
	p.got = append(p.got, b...)
	if p.onData != nil {
		p.onData(b)
	}
}

func (p *peer) Writable() {
	p.note("Writable")
	if p.onWritable != nil {
		p.onWritable()
	}
}

func (p *peer) EOF()         { p.note("EOF") }
func (p *peer) HungUp()      { p.note("HungUp") }
func (p *peer) Failed(error) { p.note("Failed") }

// has waits until the peer has been told exactly this.
func (p *peer) has(notes ...string) {
	p.r.t.Helper()
	want := strings.Join(notes, " ")
	p.r.until("notes "+want, func() bool { return strings.Join(p.notes, " ") == want })
}

// received waits until the peer has got exactly this.
func (p *peer) received(want string) {
	p.r.t.Helper()
	p.r.until("the peer to get "+want, func() bool { return string(p.got) == want })
}

func (r *rig) accept(in eventloop.Incoming) {
	p := &peer{r: r, in: in}
	conn, err := r.loop.Attach(in, p)
	if err != nil {
		r.t.Error(err)
		return
	}
	p.conn = conn
	r.peers = append(r.peers, p)
	if r.prepare != nil {
		r.prepare(p)
	}
	select {
	case r.accepted <- p:
	default: // nobody asked for it
	}
}

// client is the test's side of a connection.
type client struct {
	*net.TCPConn
	t *testing.T
}

func (r *rig) dial() *client {
	r.t.Helper()
	nc, err := net.DialTimeout("tcp", r.addr, patience)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{nc.(*net.TCPConn), r.t}
}

// pair connects a client. Prepare, unless nil, is run on the loop before anything is read.
func (r *rig) pair(prepare func(p *peer)) (*peer, *client) {
	r.t.Helper()
	r.do(func() { r.prepare = prepare })
	c := r.dial()
	select {
	case p := <-r.accepted:
		return p, c
	case <-time.After(patience):
		r.t.Fatal("the connection is not accepted")
		return nil, nil
	}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// expect reads exactly this.
func (c *client) expect(want string) {
	c.t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		c.t.Fatalf("it reads %.100q, %v, want %.100q", b[:n], err, want)
	}
}

// expectEnd reads to the end, and this before it.
func (c *client) expectEnd(want string) {
	c.t.Helper()
	if b, err := io.ReadAll(c); err != nil || string(b) != want {
		c.t.Fatalf("it reads %.100q to the end, %v, want %.100q", b, err, want)
	}
}

// reset closes the connection as if its machine had crashed.
func (c *client) reset() {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// echo sends back what it gets. What the other side does not take is kept, and nothing is read meanwhile; at the end
// it closes.
type echo struct {
	conn *eventloop.Conn
	out  []byte
	end  bool
	full int // how often the other side did not take all
}

func (e *echo) Data(b []byte) { e.out = append(e.out, b...); e.flush() }
func (e *echo) EOF()          { e.end = true; e.flush() }
func (e *echo) Writable()     { e.flush() }
func (e *echo) HungUp()       {}
func (e *echo) Failed(error)  {}

func (e *echo) flush() {
	n, err := e.conn.Write(e.out)
	e.out = e.out[n:]
	switch {
	case err != nil:
		e.conn.Close()
	case len(e.out) > 0:
		e.full++
		e.conn.PauseRead()
	case e.end:
		e.conn.Close()
	default:
		e.out = nil
		e.conn.ResumeRead()
	}
}

// echoes makes a peer an echo.
func echoes(p *peer) { p.conn.SetHandler(&echo{conn: p.conn}) }

// pattern returns n bytes that tell where each of them belongs.
func pattern(n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		b.WriteString(strings.Repeat(string(rune('a'+i%26)), 1+i%7))
	}
	return b.Bytes()[:n]
}

// group starts goroutines, and waits for them at the end of the test.
func group(t *testing.T) *sync.WaitGroup {
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	return &wg
}
