package limits_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// One rule a test, as conversations at the door. What a rule says holds at every moment, also when it becomes known late
// that it is meant for a client.

const (
	admitted = limits.Admitted
	waiting  = limits.Waiting
	refused  = limits.Refused
)

func TestEachAddressHasItsOwnLimitAndANetworkOneForAll(t *testing.T) {
	s := newStage(t, 100, "addr each maxclients 2", "addr 10.0.0.0/8 maxclients 3")
	a, b := s.crowd("a", 3, "10.0.0.1"), s.crowd("b", 2, "10.0.0.2")
	s.are(admitted, a[0], a[1], b[0])
	s.are(refused, a[2], b[1]) // one by its address, one by the network
	if got := s.clients[a[2]].Why(); got != "addr each" {
		t.Errorf("%s: because of %s", a[2], got)
	}
	if got := s.clients[b[1]].Why(); got != "addr 10.0.0.0/8" {
		t.Errorf("%s: because of %s", b[1], got)
	}
	s.goes(a[0])
	s.come("b3", "10.0.0.2")
	s.are(admitted, "b3")
	s.come("c", "192.0.2.1")
	s.are(admitted, "c")
	s.empties()
}

func TestWhatBecomesKnownLateIsCountedFromThenOn(t *testing.T) {
	s := newStage(t, 100, "user app maxclients 1", "name worker:* maxclients 2", "process python3 maxclients 1")
	s.crowd("c", 4, "10.0.0.1")
	s.becomes("c1", "user", "app")
	s.becomes("c2", "user", "app")
	s.are(admitted, "c1")
	s.are(refused, "c2")
	s.becomes("c1", "user", "other") // makes room, but not for one that has been refused
	s.are(refused, "c2")
	s.becomes("c3", "user", "app")
	s.becomes("c3", "name", "worker:1")
	s.becomes("c4", "name", "worker:2")
	s.are(admitted, "c1", "c3", "c4")
	s.becomes("c3", "process", "python3")
	s.becomes("c4", "process", "python3")
	s.are(admitted, "c3")
	s.are(refused, "c4")
	if got := s.group("name worker:*", "").Open; got != 2 {
		t.Errorf("worker:* has %d, want 2: who is refused counts until it goes", got)
	}
	s.empties()
}

func TestWhoIsInAndMustWaitForANewIdentityKeepsItsPlace(t *testing.T) {
	s := newStage(t, 3, "user app maxclients 1 overflow queue queue-timeout 5s")
	s.crowd("c", 3, "10.0.0.1")
	for _, c := range []string{"c1", "c2", "c3"} {
		s.becomes(c, "user", "app")
	}
	s.are(admitted, "c1")
	s.are(waiting, "c2", "c3")
	s.becomes("c2", "user", "other")
	s.are(admitted, "c2")
	if s.clients["c2"].told != 1 {
		t.Error("c2 is not told that it may go on")
	}
	s.becomes("c1", "user", "default")
	s.are(admitted, "c3")
	s.becomes("c2", "user", "app")
	s.are(waiting, "c2")
	s.passes(5 * time.Second)
	s.are(refused, "c2")
	if got := s.gate.Stats(); got.Open != 3 || got.Waiting != 0 {
		t.Errorf("%+v: all are in until they go", got)
	}
	s.empties()
}

func TestNewConnectionsComeAtARateAndAtOnceUpToTheBurst(t *testing.T) {
	s := newStage(t, 100, "addr each new-connections-per-second 2 burst 3")
	s.crowd("a", 4, "10.0.0.1")
	s.are(admitted, "a1", "a2", "a3")
	s.are(refused, "a4")
	s.come("b", "10.0.0.2")
	s.are(admitted, "b")
	s.goes("a1", "a2", "a3", "a4") // gives nothing back
	s.passes(499 * time.Millisecond)
	s.come("a5", "10.0.0.1")
	s.are(refused, "a5")
	s.passes(1 * time.Millisecond)
	s.crowd("x", 2, "10.0.0.1")
	s.are(admitted, "x1")
	s.are(refused, "x2")
	s.passes(time.Hour)
	s.crowd("y", 4, "10.0.0.1")
	s.are(admitted, "y1", "y2", "y3")
	s.are(refused, "y4")
	s.empties()
}

func TestARateWithAQueueSpreadsTheStorm(t *testing.T) {
	s := newStage(t, 100, "total new-connections-per-second 10 overflow queue queue-timeout 1s burst 1")
	names := s.crowd("c", 20, "10.0.0.1")
	s.are(admitted, names[0])
	s.are(waiting, names[1:]...)
	for i := range 10 {
		s.come("late", "10.0.0.1")
		s.are(waiting, "late") // nobody overtakes
		s.goes("late")
		s.passes(100 * time.Millisecond)
		if i < 9 {
			s.are(admitted, names[i+1])
		}
	}
	s.are(refused, names[12:]...)
	s.empties()
}

func TestPlacesAreReservedForThoseWhoAreNeverRefused(t *testing.T) {
	s := newStage(t, 5, "user ops reserved 2", "addr each maxclients 4")
	s.crowd("c", 4, "10.0.0.1 user app")
	s.are(admitted, "c1", "c2", "c3")
	s.are(refused, "c4")
	s.crowd("o", 3, "10.0.0.1 user ops") // more from this address than others may be
	s.are(admitted, "o1", "o2")
	s.are(refused, "o3") // maxclients itself holds
	s.goes("c1")
	s.come("c5", "10.0.0.9 user app")
	s.are(admitted, "c5") // three ordinary clients, two privileged
	s.goes("o1")
	s.come("c6", "10.0.0.9 user app")
	s.are(refused, "c6")
	s.becomes("c5", "user", "ops") // leaves its ordinary place
	s.come("c7", "10.0.0.9 user app")
	s.are(admitted, "c7")
	s.becomes("c5", "user", "app") // and is one too many, but in
	s.goes("c7")
	s.come("c8", "10.0.0.9 user app")
	s.are(refused, "c8")
	s.empties()
}

func TestARuleThatObservesCountsWhatItWouldHaveDone(t *testing.T) {
	s := newStage(t, 100, "addr each maxclients 1 overflow observe", "total new-connections-per-second 2 overflow observe")
	s.crowd("a", 3, "10.0.0.1")
	s.are(admitted, "a1", "a2", "a3")
	for name, want := range map[string]bool{"a1": false, "a2": true, "a3": true} {
		if got := s.clients[name].Observed(); got != want {
			t.Errorf("%s was admitted against a rule: %t", name, got)
		}
	}
	if g := s.group("addr each", "10.0.0.1"); g.WouldRefuse != 2 || g.Refused != 0 || g.Open != 3 {
		t.Errorf("%+v", g)
	}
	if g := s.group("total", ""); g.WouldRefuse != 1 {
		t.Errorf("%+v", g)
	}
	s.empties()
}

func TestObservingDoesNotSwitchMaxclientsOff(t *testing.T) {
	s := newStage(t, 2, "total new-connections-per-second 1 overflow observe")
	s.crowd("a", 3, "10.0.0.1")
	s.are(admitted, "a1", "a2")
	s.are(refused, "a3")
	s.empties()
}

func TestUpstreamConnectionsOfOnesOwnAreCountedByIdentity(t *testing.T) {
	s := newStage(t, 100, "user app max-pins 2", "addr each max-pins 1")
	s.come("a", "10.0.0.1 user app")
	s.come("b", "10.0.0.1 user app")
	s.come("c", "10.0.0.2 user app")
	s.come("d", "10.0.0.3 user app")
	var got []string
	take := func(name string, want bool) {
		t.Helper()
		if now := s.clients[name].TakePin(func() { got = append(got, name) }); now != want {
			t.Errorf("%s takes a pin: %t", name, now)
		}
	}
	take("a", true)
	take("b", false) // its address has one
	take("c", true)
	take("d", false) // its user has two
	s.clients["c"].GivePin()
	if len(got) != 1 || got[0] != "d" {
		t.Errorf("who got one: %v", got)
	}
	s.goes("a") // with its pin
	if len(got) != 2 || got[1] != "b" {
		t.Errorf("who got one: %v", got)
	}
	take("c", false)
	s.clients["c"].GivePin() // does not want to wait any longer
	s.clients["b"].GivePin()
	s.clients["b"].GivePin()
	take("c", true)
	if g := s.group("user app", ""); g.Pins != 2 {
		t.Errorf("%+v", g)
	}
	s.empties()
}

func TestWhatARuleSaysOfEachClientIsTheLeastOfAllThatMatch(t *testing.T) {
	s := newStage(t, 100, "addr each max-idle 60s max-in-flight 10", "user app max-idle 30s client-output-buffer-limit 1mb")
	s.come("a", "10.0.0.1")
	if got, want := *s.clients["a"].Bounds(), (limits.Bounds{MaxIdle: time.Minute, MaxInFlight: 10}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.becomes("a", "user", "app")
	want := limits.Bounds{MaxIdle: 30 * time.Second, MaxInFlight: 10, OutputLimit: 1 << 20}
	if got := *s.clients["a"].Bounds(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.rule("total client-query-buffer-limit 1kb max-idle 5s")
	want.MaxIdle, want.QueryLimit = 5*time.Second, 1024
	if got := *s.clients["a"].Bounds(); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.empties()
}

func TestRulesChangeWhileClientsAreIn(t *testing.T) {
	s := newStage(t, 100)
	s.crowd("a", 4, "10.0.0.1")
	s.rule("addr each maxclients 3 overflow queue")
	s.are(admitted, "a1", "a2", "a3", "a4") // nobody is thrown out
	s.come("a5", "10.0.0.1")
	s.goes("a1")
	s.are(waiting, "a5")
	s.goes("a2")
	s.are(admitted, "a5")
	s.crowd("b", 2, "10.0.0.1")
	s.are(waiting, "b1", "b2")
	s.rule("addr each maxclients 4 overflow queue")
	s.are(admitted, "b1")
	s.are(waiting, "b2")
	head, _ := limits.ParseRuleHead("addr each")
	if !s.gate.UnsetRule(head, s.now) || s.gate.UnsetRule(head, s.now) {
		t.Error("a rule is taken out of force once")
	}
	s.are(admitted, "b2")
	s.gate.SetMax(5, s.now)
	s.come("c", "10.0.0.2")
	s.are(refused, "c")
	s.rule("total overflow queue")
	s.come("d", "10.0.0.2")
	s.are(waiting, "d")
	s.gate.SetMax(6, s.now)
	s.are(admitted, "d")
	s.come("e", "10.0.0.2")
	s.rule("total overflow reject")
	s.are(refused, "e")
	s.empties()
}

// Rules are exchanged at once: nobody is let in between the end of one and the beginning of another.
func TestRulesAreExchangedAtOnce(t *testing.T) {
	g := limits.NewGate(100, time.Minute)
	now := time.Now()
	rule := func(text string) limits.Rule {
		t.Helper()
		r, err := limits.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	g.SetRules([]limits.Rule{rule("user bob maxclients 1"), rule("total overflow queue")}, nil, now)
	ids := limits.Identities{limits.ByUser: "bob", limits.ByAddr: "10.0.0.7"}
	first := g.Admit(&ids, nil, now)
	g.SetRules([]limits.Rule{rule("addr each maxclients 1")}, []limits.Rule{rule("user bob maxclients 1"), rule("total overflow queue")}, now)
	second := g.Admit(&ids, nil, now)
	if first.State() != limits.Admitted || second.State() != limits.Refused {
		t.Errorf("the first is %v, the second %v", first.State(), second.State())
	}
	var texts []string
	for _, r := range g.Rules() {
		texts = append(texts, r.Rule)
	}
	if got := strings.Join(texts, ";"); got != "total;addr each maxclients 1" {
		t.Errorf("in force are %s", got)
	}
}
