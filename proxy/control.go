package proxy

import (
	"bytes"
	"errors"

	"github.com/redbouncer/redbouncer/multiplex"
)

// onControl has a command that interrupts others run on the control connection, where it waits for none of them.
func (s *session) onControl(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	s.askControl(bytes.Clone(c.Bytes()), nil)
	return true
}

// askControl runs a command on the control connection, as the session's user. Answered gets the reply on the loop,
// unless the client has gone, and returns what the client gets; nil: the client gets the reply as it is. The caller
// has made sure that nothing is in flight, and must not touch raw any more.
func (s *session) askControl(raw []byte, answered func(reply []byte) []byte) {
	as := s.actor()
	s.await(func(done func([]byte, error)) bool {
		return s.w.control.Do(as, raw, done)
	}, func(reply []byte, err error) { s.controlled(reply, err, answered) })
}

// controlled answers a command that has been run on the control connection.
func (s *session) controlled(reply []byte, err error, answered func(reply []byte) []byte) {
	switch {
	case errors.Is(err, multiplex.ErrLost):
		s.cut(err)
		return
	case err != nil:
		reply = multiplex.ErrorLine(err)
	case answered != nil:
		reply = answered(reply)
	}
	s.answer(reply)
}

// actor returns whom the session is on the control connection.
func (s *session) actor() multiplex.Actor {
	as := s.ctx.Actor()
	as.RESP = s.protocol()
	return as
}

// await has the session wait for the control connection. Done gets the outcome on the loop, unless the client has gone.
func (s *session) await(submit func(done func([]byte, error)) bool, done func(reply []byte, err error)) {
	s.state = awaitingControl
	w := s.w
	ok := submit(func(reply []byte, err error) {
		w.loop.Post(func() {
			if s.state != awaitingControl {
				return
			}
			s.state = flowing
			done(reply, err)
			s.wake()
		})
	})
	if !ok {
		s.condemn(replyFull)
	}
}
