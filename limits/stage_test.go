package limits_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// stage is a gate with clients that have names. Its clock stands still unless it is told to go on.
type stage struct {
	t       *testing.T
	gate    *limits.Gate
	now     time.Time
	clients map[string]*actor
}

// actor is a client of a stage.
type actor struct {
	*limits.Ticket
	told int
}

func (a *actor) Decided(*limits.Ticket) { a.told++ }

func newStage(t *testing.T, maxclients int, rules ...string) *stage {
	t.Helper()
	s := &stage{t, limits.NewGate(maxclients, time.Minute), noon, map[string]*actor{}}
	for _, text := range rules {
		s.rule(text)
	}
	return s
}

func (s *stage) rule(text string) {
	s.t.Helper()
	r, err := limits.ParseRule(text)
	if err != nil {
		s.t.Fatal(err)
	}
	s.gate.SetRule(r, s.now)
}

// come has a client knock. What is known of it is like "addr 10.0.0.1 user app"; an address alone may stand by itself.
func (s *stage) come(name, known string) {
	s.t.Helper()
	words := strings.Fields(known)
	if len(words)%2 == 1 {
		words = append([]string{"addr"}, words...)
	}
	ids := limits.Identities{}
	for ; len(words) > 0; words = words[2:] {
		kind, ok := limits.ParseIdentityKind(words[0])
		if !ok {
			s.t.Fatalf("no identity: %s", words[0])
		}
		ids[kind] = words[1]
	}
	a := &actor{}
	a.Ticket = s.gate.Admit(&ids, a, s.now)
	s.clients[name] = a
}

// becomes has more become known of a client.
func (s *stage) becomes(name, kind, value string) {
	s.t.Helper()
	k, ok := limits.ParseIdentityKind(kind)
	if !ok {
		s.t.Fatalf("no identity: %s", kind)
	}
	s.clients[name].Identify(func(ids *limits.Identities) { ids[k] = value }, s.now)
}

func (s *stage) goes(names ...string) {
	for _, name := range names {
		s.clients[name].Leave(s.now)
		delete(s.clients, name)
	}
}

// passes has time go by.
func (s *stage) passes(d time.Duration) {
	s.now = s.now.Add(d)
	s.gate.Tick(s.now)
}

// are checks where clients stand.
func (s *stage) are(state limits.TicketState, names ...string) {
	s.t.Helper()
	for _, name := range names {
		if got := s.clients[name].State(); got != state {
			s.t.Errorf("%s: %s, want %s", name, stateName(got), stateName(state))
		}
	}
}

func stateName(state limits.TicketState) string {
	return [...]string{"admitted", "waiting", "refused"}[state]
}

// group returns what is reported of a value under a rule.
func (s *stage) group(head, value string) limits.GroupReport {
	s.t.Helper()
	for _, r := range s.gate.Rules() {
		for _, g := range r.Groups {
			if r.Head == head && g.Value == value {
				return g
			}
		}
	}
	return limits.GroupReport{}
}

// empties has everybody leave, and checks that nothing is left.
func (s *stage) empties() {
	s.t.Helper()
	for name := range s.clients {
		s.goes(name)
	}
	s.passes(time.Hour)
	s.gate.Sweep(s.now)
	st := s.gate.Stats()
	if st.Open != 0 || st.Waiting != 0 {
		s.t.Errorf("at the end: %+v", st)
	}
	for i, r := range s.gate.Rules() {
		for _, g := range r.Groups {
			if g.Open != 0 || g.Waiting != 0 || g.Pins != 0 || i > 0 && g.Value != "" {
				s.t.Errorf("at the end, %s: %+v", r.Head, g)
			}
		}
	}
	if left := s.gate.Remembered(); left != "" {
		s.t.Errorf("at the end, the gate remembers %s", left)
	}
}

// crowd has clients called prefix1, prefix2 and so on come from an address.
func (s *stage) crowd(prefix string, n int, known string) (names []string) {
	s.t.Helper()
	for i := range n {
		name := fmt.Sprint(prefix, i+1)
		s.come(name, known)
		names = append(names, name)
	}
	return names
}
