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
	pace    multiplex.Flags  // how soon EXEC is answered: see treatment.pace
	sticky  bool             // once it has been executed, state will be left that we do not follow
	answers map[int]answerer // what makes the client's reply of the upstream's, by place in the queue
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
	case subscribe, relay, clientReply:
		// They break the shape of EXEC's reply: it cannot be told any more where a reply ends.
		return s.startRelay(c)
	case console:
		return s.spoil(noConsoleInTransaction)
	case configSet:
		if len(parseConfigSet(c).ours) > 0 {
			return s.spoil(refusedInTransaction)
		}
	case tracking:
		if at, _ := redirectTarget(c); at > 0 {
			return s.spoil(noRedirectInTransaction)
		}
	}
	raw, answer, sticky := s.queue(c)
	sp := &multiplex.Special{Done: func(head []byte) {
		if p.tx != nil && bytes.HasPrefix(head, []byte("+QUEUED")) {
			p.tx.add(answer, sticky)
		}
	}}
	if raw != nil {
		s.submitRaw(p.link, raw, 0, sp)
		return true
	}
	c.row = transactionRow
	s.submit(p.link, c, sp)
	return true
}

// noRedirectInTransaction is what CLIENT TRACKING with REDIRECT is told between MULTI and EXEC: the connection that the
// upstream is to tell has to be opened first.
const noRedirectInTransaction = "-ERR CLIENT TRACKING with REDIRECT is not possible in a transaction\r\n"

// spoil answers a command that cannot be in a transaction. The upstream gets one that is wrong, so that it refuses the
// transaction.
func (s *session) spoil(text string) bool {
	s.submitRaw(s.pin.link, resp.AppendCommand(nil, "GET"), multiplex.Safe, s.collect(func([]byte) []byte { return []byte(text) }))
	return true
}

// queue says how a command is sent between MULTI and EXEC: as what, if not as it is; what becomes of its reply; and
// whether it leaves state behind.
func (s *session) queue(c command) (raw []byte, answer answerer, sticky bool) {
	s.pin.tx.slow(c.row.how)
	switch c.row.how {
	case share:
		if change := s.reached(c); c.row.publishes && change != nil {
			answer = atOnce(change)
		}
	case read, block, blockOption, waitAcks, flush, own, control, multi, watch, unwatch, exec, discard, reset, configSet:
	case info, configGet, configResetStat, clientList, clientKill, clientUnblock, pubsubNumSub:
		q := s.questionFor(c, s.pin.link)
		raw, answer = q.raw, q.answer
	case script, once:
		s.pin.once = true
	case reload:
		answer = atOnce(func(reply []byte) []byte { s.w.reloaded(reply); return reply })
	case clientID, clientInfo, clientSetName, clientGetName, clientSetInfo, clientNoEvict, clientMaint:
		var change func([]byte) []byte
		raw, change = s.twin(c, s.pin.link)
		answer = atOnce(change)
	case clientRedirect:
		answer = atOnce(s.pin.redirectReply)
	case clientPause:
		answer = atOnce(s.pauseAnswer(c))
	case hello:
		answer, sticky = atOnce(s.helloOnPin(c)), true
	default:
		sticky = c.row.how != selectDB
		follow := s.pin.follow(c)
		answer = atOnce(func(reply []byte) []byte {
			if !isErrorReply(reply) {
				follow()
			}
			return reply
		})
	}
	return raw, answer, sticky
}

// slow takes note of a command that may keep EXEC from being answered at once. One that may block does not, in a
// transaction.
func (t *transaction) slow(how treatment) {
	if pace := how.pace(); pace == multiplex.Long || how == unknown && t.pace != multiplex.Long {
		t.pace = pace
	}
}

func (t *transaction) add(answer answerer, sticky bool) {
	if answer != nil {
		if t.answers == nil {
			t.answers = map[int]answerer{}
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
		sp = s.collectLater(func(reply []byte, done func([]byte)) {
			p.watching = p.watching && !transactionOver(reply) // EXEC ends that before anything else
			p.tx.answer(reply, func(answer []byte) {
				over(reply)
				done(answer)
			})
		})
	}
	s.submit(p.link, c, sp)
	s.bar()
}

// answer puts the client's own answers into the reply to EXEC, one after the other, and hands it to done.
func (t *transaction) answer(reply []byte, done func([]byte)) {
	header, rest, ok := bytes.Cut(reply, []byte("\r\n"))
	if len(t.answers) == 0 || !ok || len(header) == 0 || header[0] != '*' {
		done(reply)
		return
	}
	out := append(append([]byte(nil), header...), '\r', '\n')
	var f resp.Framer
	var next func()
	i := 0
	next = func() {
		for ; len(rest) > 0; i++ {
			n, _, err := f.Next(rest)
			if err != nil {
				done(reply)
				return
			}
			element := rest[:n]
			rest = rest[n:]
			answer := t.answers[i]
			if answer == nil {
				out = append(out, element...)
				continue
			}
			// Most answers are there at once. To go on from within each would take a stack as deep as the transaction is long.
			here, late := false, false
			answer(element, func(changed []byte) {
				out = append(out, changed...)
				if here = true; late {
					i++
					next()
				}
			})
			if !here {
				late = true
				return
			}
		}
		done(out)
	}
	next()
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
