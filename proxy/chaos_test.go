package proxy_test

import (
	"math/rand/v2"
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
	duration, seed := proxytest.Duration(t), proxytest.Seed(t)
	s := proxytest.Redis(t, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction")
	line := proxytest.NewLine(t, s.Addr())
	cfg := proxytest.Config(t, s)
	cfg.PoolSize = 8
	var err error
	if cfg.Upstream, err = multiplex.ParseUpstream("redis://" + line.Addr()); err != nil {
		t.Fatal(err)
	}
	p := proxytest.Proxy(t, cfg)
	w := &chaos{t: t, server: s, line: line, rnd: rand.New(rand.NewPCG(seed, 0)), until: time.Now().Add(duration), events: map[string]int{}}

	writers := proxytest.StartWriters(proxytest.WritersConfig{
		Clients: 100, Seed: seed, Until: w.until, Addr: func() (string, error) { return p.Addr(), nil },
	})
	w.breakThings(duration)
	writers.Wait()

	v := writers.Verify(proxytest.Dial(t, s.Addr()))
	for _, problem := range v.Problems {
		t.Error(problem)
	}
	if len(v.Missing) > 0 {
		t.Errorf("%d writes were acknowledged, and are not there", len(v.Missing))
	}
	t.Logf("%d writes acknowledged, %d of unknown outcome, %d refused; %v; %d clients lost",
		v.Acknowledged, v.Unknown, v.Refused, w.events, p.Stats().Lost)
	broken := 0
	for _, n := range w.events {
		broken += n
	}
	if v.Acknowledged < 100 || broken < 3 {
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
