package eventloop_test

import (
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// Other goroutines reach a loop by posting functions only, so these must not be lost, doubled, or change places.

func TestPostedFunctionsRunInTheirOrder(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		const posters, posts = 8, 500
		got := make([][]int, posters) // owned by the loop
		var wg sync.WaitGroup
		for i := range posters {
			wg.Go(func() {
				for n := range posts {
					if !r.loop.Post(func() { got[i] = append(got[i], n) }) {
						t.Error("a post is refused")
					}
				}
			})
		}
		wg.Wait()
		r.do(func() {
			for i := range got {
				for n := range posts {
					if len(got[i]) != posts || got[i][n] != n {
						t.Errorf("poster %d: %v", i, got[i])
						break
					}
				}
			}
		})
	})
}

func TestAFunctionMayPost(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		done := make(chan struct{})
		var again func()
		left := 100
		again = func() {
			if left--; left == 0 {
				close(done)
				return
			}
			r.loop.Post(again)
		}
		r.loop.Post(again)
		r.wait("a function that posts itself", done)
	})
}

func TestStopRunsWhatWasPostedBeforeAndTakesNothingMore(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		ran := 0
		for range 100 {
			r.loop.Post(func() { ran++ })
		}
		r.loop.Stop()
		if r.loop.Post(func() { ran = -1000 }) {
			t.Error("a stopped loop takes a function")
		}
		r.wait("the loop's end", r.ended)
		if ran != 100 {
			t.Errorf("%d functions have run, want 100", ran)
		}
		r.loop.Stop()
	})
}

func TestALoopThatWasStoppedBeforeItRanEndsAtOnce(t *testing.T) {
	for _, opt := range []eventloop.Options{{}, {Streams: true}} {
		l, err := eventloop.New(opt)
		if err != nil {
			t.Fatal(err)
		}
		ran := false
		l.Post(func() { ran = true })
		l.Stop()
		l.Run()
		if !ran {
			t.Error("what was posted before has not run")
		}
	}
}

func TestFunctionsArePostedFromEverywhereWhileTheLoopStops(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		ran, taken := 0, make([]int, 8)
		var wg sync.WaitGroup
		for i := range taken {
			wg.Go(func() {
				for r.loop.Post(func() { ran++ }) {
					taken[i]++
				}
			})
		}
		r.do(func() {})
		r.loop.Stop()
		wg.Wait()
		r.wait("the loop's end", r.ended)
		want := 0
		for _, n := range taken {
			want += n
		}
		if ran != want {
			t.Errorf("%d functions were taken, and %d have run", want, ran)
		}
	})
}

func TestFlushIsCalledAfterWhatWasPosted(t *testing.T) {
	for _, streams := range []bool{false, true} {
		var order []string
		opt := eventloop.Options{Streams: streams, Flush: func() { order = append(order, "flush") }}
		l, err := eventloop.New(opt)
		if err != nil {
			t.Fatal(err)
		}
		l.Post(func() { order = append(order, "post") })
		l.Stop()
		l.Run()
		if want := []string{"post", "flush"}; !reflect.DeepEqual(order, want) {
			t.Errorf("streams %t: %v", streams, order)
		}
	}
}

func TestTimersFireInTheOrderOfTheirTimesAndNotBefore(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		var order []int
		done := make(chan struct{})
		r.do(func() {
			for _, ms := range []int{30, 5, 20, 10, 0} {
				due := time.Now().Add(time.Duration(ms) * time.Millisecond)
				r.loop.AfterFunc(time.Duration(ms)*time.Millisecond, func() {
					order = append(order, ms)
					if early := due.Sub(r.loop.Now()); early > 0 {
						t.Errorf("the timer of %d ms fires %v too early", ms, early)
					}
					if ms == 30 {
						close(done)
					}
				})
			}
		})
		r.wait("the last timer", done)
		if want := []int{0, 5, 10, 20, 30}; !reflect.DeepEqual(order, want) {
			t.Errorf("%v", order)
		}
	})
}

func TestAStoppedTimerDoesNotFire(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		done := make(chan struct{})
		r.do(func() {
			wrong := func() { t.Error("a stopped timer fires") }
			at := 2 * time.Millisecond
			first := r.loop.AfterFunc(at, wrong)
			var timers [20]*eventloop.Timer
			for i := range timers {
				timers[i] = r.loop.AfterFunc(at+time.Duration(i%3)*time.Millisecond, wrong)
			}
			first.Stop()
			first.Stop()
			var last *eventloop.Timer
			r.loop.AfterFunc(time.Millisecond, func() { // stops those that are due in the same turn, perhaps
				for _, x := range timers {
					x.Stop()
				}
			})
			last = r.loop.AfterFunc(10*time.Millisecond, func() {
				last.Stop() // has fired
				r.loop.AfterFunc(0, func() { last.Stop(); close(done) })
			})
			var none *eventloop.Timer
			none.Stop()
		})
		r.wait("the timers that were left alone", done)
	})
}

func TestAnIdleLoopWakesForItsTimersOnly(t *testing.T) {
	turns := 0
	r := newRig(t, eventloop.Options{Flush: func() { turns++ }})
	fired := make(chan struct{})
	before := 0
	r.do(func() {
		before = turns
		r.loop.AfterFunc(30*time.Millisecond, func() { close(fired) })
	})
	r.wait("the timer", fired)
	r.do(func() {
		if n := turns - before; n > 10 {
			t.Errorf("it took %d turns to wait for one timer", n)
		}
	})
}
