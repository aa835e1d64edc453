package proxy

import (
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// What becomes known of a client when it is in (its user, its name, its library, its process) may bring it under a rule
// that has no room for it. Then its next command waits until there is, or is refused, and every other after it.

// know tells the gate what has become known of the client.
func (s *session) know(change func(*limits.Identities)) {
	if s.state >= leaving {
		return
	}
	before := s.ticket.Identities()
	state := s.ticket.Identify(change, s.w.loop.Now())
	after := s.ticket.Identities()
	if *after == *before {
		return // the outcome is known
	}
	s.w.srv.ledger.Changed(before, after, s.w.loop.Now())
	if s.w.mover != nil {
		s.w.mover.changed(s)
	}
	switch state {
	case limits.Waiting:
		s.limited = true
		s.w.srv.workers[0].loop.Post(s.w.srv.attend)
	case limits.Refused:
		s.refuseLate()
	}
	s.w.srv.tellObserved(s.ticket, s.remote)
}

// knowUser tells the gate who the client has authenticated as.
func (s *session) knowUser(user string) {
	s.know(func(ids *limits.Identities) { ids[limits.ByUser] = user })
}

// knowIdentity tells the gate what the client has said of itself.
func (s *session) knowIdentity() {
	s.know(func(ids *limits.Identities) {
		ids[limits.ByName], ids[limits.ByLib] = s.who.name, s.who.lib()
	})
}

// Decided implements limits.Holder.
func (s *session) Decided(*limits.Ticket) { s.w.loop.Post(s.decided) }

// decided goes on with a client that had to wait for a place under a rule.
func (s *session) decided() {
	if s.state >= leaving {
		return
	}
	if s.ticket.State() == limits.Refused {
		s.refuseLate()
	}
	if s.w.mover != nil {
		s.w.mover.changed(s)
	}
	if s.state == awaitingPlace {
		s.state = barred
		if s.inFlight == 0 {
			s.wake()
		}
	}
}

// atLimit looks at a command of a client that a rule may have no room for. It reports whether it has dealt with it, and
// whether the command has been consumed.
func (s *session) atLimit() (dealt, consumed bool) {
	switch state := s.ticket.State(); {
	case state == limits.Admitted:
		s.limited = false
		return false, false
	case s.inFlight > 0:
		s.state = barred
		return true, false
	case state == limits.Waiting:
		s.state = awaitingPlace
		return true, false
	}
	s.toldRefused = true
	s.answer(replyFull)
	return true, true
}

// refuseLate has the client told, at each command for a moment, that there is no place for it, and then closed: libraries
// show only some of what they are told while they introduce themselves.
func (s *session) refuseLate() {
	s.limited = true
	if s.refused {
		return
	}
	s.refused = true
	s.w.srv.tellRefused(s.ticket, &caller{remote: s.remote, process: s.process})
	if s.blocked() { // it would be answered when others please, and with what is meant for somebody else
		s.expel()
		return
	}
	s.w.loop.AfterFunc(refusalTalk, s.expel)
}

// expel says goodbye to a client that has been refused.
func (s *session) expel() {
	if s.state >= leaving || s.ticket.State() != limits.Refused {
		return
	}
	switch {
	case s.toldRefused && s.inFlight == 0:
		s.leave()
	case s.acks != nil:
		s.write(replyFull)
		s.leave()
	default:
		s.condemn(replyFull)
		if s.state < leaving && s.pin != nil && s.pin.blocking { // others may never end what is in flight: see cutOff and cut
			s.pin.once = true
			s.pin.link.HalfClose()
		}
	}
}

// minEvictIdle is how long a client has been idle at least that is closed so that another may come.
const minEvictIdle = time.Second

// evictable reports whether the client can be closed without it, or anybody else, losing anything: it holds no state, has
// nothing in flight, and would only have to connect again.
func (s *session) evictable() bool {
	return s.state == flowing && s.inFlight == 0 && len(s.in) == 0 && s.out.size == 0 && s.pin == nil && s.wait == nil &&
		s.acks == nil && s.doom == nil && !s.limited && !s.replyOff && !s.skipNext && !s.eof && s.condition() == 0 &&
		s.w.clock()-s.active >= minEvictIdle
}
