package limits_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Half an hour at the door, by seed: floods, clients that become known late, that hang up in the queue, that hold
// connections of their own, and rules that change. After each step, what the gate says is compared with a count of those
// whom it has let in: no limit is exceeded by one, not for a moment, and in the end all is zero.

// simRules are the rules of the simulation. A rule that is taken out and put back has to count those who are in.
var simRules = []string{
	"addr each maxclients 9 new-connections-per-second 3 burst 10 overflow queue queue-size 6 queue-timeout 3s",
	"addr 10.0.0.0/30 maxclients 14 overflow evict-idle",
	"user app maxclients 11 max-pins 3",
	"user each maxclients 14 overflow queue queue-timeout 2s",
	"name w:* maxclients 7 overflow observe",
	"user ops reserved 4",
	"lib each maxclients 13 overflow evict-idle",
}

const (
	simMaxClients = 30
	simReserved   = 5 // which of the rules reserves places; it stays in force
)

// simClient is a client of the simulation. The simulation runs on one goroutine, so that it is told on that one too.
type simClient struct {
	*limits.Ticket
	ids  limits.Identities
	told int
	pin  bool // holds one, or waits for one
	has  bool // holds one
}

func (c *simClient) Decided(*limits.Ticket) { c.told++ }

type doorSimulation struct {
	t       *testing.T
	rnd     *rand.Rand
	gate    *limits.Gate
	now     time.Time
	clients []*simClient
	off     map[int]bool // rules out of force
	max     int
	steps   int
	queued  int
	evicted int
}

func TestNoLimitIsExceededInHalfAnHourOfEverything(t *testing.T) {
	for seed := range uint64(6) {
		s := &doorSimulation{
			t: t, rnd: rand.New(rand.NewPCG(seed, 1)), gate: limits.NewGate(simMaxClients, time.Minute), now: noon,
			off: map[int]bool{}, max: simMaxClients,
		}
		for i := range simRules {
			s.put(i)
		}
		for s.now.Sub(noon) < 30*time.Minute && !t.Failed() {
			s.step()
		}
		for len(s.clients) > 0 {
			s.leave(0)
		}
		s.finish()
		t.Logf("seed %d: %d steps, %d waited, %d evicted, %+v", seed, s.steps, s.queued, s.evicted, s.gate.Stats())
		if s.queued == 0 || s.evicted == 0 {
			t.Error("the simulation has not tried what it is for")
		}
	}
}

func (s *doorSimulation) put(i int) {
	r, err := limits.ParseRule(simRules[i])
	if err != nil {
		s.t.Fatal(err)
	}
	delete(s.off, i)
	s.gate.SetRule(r, s.now)
}

func (s *doorSimulation) step() {
	s.steps++
	s.now = s.now.Add(time.Duration(s.rnd.IntN(200)) * time.Millisecond)
	switch n := s.rnd.IntN(100); {
	case n < 45:
		s.come()
	case n < 70 && len(s.clients) > 0:
		s.leave(s.rnd.IntN(len(s.clients)))
	case n < 85 && len(s.clients) > 0:
		s.become(s.clients[s.rnd.IntN(len(s.clients))])
	case n < 93 && len(s.clients) > 0:
		s.pin(s.clients[s.rnd.IntN(len(s.clients))])
	case n < 94:
		s.change()
	case n < 96:
		s.gate.Sweep(s.now)
	default:
		s.gate.Tick(s.now)
	}
	s.evict()
	s.prune()
	s.check()
}

func pick[T any](rnd *rand.Rand, of ...T) T { return of[rnd.IntN(len(of))] }

// values are what an identity of a client may be.
var values = map[limits.IdentityKind][]string{
	limits.ByUser: {"app", "ops", "other"}, limits.ByName: {"w:1", "w:2", "x", ""}, limits.ByLib: {"a/1", "b/2", ""},
}

func (s *doorSimulation) come() {
	c := &simClient{ids: limits.Identities{limits.ByAddr: fmt.Sprint("10.0.0.", s.rnd.IntN(6)), limits.ByUser: "default"}}
	c.Ticket = s.gate.Admit(&c.ids, c, s.now)
	if c.State() == limits.Waiting {
		s.queued++
	}
	s.clients = append(s.clients, c)
}

func (s *doorSimulation) leave(i int) {
	s.clients[i].Leave(s.now)
	s.clients[i] = s.clients[len(s.clients)-1]
	s.clients = s.clients[:len(s.clients)-1]
}

// prune has those go who have been refused.
func (s *doorSimulation) prune() {
	for i := len(s.clients) - 1; i >= 0; i-- {
		if s.clients[i].State() == limits.Refused {
			s.leave(i)
		}
	}
}

func (s *doorSimulation) become(c *simClient) {
	kind := pick(s.rnd, limits.ByUser, limits.ByName, limits.ByLib)
	if kind == limits.ByUser && c.ids[kind] == "ops" {
		return // if it became somebody else, it would be one too many, and in
	}
	c.ids[kind] = pick(s.rnd, values[kind]...)
	c.Identify(func(ids *limits.Identities) { *ids = c.ids }, s.now)
}

func (s *doorSimulation) pin(c *simClient) {
	switch {
	case c.pin:
		c.GivePin()
		c.pin, c.has = false, false
	case c.State() == limits.Admitted:
		c.pin = true
		c.has = c.TakePin(func() { c.has = true })
	}
}

func (s *doorSimulation) change() {
	i := s.rnd.IntN(len(simRules) + 1)
	switch {
	case i == len(simRules):
		s.max = max(s.gate.Stats().Open, simMaxClients-5+s.rnd.IntN(10)) // never below what is in: that is another test
		s.gate.SetMax(s.max, s.now)
	case s.off[i]:
		if s.fits(simRules[i]) {
			s.put(i)
		}
	case i != simReserved:
		r, _ := limits.ParseRule(simRules[i])
		s.off[i] = true
		if !s.gate.UnsetRule(r, s.now) {
			s.t.Errorf("%s was not in force", simRules[i])
		}
	}
}

// fits reports whether no more clients are in than a rule allows: whoever is in when it comes into force stays in.
func (s *doorSimulation) fits(text string) bool {
	r, err := limits.ParseRule(text)
	if err != nil {
		s.t.Fatal(err)
	}
	counts := map[string]int{}
	for _, c := range s.clients {
		if v, ok := limits.Matches(&r, &c.ids); ok {
			if counts[v]++; r.MaxClients > 0 && counts[v] > r.MaxClients {
				return false
			}
		}
	}
	return true
}

func (s *doorSimulation) evict() {
	for _, e := range s.gate.Evictions() {
		var all []limits.Candidate
		for _, c := range s.clients {
			all = append(all, limits.Candidate{
				Ticket: c.Ticket, Idle: time.Duration(s.rnd.IntN(1000)), Evictable: s.rnd.IntN(3) > 0 && c.State() == limits.Admitted,
			})
		}
		chosen := e.Choose(all)
		for _, v := range chosen {
			for i, c := range s.clients {
				if c.Ticket == v.Ticket {
					s.leave(i)
					s.evicted++
					break
				}
			}
		}
		e.Done(len(chosen))
	}
}

// count returns how many admitted clients a rule is meant for, with a value if it counts each.
func (s *doorSimulation) count(r *limits.Rule, value string) (n int) {
	for _, c := range s.clients {
		if v, ok := limits.Matches(r, &c.ids); ok && v == value && c.State() == limits.Admitted {
			n++
		}
	}
	return n
}

// check compares what the gate reports with what was let in, and both with the limits.
func (s *doorSimulation) check() {
	s.t.Helper()
	inside := 0
	for _, c := range s.clients {
		if c.State() == limits.Admitted {
			inside++
		}
	}
	if st := s.gate.Stats(); st.Open > s.max || st.Open < inside {
		s.t.Errorf("step %d: %+v, and %d are in", s.steps, st, inside)
	}
	for _, report := range s.gate.Rules()[1:] {
		r, err := limits.ParseRule(report.Rule)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, g := range report.Groups {
			if n := s.count(&r, g.Value); n > g.Open || r.Overflow != limits.Observe && g.Max > 0 && g.Open > g.Max && r.Reserved == 0 && !s.privileged(&r, g) {
				s.t.Errorf("step %d: %s %s: %d are in, it says %+v", s.steps, report.Head, g.Value, n, g)
			}
			if g.MaxPins > 0 && g.Pins > g.MaxPins {
				s.t.Errorf("step %d: %s: %+v", s.steps, report.Head, g)
			}
		}
	}
}

// privileged reports whether a group has clients whom no rule refuses, and not more of the others than it may.
func (s *doorSimulation) privileged(r *limits.Rule, g limits.GroupReport) bool {
	n := 0
	for _, c := range s.clients {
		if v, ok := limits.Matches(r, &c.ids); ok && v == g.Value && c.ids[limits.ByUser] == "ops" {
			n++
		}
	}
	return g.Open-n <= g.Max
}

// finish checks that nothing is left.
func (s *doorSimulation) finish() {
	s.now = s.now.Add(time.Hour)
	s.gate.Tick(s.now)
	s.gate.Sweep(s.now)
	if st := s.gate.Stats(); st.Open != 0 || st.Waiting != 0 {
		s.t.Errorf("at the end: %+v", st)
	}
	for i, r := range s.gate.Rules() {
		for _, g := range r.Groups {
			if g.Open+g.Waiting+g.Pins > 0 || i > 0 && g.Value != "" {
				s.t.Errorf("at the end, %s: %+v", r.Head, g)
			}
		}
	}
	if left := s.gate.Remembered(); left != "" {
		s.t.Errorf("at the end, the gate remembers %s", left)
	}
}
