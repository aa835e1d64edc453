package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What a client was told has happened has happened, once, whatever breaks. Clients append numbers to lists of their own, and
// keep book of what they were told. Meanwhile Redis is killed, stands still, has no memory left, throws connections out, and the
// line to it breaks in the middle of replies, or hands them on in crumbs. (Redis syncs each write, so that a kill loses nothing
// that it has answered.)

func TestWhatWasAcknowledgedIsThereOnceWhateverBreaks(t *testing.T) {
	duration, seed := testDuration(t), testSeed(t)
	s := proxytest.Redis(t, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
	line := proxytest.NewLine(t, s.Addr())
	cfg := proxytest.Config(t, s)
	cfg.PoolSize = 8
	var err error
	if cfg.Upstream, err = multiplex.ParseUpstream("redis://" + line.Addr()); err != nil {
		t.Fatal(err)
	}
	p := proxytest.Proxy(t, cfg)
	w := &chaos{t: t, server: s, line: line, addr: p.Addr(), rnd: rand.New(rand.NewPCG(seed, 0)), until: time.Now().Add(duration), events: map[string]int{}}

	writers := make([]*writer, 100)
	var clients sync.WaitGroup
	for i := range writers {
		writers[i] = &writer{w: w, id: fmt.Sprintf("chaos:%d", i), rnd: rand.New(rand.NewPCG(seed, uint64(i)+1)), known: map[int]fateOfWrite{}}
		clients.Go(writers[i].work)
	}
	w.breakThings(duration)
	clients.Wait()

	direct := proxytest.Dial(t, s.Addr())
	told, unknown, refused := 0, 0, 0
	for _, x := range writers {
		a, b, c := x.verify(direct)
		told, unknown, refused = told+a, unknown+b, refused+c
		for _, problem := range x.problems {
			t.Error(problem)
		}
	}
	t.Logf("%d writes acknowledged, %d of unknown outcome, %d refused; %v; %d clients lost", told, unknown, refused, w.events, p.Stats().Lost)
	broken := 0
	for _, n := range w.events {
		broken += n
	}
	if told < 100 || broken < 3 {
		t.Error("it has not tried what it is for")
	}
	allGone(t, p)
	if up := p.Stats().Upstream; up > cfg.PoolSize {
		t.Errorf("%d upstream connections are open, the bound is %d", up, cfg.PoolSize)
	}
}

// chaos is what breaks.
type chaos struct {
	t      *testing.T
	server *proxytest.Server
	line   *proxytest.Line
	addr   string
	rnd    *rand.Rand
	until  time.Time
	events map[string]int
}

// breakThings goes on until a second before the end, and then leaves everything whole.
func (w *chaos) breakThings(duration time.Duration) {
	kinds := []struct {
		name string
		f    func()
	}{
		{"kill", func() { w.server.Kill(); w.pause(300); w.server.Restart() }},
		{"standstill", func() {
			w.server.Freeze()
			w.pause(int(min(duration/10, 5*time.Second).Milliseconds()))
			w.server.Thaw()
		}},
		{"cut", func() { w.line.CutAfter(w.rnd.IntN(2000)) }},
		{"crumbs", func() {
			w.line.Worsen(time.Duration(w.rnd.IntN(2000))*time.Microsecond, true)
			w.pause(500)
			w.line.Worsen(0, false)
		}},
		{"no memory", func() {
			w.tell("CONFIG", "SET", "maxmemory", "1")
			w.pause(300)
			w.tell("CONFIG", "SET", "maxmemory", "0")
		}},
		{"thrown out", func() { w.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }},
	}
	last := w.until.Add(-time.Second)
	for time.Now().Before(last) {
		x := kinds[w.rnd.IntN(len(kinds))]
		x.f()
		w.events[x.name]++
		w.pause(int(min(duration/20, 3*time.Second).Milliseconds()))
	}
	w.line.CutAfter(-1)
}

// pause lasts half of so many milliseconds at least.
func (w *chaos) pause(ms int) {
	time.Sleep(time.Duration(ms/2+w.rnd.IntN(ms/2+1)) * time.Millisecond)
}

func (w *chaos) tell(command ...string) {
	c := proxytest.Dial(w.t, w.server.Addr())
	defer c.Close()
	c.Do(command...)
}

// fateOfWrite is what a client knows of a write.
type fateOfWrite uint8

const (
	unknown fateOfWrite = iota
	acknowledged
	refusedWrite
)

// writer is a client that appends 1, 2, 3 and so on to its list, and never one again that it is not sure of.
type writer struct {
	w        *chaos
	id       string
	rnd      *rand.Rand
	conn     *proxytest.Conn
	n        int
	known    map[int]fateOfWrite
	problems []string
}

func (x *writer) problem(format string, args ...any) {
	x.problems = append(x.problems, x.id+": "+fmt.Sprintf(format, args...))
}

func (x *writer) work() {
	for time.Now().Before(x.w.until) && len(x.problems) == 0 {
		if x.conn == nil {
			c, err := proxytest.TryDial(x.w.addr)
			if err != nil {
				x.problem("connecting: %v", err)
				return
			}
			c.SetTimeout(20 * time.Second)
			x.conn = c
		}
		if !x.batch() {
			x.conn.Close()
			x.conn = nil
		}
		time.Sleep(time.Duration(x.rnd.IntN(20)) * time.Millisecond)
	}
	if x.conn != nil {
		x.conn.Close()
	}
}

// batch sends some writes in one piece, and a question behind each that only this client can be asked.
func (x *writer) batch() bool {
	first := x.n + 1
	var raw []byte
	for range 1 + x.rnd.IntN(5) {
		x.n++
		x.known[x.n] = unknown
		raw = proxytest.AppendCommand(raw, "RPUSH", x.id, strconv.Itoa(x.n))
		raw = proxytest.AppendCommand(raw, "ECHO", x.sign(x.n))
	}
	if err := x.conn.TryWrite(raw); err != nil {
		return false
	}
	for n := first; n <= x.n; n++ {
		got, err := x.read()
		switch {
		case err != nil:
			return false
		case got[0] == ':':
			x.known[n] = acknowledged
		case got[0] == '-':
			x.known[n] = refusedWrite
		default:
			x.problem("was told %q to RPUSH %d", got, n)
		}
		sign := x.sign(n)
		got, err = x.read()
		if err != nil {
			return false
		}
		if want := fmt.Sprintf("$%d\r\n%s\r\n", len(sign), sign); string(got) != want && got[0] != '-' {
			x.problem("was told %q to ECHO %s", got, sign)
		}
	}
	return true
}

func (x *writer) sign(n int) string { return fmt.Sprintf("%s is at %d", x.id, n) }

func (x *writer) read() ([]byte, error) {
	got, err := x.conn.TryReadReply()
	if err != nil && !proxytest.IsClosed(err) {
		x.problem("waiting for a reply: %v", err)
	}
	return got, err
}

// verify compares the list with the book.
func (x *writer) verify(direct *proxytest.Conn) (told, doubtful, refused int) {
	lines := strings.Split(string(direct.Do("LRANGE", x.id, "0", "-1")), "\r\n")
	var list []int
	for i := 2; i < len(lines); i += 2 {
		n, err := strconv.Atoi(lines[i])
		if err != nil {
			x.problem("its list has %q", lines[i])
			return told, doubtful, refused
		}
		list = append(list, n)
	}
	if !slices.IsSorted(list) {
		x.problem("its list is out of order: %v", list)
	}
	there := map[int]bool{}
	for _, n := range list {
		if there[n] {
			x.problem("%d is there twice", n)
		}
		there[n] = true
	}
	for n, is := range x.known {
		switch {
		case is == acknowledged && !there[n]:
			x.problem("%d was acknowledged, and is not there", n)
		case is == refusedWrite && there[n]:
			x.problem("%d was refused, and is there", n)
		}
		switch is {
		case acknowledged:
			told++
		case refusedWrite:
			refused++
		default:
			doubtful++
		}
	}
	return told, doubtful, refused
}
