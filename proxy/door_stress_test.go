package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The limits under attack, over sockets: sixty clients come and go in every way there is, as whoever they please, while the
// rules change and, for the second half of the time, the upstream's connections are killed, and it is itself. Somebody looks
// all the time whether a limit is exceeded, by one, for a moment. Each client knows what every reply has to be: who is
// refused has been served nothing from then on, and who is in loses nothing. In the end all books are at zero.

// doorRules stay as they are. What is above a maximum is there because it is privileged, or because the rule observes.
var doorRules = []string{
	"total overflow queue queue-size 20 queue-timeout 300ms",
	"addr 127.0.0.1 maxclients 20 overflow queue queue-size 15 queue-timeout 300ms",
	"addr 127.0.0.2 each maxclients 8",
	"addr 127.0.0.3 maxclients 6 overflow evict-idle",
	"addr 127.0.0.4 new-connections-per-second 20 burst 5",
	"addr each max-pins 5 max-in-flight 20",
	"user app maxclients 7 max-pins 2",
	"user other maxclients 6 overflow queue queue-timeout 200ms",
	"user ops reserved 3",
	"name w:* each maxclients 4 overflow queue queue-timeout 200ms",
	"name w:* maxclients 9 overflow evict-idle",
	"lib leaky/* maxclients 5",
	"lib each maxclients 2 overflow observe",
}

// doorChanges come and go, each with a number that changes too.
var doorChanges = []string{
	"addr 127.0.0.0/8 maxclients %d overflow queue queue-timeout 100ms",
	"addr 127.0.0.0/8 each maxclients %d overflow evict-idle",
	"name x maxclients %d",
	"name * each max-pins %d",
	"user default maxclients %d overflow queue",
	"listener each maxclients %d overflow observe",
}

const (
	doorMax       = 36
	doorAttackers = 60
	doorRate      = 20 // of 127.0.0.4, as above
	doorBurst     = 5
)

func TestNoLimitIsExceededAtTheDoorWhateverClientsDo(t *testing.T) {
	duration, seed := proxytest.Duration(t), proxytest.Seed(t)
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients, c.PoolSize, c.Limits = loops, doorMax, 12, parseRules(t, doorRules...)
				c.PoolTimeout, c.MaxMemoryClients = 200*time.Millisecond, 64<<20
			}, "--save", "", "--tcp-keepalive", "0")
			d := &doorWorld{addr: p.Addr(), redis: s.Addr(), seed: seed, done: map[string]int{}}
			d.users(t, s)
			start := time.Now()
			d.until, d.hurtFrom = start.Add(duration/2), start.Add(duration/4)
			stop := make(chan struct{})
			var clients, others sync.WaitGroup
			watch := &doorWatcher{d: d, p: p, rnd: rand.New(rand.NewPCG(seed, 1<<33)), above: map[string]int{}}
			others.Go(func() { watch.watch(stop) })
			others.Go(func() { d.hurt(t, s, stop) })
			for i := range doorAttackers {
				clients.Go(func() { d.attack(i) })
			}
			clients.Wait()
			close(stop)
			others.Wait()
			d.report(t, p, watch, time.Since(start))
		})
	}
}

// doorWorld is what those at the door share.
type doorWorld struct {
	// Static after construction.
	addr, redis     string
	seed            uint64
	until, hurtFrom time.Time

	// Atomic.
	epoch    atomic.Int64 // how often the upstream has been harmed; odd while it is
	restarts atomic.Int64
	rated    atomic.Int64 // clients that came from 127.0.0.4 and were served
	failed   atomic.Bool

	// mu guards the following fields.
	mu       sync.Mutex
	problems []string
	done     map[string]int
}

func (d *doorWorld) users(t *testing.T, s *proxytest.Server) {
	t.Helper()
	c := proxytest.Dial(t, s.Addr())
	defer c.Close()
	for _, user := range []string{"app", "ops", "other"} {
		c.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all")
	}
}

func (d *doorWorld) problem(format string, args ...any) {
	d.failed.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.problems) < 10 {
		d.problems = append(d.problems, fmt.Sprintf(format, args...))
	}
}

func (d *doorWorld) count(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done[what]++
}

// hurt kills upstream connections, and the upstream once.
func (d *doorWorld) hurt(t *testing.T, s *proxytest.Server, stop <-chan struct{}) {
	restartAt := d.hurtFrom.Add(d.until.Sub(d.hurtFrom) / 2)
	for {
		wait := 200 * time.Millisecond
		if now := time.Now(); now.Before(d.hurtFrom) {
			wait = d.hurtFrom.Sub(now)
		}
		select {
		case <-stop:
			return
		case <-time.After(wait):
		}
		d.epoch.Add(1)
		if d.restarts.Load() == 0 && time.Now().After(restartAt) {
			d.restarts.Add(1)
			s.Restart()
			d.users(t, s)
		} else if c, err := proxytest.TryDial(s.Addr()); err == nil {
			_ = c.TryWrite([]byte(proxytest.Command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")))
			_, _ = c.TryReadReply()
			c.Close()
			d.count("kills")
		}
		time.Sleep(50 * time.Millisecond)
		d.epoch.Add(1)
	}
}

// doorWatcher looks at the counters, and is the one who changes the rules, so that it knows what is in force.
type doorWatcher struct {
	d       *doorWorld
	p       *proxytest.Running
	rnd     *rand.Rand
	above   map[string]int // the fewest clients since the rules have changed, by rule and value
	samples int
	changes int
	most    int
	queued  int
}

func (w *doorWatcher) watch(stop <-chan struct{}) {
	next := time.Now()
	for {
		select {
		case <-stop:
			for _, text := range doorChanges {
				_ = w.p.UnsetRule(headOf(text)) // it may not be in force
			}
			return
		default:
		}
		if time.Now().After(next) {
			next = time.Now().Add(time.Duration(w.rnd.IntN(100)) * time.Millisecond)
			w.change()
		}
		w.look()
		time.Sleep(500 * time.Microsecond)
	}
}

func headOf(text string) string {
	for _, word := range []string{" maxclients ", " max-pins "} {
		text, _, _ = strings.Cut(text, word)
	}
	return text
}

func (w *doorWatcher) change() {
	text := pick(w.rnd, doorChanges...)
	w.changes++
	if w.rnd.IntN(3) == 0 {
		_ = w.p.UnsetRule(headOf(text)) // it may not be in force
	} else if err := w.p.SetRule(fmt.Sprintf(text, 1+w.rnd.IntN(doorMax))); err != nil {
		w.d.problem("SetRule: %v", err)
	}
	w.above = map[string]int{} // whoever is in stays in
	for _, r := range w.p.Rules() {
		for _, x := range r.Groups {
			w.above[r.Head+" "+x.Value] = x.Open // at most as many as were in when the rule changed
			w.above["pins "+r.Head+" "+x.Value] = x.Pins
		}
	}
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// look checks that no group is above its limit; where the limit has been lowered, that nobody is let in until it is kept.
func (w *doorWatcher) look() {
	w.samples++
	if w.samples%16 == 0 { // the loops are asked for these
		if st := w.p.Stats(); st.Clients > doorMax || st.Upstream > st.PoolSize {
			w.d.problem("LIMIT: %d clients of %d, %d upstream connections of %d", st.Clients, doorMax, st.Upstream, st.PoolSize)
		}
	}
	rules := w.p.Rules()
	privileged := 0
	for _, r := range rules {
		if r.Head == "user ops" && len(r.Groups) > 0 {
			privileged = r.Groups[0].Open
		}
	}
	w.most = max(w.most, rules[0].Groups[0].Open)
	for _, r := range rules {
		if strings.Contains(r.Rule, "observe") {
			continue
		}
		for _, x := range r.Groups {
			w.queued = max(w.queued, x.Waiting)
			w.check(r, x, privileged)
		}
	}
}

func (w *doorWatcher) check(r limits.RuleReport, x limits.GroupReport, privileged int) {
	if r.Head == "total" {
		privileged = 0
	}
	key := r.Head + " " + x.Value
	was, changed := w.above[key]
	if most := max(x.Max, was) + privileged; x.Max > 0 && x.Open > most {
		w.d.problem("LIMIT: %q %s: %d of %d clients, of whom %d may be privileged; there were %d", r.Rule, x.Value, x.Open, x.Max, privileged, was)
	}
	if changed {
		w.above[key] = min(x.Open, was)
	}
	held, changed := w.above["pins "+key] // who has a pin when the rule changes keeps it
	if most := max(x.MaxPins, held); x.MaxPins > 0 && x.Pins > most {
		w.d.problem("LIMIT: %q %s: %d of %d pins; there were %d", r.Rule, x.Value, x.Pins, x.MaxPins, held)
	}
	if changed {
		w.above["pins "+key] = min(x.Pins, held)
	}
}

func (d *doorWorld) report(t *testing.T, p *proxytest.Running, w *doorWatcher, elapsed time.Duration) {
	for _, problem := range d.problems {
		t.Error(problem)
	}
	st := p.Stats()
	t.Logf("%d samples, %d changes of rules, at most %d clients and %d waiting in one queue; %d restarts", w.samples, w.changes, w.most,
		w.queued, d.restarts.Load())
	t.Logf("%d admitted, %d refused, %d evicted, %d lost, %d from the address with a rate; %v", st.Admitted, st.Refused, st.Evicted,
		st.Lost, d.rated.Load(), d.done)
	if n, most := d.rated.Load(), doorBurst+doorRate*elapsed.Seconds()+1; float64(n) > most {
		t.Errorf("%d clients were let in where the rate allows for %.0f", n, most)
	}
	eventually(t, "all is zero", func() string { return stillCounted(p) })
	eventually(t, "and it serves", func() string {
		c := proxytest.DialFrom(t, "127.0.0.9", p.Addr())
		defer c.Close()
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			return got
		}
		return ""
	})
	for _, what := range doorKinds {
		if d.done[what.name] == 0 && elapsed > 10*time.Second { // in less, luck may have been against the rare ones
			t.Errorf("%s never went through", what.name)
		}
	}
	if st.Admitted == 0 || st.Refused == 0 || w.queued == 0 || d.done["talk"] == 0 || d.done["kills"] == 0 {
		t.Error("the attack has not tried what it is for")
	}
}
