package limits_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Waiting is fair between addresses, bounded in length and time, and for those who are still there.

func TestWhoWaitsIsLetInInOrderAndForQueueTimeout(t *testing.T) {
	s := newStage(t, 1, "total overflow queue queue-size 3 queue-timeout 2s")
	s.crowd("c", 5, "10.0.0.1")
	s.are(admitted, "c1")
	s.are(waiting, "c2", "c3", "c4")
	s.are(refused, "c5") // the queue is full
	s.passes(time.Second)
	s.goes("c2") // hangs up
	s.come("c6", "10.0.0.1")
	s.goes("c1")
	s.are(admitted, "c3")
	s.passes(time.Second)
	s.are(refused, "c4")
	s.are(waiting, "c6")
	s.passes(time.Second)
	s.are(refused, "c6")
	for name, want := range map[string]int{"c3": 1, "c4": 1, "c5": 0, "c6": 1} {
		if got := s.clients[name].told; got != want {
			t.Errorf("%s has been told %d times, want %d", name, got, want)
		}
	}
	s.empties()
}

func TestAFloodFromOneAddressDelaysNoSingleClientFromAnother(t *testing.T) {
	s := newStage(t, 10, "total overflow queue queue-size 100 queue-timeout 10s")
	s.crowd("flood", 500, "10.0.0.1")
	s.come("single", "10.0.0.2") // the queue was full
	s.are(waiting, "single")
	if got := s.gate.Stats().Waiting; got != 100 {
		t.Errorf("%d wait, want 100", got)
	}
	s.are(refused, "flood110") // the newest of the flood has made room
	s.come("second", "10.0.0.2")
	s.goes("flood1")
	s.are(admitted, "single") // the next place is its
	s.goes("flood2", "flood3")
	s.are(admitted, "second") // two from there are still fewer than ten from the other
	s.are(admitted, "flood11")
	s.empties()
}

func TestAQueueMakesNoRoomForThoseWhoHaveAsManyInIt(t *testing.T) {
	s := newStage(t, 1, "total overflow queue queue-size 4")
	s.come("in", "10.0.0.9")
	s.crowd("a", 2, "10.0.0.1")
	s.crowd("b", 3, "10.0.0.2")
	s.are(waiting, "a1", "a2", "b1", "b2")
	s.are(refused, "b3")
	s.come("c", "10.0.0.3")
	s.are(waiting, "c") // in the place of one from an address with two
	if got := s.gate.Stats().Waiting; got != 4 {
		t.Errorf("%d wait", got)
	}
	s.empties()
}

func TestWhoIsLetInByOneRuleWaitsForTheNext(t *testing.T) {
	s := newStage(t, 2, "total overflow queue", "addr each maxclients 1 overflow queue", "user bad maxclients 1")
	s.come("a1", "10.0.0.1")
	s.come("b1", "10.0.0.2 user bad")
	s.come("a2", "10.0.0.1")
	s.come("c1", "10.0.0.3 user bad")
	s.are(waiting, "a2")
	s.are(refused, "c1") // a rule that rejects goes before those that let wait
	s.goes("b1")
	s.are(waiting, "a2") // there is a place, but not for this address
	if got := s.clients["a2"].Why(); got != "addr each" {
		t.Errorf("a2 waits because of %s", got)
	}
	s.come("b2", "10.0.0.2")
	s.are(admitted, "b2") // a2 does not hold it up
	s.goes("a1")
	s.are(admitted, "a2")
	s.empties()
}

func TestTheLongestIdleOfWhoHasMostMakesRoom(t *testing.T) {
	s := newStage(t, 5, "total overflow evict-idle")
	s.crowd("a", 3, "10.0.0.1")
	s.crowd("b", 2, "10.0.0.2")
	s.crowd("new", 2, "10.0.0.3")
	s.are(waiting, "new1", "new2")
	evictions := s.gate.Evictions()
	if len(evictions) != 1 || len(s.gate.Evictions()) != 0 {
		t.Fatalf("%d evictions are wanted, want one, asked for once", len(evictions))
	}
	candidate := func(name string, idle int, evictable bool) limits.Candidate {
		return limits.Candidate{Ticket: s.clients[name].Ticket, Idle: time.Duration(idle) * time.Second, Evictable: evictable}
	}
	chosen := evictions[0].Choose([]limits.Candidate{
		candidate("b1", 900, true), candidate("b2", 800, true),
		candidate("a1", 10, true), candidate("a2", 20, true), candidate("a3", 1000, false),
	})
	var names []string
	for _, c := range chosen {
		for name, a := range s.clients {
			if a.Ticket == c.Ticket {
				names = append(names, name)
			}
		}
	}
	// A has three of five, so it gives first; then both have two, and the one that has been idle for longest goes.
	if fmt.Sprint(names) != "[a2 b1]" {
		t.Errorf("chosen: %v", names)
	}
	s.goes("a2")
	evictions[0].Done(1) // b1 was not idle any more
	s.are(admitted, "new1")
	s.are(refused, "new2")
	if g := s.group("total", ""); g.Evicted != 1 {
		t.Errorf("%+v", g)
	}
	s.empties()
}

func TestAnEvictionConcernsThoseWhoAreCountedByTheRule(t *testing.T) {
	s := newStage(t, 100, "user app maxclients 1 overflow evict-idle")
	s.come("old", "10.0.0.1 user app")
	s.come("other", "10.0.0.1 user other")
	s.come("new", "10.0.0.2 user app")
	e := s.gate.Evictions()
	chosen := e[0].Choose([]limits.Candidate{
		{Ticket: s.clients["other"].Ticket, Idle: time.Hour, Evictable: true},
		{Ticket: s.clients["old"].Ticket, Idle: time.Second, Evictable: true},
	})
	if len(chosen) != 1 || chosen[0].Ticket != s.clients["old"].Ticket {
		t.Errorf("chosen: %v", chosen)
	}
	s.passes(2 * time.Second) // nobody goes
	s.are(refused, "new")
	e[0].Done(0)
	s.empties()
}

// Who turns out to be somebody else is let in if there is a place, and otherwise nobody has noticed.
func TestWhoAsksForAPlaceAtOnceTakesNobodysPlaceInTheQueue(t *testing.T) {
	s := newStage(t, 2, "total overflow queue queue-size 2", "user ops reserved 1", "addr each maxclients 1")
	s.come("in", "192.0.2.1")
	s.come("first", "192.0.2.2")
	s.come("second", "192.0.2.2")
	before, rules := s.gate.Stats(), fmt.Sprint(s.gate.Rules())
	if a := s.gate.AdmitAtOnce(&limits.Identities{limits.ByAddr: "192.0.2.3", limits.ByUser: "app"}, s.now); a != nil {
		t.Error("somebody was let in where others wait")
	}
	if after := s.gate.Stats(); after != before {
		t.Errorf("%+v, and after somebody has asked %+v", before, after)
	}
	if after := fmt.Sprint(s.gate.Rules()); after != rules {
		t.Errorf("%s, and after somebody has asked %s", rules, after)
	}
	ops := s.gate.AdmitAtOnce(&limits.Identities{limits.ByAddr: "192.0.2.3", limits.ByUser: "ops"}, s.now)
	if ops == nil {
		t.Fatal("a place is reserved for ops")
	}
	ops.Leave(s.now)
	s.goes("first", "second", "in")
	if left := s.gate.Remembered(); left != "" {
		t.Error(left)
	}
}

// Who has come from another queue, where patience is greater, does not keep those behind from being told in time.
func TestEachWaitsForItsOwnTime(t *testing.T) {
	s := newStage(t, 1, "total overflow queue queue-timeout 10s")
	s.come("in", "192.0.2.1")
	s.come("patient", "192.0.2.2")
	s.rule("total overflow queue queue-timeout 1s")
	s.come("other", "192.0.2.2")
	s.passes(2 * time.Second)
	s.are(waiting, "patient")
	s.are(refused, "other")
}
