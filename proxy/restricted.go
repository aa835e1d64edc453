package proxy

import (
	"bytes"
	"fmt"

	"github.com/redbouncer/redbouncer/multiplex"
)

// A subscriber of RESP2 may send only the commands of pub/sub, PING, RESET and QUIT: what else comes is refused, in the
// words that the upstream would have.

// onRestricted treats a command of a subscriber of RESP2. Whether it would have been refused for another reason is the
// upstream's to say.
func (s *session) onRestricted(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	switch c.row.how {
	case kill:
		s.close()
		return true
	case subscribe:
		return s.subscribe(c)
	case quit:
		return s.quit()
	case reset:
		if c.Len() == 1 {
			return s.reset()
		}
	}
	if c.row.name == "PING" {
		return s.pingRestricted(c)
	}
	text := fmt.Appendf(nil, "-ERR Can't execute '%s': only %s are allowed in this context\r\n",
		c.fullname(), s.allowedWords())
	return s.ifAllowed(c, func() []byte { return text })
}

// allowedWords are the commands that a subscriber of RESP2 may use, in the upstream's words.
func (s *session) allowedWords() string {
	if link := s.ctx.Link(); link != nil && bytes.HasPrefix(link.HelloField("version"), []byte("6.")) {
		return "(P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET"
	}
	return "(P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET"
}

// pingRestricted answers PING in the form that it has for a subscriber of RESP2.
func (s *session) pingRestricted(c command) bool {
	link := s.lane()
	if link == nil {
		return false
	}
	s.submit(link, c, s.collect(func(reply []byte) []byte {
		if isErrorReply(reply) {
			return reply
		}
		pong, isBulk := reply, reply[0] == '$'
		if !isBulk {
			pong = []byte("$0\r\n\r\n")
		}
		return append([]byte("*2\r\n$4\r\npong\r\n"), pong...)
	}))
	s.bar()
	return true
}

// cannotBeQueued reports whether a command was refused for no other reason than that it was sent in a transaction. Valkey
// names the command, and has more of them than Redis.
func cannotBeQueued(reply []byte) bool {
	return bytes.HasPrefix(reply, []byte("-ERR Command ")) && bytes.HasSuffix(reply, []byte("not allowed inside a transaction\r\n"))
}

// ifAllowed asks the upstream whether it would take a command, without having it run. If it would not, the client gets
// its error, and otherwise the answer. It is asked on the control connection: on one that clients share, a command that
// was run after all would be run on them. The caller has made sure that nothing is in flight.
func (s *session) ifAllowed(c command, answer func() []byte) bool {
	switch c.row.how {
	case multi, exec, discard, watch, quit, reset, kill: // they are not queued
		switch {
		case c.row.how == exec && c.Len() == 1:
			s.answer(append([]byte("-EXECABORT Transaction discarded because of: "), answer()[len("-ERR "):]...))
			return true
		case c.Len() == 1 && c.row.how != watch || c.Len() > 1 && c.row.how == watch:
			s.answer(answer())
			return true
		}
		return s.share(c, nil) // it will be refused
	}
	tell := s.answer
	if c.row.how == subscribe {
		tell = s.reply // the confirmations of UNSUBSCRIBE are delivered whatever CLIENT REPLY says
	}
	as, raw := s.actor(), bytes.Clone(c.Bytes())
	s.await(func(done func([]byte, error)) bool {
		return s.w.control.Probe(as, raw, done)
	}, func(reply []byte, err error) {
		switch {
		case err != nil:
			reply = multiplex.ErrorLine(err)
		case reply == nil || cannotBeQueued(reply):
			reply = answer()
		}
		tell(reply)
	})
	return true
}
