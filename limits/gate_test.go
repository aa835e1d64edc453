package limits_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// The gate holds the number of clients, whoever comes and goes, and what it tells the log is complete and short: a
// flood of a million refusals is a line a source and interval.

// knock has a client from an address ask to be let in.
func knock(g *limits.Gate, addr string, now time.Time) *limits.Ticket {
	return g.Admit(&limits.Identities{limits.ByAddr: addr}, nobody{}, now)
}

// nobody holds tickets and does not care what becomes of them.
type nobody struct{}

func (nobody) Decided(*limits.Ticket) {}

func TestMaxClientsIsNeverExceeded(t *testing.T) {
	const maxclients = 7
	g := limits.NewGate(maxclients, time.Minute)
	var inside, most, admitted, refused atomic.Int64
	var clients sync.WaitGroup
	for seed := range uint64(24) {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 0))
			for range 500 {
				c := knock(g, "192.0.2.1", noon)
				if c.State() != limits.Admitted {
					refused.Add(1)
					c.Leave(noon)
					continue
				}
				admitted.Add(1)
				if n := inside.Add(1); n > maxclients {
					most.Store(n)
				}
				for range rnd.IntN(100) {
					_ = g.Stats()
				}
				inside.Add(-1)
				c.Leave(noon)
			}
		})
	}
	clients.Wait()
	if most.Load() > 0 {
		t.Errorf("%d clients were in at once, want %d", most.Load(), maxclients)
	}
	want := limits.GateStats{Max: maxclients, Total: uint64(admitted.Load()), Refused: uint64(refused.Load())}
	if got := g.Stats(); got != want {
		t.Errorf("at the end %+v, want %+v", got, want)
	}
}

func TestWhoeverLeavesMakesRoomForOne(t *testing.T) {
	g := limits.NewGate(2, time.Minute)
	var first *limits.Ticket
	for i, want := range []limits.TicketState{limits.Admitted, limits.Admitted, limits.Refused, limits.Refused} {
		c := knock(g, "192.0.2.1", noon)
		if c.State() != want {
			t.Errorf("client %d: state %d, want %d", i, c.State(), want)
		}
		if i == 0 {
			first = c
		}
	}
	first.Leave(noon)
	if knock(g, "192.0.2.1", noon).State() != limits.Admitted || knock(g, "192.0.2.1", noon).State() != limits.Refused {
		t.Error("one has left, and one may come")
	}
	if got, want := g.Stats(), (limits.GateStats{Max: 2, Open: 2, Total: 3, Refused: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestAPlaceThatIsLeftForAnotherProgramIsNobodysHere(t *testing.T) {
	g := limits.NewGate(1, time.Minute)
	rule, err := limits.ParseRule("total overflow queue queue-timeout 2s")
	if err != nil {
		t.Fatal(err)
	}
	g.SetRules([]limits.Rule{rule}, nil, noon)
	first, second := knock(g, "a", noon), knock(g, "b", noon)
	g.HandOver()
	first.Leave(noon)
	g.Tick(after(1))
	if got := second.State(); got != limits.Waiting {
		t.Errorf("who waited is %v", got)
	}
	g.Tick(after(2))
	if got := second.State(); got != limits.Refused {
		t.Errorf("who waited for too long is %v", got)
	}
	second.Leave(after(2))
}

func TestLeavingTwicePanics(t *testing.T) {
	c := knock(limits.NewGate(1, time.Minute), "192.0.2.1", noon)
	c.Leave(noon)
	mustPanic(t, "bug: a client leaves twice", func() { c.Leave(noon) })
}

var noon = time.Date(2026, time.January, 1, 12, 0, 0, 0, time.UTC)

// after is a moment of the simulated time.
func after(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }

// expire returns what Expire reports, in order.
func expire(g *limits.Gate, now time.Time) []limits.Suppressed {
	s := g.Expire(now)
	slices.SortFunc(s, func(a, b limits.Suppressed) int { return cmp.Compare(a.Source, b.Source) })
	return s
}

// from is a refusal of a source, for the one reason of these tests.
func from(source string) limits.Refusal { return limits.Refusal{Source: source, Reason: "full"} }

// suppressed is what Expire reports of a source.
func suppressed(source string, count int) limits.Suppressed {
	return limits.Suppressed{Refusal: from(source), Count: count}
}

func TestTheFirstRefusalOfASourceIsToldAndTheOthersAreCounted(t *testing.T) {
	g := limits.NewGate(0, 10*time.Second)
	tell := func(second int, source string, want bool) {
		t.Helper()
		if got := g.Tell(from(source), after(second)); got != want {
			t.Errorf("at %d s, %s is told: %t", second, source, got)
		}
	}
	reported := func(second int, want ...limits.Suppressed) {
		t.Helper()
		if got := expire(g, after(second)); !reflect.DeepEqual(got, want) {
			t.Errorf("at %d s, Expire reports %v, want %v", second, got, want)
		}
	}
	tell(0, "a", true)
	tell(1, "a", false)
	tell(2, "b", true)
	tell(3, "a", false)
	reported(9) // no interval is over
	reported(10, suppressed("a", 2))
	tell(11, "a", false) // what Expire reported began its next interval
	reported(12)         // b had no more, and is forgotten
	tell(13, "b", true)
	reported(20, suppressed("a", 1))
	reported(30)
	tell(31, "a", true)
	tell(31, "b", true)
}

func TestEachReasonOfASourceIsTold(t *testing.T) {
	g := limits.NewGate(0, 10*time.Second)
	other := limits.Refusal{Source: "a", Reason: "protected"}
	for i, want := range []bool{true, false} {
		if first, second := g.Tell(from("a"), noon), g.Tell(other, noon); first != want || second != want {
			t.Errorf("refusal %d: told %t and %t, want %t", i+1, first, second, want)
		}
	}
	if got := g.Expire(after(10)); len(got) != 2 {
		t.Errorf("Expire reports %v, want one of each reason", got)
	}
}

func TestSourcesBeyondThoseKeptShareOneEntry(t *testing.T) {
	const kept, beyond = 1024, 500
	g := limits.NewGate(0, time.Second)
	for round := range 2 { // the second finds room again: nothing has stayed
		start := after(10 * round)
		for i := range kept {
			if !g.Tell(from(fmt.Sprint("source ", i)), start) {
				t.Fatalf("source %d is not told", i)
			}
		}
		told := 0
		for i := range beyond {
			if g.Tell(from(fmt.Sprint("one more ", i)), start) {
				told++
			}
		}
		if told != 1 {
			t.Errorf("of the sources beyond %d, %d are told, want 1", kept, told)
		}
		if g.Tell(from("source 0"), start) {
			t.Error("a source that is kept is told twice")
		}
		want := []limits.Suppressed{suppressed(limits.OtherSources, beyond-1), suppressed("source 0", 1)}
		if got := expire(g, start.Add(time.Second)); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if got := expire(g, start.Add(2*time.Second)); len(got) != 0 {
			t.Errorf("after a quiet interval, Expire reports %v", got)
		}
	}
}

func TestNoRefusalIsToldTwiceOrLost(t *testing.T) {
	g := limits.NewGate(0, 10*time.Second)
	rnd := rand.New(rand.NewPCG(1, 2))
	refusals, told := map[string]int{}, map[string]int{}
	lines := map[string]int{}
	now := noon
	report := func() {
		for _, s := range g.Expire(now) {
			told[s.Source] += s.Count
			lines[s.Source]++
		}
	}
	for range 20_000 {
		now = now.Add(time.Duration(rnd.IntN(50)) * time.Millisecond)
		source := string(rune('a' + rnd.IntN(1+rnd.IntN(26))))
		refusals[source]++
		if g.Tell(from(source), now) {
			told[source]++
			lines[source]++
		}
		if rnd.IntN(20) == 0 {
			report()
		}
	}
	now = now.Add(time.Minute)
	report()
	if !reflect.DeepEqual(told, refusals) {
		t.Errorf("told %v, want %v", told, refusals)
	}
	intervals := int(now.Sub(noon)/(10*time.Second)) + 1
	for source, n := range lines {
		if n > intervals+1 {
			t.Errorf("%s has %d lines in %d intervals", source, n, intervals)
		}
	}
}
