package proxy

import (
	"bytes"
	"math"
	"strconv"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// setContext moves the session to another context.
func (s *session) setContext(key multiplex.Key) {
	next := s.w.pool.Context(key)
	next.Enter()
	tracked := s.tracks != nil
	s.leaveTracking()
	s.ctx.Leave()
	s.ctx = next
	if key.Tracking {
		s.joinTracking()
		if tracked { // what it has read before is on another lane
			s.pushTracking([]byte(invalidateAll))
		}
	}
}

// switchContext treats SELECT, CLIENT NO-TOUCH, READONLY and READWRITE. The command goes to a lane that is in the
// state it asks for already, where it changes nothing and is checked by the upstream all the same: its reply is
// the client's, and if it is OK the client has moved. What does not have the form of such a command goes to a
// connection that is closed afterwards.
func (s *session) switchContext(c command) bool {
	key, ok := s.target(c)
	if !ok || s.ctx.Unauthenticated() { // it will be refused
		return s.onNewPin(c)
	}
	return s.switchTo(c, key)
}

// switchTo sends a command on the lane of another context, and moves the session there if it is answered with OK.
func (s *session) switchTo(c command, key multiplex.Key) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	target := s.w.pool.Context(key)
	target.Enter()
	link := s.laneOf(target)
	if link == nil {
		target.Leave()
		return false
	}
	s.ahead().moving = target
	c.row = switchRow
	s.submit(link, c, s.collect(func(reply []byte) []byte {
		if bytes.Equal(reply, replyOK) && s.state != gone {
			s.setContext(key)
		}
		s.dropMoving()
		return reply
	}))
	s.bar()
	return true
}

// dropMoving lets go of the context that the session was about to move to.
func (s *session) dropMoving() {
	if f := s.front; f != nil && f.moving != nil {
		f.moving.Leave()
		f.moving = nil
	}
}

// switchRow stands for the commands that switchContext sends. They are not sent again: a client that was told of
// a failure that is not the upstream's would go on in the wrong database.
var switchRow = &row{name: "SELECT", how: share}

// target returns where a command would move the session, or false if it does not have the right form.
func (s *session) target(c command) (multiplex.Key, bool) {
	key := s.ctx.Key
	switch c.row.how {
	case selectDB:
		if c.Len() != 2 {
			return key, false
		}
		n, ok := resp.ParseInt(c.Arg(1))
		if !ok || n < math.MinInt32 || n > math.MaxInt32 {
			return key, false
		}
		key.DB = int(n)
	case noTouch:
		if c.Len() != 3 || !isWord(c.Arg(2), "ON") && !isWord(c.Arg(2), "OFF") {
			return key, false
		}
		key.NoTouch = isWord(c.Arg(2), "ON")
	case readOnly:
		if c.Len() != 1 {
			return key, false
		}
		key.ReadOnly = c.row.name == "READONLY"
	}
	return key, true
}

// auth has the upstream check AUTH, now, on a connection that carries nothing else.
func (s *session) auth(c command, try limits.Guess) {
	password := string(c.Arg(c.Len() - 1))
	s.check(&try, c.Bytes(), func(reply []byte) {
		if bytes.Equal(reply, replyOK) {
			key := s.ctx.Key
			key.User = try.User
			s.login(key, password)
		}
		s.answer(reply)
	})
}

// authUser is the user whom AUTH names.
func authUser(c command) string {
	if c.Len() == 3 {
		return string(c.Arg(1))
	}
	return "default"
}

// login moves the session to a user whose password the upstream has accepted.
func (s *session) login(key multiplex.Key, password string) {
	s.w.pool.SetPassword(key.User, password)
	s.setContext(key)
	s.knowUser(key.User)
}

// check has the upstream check AUTH or HELLO on the control connection, and done gets the reply on the loop, unless the
// client has gone. Try is nil if there is no password in it. While PROXY PAUSE lasts, no more than a password is checked; and
// what the upstream has no answer for then, it is asked again after it.
func (s *session) check(try *limits.Guess, raw []byte, done func(reply []byte)) {
	raw = bytes.Clone(raw)
	if s.w.held && try == nil {
		s.checkLater(try, raw, done)
		return
	}
	s.await(func(checked func([]byte, error)) bool {
		if try == nil {
			return s.w.control.Check(raw, checked)
		}
		return s.w.check(*try, raw, checked)
	}, func(reply []byte, err error) {
		switch {
		case err != nil && s.w.held:
			s.checkLater(try, raw, done)
			return
		case err != nil: // it is not the upstream that refused
			s.condemn(multiplex.ErrorLine(err))
			return
		}
		done(reply)
	})
}

// checkLater is check after the pause.
func (s *session) checkLater(try *limits.Guess, raw []byte, done func(reply []byte)) {
	s.state = awaitingTurn
	s.w.afterPause = append(s.w.afterPause, func() {
		if s.state == awaitingTurn {
			s.check(try, raw, done)
		}
	})
}

// helloArgs are the arguments of HELLO.
type helloArgs struct {
	proto          uint8 // 0: not given
	user, password string
	auth           bool
	name           *string
}

// parseHello reads HELLO [proto [AUTH user password] [SETNAME name]], and reports whether it has that form.
func parseHello(c command) (h helloArgs, ok bool) {
	if c.Len() > 1 {
		n, ok := resp.ParseInt(c.Arg(1))
		if !ok || n != 2 && n != 3 {
			return h, false
		}
		h.proto = uint8(n)
	}
	for i := 2; i < c.Len(); i++ {
		more := c.Len() - 1 - i
		switch {
		case isWord(c.Arg(i), "AUTH") && more >= 2:
			h.auth, h.user, h.password = true, string(c.Arg(i+1)), string(c.Arg(i+2))
			i += 2
		case isWord(c.Arg(i), "SETNAME") && more >= 1 && validName(c.Arg(i+1)):
			name := string(c.Arg(i + 1))
			h.name = &name
			i++
		default:
			return h, false
		}
	}
	return h, true
}

// hello treats HELLO without AUTH. Where something is wrong with it, the upstream answers on the connection that checks
// credentials. Otherwise the answer is what the upstream said when the lane of that protocol version was opened, with the
// client's own id in it.
func (s *session) hello(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	h, ok := parseHello(c)
	if !ok {
		s.check(nil, c.Bytes(), func(reply []byte) { s.answer(s.withID(reply)) })
		return true
	}
	key := s.ctx.Key
	if h.proto != 0 {
		key.RESP = h.proto
	}
	target := s.w.pool.Context(key)
	target.Enter()
	defer target.Leave()
	link := s.laneOf(target)
	if link == nil {
		return false
	}
	if reply := link.Hello(); !isErrorReply(reply) {
		s.setContext(key)
		s.setName(h.name)
	}
	s.answer(s.withID(link.Hello()))
	return true
}

// helloAuth has the upstream check HELLO with AUTH, now, on the connection that checks credentials.
func (s *session) helloAuth(c command, try limits.Guess) {
	h, ok := parseHello(c)
	key := s.ctx.Key
	if key.User = h.user; h.proto != 0 {
		key.RESP = h.proto
	}
	s.check(&try, c.Bytes(), func(reply []byte) {
		if ok && h.auth && !isErrorReply(reply) {
			s.login(key, h.password)
			s.setName(h.name)
		}
		s.answer(s.withID(reply))
	})
}

// authOnPin returns what is done when an AUTH that goes to the session's pin has been answered.
func (s *session) authOnPin(c command) func(head []byte) {
	p, try := s.pin, s.guess(c)
	return func(head []byte) {
		s.w.guessed(try, head)
		if head[0] != '-' {
			p.sticky, p.stranger = true, true
			s.knowUser(try.User)
		}
	}
}

// helloOnPin returns what becomes of the reply to a HELLO that goes to the session's pin.
func (s *session) helloOnPin(c command) func([]byte) []byte {
	h, ok := parseHello(c)
	p, try := s.pin, guessOf(s.ticket.Identities(), h.user)
	return func(reply []byte) []byte {
		if h.auth {
			s.w.guessed(try, reply)
		}
		if ok && !isErrorReply(reply) {
			s.setName(h.name)
			if h.proto != 0 {
				p.resp = h.proto
			}
			if h.auth {
				p.stranger = true
				s.knowUser(h.user)
			}
		}
		return s.withID(reply)
	}
}

func (s *session) setName(name *string) {
	if name != nil {
		s.identity().name = *name
		s.knowIdentity()
	}
}

// withID puts the client's own id into a reply to HELLO.
func (s *session) withID(reply []byte) []byte {
	const key = "$2\r\nid\r\n:"
	i := bytes.Index(reply, []byte(key))
	if i < 0 {
		return reply
	}
	i += len(key)
	end := bytes.IndexByte(reply[i:], '\r')
	if end < 0 {
		return reply
	}
	out := append([]byte(nil), reply[:i]...)
	out = strconv.AppendInt(out, s.id, 10)
	return append(out, reply[i+end:]...)
}

func isErrorReply(reply []byte) bool { return len(reply) == 0 || reply[0] == '-' || reply[0] == '!' }
