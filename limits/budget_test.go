package limits_test

import (
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redbouncer/redbouncer/limits"
)

// Nobody ever opens one upstream connection too many: that is what the whole program is for. And nobody waits for
// ever for one, whatever the others do with theirs.

var allKinds = []limits.Kind{limits.Lane, limits.Pin, limits.Control}

// try takes a connection if there is one at once.
func try(b *limits.Budget, k limits.Kind) bool {
	r := b.Acquire(k, func() {})
	return r == nil || !b.Cancel(r)
}

// must takes a connection that is there to be had.
func must(t *testing.T, b *limits.Budget, k limits.Kind) {
	t.Helper()
	if !try(b, k) {
		t.Fatalf("no %s is granted", k)
	}
}

// mustNot checks that a connection is not to be had.
func mustNot(t *testing.T, b *limits.Budget, k limits.Kind) {
	t.Helper()
	if try(b, k) {
		t.Fatalf("a %s too many is granted", k)
	}
}

// take takes all connections of a kind that there are, and returns how many that was.
func take(b *limits.Budget, k limits.Kind) (n int) {
	for try(b, k) {
		n++
	}
	return n
}

// mustBeEmpty checks that every counter has returned to zero.
func mustBeEmpty(t *testing.T, b *limits.Budget) {
	t.Helper()
	for _, k := range allKinds {
		if b.Open(k) != 0 || b.Waiting(k) != 0 {
			t.Errorf("at the end, %d are open as %s and %d wait", b.Open(k), k, b.Waiting(k))
		}
	}
	if b.Wanted() || b.Pressed() {
		t.Error("at the end, somebody is said to wait")
	}
}

func TestEachKindFindsItsShareInAnEmptyBudget(t *testing.T) {
	for _, tt := range []struct{ size, lanes, wantLanes, wantPins, wantControls int }{
		{1, 1, 1, 1, 1},
		{2, 1, 2, 1, 2},
		{3, 1, 2, 1, 3},
		{4, 1, 3, 2, 4},
		{16, 1, 15, 14, 16},
		{16, 4, 15, 11, 16},
		{16, 0, 15, 14, 16},
		{16, 15, 15, 1, 16},
		{16, 99, 15, 1, 16},
	} {
		for i, want := range []int{tt.wantLanes, tt.wantPins, tt.wantControls} {
			b := limits.NewBudget(tt.size, tt.lanes, nil)
			if got := take(b, allKinds[i]); got != want {
				t.Errorf("of %d connections with %d loops, %d can be %s, want %d", tt.size, tt.lanes, got, allKinds[i], want)
			}
			if b.Size() != tt.size {
				t.Errorf("Size() = %d, want %d", b.Size(), tt.size)
			}
		}
	}
}

func TestPinsNeverTakeTheLastLanes(t *testing.T) {
	for _, tt := range []struct{ size, lanes int }{{2, 1}, {3, 1}, {4, 2}, {16, 1}, {16, 4}, {16, 13}} {
		b := limits.NewBudget(tt.size, tt.lanes, nil)
		take(b, limits.Pin)
		if got := take(b, limits.Lane); got < tt.lanes {
			t.Errorf("of %d connections, pins leave %d for lanes, want %d", tt.size, got, tt.lanes)
		}
	}
}

func TestASlotIsKeptForControlFromASizeOfThreeOn(t *testing.T) {
	for size, kept := range map[int]bool{1: false, 2: false, 3: true, 16: true} {
		b := limits.NewBudget(size, 1, nil)
		take(b, limits.Pin)
		take(b, limits.Lane)
		if got := try(b, limits.Control); got != kept {
			t.Errorf("of %d connections, one is left for control: %t, want %t", size, got, kept)
		}
		mustNot(t, b, limits.Control)
	}
}

func TestTheSlotOfControlServesNobodyElseOnceItIsFreeAgain(t *testing.T) {
	b := limits.NewBudget(3, 1, nil)
	must(t, b, limits.Control)
	must(t, b, limits.Lane)
	must(t, b, limits.Lane)
	b.Release(limits.Control)
	mustNot(t, b, limits.Lane)
	mustNot(t, b, limits.Pin)
	must(t, b, limits.Control)
}

func TestASecondControlTakesWhatOthersLeave(t *testing.T) {
	b := limits.NewBudget(3, 1, nil)
	must(t, b, limits.Control)
	must(t, b, limits.Control)
	must(t, b, limits.Lane)
	mustNot(t, b, limits.Lane)
}

func TestMaxLanesLeavesRoomForAPinAndControl(t *testing.T) {
	for _, size := range []int{1, 2, 3, 4, 16} {
		lanes := limits.MaxLanes(size)
		b := limits.NewBudget(size, lanes, nil)
		for range lanes {
			must(t, b, limits.Lane)
		}
		if size >= 2 {
			must(t, b, limits.Pin)
		}
		if size >= 3 {
			must(t, b, limits.Control)
		}
	}
}

// queue asks for a connection of each kind in turn, none of which is to be had, and returns the requests and where
// the grants will be noted.
func queue(t *testing.T, b *limits.Budget, kinds ...limits.Kind) ([]*limits.Request, *[]int) {
	t.Helper()
	granted := &[]int{}
	requests := make([]*limits.Request, len(kinds))
	for i, k := range kinds {
		requests[i] = b.Acquire(k, func() { *granted = append(*granted, i) })
		if requests[i] == nil {
			t.Fatalf("request %d, a %s, does not wait", i, k)
		}
	}
	return requests, granted
}

func TestRequestsAreGrantedInTheOrderOfTheirArrival(t *testing.T) {
	for _, k := range allKinds {
		b := limits.NewBudget(1, 1, nil)
		must(t, b, k)
		_, granted := queue(t, b, k, k, k, k)
		for range 4 {
			mustNot(t, b, k) // whoever comes now comes last
			b.Release(k)
		}
		if want := []int{0, 1, 2, 3}; !reflect.DeepEqual(*granted, want) {
			t.Errorf("%s: %v", k, *granted)
		}
		b.Release(k)
		mustBeEmpty(t, b)
	}
}

func TestKindsTakeTheirTurns(t *testing.T) {
	b := limits.NewBudget(2, 1, nil)
	must(t, b, limits.Lane)
	must(t, b, limits.Lane)
	_, granted := queue(t, b, limits.Pin, limits.Lane, limits.Control, limits.Lane)
	b.Release(limits.Lane) // to the pin
	b.Release(limits.Lane) // to the lane
	b.Release(limits.Pin)  // to control
	b.Release(limits.Control)
	if want := []int{0, 1, 2, 3}; !reflect.DeepEqual(*granted, want) {
		t.Error(*granted)
	}
}

func TestWhoeverOnlyTheShareOfHisKindHoldsBackDoesNotHoldUpTheOthers(t *testing.T) {
	b := limits.NewBudget(4, 2, nil) // one pin
	must(t, b, limits.Pin)
	must(t, b, limits.Lane)
	must(t, b, limits.Lane)
	_, granted := queue(t, b, limits.Pin, limits.Lane)
	b.Release(limits.Lane)
	if want := []int{1}; !reflect.DeepEqual(*granted, want) {
		t.Fatalf("a lane became free: %v", *granted)
	}
	b.Release(limits.Pin)
	if want := []int{1, 0}; !reflect.DeepEqual(*granted, want) {
		t.Fatalf("a pin became free: %v", *granted)
	}
}

func TestOneReleaseGrantsOneConnection(t *testing.T) {
	b := limits.NewBudget(16, 1, nil)
	take(b, limits.Lane)
	_, granted := queue(t, b, limits.Lane, limits.Lane, limits.Pin)
	b.Release(limits.Lane)
	if len(*granted) != 1 {
		t.Errorf("%d are granted", len(*granted))
	}
}

func TestACancelledRequestIsNotGranted(t *testing.T) {
	b := limits.NewBudget(1, 1, nil)
	must(t, b, limits.Pin)
	requests, granted := queue(t, b, limits.Pin, limits.Pin, limits.Pin)
	if !b.Cancel(requests[1]) {
		t.Error("a request that waits cannot be cancelled")
	}
	if b.Cancel(requests[1]) {
		t.Error("a request can be cancelled twice")
	}
	b.Release(limits.Pin)
	if b.Cancel(requests[0]) {
		t.Error("a request can be cancelled that has been granted")
	}
	b.Release(limits.Pin)
	b.Release(limits.Pin)
	if want := []int{0, 2}; !reflect.DeepEqual(*granted, want) {
		t.Errorf("%v were granted, want %v", *granted, want)
	}
	mustBeEmpty(t, b)
}

// Whoever cancels and whoever releases race for the request. Either Cancel reports true and grant is never called,
// or it reports false, grant is called once, and the connection has to be given back.
func TestEitherCancelWinsOrTheGrant(t *testing.T) {
	b := limits.NewBudget(1, 1, nil)
	outcomes := map[bool]int{}
	for range 2000 {
		must(t, b, limits.Lane)
		var grants atomic.Int32
		r := b.Acquire(limits.Lane, func() { grants.Add(1) })
		var release sync.WaitGroup
		release.Go(func() { b.Release(limits.Lane) })
		cancelled := b.Cancel(r)
		release.Wait()
		want := int32(1)
		if cancelled {
			want = 0
		}
		if grants.Load() != want {
			t.Fatalf("Cancel reports %t, and there were %d grants", cancelled, grants.Load())
		}
		if !cancelled {
			b.Release(limits.Lane)
		}
		outcomes[cancelled]++
	}
	mustBeEmpty(t, b)
	t.Logf("cancelled in time: %d, too late: %d", outcomes[true], outcomes[false])
}

func TestTheNudgeComesWheneverSomebodyIsLeftWaiting(t *testing.T) {
	nudges := 0
	b := limits.NewBudget(1, 1, func() { nudges++ })
	expect := func(want int, when string) {
		t.Helper()
		if nudges != want {
			t.Errorf("%s: %d nudges, want %d", when, nudges, want)
		}
		nudges = 0
	}
	if b.Acquire(limits.Lane, nil) != nil {
		t.Fatal("the first has to wait")
	}
	expect(0, "granted at once")
	_, _ = queue(t, b, limits.Pin, limits.Lane)
	expect(2, "two requests wait")
	b.Release(limits.Lane)
	expect(1, "one is granted and the other still waits")
	b.Release(limits.Pin)
	expect(0, "the last is granted")
	b.Release(limits.Lane)
	expect(0, "nobody is left")
}

func TestPressedCountsOnlyThoseWhomALaneCanHelp(t *testing.T) {
	b := limits.NewBudget(4, 2, nil) // one pin
	must(t, b, limits.Pin)
	requests, _ := queue(t, b, limits.Pin)
	if !b.Wanted() || b.Pressed() {
		t.Error("no lane that closes helps somebody who waits for the pin of another")
	}
	b.Cancel(requests[0])
	must(t, b, limits.Lane)
	must(t, b, limits.Lane)
	_, _ = queue(t, b, limits.Lane)
	if !b.Wanted() || !b.Pressed() {
		t.Error("somebody waits for a lane")
	}
}

func TestGrantsAndNudgesMayUseTheBudget(t *testing.T) {
	var b *limits.Budget
	use := func() { b.Pressed(); b.Open(limits.Lane); b.Waiting(limits.Pin) }
	b = limits.NewBudget(1, 1, use)
	must(t, b, limits.Lane)
	if b.Acquire(limits.Lane, func() { use(); b.Release(limits.Lane) }) == nil {
		t.Fatal("it does not wait")
	}
	b.Release(limits.Lane)
	mustBeEmpty(t, b)
}

func TestGivingBackWhatWasNotGrantedPanics(t *testing.T) {
	for _, k := range allKinds {
		b := limits.NewBudget(3, 1, nil)
		for _, other := range allKinds {
			if other != k {
				must(t, b, other)
			}
		}
		mustPanic(t, "bug: an upstream connection was given back twice", func() { b.Release(k) })
	}
}

// mustPanic checks that f panics with exactly this sentence.
func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := recover(); got != want {
			t.Errorf("it panics with %v, want %q", got, want)
		}
	}()
	f()
}

func TestKindsHaveTheNamesOfTheGlossary(t *testing.T) {
	for k, want := range map[limits.Kind]string{limits.Lane: "lane", limits.Pin: "pin", limits.Control: "control"} {
		if got := k.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// book counts the connections that are held, independently of the Budget.
type book struct {
	held [3]atomic.Int64
	all  atomic.Int64
	over atomic.Int64 // the largest number that was too many
}

func (x *book) open(k limits.Kind, size int) {
	x.held[k].Add(1)
	if n := x.all.Add(1); n > int64(size) {
		x.over.Store(n)
	}
}

func (x *book) close(k limits.Kind) {
	x.held[k].Add(-1)
	x.all.Add(-1)
}

func TestTheBoundHoldsWhateverHappensAtOnce(t *testing.T) {
	for _, size := range []int{1, 2, 3, 16} {
		var held book
		b := limits.NewBudget(size, 1, func() {})
		var users sync.WaitGroup
		for seed := range 24 {
			users.Go(func() { useBudget(b, &held, rand.New(rand.NewPCG(uint64(seed), uint64(size)))) })
		}
		users.Wait()
		if n := held.over.Load(); n > 0 {
			t.Errorf("of %d connections, %d were open at once", size, n)
		}
		mustBeEmpty(t, b)
	}
}

// useBudget takes and returns connections at random.
func useBudget(b *limits.Budget, held *book, rnd *rand.Rand) {
	for range 400 {
		k := allKinds[rnd.IntN(len(allKinds))]
		if rnd.IntN(4) == 0 {
			if try(b, k) {
				held.open(k, b.Size())
				held.close(k)
				b.Release(k)
			}
			continue
		}
		granted := make(chan struct{})
		r := b.Acquire(k, func() { held.open(k, b.Size()); close(granted) })
		switch {
		case r == nil:
			held.open(k, b.Size())
		case rnd.IntN(2) == 0 && b.Cancel(r):
			continue
		default:
			<-granted
		}
		held.close(k)
		b.Release(k)
	}
}

// A bound that is lowered is lowered as connections are given back. It is never exceeded meanwhile, no pin is lent, and lanes
// keep their slots.
func TestABudgetSinksAsConnectionsAreGivenBack(t *testing.T) {
	nudges := 0
	b := limits.NewBudget(16, 2, func() { nudges++ })
	for range 10 {
		must(t, b, limits.Pin)
	}
	for range 4 {
		must(t, b, limits.Lane)
	}
	b.SetSize(6)
	if b.Size() != 15 || nudges == 0 || !b.Wanted() || !b.Pressed() { // ten pins, four lanes, one for control
		t.Fatalf("at first it is %d, after %d nudges, wanted %t, pressed %t", b.Size(), nudges, b.Wanted(), b.Pressed())
	}
	mustNot(t, b, limits.Pin)
	mustNot(t, b, limits.Lane)
	b.Release(limits.Lane)
	b.Release(limits.Lane)
	b.Release(limits.Lane)
	if b.Size() != 13 || b.Pressed() { // a slot is kept for the second lane
		t.Errorf("with ten pins and one lane it is %d, pressed %t", b.Size(), b.Pressed())
	}
	must(t, b, limits.Lane)
	for want := 12; want >= 6; want-- {
		b.Release(limits.Pin)
		if b.Size() != want {
			t.Errorf("it is %d, want %d", b.Size(), want)
		}
		mustNot(t, b, limits.Pin)
	}
	b.Release(limits.Pin)
	must(t, b, limits.Pin) // three pins, two lanes, one for control
	mustNot(t, b, limits.Pin)
	must(t, b, limits.Control)
	for range 3 {
		b.Release(limits.Pin)
	}
	b.Release(limits.Lane)
	b.Release(limits.Lane)
	b.Release(limits.Control)
	mustBeEmpty(t, b)
	if b.Size() != 6 {
		t.Errorf("at the end it is %d", b.Size())
	}
}

func TestABudgetThatGrowsServesThoseThatWait(t *testing.T) {
	b := limits.NewBudget(3, 1, nil)
	must(t, b, limits.Pin)
	granted := 0
	for range 5 {
		if b.Acquire(limits.Pin, func() { granted++ }) == nil {
			t.Fatal("there was room")
		}
	}
	for _, step := range []struct{ size, granted int }{{5, 2}, {4, 2}, {6, 3}, {99, 5}} {
		b.SetSize(step.size)
		if granted != step.granted {
			t.Errorf("of a size of %d, %d are granted, want %d", step.size, granted, step.granted)
		}
	}
}
