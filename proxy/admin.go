package proxy

import (
	"github.com/redbouncer/redbouncer/multiplex"
)

// INFO, CONFIG, CLIENT LIST and the like speak of the proxy's clients and limits, as an operator of a Redis expects.
// Permission, form and wording are the upstream's: it is asked first, with the client's own command where that does
// no harm, and if it does not object, the client gets our answer, or its own with our figures in it.

// answerer makes the client's reply of the upstream's, and hands it to done: at once, or when other loops have been
// asked.
type answerer func(reply []byte, done func([]byte))

// atOnce is an answerer that asks nobody.
func atOnce(f func([]byte) []byte) answerer {
	if f == nil {
		return nil
	}
	return func(reply []byte, done func([]byte)) { done(f(reply)) }
}

// question is what the upstream is asked in the place of a client's command.
type question struct {
	raw    []byte   // nil: the client's own command
	safe   bool     // it changes nothing, and may be asked again
	answer answerer // nil: its reply is the client's
}

// administer treats the commands that speak of all clients, or of the limits they are under.
func (s *session) administer(c command) bool {
	if c.row.how == configSet && !onlyOurs(c) {
		return s.onNewPin(c)
	}
	link := s.lane()
	if link == nil {
		return false
	}
	s.ask(c, link)
	return true
}

// ask asks the upstream on a link. What follows is read when the client has been answered.
func (s *session) ask(c command, link *multiplex.Link) {
	q := s.questionFor(c, link)
	raw := q.raw
	if raw == nil {
		raw = c.Bytes()
	}
	safe := multiplex.Flags(0)
	if q.safe {
		safe = multiplex.Safe
	}
	s.submitRaw(link, raw, safe, s.collectLater(q.answer))
	s.bar()
}

func (s *session) questionFor(c command, link *multiplex.Link) question {
	switch c.row.how {
	case clientList:
		return s.listClients(c, link)
	case clientKill:
		return s.killClients(c)
	case clientUnblock:
		return s.unblockClient(c)
	case info:
		return s.infoQuestion(c)
	case pubsubNumSub:
		return question{safe: true, answer: atOnce(s.numSub(c))}
	case configGet:
		return question{safe: true, answer: atOnce(s.w.srv.configReply)}
	case configSet:
		return s.configQuestion(c)
	case configResetStat:
		return question{answer: atOnce(s.w.srv.resetStat)}
	}
	panic("bug: no question for " + c.row.name)
}

// collectLater returns a Special that has answer make the client's reply; nil: it is the upstream's.
func (s *session) collectLater(answer answerer) *multiplex.Special {
	if answer == nil {
		answer = func(reply []byte, done func([]byte)) { done(reply) }
	}
	muted := s.replyOff || s.skipNext
	return &multiplex.Special{Collect: true, Done: func(reply []byte) {
		wasOff := s.replyOff
		answer(reply, func(reply []byte) {
			if muted && !(wasOff && !s.replyOff) { // CLIENT REPLY ON itself is answered
				reply = nil
			}
			s.Reply(reply, 1)
			if s.killed {
				s.leave()
			}
		})
	}}
}
