package proxy

import "github.com/redbouncer/redbouncer/multiplex"

// PROXY PAUSE holds all clients back here, so that Redis can be restarted or replaced and none of them sees an error.
// What a loop does for it stands here, what the operator does in suspend.go:
//
//   - A new command waits, in the client's input; of a client that sends on, the socket is left unread.
//   - An operator may log in, to end it.
//   - A transaction that has begun, and whoever has sent WATCH, goes on to its end: PAUSE waits for that.
//   - A command that blocks is taken back: it is unblocked at Redis, and sent again, for the rest of its time, when the
//     pause ends. If its time is up before, the client is told so then.
//   - Who comes is let in, and whom it is to be by its certificate, or at the door, the upstream is asked after the pause.
//   - Subscribers stay; their connection is closed, and they are subscribed again before anybody may publish.
//   - Whoever has state that we do not follow (MONITOR, tracking with options, commands that we do not know) keeps its
//     connection, and ends with it: the operator is told how many there are.

// hold has the commands of all clients held back.
func (w *worker) hold() {
	w.held = true
	w.pool.Hold(true)
	for s := range w.all {
		if (s.state == awaitingLane || s.state == awaitingPin || s.state == awaitingTurn) && !s.inOrder() {
			s.stopWaiting()
			if s.front != nil {
				s.front.stuck = 0
			}
			s.state = paused
			s.recount()
		}
	}
}

// release has those that were held back go on. Those whose command was taken back come first: they had been first.
func (w *worker) release() {
	w.held = false
	w.pool.Hold(false)
	later := w.afterPause
	w.afterPause = nil
	for _, f := range later {
		f()
	}
	for s := range w.all {
		if r := s.takenBack(); r != nil && r.reply != nil {
			s.resend()
		}
	}
	for s := range w.all {
		s.unpaused()
	}
	for _, h := range w.hubs {
		h.resume()
	}
}

// unpaused has the session go on, if it is held back.
func (s *session) unpaused() {
	if s.state == paused && s.takenBack() == nil {
		s.state = flowing
		s.wake()
	}
}

// inOrder reports whether the session is in the middle of something that is to be brought to its end.
func (s *session) inOrder() bool {
	return s.pin != nil && (s.pin.tx != nil || s.pin.watching)
}

// holds reports whether the operator's pause holds a command back.
func (s *session) holds(c command) bool {
	switch c.row.how {
	case console, quit, kill:
		return false
	case auth, hello:
		if operates := s.w.srv.cfg.Operates; operates != nil && s.pin == nil && c.showsPassword() && operates(s.guess(c).User) {
			return false
		}
	}
	return !s.inOrder()
}

// unfinished is what a loop's clients have under way during a pause.
type unfinished struct {
	busy         int // commands and transactions, which PAUSE waits for
	transactions int // of these, transactions that have begun
	blocked      int // commands that block, which are being taken back
	stateful     int // clients that keep a connection because of its state
}

func (u *unfinished) add(more unfinished) {
	u.busy += more.busy
	u.transactions += more.transactions
	u.blocked += more.blocked
	u.stateful += more.stateful
}

// unfinished takes stock, and takes back what blocks.
func (w *worker) unfinished() (u unfinished) {
	resending := w.pool.Resending() // their connection has broken already: they wait for the next
	for s := range w.all {
		switch {
		case s.state >= leaving:
		case s.inFlight > 0 && s.pin == nil && int(s.inFlight) == resending[s]:
		case s.relaying:
			u.stateful++
		case s.inOrder():
			u.busy++
			u.transactions++
		case s.state == awaitingControl && (s.introduces() || s.last.how == console):
		case s.state == awaitingControl:
			u.busy++
		case s.inFlight > 0 && s.pin != nil && s.pin.blocking:
			if s.recall() {
				u.blocked++
			} else {
				u.stateful++
			}
		case s.inFlight > 0:
			u.busy++
		case s.pin != nil, s.subs != nil && s.subs.inbox != nil: // what is redirected comes on a connection of its own
			u.stateful++
		}
	}
	return u
}

// introduces reports whether the upstream is being asked who the session is: if it has no answer, it is asked again after the
// pause.
func (s *session) introduces() bool {
	return s.last == nil || s.last.how == auth || s.last.how == hello || s.last.how == reset
}

// rest closes the connections that nobody has anything in flight on, or state.
func (w *worker) rest() {
	w.pool.Rest()
	for _, h := range w.hubs {
		h.suspend()
	}
}

// suspend closes the connection of a hub and keeps its members: see resume.
func (h *hub) suspend() {
	if h.link == nil {
		return
	}
	h.dropNext()
	link := h.link
	h.link, h.stuck = nil, false
	h.dropPending(nil) // nobody's command is in flight
	h.w.pool.DiscardPin(link)
	h.settle()
}

// resume has a hub that has members subscribe again.
func (h *hub) resume() {
	if h.subscribers() || len(h.waiting) > 0 {
		h.open()
	}
}

// subscribed reports whether the hub carries what its members have subscribed to.
func (h *hub) subscribed() bool {
	return !h.subscribers() || h.link != nil && len(h.pending) == 0
}

// renew has the hub go over to a new connection, once there is one.
func (h *hub) renew() {
	if h.link == nil || h.next != nil {
		return
	}
	link, request := h.w.pool.AcquirePin(h.ctx, h, h.replace)
	h.next = request
	if link != nil {
		h.replace(link, nil)
	}
}

// replace receives the new connection. It is taken as soon as the old one owes nobody anything.
func (h *hub) replace(link *multiplex.Link, err error) {
	h.next = nil
	if err != nil {
		h.w.log.Warn("subscriptions stay on their connection: there is no other", "user", h.ctx.User, "error", err)
		return
	}
	h.spare = link
	h.changeOver()
}

// changeOver goes over to the new connection, if there is one and this is the time.
func (h *hub) changeOver() {
	if h.spare == nil || len(h.pending) > 0 {
		return
	}
	old := h.link
	h.link, h.spare, h.stuck = h.spare, nil, false
	if h.link.Frames(h.frame); old != nil {
		h.w.pool.DiscardPin(old)
	}
	h.resubscribe()
	h.settle()
}

// dropNext gives up the new connection.
func (h *hub) dropNext() {
	if h.next != nil {
		h.next.Cancel()
	}
	if h.spare != nil {
		h.w.pool.ReleasePin(h.spare)
	}
	h.next, h.spare = nil, nil
}
