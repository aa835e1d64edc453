package proxy

import (
	"bytes"
	"errors"
	"strconv"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// recalled is a command that blocks and is taken back from the upstream, because the operator pauses everybody.
type recalled struct {
	raw      []byte
	due      time.Time // when its time is up; zero: never
	reply    []byte    // what the client is told then; nil: the command has not come back yet
	timer    *eventloop.Timer
	asked    time.Time // when the order to unblock was given last
	refusals int       // 0: the proxy's user gives it; 1: the client's own, as the other may not; 2: neither may
}

// takenBack returns the session's command that is taken back; nil: there is none.
func (s *session) takenBack() *recalled {
	if s.front == nil {
		return nil
	}
	return s.front.recalled
}

// askAgainAfter is how long a command is given to come back. Then the order has overtaken it, or been lost.
const askAgainAfter = 50 * time.Millisecond

// recall takes back the command that the session blocks in. It reports false if that is not possible. The order to unblock
// may overtake the command, so it is given again as often as recall is called. By the time that it comes, the command may be
// over: so the connection is nobody else's from then on.
func (s *session) recall() bool {
	link := s.pin.link
	id, known := upstreamID(link)
	if !known || s.eof {
		return false
	}
	r := s.takenBack()
	if r == nil {
		raw, ok := link.Sole()
		if !ok {
			return false
		}
		at, unit := blockingTime(raw)
		if at == 0 {
			return false
		}
		r = &recalled{raw: bytes.Clone(raw)}
		if n := argument(raw, at); n > 0 {
			r.due = s.w.loop.Now().Add(time.Duration(n*float64(unit)) - (s.w.clock() - s.used))
		}
		s.ahead().recalled, s.pin.once = r, true
		link.Recall(func(reply []byte, was *multiplex.Special) { s.cameBack(r, reply, was) })
	}
	if now := s.w.loop.Now(); r.refusals < 2 && now.Sub(r.asked) >= askAgainAfter {
		r.asked = now
		s.orderBack(r, id)
	}
	s.weigh()
	return r.refusals < 2
}

// orderBack gives the order to unblock the session's connection.
func (s *session) orderBack(r *recalled, id int64) {
	as, asked := s.w.cfg.Upstream.Actor(), r.refusals
	if asked > 0 {
		as = s.actor()
	}
	order := resp.AppendCommand(nil, "CLIENT", "UNBLOCK", strconv.FormatInt(id, 10))
	s.w.control.Do(as, order, func(reply []byte, err error) {
		if mayNot(reply, err) {
			s.w.loop.Post(func() { r.refusals, r.asked = max(r.refusals, asked+1), time.Time{} })
		}
	})
}

// mayNot reports whether the upstream has not carried out a command because of whom it was to be run as.
func mayNot(reply []byte, err error) bool {
	var refused *multiplex.ReplyError
	return errors.As(err, &refused) || bytes.HasPrefix(reply, []byte("-NOAUTH")) || bytes.HasPrefix(reply, []byte("-NOPERM"))
}

// cameBack receives the reply to a command that is taken back. It may be a true one, which is the client's.
func (s *session) cameBack(r *recalled, reply []byte, was *multiplex.Special) {
	if s.state == gone {
		return
	}
	if !isNothing(reply) || s.eof || !r.due.IsZero() && !s.w.loop.Now().Before(r.due) {
		s.forgetRecalled()
		s.Reply(reply, 1)
		if was != nil {
			was.Done(reply[:min(len(reply), len(forced))])
		}
		return
	}
	r.reply = bytes.Clone(reply)
	s.inFlight, s.inFlightBytes = 0, 0
	s.releasePin()
	s.state = paused
	s.recount()
	if !s.w.held { // the pause is over already
		s.resend()
	} else if !r.due.IsZero() {
		r.timer = s.w.loop.AfterFunc(time.Until(r.due), s.timeIsUp)
	}
}

// resend has a command that was taken back come again, in front of what the client has sent since, for the rest of its
// time.
func (s *session) resend() {
	r := s.takenBack()
	s.dropRecalled()
	raw := r.raw
	if !r.due.IsZero() {
		raw = withBlockingTime(raw, max(time.Until(r.due), time.Millisecond))
	}
	s.in = append(raw, s.in...)
	s.commands-- // it is counted again
	s.unpaused()
}

// timeIsUp answers a command that was taken back, and whose time has passed during the pause.
func (s *session) timeIsUp() {
	reply := s.takenBack().reply
	s.forgetRecalled()
	s.write(reply)
	s.unpaused()
}

// dropRecalled ends that a command is taken back: it comes again, or its client goes.
func (s *session) dropRecalled() {
	if r := s.takenBack(); r != nil {
		r.timer.Stop()
		s.forgetRecalled()
	}
}

func (s *session) forgetRecalled() {
	s.front.recalled = nil
	s.weigh()
}

// isNothing reports whether a reply says that the time of a command that blocks was up; or that it was unblocked.
func isNothing(reply []byte) bool {
	switch string(reply) {
	case "*-1\r\n", "$-1\r\n", "_\r\n":
		return true
	}
	return false
}

// blockingTime returns which argument of a command is how long it blocks, and in what unit; 0: it cannot be sent again.
// XREAD from $ cannot: it is told what comes after it was sent first.
func blockingTime(raw []byte) (at int, unit time.Duration) {
	var r resp.Reader
	if n, err := r.Next(raw); err != nil || n == 0 {
		return 0, 0
	}
	c := command{Reader: &r}
	var buf [maxName]byte
	switch string(upper(buf[:0], r.Arg(0))) {
	case "BLPOP", "BRPOP", "BZPOPMIN", "BZPOPMAX", "BRPOPLPUSH", "BLMOVE":
		return r.Len() - 1, time.Second
	case "BLMPOP", "BZMPOP":
		return 1, time.Second
	case "XREAD", "XREADGROUP":
		if at := blockOptionOf(c); at > 0 && !mentions(c, "$") && !mentions(c, "+") {
			return at, time.Millisecond
		}
	}
	return 0, 0
}

// blockOptionOf returns which argument of XREAD or XREADGROUP is how long it blocks; 0: it does not. The names of a group, its
// consumer and streams may be any word.
func blockOptionOf(c command) int {
	for i := 1; i < c.Len()-1 && !isWord(c.Arg(i), "STREAMS"); i++ {
		switch {
		case isWord(c.Arg(i), "GROUP"):
			i += 2
		case isWord(c.Arg(i), "BLOCK"):
			return i + 1
		}
	}
	return 0
}

// argument returns an argument of a command as a number; 0 if it is none.
func argument(raw []byte, at int) float64 {
	var r resp.Reader
	if n, err := r.Next(raw); err != nil || n == 0 {
		return 0
	}
	n, _ := strconv.ParseFloat(string(r.Arg(at)), 64)
	return n
}

// withBlockingTime returns a command with another time to block.
func withBlockingTime(raw []byte, left time.Duration) []byte {
	at, unit := blockingTime(raw)
	var r resp.Reader
	_, _ = r.Next(raw) // it has been read before
	args := make([][]byte, r.Len())
	for i := range args {
		args[i] = r.Arg(i)
	}
	if unit == time.Millisecond {
		args[at] = strconv.AppendInt(nil, left.Milliseconds(), 10)
	} else {
		args[at] = strconv.AppendFloat(nil, left.Seconds(), 'f', 3, 64)
	}
	return resp.AppendCommand(nil, args...)
}
