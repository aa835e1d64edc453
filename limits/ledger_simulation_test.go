package limits_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// An hour of a Redis that many programs share: healthy ones of all sorts, and one leaker of each kind, that starts at a
// random moment and is stopped after a while. No healthy program may be named, every leaker must be, by the rule for it
// and within a minute, with the thresholds that are the default.

var simulatedHours = flag.Uint64("ledger.hours", hoursByDefault, "hours of the simulation of the ledger, each with a seed of its own")

func TestAnHourOfTrafficNamesTheLeakersAndNobodyElse(t *testing.T) {
	hours := *simulatedHours
	if testing.Short() {
		hours = 2
	}
	if hours == 0 {
		t.Fatal("no hour was simulated")
	}
	delays := map[string][]time.Duration{}
	for seed := range hours {
		simulateHour(t, seed, delays)
	}
	for _, l := range leakerKinds {
		d := delays[l.name]
		slices.Sort(d)
		if len(d) == 0 {
			t.Errorf("%s: never named", l.name)
			continue
		}
		t.Logf("%s: named as %s %d times, after %v to %v, median %v", l.name, l.rule, len(d), d[0], d[len(d)-1], d[len(d)/2])
	}
}

func simulateHour(t *testing.T, seed uint64, delays map[string][]time.Duration) {
	t.Helper()
	s := newSimulation(seed)
	for _, p := range healthyPrograms(s) {
		s.run(p, 0, time.Hour)
	}
	leakers := map[string]*leaker{}
	for i, kind := range leakerKinds {
		l := &leaker{kind: kind, from: time.Duration(s.rnd.IntN(54)) * time.Minute}
		l.from += time.Duration(s.rnd.IntN(60)) * time.Second
		ids := processOf(9000+i, kind.name)
		leakers[ids.Source()] = l
		s.run(kind.make(s, ids), l.from, l.from+4*time.Minute)
	}
	s.notice = func(n limits.Notice) {
		l := leakers[n.Source]
		switch {
		case l == nil:
			t.Errorf("seed %d, %v: %s is healthy and %s as %s: %s", seed, s.elapsed(), n.Source, n.What, n.Rule, n.Reason)
		case n.Rule != l.kind.rule:
			t.Errorf("seed %d, %v: %s is %s as %s: %s", seed, s.elapsed()-l.from, n.Source, n.What, n.Rule, n.Reason)
		case n.What == limits.Named:
			l.named++
			delays[l.kind.name] = append(delays[l.kind.name], s.elapsed()-l.from)
			if s.elapsed()-l.from > time.Minute {
				t.Errorf("seed %d: %s is named after %v", seed, n.Source, s.elapsed()-l.from)
			}
		case n.What == limits.Cleared:
			l.cleared++
		}
	}
	for s.elapsed() < time.Hour {
		s.second()
	}
	for source, l := range leakers {
		if l.named != 1 || l.cleared != 1 {
			t.Errorf("seed %d: %s is named %d times and cleared %d times, want once each", seed, source, l.named, l.cleared)
		}
	}
	for _, c := range slices.Clone(s.conns) {
		s.close(c)
	}
	mustBeUnused(t, s.ledger)
}

// leaker is one run of a program that leaks.
type leaker struct {
	kind           leakerKind
	from           time.Duration
	named, cleared int
}

// mustBeUnused checks that no value of any kind has clients left.
func mustBeUnused(t *testing.T, l *limits.Ledger) {
	t.Helper()
	reports := l.BySource()
	for k := range limits.IdentityKinds {
		reports = append(reports, l.Sources(k)...)
	}
	if len(reports) == 0 {
		t.Error("the ledger has forgotten everything")
	}
	for _, r := range reports {
		if r.Open != 0 {
			t.Errorf("when all have gone, %q has %d connections", r.Value, r.Open)
		}
	}
}

// simulation drives a ledger, a second at a time.
type simulation struct {
	rnd      *rand.Rand
	ledger   *limits.Ledger
	now      time.Time
	conns    []*simulated
	programs []*scheduled
	notice   func(limits.Notice)
	facts    []limits.ClientFacts
	ports    int
}

// simulated is a connection.
type simulated struct {
	ids        *limits.Identities
	remote     string
	opened     time.Time
	last       time.Time
	until      time.Time // busy until then
	commands   uint64
	subscribed bool
	what       string
	place      int
}

// program is told of each second of its life, and of its end.
type program interface {
	second()
	stop()
}

type scheduled struct {
	program
	from, until time.Duration
}

func newSimulation(seed uint64) *simulation {
	return &simulation{
		rnd:    rand.New(rand.NewPCG(seed, 1)),
		ledger: limits.NewLedger(limits.SuspectRules{}),
		now:    noon,
		notice: func(limits.Notice) {},
	}
}

func (s *simulation) elapsed() time.Duration { return s.now.Sub(noon) }

func (s *simulation) run(p program, from, until time.Duration) {
	s.programs = append(s.programs, &scheduled{p, from, until})
}

// second lets a second pass.
func (s *simulation) second() {
	s.now = s.now.Add(time.Second)
	for _, p := range s.programs {
		switch at := s.elapsed(); {
		case at > p.from && at <= p.until:
			p.second()
		case at == p.until+time.Second:
			p.stop()
		}
	}
	if s.elapsed()%limits.LedgerWindow == 0 {
		s.look()
	}
}

func (s *simulation) look() {
	s.facts = s.facts[:0]
	for _, c := range s.conns {
		s.facts = append(s.facts, limits.ClientFacts{
			Identities: c.ids, Remote: c.remote, Age: s.now.Sub(c.opened), Idle: s.now.Sub(c.last), Commands: c.commands,
			InUse: c.until.After(s.now), Subscribed: c.subscribed, Last: c.what,
		})
	}
	for _, n := range s.ledger.Observe(s.now, s.facts) {
		s.notice(n)
	}
}

// instant is a random moment of the second that has just passed.
func (s *simulation) instant() time.Time {
	return s.now.Add(-time.Duration(s.rnd.Int64N(int64(time.Second))))
}

// open opens a connection. A client that has a name is known without it first.
func (s *simulation) open(ids *limits.Identities) *simulated {
	bare := *ids
	bare[limits.ByName], bare[limits.ByLib] = "", ""
	at := s.instant()
	s.ledger.Opened(&bare, at)
	if bare != *ids {
		s.ledger.Changed(&bare, ids, at)
	}
	s.ports++
	c := &simulated{ids: ids, remote: "127.0.0.1:" + strconv.Itoa(s.ports), opened: at, last: at, place: len(s.conns)}
	s.conns = append(s.conns, c)
	return c
}

// handshake is what a library says when it connects.
func (c *simulated) handshake() *simulated {
	c.commands, c.what = c.commands+4, "client"
	c.last = c.opened.Add(time.Millisecond)
	return c
}

func (s *simulation) close(c *simulated) {
	end := s.conns[len(s.conns)-1]
	s.conns[c.place], end.place = end, c.place
	s.conns = s.conns[:len(s.conns)-1]
	s.ledger.Closed(c.ids, limits.Usage{Commands: c.commands, Age: s.now.Sub(c.opened)}, s.now)
}

// command sends a command, and takes so long over it.
func (s *simulation) command(c *simulated, what string, takes time.Duration) {
	at := s.instant()
	if at.Before(c.last) {
		at = c.last
	}
	c.commands, c.what, c.last, c.until = c.commands+1, what, at, at.Add(takes)
}

// chance is how often something happens in a second by chance, if it does so that often on average (Poisson's numbers).
func (s *simulation) chance(rate float64) (n int) {
	for left := s.rnd.ExpFloat64(); left < rate; left += s.rnd.ExpFloat64() {
		n++
	}
	return n
}

// processOf is a process of this host.
func processOf(pid int, name string) *limits.Identities {
	ids := &limits.Identities{}
	ids[limits.ByAddr], ids[limits.ByUser], ids[limits.ByLib] = "127.0.0.1", "default", "redis-py/6.4.0"
	ids[limits.ByPID], ids[limits.ByProcess], ids[limits.ByName] = strconv.Itoa(pid), "python3", name
	return ids
}

// podOf is a program on another host.
func podOf(i int) *limits.Identities {
	ids := &limits.Identities{}
	ids[limits.ByAddr], ids[limits.ByUser], ids[limits.ByLib] = fmt.Sprintf("10.0.%d.%d", i/250, i%250), "default", "go-redis/9.14.0"
	return ids
}
