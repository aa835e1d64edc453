package proxy

// The ways in which a session ends: the client hangs up, breaks the rules or is told goodbye; its upstream connection
// breaks. All of them come to release, once.

// EOF implements eventloop.Handler. What the client sent before is still answered, as by Redis; only what waits
// for somebody else is cancelled.
func (s *session) EOF() {
	s.eof = true
	s.cutOff()
}

// cutOff ends what would wait for others on behalf of a client that has hung up. It is called when the client does, and
// when a command that may wait comes to be sent only then.
func (s *session) cutOff() {
	switch {
	case s.state >= leaving:
		s.close()
	case s.takenBack() != nil && s.takenBack().reply != nil:
		s.close() // as Redis closes one that blocks
	case s.relaying && s.pin != nil:
		s.pin.link.HalfClose() // the upstream answers what there was, and hangs up
	case s.relaying, s.wait != nil && s.wait.forOthers && s.wait.queued():
		s.close()
	case s.pin != nil && s.pin.blocking:
		// The upstream is to see what Redis would see: a command, and then the end. If there was something to pop
		// already, the reply comes; if not, nothing is popped for nobody.
		s.pin.once = true
		s.pin.link.HalfClose()
	case s.acks != nil:
		s.stopWaiting()
		s.wait = &waiting{timer: s.w.loop.AfterFunc(connectTime, s.close)}
	default:
		s.settle()
	}
}

// HungUp implements eventloop.Handler: the client hung up with input unread.
func (s *session) HungUp() {
	if s.waitsForOthers() {
		s.close()
	}
}

// waitsForOthers reports whether the command at work may wait for what others do.
func (s *session) waitsForOthers() bool {
	return s.state == paused || s.state == awaitingPlace || s.acks != nil || s.pin != nil && s.pin.blocking || s.wait != nil && s.wait.forOthers
}

// Failed implements eventloop.Handler.
func (s *session) Failed(error) { s.close() }

// Lost implements multiplex.Client.
func (s *session) Lost(err error) {
	if s.state == gone {
		return
	}
	s.cut(err) // with its pin, which may not be the connection that broke
}

// cut closes a client because an upstream connection broke on which something was under way for it.
func (s *session) cut(err error) {
	if s.state == gone {
		return
	}
	if s.refused && s.doom != nil && s.pin != nil && s.pin.blocking && !s.midway() { // it was ended by expel
		s.write(s.doom.line)
		s.leave()
		return
	}
	if !s.eof { // otherwise it has hung up itself
		s.w.log.Debug("client closed: its upstream connection broke", "client", s.remote, "error", err)
		s.w.counters.lost.Add(1)
	}
	s.flushAndClose()
}

// Gone implements multiplex.Client.
func (s *session) Gone() bool { return s.state == gone }

// condemn ends the session with a last word, once what is in flight has been answered.
func (s *session) condemn(word []byte) {
	s.doom, s.in, s.partial, s.state = &verdict{word, true}, nil, nil, barred
	s.conn.ReadInto(nil)
	s.inPlace = false
	s.settle()
}

// leave reads nothing more, writes what is left, and then closes.
func (s *session) leave() {
	if s.state >= leaving {
		return
	}
	s.dropPin()
	s.dropRecalled()
	s.unsubscribeAll()
	s.stopWaiting()
	s.recount()
	s.state, s.in, s.partial = leaving, nil, nil
	s.conn.ReadInto(nil)
	s.conn.ResumeRead() // and drop it: unread input would have the kernel reset the connection
	s.settle()
}

// linger says goodbye: it shuts the write side and drains what still comes for a moment, so that the last word
// arrives.
func (s *session) linger() {
	if s.eof || !s.w.startLinger(s.conn, nil) {
		s.close()
		return
	}
	s.release()
}

// flushAndClose closes without waiting, after what the client has been answered so far.
func (s *session) flushAndClose() {
	if s.out.size > 0 {
		s.leave()
		return
	}
	s.close()
}

// close ends the session at once. What it has in flight is answered to nobody.
func (s *session) close() {
	if s.state == gone {
		return
	}
	s.conn.Close()
	s.release()
}

// release gives back all that the session holds but its connection.
func (s *session) release() {
	s.state = gone
	if s.acks != nil {
		s.acks.Abort()
		s.acks = nil
	}
	s.dropPin()
	s.dropRecalled()
	s.unsubscribeAll()
	s.stopWaiting()
	s.leaveTracking()
	if s.subs != nil && s.subs.inbox != nil {
		s.subs.inbox.close()
	}
	s.ctx.Leave()
	s.dropMoving()
	s.in, s.partial, s.out = nil, nil, outbox{}
	s.weigh()
	s.recount()
	s.w.remove(s)
}

// stopWaiting gives up whatever the session waits for.
func (s *session) stopWaiting() {
	wt := s.wait
	if wt == nil {
		return
	}
	s.wait = nil
	wt.timer.Stop()
	if wt.place {
		s.ticket.GivePin()
	}
	if s.pin == nil {
		s.uncountPin()
	}
	if wt.lane != nil {
		wt.lane.Abandon(s)
		wt.lane.Leave()
	}
	if wt.pin != nil {
		wt.pin.Cancel()
	}
	if wt.hub != nil {
		wt.hub.abandon(s)
	}
}
