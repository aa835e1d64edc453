package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// loop is the raw client: one thread, one epoll, and as many connections as the files allow. A goroutine a connection
// would cost this machine more than the server that is measured.
//
// The life of a connection: connecting (until it is writable) -> greeting (until PONG) -> ready -> closed.
type loop struct {
	// Static after newLoop.
	cfg  loopConfig
	addr unix.Sockaddr
	kind int // unix.AF_INET or unix.AF_INET6
	// Owned by the thread that runs.
	poll   *poller
	conns  []rawConn
	buffer []byte
	begin  time.Time
	now    time.Duration // since begin, as of the last look at the clock
	// What is outstanding: connections that have not been greeted, requests without an answer.
	unready, unanswered int
	turn                int           // whose turn it is at a fixed rate
	end                 time.Duration // since begin: nothing is sent later, if whole
	// What came of it. took is of commands; while connecting, of connections.
	took, late histogram
	done       int // commands answered
	failure    error
	// onPush takes a reply that nobody asked for. Nil: that is an error.
	onPush func(i int)
}

// loopConfig is what a loop does.
type loopConfig struct {
	target  target
	clients int
	// batches are sent in turn by each connection. A batch is written at once; the next waits for all its replies.
	batches []batch
	// rate is how many batches a second all connections send together, whatever becomes of the answers. 0: each sends
	// the next as soon as the last is answered.
	rate float64
	// whole: a run ends when what has been sent is answered, not on the stroke. For values so large that a run has few.
	whole bool
	// renew: a connection serves one batch and is closed; another takes its place.
	renew bool
	// cpu to stay on; less than 0: any.
	cpu int
	// buffer is how many bytes are read at once. 0: 64 KB.
	buffer int
}

// request is a batch on its way.
type request struct {
	due     time.Duration // since begin: when it was to be sent
	batch   *batch
	replies int // that are to come
}

type connState uint8

const (
	closed connState = iota
	connecting
	greeting
	ready
)

type rawConn struct {
	fd      int
	state   connState
	blocked bool // waited for to be writable
	next    int  // the batch to send next
	opened  time.Duration
	unsent  [][]byte  // the first of them may be cut
	queue   []request // oldest first
	scan    scanner
}

// connectAtOnce bounds the connections that are being opened: less than anybody's listen queue.
const connectAtOnce = 256

func newLoop(cfg loopConfig) (*loop, error) {
	addr, err := net.ResolveTCPAddr("tcp", cfg.target.addr)
	if err != nil {
		return nil, err
	}
	l := &loop{cfg: cfg, begin: time.Now(), took: newHistogram(), late: newHistogram(), kind: unix.AF_INET6}
	if ip := addr.IP.To4(); ip != nil {
		l.kind, l.addr = unix.AF_INET, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(ip)}
	} else {
		l.addr = &unix.SockaddrInet6{Port: addr.Port, Addr: [16]byte(addr.IP.To16())}
	}
	if l.poll, err = newPoller(); err != nil {
		return nil, err
	}
	size := cfg.buffer
	if size == 0 {
		size = 64 << 10
	}
	l.buffer, l.conns = make([]byte, size), make([]rawConn, cfg.clients)
	return l, nil
}

// onThread runs f on a thread of its own, which ends with it: its affinity and its timers are nobody else's.
func (l *loop) onThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		exactTimers()
		if l.cfg.cpu >= 0 {
			if err := stayOn(l.cfg.cpu); err != nil {
				result <- err
				return
			}
		}
		result <- f()
	}()
	return <-result
}

// connect opens every connection and has each greeted. How long each took is in took.
func (l *loop) connect(ctx context.Context) error {
	return l.onThread(func() error {
		l.unready = len(l.conns)
		opened := 0
		l.now = time.Since(l.begin)
		patience := l.now + connectPatience
		for l.unready > 0 && l.failure == nil {
			for greeted := len(l.conns) - l.unready; opened < len(l.conns) && opened-greeted < connectAtOnce; opened++ {
				l.open(opened, time.Since(l.begin))
			}
			if err := l.step(ctx, 10*time.Millisecond); err != nil {
				return err
			}
			if l.now > patience {
				return fmt.Errorf("%d of %d connections were not greeted within %s", l.unready, len(l.conns), connectPatience)
			}
		}
		return l.failure
	})
}

// connectPatience is how long all connections together may take until they are greeted.
const connectPatience = 30 * time.Second

// run loads for so long. At a fixed rate, it then waits for what is unanswered.
func (l *loop) run(ctx context.Context, d time.Duration) (tally, error) {
	var result tally
	err := l.onThread(func() error {
		l.took.reset()
		l.late.reset()
		l.done, l.now = 0, time.Since(l.begin)
		start := l.now
		var err error
		if l.cfg.rate > 0 {
			err = l.paced(ctx, start, d)
		} else {
			err = l.flatOut(ctx, start, d)
		}
		result = tally{commands: l.done, elapsed: l.now - start, took: l.took.percentiles(), late: l.late.percentiles()}
		return err
	})
	return result, err
}

// flatOut has each connection send as soon as it is answered. What is on its way at the end stays so, unless whole.
func (l *loop) flatOut(ctx context.Context, start, d time.Duration) error {
	l.end = start + d
	for i := range l.conns {
		switch c := &l.conns[i]; {
		case l.cfg.renew && c.state == closed:
			l.open(i, time.Since(l.begin))
		case c.state == ready && len(c.queue) == 0 && len(l.cfg.batches) > 0:
			l.sendNext(i, l.now)
		}
	}
	for l.now < l.end || l.cfg.whole && l.unanswered > 0 {
		wait := l.end - l.now
		if wait <= 0 {
			wait = replyTimeout
		}
		if err := l.step(ctx, wait); err != nil {
			return err
		}
		if l.now > l.end+connectPatience {
			return fmt.Errorf("%d commands were not answered within %s", l.unanswered, connectPatience)
		}
	}
	return nil
}

// paced sends at fixed times, each connection in turn. A latency counts from when the batch was due, not from when it
// was sent: a server, or a client, that stalls is charged for everybody whom it made wait.
func (l *loop) paced(ctx context.Context, start, d time.Duration) error {
	every := float64(time.Second) / l.cfg.rate
	due := func(n int) time.Duration { return start + time.Duration(float64(n)*every) }
	n, last := 0, int(float64(d)/every)
	patience := start + d + replyTimeout
	for n < last || l.unanswered > 0 {
		for ; n < last && due(n) <= l.now && !l.busy(); n++ {
			l.late.add(l.now-due(n), 1)
			if l.cfg.renew {
				l.open(l.turn, due(n))
			} else {
				l.sendNext(l.turn, due(n))
			}
			l.turn = (l.turn + 1) % len(l.conns)
		}
		wait := patience - l.now
		if n < last && !l.busy() {
			wait = due(n) - l.now
		}
		if err := l.step(ctx, wait); err != nil {
			return err
		}
		if l.now > patience {
			return fmt.Errorf("%d commands were not answered within %s", l.unanswered, replyTimeout)
		}
	}
	return nil
}

// busy reports whether the connection whose turn it is cannot be renewed yet. What is due waits, and is charged for that.
func (l *loop) busy() bool { return l.cfg.renew && l.conns[l.turn].state != closed }

// step sleeps until something happens and deals with it.
func (l *loop) step(ctx context.Context, atMost time.Duration) error {
	// A tenth of a second at a time, so that an interrupt is noticed.
	events, err := l.poll.wait(min(atMost, 100*time.Millisecond))
	if err != nil {
		return err
	}
	l.now = time.Since(l.begin)
	for i := range events {
		n := int(events[i].Fd)
		if events[i].Events&unix.EPOLLOUT != 0 {
			l.writable(n)
		}
		if events[i].Events&^unix.EPOLLOUT != 0 {
			l.readable(n)
		}
	}
	if len(events) > 0 {
		l.now = time.Since(l.begin)
	}
	return errors.Join(l.failure, ctx.Err())
}

// close closes everything.
func (l *loop) close() {
	for i := range l.conns {
		l.shut(i)
	}
	l.poll.close()
}
