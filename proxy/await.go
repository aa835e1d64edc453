package proxy

import (
	"errors"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
)

var errStuck = errors.New("a transaction could not be ended")

// awaitLane has the session wait for a context's lane, for upstream-timeout. What else it has sent meanwhile does not
// wait as long again.
func (s *session) awaitLane(ctx *multiplex.Context) {
	s.stopWaiting()
	patience := s.w.cfg.UpstreamTimeout
	if s.w.pool.LastError() == nil {
		patience = max(patience, connectTime) // it is not gone, there is only no connection yet
	}
	f := s.ahead()
	if f.stuck == 0 {
		f.stuck = s.w.clock()
	}
	left := patience - (s.w.clock() - f.stuck)
	if left <= 0 {
		s.denied = &verdict{s.unavailable(), true}
		s.state = flowing
		s.wakeDenied()
		return
	}
	ctx.Enter()
	s.wait = &waiting{lane: ctx, since: s.w.loop.Now(), timer: s.w.loop.AfterFunc(left, s.laneTimeout)}
	s.state = awaitingLane
	ctx.Await(s)
}

// connectTime is how long a command waits at least for a connection to an upstream that is not known to be gone.
const connectTime = time.Second

// wakeDenied has the command at the front come again, to be answered with what denied holds.
func (s *session) wakeDenied() {
	s.state = barred
	if s.inFlight == 0 {
		s.wake()
	}
}

// unavailable is what a command is told that cannot be sent.
func (s *session) unavailable() []byte {
	if err := s.w.pool.LastError(); err != nil {
		return multiplex.ErrorLine(err)
	}
	return replyFull
}

func (s *session) laneTimeout() { s.endWait(s.unavailable(), true) }

// endWait ends waiting; denied, if there is any, is what the command at the front is answered. ByUs says that it is
// the proxy that refuses.
func (s *session) endWait(denied []byte, byUs bool) {
	if s.wait == nil {
		return
	}
	s.stopWaiting()
	if s.denied = nil; denied != nil {
		s.denied = &verdict{denied, byUs}
	}
	s.wakeDenied()
}

// LaneReady implements multiplex.Waiter.
func (s *session) LaneReady() {
	if s.state != awaitingLane {
		return
	}
	// The context stays entered until the session has gone on, so that its lane is not forgotten before.
	ctx := s.wait.lane
	ctx.Enter()
	s.ahead().stuck = 0
	s.endWait(nil, false)
	s.w.deferred = append(s.w.deferred, ctx)
}

// LaneFailed implements multiplex.Waiter.
func (s *session) LaneFailed(err error) {
	if s.state == awaitingLane {
		s.endWait(multiplex.ErrorLine(err), false)
	}
}

// onNewPin sends a command on a connection of the session's own, and waits for one if necessary.
func (s *session) onNewPin(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	if !s.countPin(c) {
		return false
	}
	link, request := s.w.pool.AcquirePin(s.ctx, s, s.pinDone)
	if link != nil {
		s.takePin(link)
		return s.onPin(c)
	}
	if request.Queued() && s.w.cfg.PoolTimeout == 0 {
		request.Cancel()
		s.uncountPin()
		return s.denyPin(c)
	}
	s.awaitPin(c, &waiting{pin: request, timer: s.w.loop.AfterFunc(s.w.cfg.PoolTimeout, s.pinTimeout)})
	return false
}

// awaitPin has the session wait for a pin, or for the right to have one.
func (s *session) awaitPin(c command, wt *waiting) {
	how := c.row.how
	wt.since = s.w.loop.Now()
	wt.forOthers = how == block || how == blockOption || how == relay
	wt.blocks = how == block || how == blockOption
	s.wait, s.state = wt, awaitingPin
	s.recount()
}

// denyPin answers a command for which no connection came free in time.
func (s *session) denyPin(c command) bool {
	s.w.counters.poolTimeouts.Add(1)
	s.denied = &verdict{replyFull, true}
	return s.deny(c)
}

// countPin has the rules count a pin before it is asked for. It reports false if they have no room for it now: then the
// session waits, for pool-timeout as for any other, or the command has been denied.
func (s *session) countPin(c command) bool {
	if s.pinTaken || !s.ticket.Bounds().LimitsPins {
		return true
	}
	wt := &waiting{place: true}
	if s.ticket.TakePin(func() { s.w.loop.Post(func() { s.pinGranted(wt) }) }) {
		s.pinTaken = true
		return true
	}
	patience := max(s.w.cfg.PoolTimeout, 0)
	wt.timer = s.w.loop.AfterFunc(patience, func() {
		s.w.counters.poolTimeouts.Add(1)
		s.endWait(replyFull, true)
	})
	s.awaitPin(c, wt)
	return false
}

// pinGranted goes on with a session that the rules have no room for at first. If it does not wait any longer, it has given
// back what it was granted.
func (s *session) pinGranted(wt *waiting) {
	if s.wait != wt {
		return
	}
	wt.place = false
	s.endWait(nil, false)
	s.pinTaken = true
}

// uncountPin gives back what countPin took.
func (s *session) uncountPin() {
	if s.pinTaken {
		s.pinTaken = false
		s.ticket.GivePin()
	}
}

// pinDone receives the pin that the session waited for, or the upstream's reason for refusing it.
func (s *session) pinDone(link *multiplex.Link, err error) {
	s.wait.pin = nil
	if err != nil {
		s.endWait(multiplex.ErrorLine(err), false)
		return
	}
	s.takePin(link)
	s.endWait(nil, false)
}

// pinTimeout is called when the session has waited for pool-timeout. Once its turn in the queue has come, it is
// only the upstream that it waits for.
func (s *session) pinTimeout() {
	now := s.w.loop.Now()
	waited := now.Sub(s.wait.since)
	left := max(s.w.cfg.UpstreamTimeout, connectTime) - waited
	switch {
	case s.wait.pin.Queued():
		s.w.counters.poolTimeouts.Add(1)
		s.endWait(replyFull, true)
	case left <= 0:
		s.endWait(s.unavailable(), true)
	default:
		s.wait.timer = s.w.loop.AfterFunc(left, s.pinTimeout)
	}
}

// hubTimeout is pinTimeout's counterpart for a session that waits for a hub.
func (s *session) hubTimeout() {
	waited := s.w.loop.Now().Sub(s.wait.since)
	left := max(s.w.cfg.UpstreamTimeout, connectTime) - waited
	switch r := s.wait.hub.request; {
	case r != nil && r.Queued():
		s.w.counters.poolTimeouts.Add(1)
		s.endWait(replyFull, true)
	case left <= 0:
		s.endWait(s.unavailable(), true)
	default:
		s.wait.timer = s.w.loop.AfterFunc(max(left, time.Millisecond), s.hubTimeout)
	}
}
