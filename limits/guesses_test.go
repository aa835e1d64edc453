package limits_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Who tries passwords gets fewer and fewer tries.

var guessTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestWrongPasswordsAreWaitedForLongerAndLonger(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	now := guessTime
	var waits []time.Duration
	for range 14 {
		wait, ok := g.Turn("a", now)
		if !ok {
			t.Fatal("one after the other, and yet too many at once")
		}
		waits = append(waits, wait)
		now = now.Add(wait)
		g.Told("a", false, now)
	}
	ms := time.Millisecond
	want := []time.Duration{0, 0, 0, 0, 0, 50 * ms, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}
	if fmt.Sprint(waits) != fmt.Sprint(want) {
		t.Errorf("they are\n%v, want\n%v", waits, want)
	}
	if wait, ok := g.Turn("b", now); wait != 0 || !ok {
		t.Errorf("somebody else has to wait for %s", wait)
	}
}

func TestARightPasswordEndsTheWaiting(t *testing.T) {
	g := limits.NewGuesses(2 * time.Second)
	for range 20 {
		g.Told("a", false, guessTime)
	}
	g.Told("a", true, guessTime)
	if wait, ok := g.Turn("a", guessTime); wait != 0 || !ok {
		t.Errorf("one has to wait for %s", wait)
	}
}

func TestSoDoesAMinuteWithoutAWrongOne(t *testing.T) {
	for _, sweep := range []bool{false, true} {
		g := limits.NewGuesses(2 * time.Second)
		for range 20 {
			g.Told("a", false, guessTime)
		}
		later := guessTime.Add(time.Minute)
		if sweep {
			g.Sweep(later)
		}
		if wait, ok := g.Turn("a", later); wait != 0 || !ok {
			t.Errorf("one has to wait for %s", wait)
		}
		g.Told("a", false, later)
		if wait, _ := g.Turn("a", later); wait != 0 { // counted anew: one is not five
			t.Errorf("what was is still held against it: %s", wait)
		}
	}
}

func TestManyConnectionsOfOneSourceTakeTurns(t *testing.T) {
	g := limits.NewGuesses(time.Second)
	for range 30 {
		g.Told("a", false, guessTime)
	}
	now := guessTime.Add(10 * time.Second)
	let := 0
	for n := range 1000 {
		wait, ok := g.Turn("a", now)
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
		if g.Told("a", false, guessTime) {
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
		if g.Told("a", false, guessTime) {
			t.Error("the log is told")
		}
	}
	if wait, ok := g.Turn("a", guessTime); wait != 0 || !ok {
		t.Errorf("one has to wait for %s", wait)
	}
}

func TestThereIsAnEndToWhoIsRemembered(t *testing.T) {
	g := limits.NewGuesses(time.Second)
	for n := range 100000 {
		g.Told(fmt.Sprint(n), false, guessTime)
	}
	for range 20 {
		g.Told("0", false, guessTime)
		g.Told("99999", false, guessTime)
	}
	if wait, _ := g.Turn("0", guessTime); wait == 0 {
		t.Error("one of the first is forgotten")
	}
	if wait, _ := g.Turn("99999", guessTime); wait != 0 {
		t.Error("one of the last is remembered")
	}
}
