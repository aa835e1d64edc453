package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// transaction is what has been queued between a MULTI and its EXEC on a pin: a transaction that was not in hand as a
// whole, or that has state in its body.
type transaction struct {
	queued  int
	sticky  bool                        // once it has been executed, state will be left that we do not follow
	answers map[int]func([]byte) []byte // what makes the client's reply of the upstream's, by place in the queue
}

// inTransaction treats a command between MULTI and EXEC.
func (s *session) inTransaction(c command) bool {
	p := s.pin
	switch c.row.how {
	case exec, discard:
		if c.Len() == 1 {
			s.endTransaction(c)
			return true
		}
	case subscribe, auth, relay, clientReply:
		// They break the shape of EXEC's reply: it cannot be told any more where a reply ends.
		return s.startRelay(c)
	case hello:
		if mentions(c, "AUTH") {
			return s.startRelay(c)
		}
	}
	raw, answer, sticky := s.queue(c)
	sp := &multiplex.Special{Done: func(head []byte) {
		if p.tx != nil && bytes.HasPrefix(head, []byte("+QUEUED")) {
			p.tx.add(answer, sticky)
		}
	}}
	if raw != nil {
		p.link.SubmitSpecial(s, raw, s.mute(), sp)
		s.inFlight++
		return true
	}
	c.row = transactionRow
	s.submit(p.link, c, sp)
	return true
}

// queue says how a command is sent between MULTI and EXEC: as what, if not as it is; what becomes of its reply; and
// whether it leaves state behind.
func (s *session) queue(c command) (raw []byte, answer func([]byte) []byte, sticky bool) {
	switch c.row.how {
	case read, share, block, blockOption, waitAcks, flush, own, control, multi, watch, unwatch, exec, discard, reset:
	case script, once:
		s.pin.once = true
	case reload:
		answer = func(reply []byte) []byte { s.w.reloaded(reply); return reply }
	case clientID, clientInfo, clientSetName, clientGetName, clientSetInfo, clientNoEvict, clientMaint:
		raw, answer = s.twin(c, s.pin.link)
	case clientPause:
		answer = s.pauseAnswer(c)
	case hello:
		answer, sticky = s.helloOnPin(c), true
	default:
		sticky = true
	}
	return raw, answer, sticky
}

func (t *transaction) add(answer func([]byte) []byte, sticky bool) {
	if answer != nil {
		if t.answers == nil {
			t.answers = map[int]func([]byte) []byte{}
		}
		t.answers[t.queued] = answer
	}
	t.queued++
	t.sticky = t.sticky || sticky
}

// endTransaction sends EXEC or DISCARD. What follows is read when it has been answered.
func (s *session) endTransaction(c command) {
	p := s.pin
	over := func(head []byte) {
		if !transactionOver(head) {
			return
		}
		executed := c.row.how == exec && head[0] == '*' && !bytes.HasPrefix(head, []byte("*-1"))
		p.sticky = p.sticky || executed && p.tx.sticky
		p.tx, p.watching = nil, false
	}
	sp := &multiplex.Special{Done: over}
	// The replies to what was queued are in by the time that EXEC's is, not before.
	if s.inFlight > 0 || len(p.tx.answers) > 0 {
		sp = s.collect(func(reply []byte) []byte {
			tx := p.tx
			over(reply)
			return tx.answer(reply)
		})
	}
	s.submit(p.link, c, sp)
	s.bar()
}

// answer puts the client's own answers into the reply to EXEC.
func (t *transaction) answer(reply []byte) []byte {
	header, rest, ok := bytes.Cut(reply, []byte("\r\n"))
	if len(t.answers) == 0 || !ok || len(header) == 0 || header[0] != '*' {
		return reply
	}
	out := append(append([]byte(nil), header...), '\r', '\n')
	var f resp.Framer
	for i := 0; len(rest) > 0; i++ {
		n, _, err := f.Next(rest)
		if err != nil {
			return reply
		}
		element := rest[:n]
		if change := t.answers[i]; change != nil {
			element = change(element)
		}
		out, rest = append(out, element...), rest[n:]
	}
	return out
}

// mentions reports whether a word, which is in upper case, is among the arguments.
func mentions(c command, word string) bool {
	for i := 1; i < c.Len(); i++ {
		if isWord(c.Arg(i), word) {
			return true
		}
	}
	return false
}
