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

// ifAllowed asks the upstream whether it would take a command, without having it run: it is queued in a transaction
// that is discarded. If it would not, the client gets its error, and otherwise the answer. A user who may not use
// transactions is not checked, nor are the commands that cannot be queued.
func (s *session) ifAllowed(c command, answer func() []byte) bool {
	link := s.lane()
	if link == nil {
		return false
	}
	switch c.row.how {
	case multi, exec, discard, watch, quit, reset, kill:
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
	switch {
	case link.CanMulti():
	case c.row.how == subscribe:
		s.reply(answer())
		return true
	default:
		s.answer(answer())
		return true
	}
	nothing := func([]byte) {}
	link.SubmitSpecial(nil, []byte("*1\r\n$5\r\nMULTI\r\n"), 0,
		&multiplex.Special{Collect: true, Expect: replyOK, Done: nothing})
	// Pushes are delivered whatever CLIENT REPLY says, and so are the confirmations of UNSUBSCRIBE.
	muted := s.mute() != 0 && c.row.how != subscribe
	c.row = identityRow
	raw := bytes.Clone(c.Bytes())
	link.SubmitSpecial(s, raw, 0, &multiplex.Special{Collect: true, Done: func(reply []byte) {
		if !isErrorReply(reply) || cannotBeQueued(reply) {
			reply = answer()
		}
		if muted {
			reply = nil
		}
		s.Reply(reply, 1)
	}})
	link.SubmitSpecial(nil, []byte("*1\r\n$7\r\nDISCARD\r\n"), 0, &multiplex.Special{
		Collect: true, Done: func(head []byte) {
			if !transactionOver(head) {
				link.Break(errStuck)
			}
		},
	})
	s.inFlight++
	s.bar()
	return true
}
