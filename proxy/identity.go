package proxy

import (
	"bytes"
	"fmt"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A client's identity lives here, not on the connection that it shares. Whether it may ask, and what it is told if it
// asks wrongly, is the upstream's business: it gets a command of the same kind that changes nothing, and if it
// does not object, the client gets our answer.

// identify treats the subcommands of CLIENT that speak of the client's own connection.
func (s *session) identify(c command, link *multiplex.Link) {
	raw, answer := s.twin(c, link)
	c.row = identityRow
	if raw == nil {
		s.submit(link, c, s.collect(answer))
	} else {
		s.submitRaw(link, raw, multiplex.Safe, s.collect(answer))
	}
	if s.pin != nil || raw != nil {
		s.bar() // what follows may depend on it
	}
}

// identityRow stands for the commands that identify sends, which may be sent again.
var identityRow = &row{name: "CLIENT", how: read}

// collect returns a Special that has the reply changed before the client gets it; nil: unchanged.
func (s *session) collect(change func(reply []byte) []byte) *multiplex.Special {
	return s.collectLater(atOnce(change))
}

// submitRaw sends another command in the place of the client's: one that is answered at once. Safe is multiplex.Safe or
// nothing.
func (s *session) submitRaw(link *multiplex.Link, raw []byte, safe multiplex.Flags, sp *multiplex.Special) {
	link.SubmitSpecial(s, raw, safe|multiplex.Prompt|s.mute(), sp)
	s.inFlight++
}

// twin returns the command that goes upstream instead (nil: the client's own, which changes nothing), and the
// function that makes the client's reply of the upstream's.
func (s *session) twin(c command, link *multiplex.Link) (raw []byte, answer func([]byte) []byte) {
	ifOK := func(f func() []byte) func([]byte) []byte {
		return func(reply []byte) []byte {
			if isErrorReply(reply) {
				return reply
			}
			return f()
		}
	}
	args := c.Len()
	switch c.row.how {
	case clientID:
		return nil, ifOK(func() []byte { return fmt.Appendf(nil, ":%d\r\n", s.id) })
	case clientInfo:
		return nil, func(reply []byte) []byte { return s.clientInfo(reply) }
	case clientGetName:
		return nil, ifOK(s.nameReply)
	case clientSetName:
		if args == 3 && validName(c.Arg(2)) {
			name := string(c.Arg(2))
			return resp.AppendCommand(nil, "CLIENT", "SETNAME", link.Name()),
				ifOK(func() []byte { s.setName(&name); return replyOK })
		}
	case clientSetInfo:
		return s.setInfoTwin(c)
	case clientNoEvict:
		if args == 3 && (isWord(c.Arg(2), "ON") || isWord(c.Arg(2), "OFF")) {
			on := isWord(c.Arg(2), "ON")
			return resp.AppendCommand(nil, "CLIENT", "NO-EVICT", "ON"), // our connections are never to be evicted
				ifOK(func() []byte { s.noEvict = on; return replyOK })
		}
	case clientReply:
		if args == 3 && (isWord(c.Arg(2), "ON") || isWord(c.Arg(2), "OFF") || isWord(c.Arg(2), "SKIP")) {
			return resp.AppendCommand(nil, "CLIENT", "REPLY", "ON"), s.setReply(string(upper(nil, c.Arg(2))))
		}
	case clientMaint:
		// Asked for with no arguments: an upstream that knows them would begin to send notifications.
		return resp.AppendCommand(nil, []byte("CLIENT"), c.Arg(1)), maintReply(string(c.Arg(1)))
	}
	return nil, nil
}

// setInfoTwin treats CLIENT SETINFO. The client is known by what it says even where the upstream does not know the
// command.
func (s *session) setInfoTwin(c command) (raw []byte, answer func([]byte) []byte) {
	if c.Len() != 4 || !validName(c.Arg(3)) {
		return nil, nil
	}
	value := string(c.Arg(3))
	switch who := s.identity(); {
	case isWord(c.Arg(2), "LIB-NAME"):
		who.libName = value
	case isWord(c.Arg(2), "LIB-VER"):
		who.libVer = value
	default:
		return nil, nil
	}
	s.knowIdentity()
	return resp.AppendCommand(nil, []byte("CLIENT"), c.Arg(1), c.Arg(2), []byte("redbouncer")), nil
}

// setReply returns what CLIENT REPLY does once the upstream has allowed it. Neither OFF nor SKIP is answered.
func (s *session) setReply(mode string) func([]byte) []byte {
	return func(reply []byte) []byte {
		if isErrorReply(reply) {
			return reply
		}
		switch mode {
		case "ON":
			s.replyOff = false
			return replyOK
		case "OFF":
			s.replyOff = true
		default: // after OFF it changes nothing
			s.skipNext = !s.replyOff
		}
		return nil
	}
}

// maintReply has the client told that there is no such subcommand, whatever the upstream says.
func maintReply(sub string) func([]byte) []byte {
	return func(reply []byte) []byte {
		if harmless(reply) && !bytes.HasPrefix(reply, []byte("-ERR wrong number")) {
			return reply
		}
		return fmt.Appendf(nil, "-ERR unknown subcommand '%s'. Try CLIENT HELP.\r\n", sub)
	}
}

// lib is the library and its version, as rules have it.
func (who *identity) lib() string {
	if who.libVer == "" {
		return who.libName
	}
	return who.libName + "/" + who.libVer
}

func (s *session) identity() *identity {
	if s.who == nil {
		s.who = &identity{}
	}
	return s.who
}

// nameReply is the reply to CLIENT GETNAME.
func (s *session) nameReply() []byte {
	switch {
	case s.who != nil && s.who.name != "":
		return resp.AppendBulk(nil, s.who.name)
	case s.protocol() == 3:
		return []byte("_\r\n")
	}
	return []byte("$-1\r\n")
}

// protocol returns the version that the client speaks.
func (s *session) protocol() uint8 {
	if s.pin != nil && s.pin.resp != 0 {
		return s.pin.resp
	}
	return s.ctx.RESP
}

// validName reports whether Redis takes a client's name, or a library's (networking.c: validateClientAttr).
func validName(name []byte) bool {
	for _, c := range name {
		if c < '!' || c > '~' {
			return false
		}
	}
	return true
}
