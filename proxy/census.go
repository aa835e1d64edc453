package proxy

import (
	"slices"
	"sync/atomic"
	"time"
)

// Sessions live on several loops, and only their loop may look at them. What is asked of all of them goes from loop
// to loop; what is asked all the time is counted as it changes.

// survey runs f on every worker's loop, and then has then run on this one. A loop that has ended has no sessions
// any more. F runs at the same time on several loops.
func (w *worker) survey(f func(*worker), then func()) {
	left := 1
	oneDone := func() {
		if left--; left == 0 {
			then()
		}
	}
	for _, other := range w.srv.workers {
		if other == w {
			continue
		}
		visit := func() {
			f(other)
			w.loop.Post(oneDone)
		}
		if other.loop.Post(visit) {
			left++
		}
	}
	f(w)
	oneDone()
}

// all iterates over the worker's sessions. The one at hand may be closed meanwhile.
func (w *worker) all(yield func(*session) bool) {
	for s := w.sessions.next; s != &w.sessions; {
		next := s.next
		if !yield(s) {
			return
		}
		s = next
	}
}

// gather returns what f makes of the sessions of all loops, in the order of their ids. F gets a slice to append to.
func gather[T any](w *worker, f func(*session, []T) []T, compare func(a, b T) int, then func([]T)) {
	found := make([][]T, len(w.srv.workers)) // each loop has its own
	w.survey(func(w *worker) {
		for s := range w.all {
			found[w.index] = f(s, found[w.index])
		}
	}, func() {
		out := slices.Concat(found...)
		slices.SortFunc(out, compare)
		then(out)
	})
}

// condition is what a session is, as far as INFO counts it.
type condition uint8

const (
	isBlocked    condition = 1 << iota // in a command that waits for others
	isSubscribed                       // to a channel, a pattern or a shard channel
	isTracking                         // CLIENT TRACKING ON
	isWatching                         // WATCH is in force
)

// gauges are how many sessions of all workers are in each condition. All are atomic.
type gauges struct {
	blocked, subscribed, tracking, watching atomic.Int64
}

// condition returns what the session is now.
func (s *session) condition() condition {
	var c condition
	if s.state == gone {
		return c
	}
	if s.blocked() && (s.wait == nil || s.wait.queued()) { // a connection that is being opened is there in a moment
		c |= isBlocked
	}
	if s.isSubscribed() {
		c |= isSubscribed
	}
	if s.trackingMode() != trackingOff {
		c |= isTracking
	}
	if p := s.pin; p != nil && p.watching {
		c |= isWatching
	}
	return c
}

// recount brings the server's gauges up to date with what the session is. It may be called at any time, and is
// whenever that may have changed.
func (s *session) recount() {
	now := s.condition()
	changed := now ^ s.counted
	if changed == 0 {
		return
	}
	s.counted = now
	g := &s.w.srv.gauges
	for _, x := range []struct {
		is    condition
		gauge *atomic.Int64
	}{
		{isBlocked, &g.blocked}, {isSubscribed, &g.subscribed}, {isTracking, &g.tracking}, {isWatching, &g.watching},
	} {
		switch {
		case changed&x.is == 0:
		case now&x.is != 0:
			x.gauge.Add(1)
		default:
			x.gauge.Add(-1)
		}
	}
}

// blocked reports whether the session is in a command that may wait for others, or waits for a connection for one.
func (s *session) blocked() bool {
	switch {
	case s.acks != nil:
		return true
	case s.wait != nil:
		return s.wait.blocks
	}
	return s.pin != nil && s.pin.blocking && s.inFlight > 0
}

// trackingMode returns what the client has CLIENT TRACKING switched to, on its lane or on its pin.
func (s *session) trackingMode() trackingMode {
	switch {
	case s.pin != nil && s.pin.tracking != trackingOff:
		return s.pin.tracking
	case s.ctx.Tracking:
		return trackingOn
	}
	return trackingOff
}

// errIdleTransaction is what a client is told that has kept a connection for a transaction for too long.
const errIdleTransaction = "-ERR closed: idle in a transaction for longer than transaction-timeout\r\n"

// closeIdle closes clients that have been idle for longer than they may. A transaction that is begun and not gone on
// with keeps an upstream connection from all others.
func (w *worker) closeIdle() {
	all, ofTransaction := time.Duration(w.srv.timeout.Load()), w.cfg.TransactionTimeout
	ofHandshake := w.cfg.HandshakeTimeout
	if all == 0 && ofTransaction == 0 && ofHandshake == 0 && !w.srv.gate.BoundsIdle() {
		return
	}
	now := w.clock()
	for s := range w.all {
		idle, timeout := now-s.active, all
		if most := s.ticket.Bounds().MaxIdle; most > 0 && (timeout == 0 || most < timeout) {
			timeout = most
		}
		switch {
		case s.state != flowing || s.inFlight > 0 || s.wait != nil || s.relaying || s.acks != nil:
		case ofTransaction > 0 && idle > ofTransaction && s.pin != nil && (s.pin.tx != nil || s.pin.watching):
			w.log.Warn("client closed: idle in a transaction for longer than transaction-timeout", "client", s.remote,
				"idle", idle.Truncate(time.Second).String())
			s.condemn([]byte(errIdleTransaction))
		case ofHandshake > 0 && s.commands == 0 && now-s.created > ofHandshake:
			w.log.Warn("client closed: it has sent no command within handshake-timeout", "client", s.remote,
				"source", s.ticket.Identities().Source())
			s.close()
		case timeout > 0 && idle > timeout && s.condition()&(isBlocked|isSubscribed) == 0:
			w.log.Debug("client closed: idle for longer than timeout", "client", s.remote,
				"idle", idle.Truncate(time.Second).String())
			s.close()
		}
	}
}
