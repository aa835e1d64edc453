package limits_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Who tries passwords gets fewer and fewer tries.

var guessTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// of is a try of a source for its only user.
func of(source string) limits.Guess { return limits.Guess{Source: source, User: "default"} }

func TestWrongPasswordsAreWaitedForLongerAndLonger(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	now := guessTime
	var waits []time.Duration
	for range 14 {
		wait, ok := g.Turn(of("a"), now)
		if !ok {
			t.Fatal("one after the other, and yet too many at once")
		}
		waits = append(waits, wait)
		now = now.Add(wait)
		g.Told(of("a"), false, now)
	}
	ms := time.Millisecond
	want := []time.Duration{0, 0, 0, 0, 0, 50 * ms, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}
	if fmt.Sprint(waits) != fmt.Sprint(want) {
		t.Errorf("they are\n%v, want\n%v", waits, want)
	}
	if wait, ok := g.Turn(of("b"), now); wait != 0 || !ok {
		t.Errorf("somebody else has to wait for %s", wait)
	}
}

func TestARightPasswordEndsTheWaiting(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	for range 20 {
		g.Told(of("a"), false, guessTime)
	}
	g.Told(of("a"), true, guessTime)
	if wait, ok := g.Turn(of("a"), guessTime); wait != 0 || !ok {
		t.Errorf("one has to wait for %s", wait)
	}
}

func TestARightPasswordIsNoExcuseForThoseOfOthers(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	boss, mine := limits.Guess{Source: "a", User: "boss"}, limits.Guess{Source: "a", User: "mine"}
	for range 3 {
		g.Told(mine, false, guessTime)
	}
	for range 7 {
		g.Told(boss, false, guessTime)
	}
	if wait, _ := g.Turn(mine, guessTime.Add(10*time.Second)); wait != 0 {
		t.Fatalf("one who takes turns with nobody waits for %s", wait)
	}
	now := guessTime.Add(20 * time.Second)
	g.Told(mine, true, now)
	for range 2 { // 7 against it, and none of them of this user
		if wait, ok := g.Turn(mine, now); wait != 0 || !ok {
			t.Errorf("who has been right waits for %s, %t", wait, ok)
		}
	}
	g.Turn(boss, now)
	if wait, _ := g.Turn(boss, now); wait != 200*time.Millisecond {
		t.Errorf("the next try of another user waits for %s, want 200ms", wait)
	}
	g.Told(mine, false, now)
	if wait, _ := g.Turn(mine, now); wait == 0 {
		t.Error("who was right once is wrong again, and does not wait")
	}
	g.Told(mine, true, now)
	g.Told(boss, true, now)
	if wait, ok := g.Turn(limits.Guess{Source: "a", User: "other"}, now); wait != 0 || !ok {
		t.Errorf("all were right at last, and one waits for %s", wait)
	}
}

func TestManyUsersDoNotHelpWhoTriesPasswords(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	for n := range 1000 {
		g.Told(limits.Guess{Source: "a", User: fmt.Sprint(n)}, false, guessTime)
	}
	for n := range 1000 {
		try := limits.Guess{Source: "a", User: fmt.Sprint(n)}
		g.Told(try, true, guessTime)
	}
	g.Turn(of("a"), guessTime)
	if wait, _ := g.Turn(of("a"), guessTime); wait < 2*time.Second {
		t.Errorf("those beyond the users that are told apart are forgotten: one waits for %s", wait)
	}
}

func TestSoDoesAMinuteWithoutAWrongOne(t *testing.T) {
	for _, sweep := range []bool{false, true} {
		g := limits.NewGuesses(2 * time.Second)
		for range 20 {
			g.Told(of("a"), false, guessTime)
		}
		later := guessTime.Add(time.Minute)
		if sweep {
			g.Sweep(later)
		}
		if wait, ok := g.Turn(of("a"), later); wait != 0 || !ok {
			t.Errorf("one has to wait for %s", wait)
		}
		g.Told(of("a"), false, later)
		if wait, _ := g.Turn(of("a"), later); wait != 0 { // counted anew: one is not five
			t.Errorf("what was is still held against it: %s", wait)
		}
	}
}

func TestManyConnectionsOfOneSourceTakeTurns(t *testing.T) {
	g := limits.NewGuesses(time.Second)
	for range 30 {
		g.Told(of("a"), false, guessTime)
	}
	now := guessTime.Add(10 * time.Second)
	let := 0
	for n := range 1000 {
		wait, ok := g.Turn(of("a"), now)
		if !ok {
			continue
		}
		if want := time.Duration(n) * time.Second; wait != want {
			t.Fatalf("number %d waits for %s, want %s", n, wait, want)
		}
		let++
	}
	if let < 10 || let > 20 {
		t.Errorf("%d of 1,000 wait", let)
	}
}

func TestTheLogIsToldOnceThatASourceIsSlowedDown(t *testing.T) {
	g := limits.NewGuesses(time.Second)
	told := 0
	for range 100 {
		if g.Told(of("a"), false, guessTime) {
			told++
		}
	}
	if told != 1 {
		t.Errorf("it is told %d times", told)
	}
}

func TestNobodyIsSlowedDownIfItIsTurnedOff(t *testing.T) {
	g := limits.NewGuesses(-1)
	for range 100 {
		if g.Told(of("a"), false, guessTime) {
			t.Error("the log is told")
		}
	}
	if wait, ok := g.Turn(of("a"), guessTime); wait != 0 || !ok {
		t.Errorf("one has to wait for %s", wait)
	}
}

func TestThereIsAnEndToWhoIsRemembered(t *testing.T) {
	g := limits.NewGuesses(time.Second)
	for n := range 100000 {
		g.Told(of(fmt.Sprint(n)), false, guessTime)
	}
	for range 20 {
		g.Told(of("0"), false, guessTime)
		g.Told(of("99999"), false, guessTime)
	}
	if wait, _ := g.Turn(of("0"), guessTime); wait == 0 {
		t.Error("one of the first is forgotten")
	}
	if wait, _ := g.Turn(of("99999"), guessTime); wait != 0 {
		t.Error("one of the last is remembered")
	}
}
