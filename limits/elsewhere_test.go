package limits_test

import (
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Whoever gets a place under one rule may have to wait for another, among such as came there first.

func TestWhoHasWaitedElsewhereDoesNotKeepOthersWaitingForLonger(t *testing.T) {
	s := newStage(t, 3, "total overflow queue queue-timeout 1s", "addr 10.0.0.1 maxclients 1 overflow queue queue-timeout 60s")
	s.come("x", "10.0.0.1")
	s.come("patient", "10.0.0.1") // for its address
	s.crowd("other", 3, "10.0.0.9")
	s.goes("x") // its place is other3's, so that now the patient one waits for a place in all
	s.are(admitted, "other3")
	s.are(waiting, "patient")
	s.come("impatient", "10.0.0.1")
	s.are(waiting, "impatient")
	s.passes(time.Second)
	s.are(refused, "impatient")
	s.are(waiting, "patient")
	s.empties()
}

func TestWhoHasHadSomebodyClosedUnderOneRuleMayUnderAnother(t *testing.T) {
	s := newStage(t, 2, "total overflow evict-idle", "addr each maxclients 1 overflow evict-idle")
	s.come("a1", "10.0.0.1")
	s.come("b1", "10.0.0.2")
	s.come("a2", "10.0.0.1")
	for _, victim := range []string{"b1", "a1"} {
		s.are(waiting, "a2")
		evictions := s.gate.Evictions()
		if len(evictions) != 1 {
			t.Fatalf("%d evictions are needed", len(evictions))
		}
		chosen := evictions[0].Choose([]limits.Candidate{{Ticket: s.clients[victim].Ticket, Evictable: true}})
		if len(chosen) != 1 {
			t.Fatalf("nobody is chosen where %s could be", victim)
		}
		s.goes(victim)
		evictions[0].Done(1)
	}
	s.are(admitted, "a2")
	s.empties()
}

func TestWhosePlaceAnotherHasGotHasSomebodyElseClosed(t *testing.T) {
	s := newStage(t, 3, "total overflow evict-idle", "user ops reserved 1")
	s.crowd("in", 2, "10.0.0.1")
	s.come("new", "10.0.0.2")
	e := s.gate.Evictions()[0]
	s.clients["in1"].Identify(func(ids *limits.Identities) { ids[limits.ByUser] = "ops" }, s.now)
	s.goes("in1")
	s.are(admitted, "new")
	s.come("newer", "10.0.0.2")
	e.Done(1)
	if n := len(s.gate.Evictions()); n != 1 {
		t.Errorf("%d evictions are needed", n)
	}
	s.empties()
}

func TestAskingForAReservedPlaceInVainHarmsNobody(t *testing.T) {
	s := newStage(t, 2, "total overflow queue queue-size 2", "user ops reserved 1", "name each maxclients 1")
	s.come("in", "10.0.0.1")
	s.crowd("waits", 2, "10.0.0.1")
	s.are(waiting, "waits1", "waits2")
	ask := func(user string) *limits.Ticket {
		return s.gate.AdmitAtOnce(&limits.Identities{limits.ByAddr: "10.0.0.2", limits.ByUser: user, limits.ByName: "n"}, s.now)
	}
	before := s.gate.Stats()
	if ask("app") != nil {
		t.Error("somebody without a reserved place got one")
	}
	s.are(waiting, "waits1", "waits2")
	if after := s.gate.Stats(); after != before {
		t.Errorf("%+v, was %+v", after, before)
	}
	got := ask("ops")
	if got == nil {
		t.Fatal("the reserved place was not given")
	}
	if ask("ops") != nil {
		t.Error("it was given twice")
	}
	got.Leave(s.now)
	s.empties()
}

func TestWhoHangsUpWhileSomebodyIsBeingClosedForHimIsGone(t *testing.T) {
	s := newStage(t, 1, "total overflow evict-idle")
	s.come("in", "10.0.0.1")
	s.crowd("new", 3, "10.0.0.2")
	e := s.gate.Evictions()[0]
	s.goes("new2")
	e.Done(0)
	s.are(refused, "new1", "new3")
	s.empties()
}
