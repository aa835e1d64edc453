package eventloop

import (
	"container/heap"
	"errors"
	"net"
	"runtime"
	"sync"
	"time"
)

// readBuffer is the size of the one buffer that a loop reads all its connections with, in bytes. A read that
// fills it is continued in the next turn.
const readBuffer = 256 << 10

// ErrStopped says that the loop has ended and runs nothing any more.
var ErrStopped = errors.New("event loop has stopped")

// Options of a Loop. The zero value is ready to use.
type Options struct {
	// Flush is called twice a turn, with everything read that there was to read. Nil: nothing is called.
	Flush func()
	// Streams makes every connection a stream, as on systems without epoll.
	Streams bool
}

// Loop is one event loop. Create it with New.
type Loop struct {
	// Static after construction.
	opt    Options
	poller *poller       // nil: all connections are streams
	wakeup chan struct{} // wakes a loop without a poller; holds one
	born   time.Time

	// mu guards the following fields. It is held while the loop is woken, so that the descriptor that this takes is
	// not somebody else's by then.
	mu      sync.Mutex
	mailbox []func()
	asides  []func() // the mailbox of PostAside
	stopped bool     // nothing is posted any more
	ended   bool     // nothing is left to be woken

	// Owned by the loop.
	running []func() // the mailbox that is being run; kept for its capacity
	aside   []func() // what is left of that of PostAside
	timers  timerHeap
	now     time.Time
	micros  uint32
	buf     []byte
	late    []event
}

// New returns a loop that does nothing until Run is called.
func New(opt Options) (*Loop, error) {
	l := &Loop{opt: opt, wakeup: make(chan struct{}, 1), born: time.Now(), buf: make([]byte, readBuffer)}
	l.lookAtClock()
	if opt.Flush == nil {
		l.opt.Flush = func() {}
	}
	if !opt.Streams {
		p, err := newPoller()
		if err != nil {
			return nil, err
		}
		l.poller = p
	}
	return l, nil
}

// Run takes turns until Stop is called. It keeps its goroutine on one thread. Connections that are still open
// when it returns stay so, unserved: whoever stops a loop closes them first.
func (l *Loop) Run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for l.turn() {
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.poller != nil {
		l.poller.close()
	}
}

// turn takes one turn and reports whether there will be another.
func (l *Loop) turn() bool {
	l.late = l.late[:0]
	if l.poller != nil {
		l.poller.turn(l)
	} else {
		l.wait()
	}
	more := l.runMailbox()
	l.runTimers()
	l.opt.Flush()
	if len(l.late) > 0 {
		for _, ev := range l.late {
			ev.deliver()
		}
		l.opt.Flush()
	}
	if l.poller != nil {
		l.poller.turnAside(l)
	}
	l.runAside()
	return more
}

// wait blocks a loop without a poller until there is something to do.
func (l *Loop) wait() {
	d := l.timeout()
	switch {
	case d == 0:
	case d < 0:
		<-l.wakeup
	default:
		t := time.NewTimer(d)
		select {
		case <-l.wakeup:
		case <-t.C:
		}
		t.Stop()
	}
	l.lookAtClock()
}

// Post has f run on the loop, soon, in the order of posting. It may be called from any goroutine, and never
// blocks. It reports false, and drops f, when the loop has been stopped.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.mailbox = append(l.mailbox, f)
	if len(l.mailbox) == 1 {
		l.wake()
	}
	return true
}

// PostAside is Post for what is not to hold up connections: see AttachAside. It is run in the order of its posting, and
// dropped when the loop ends.
func (l *Loop) PostAside(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped {
		return false
	}
	l.asides = append(l.asides, f)
	if len(l.asides) == 1 {
		l.wake()
	}
	return true
}

// asideTime is how long in a turn is given to what is set aside. In a storm of clients that are refused, what others notice
// of it is about twice that: once when they ask and once when they are answered.
const asideTime = 100 * time.Microsecond

// runAside runs what has been posted aside, for a while.
func (l *Loop) runAside() {
	l.mu.Lock()
	l.aside, l.asides = append(l.aside, l.asides...), l.asides[:0]
	l.mu.Unlock()
	if len(l.aside) == 0 {
		return
	}
	done := 0
	for begin := time.Now(); done < len(l.aside) && (done == 0 || time.Since(begin) < asideTime); done++ {
		l.aside[done]()
	}
	left := copy(l.aside, l.aside[done:])
	clear(l.aside[left:])
	l.aside = l.aside[:left]
	l.opt.Flush()
}

// Stop ends the loop after the functions that have been posted before. It may be called from any goroutine, and
// more than once.
func (l *Loop) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if !l.ended {
		l.wake()
	}
}

// wake has the loop take a turn. It is called with mu held.
func (l *Loop) wake() {
	if l.poller != nil {
		l.poller.wake()
		return
	}
	select {
	case l.wakeup <- struct{}{}:
	default: // it is on its way already
	}
}

// runMailbox runs what has been posted, and reports whether the loop is to go on.
func (l *Loop) runMailbox() bool {
	l.mu.Lock()
	l.running, l.mailbox = l.mailbox, l.running[:0]
	stopped := l.stopped
	l.mu.Unlock()
	for i, f := range l.running {
		l.running[i] = nil
		f()
	}
	return !stopped
}

// Now returns the time at which this turn began.
func (l *Loop) Now() time.Time { return l.now }

// Micros returns that time in microseconds. It wraps after 71 minutes: only differences mean something.
func (l *Loop) Micros() uint32 { return l.micros }

func (l *Loop) lookAtClock() {
	l.now = time.Now()
	l.micros = uint32(l.now.Sub(l.born) / time.Microsecond)
}

// Timer is a function that is to be called later. Its zero value is not usable; see Loop.NewTimer.
type Timer struct {
	loop  *Loop
	at    time.Time
	f     func()
	index int // in the heap, -1 when not in it
}

// NewTimer returns a timer that calls f on the loop when Reset has said when.
func (l *Loop) NewTimer(f func()) *Timer { return &Timer{loop: l, f: f, index: -1} }

// AfterFunc calls f on the loop once d has passed. The caller may stop the timer.
func (l *Loop) AfterFunc(d time.Duration, f func()) *Timer {
	t := l.NewTimer(f)
	t.Reset(d)
	return t
}

// Reset has the timer fire, once more if it has fired, when d has passed from now.
func (t *Timer) Reset(d time.Duration) {
	t.Stop()
	t.at = time.Now().Add(d)
	heap.Push(&t.loop.timers, t)
}

// Stop has the timer not fire. It may be called when it has fired, and on a nil Timer.
func (t *Timer) Stop() {
	if t != nil && t.index >= 0 {
		heap.Remove(&t.loop.timers, t.index)
	}
}

// timeout returns how long the loop may wait for events; negative: for ever.
func (l *Loop) timeout() time.Duration {
	if len(l.aside) > 0 {
		return 0
	}
	if len(l.timers) == 0 {
		return -1
	}
	return max(time.Until(l.timers[0].at), 0)
}

func (l *Loop) runTimers() {
	for len(l.timers) > 0 && !l.timers[0].at.After(l.now) {
		heap.Pop(&l.timers).(*Timer).f()
	}
}

type timerHeap []*Timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *timerHeap) Push(x any) {
	t := x.(*Timer)
	t.index = len(*h)
	*h = append(*h, t)
}
func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.index = -1
	return t
}

// Listen accepts connections from ln and hands each to accept, on this loop. It takes ownership of ln; the
// function that it returns stops accepting and closes it.
func (l *Loop) Listen(ln net.Listener, accept func(Incoming)) (stop func(), err error) {
	if l.poller != nil {
		if stop, ok, err := l.listenPolled(ln, accept); ok || err != nil {
			return stop, err
		}
	}
	return l.listenStreams(ln, accept), nil
}
