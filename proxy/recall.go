package proxy

import (
	"bytes"
	"strconv"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// recalled is a command that blocks and is taken back from the upstream, because the operator pauses everybody.
type recalled struct {
	raw   []byte
	due   time.Time // when its time is up; zero: never
	reply []byte    // what the client is told then; nil: the command has not come back yet
	timer *eventloop.Timer
	asked time.Time // when the order to unblock was given last
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
	if s.recalled == nil {
		raw, ok := link.Sole()
		if !ok {
			return false
		}
		at, unit := blockingTime(raw)
		if at == 0 {
			return false
		}
		r := &recalled{raw: bytes.Clone(raw)}
		if n := argument(raw, at); n > 0 {
			r.due = s.w.loop.Now().Add(time.Duration(n*float64(unit)) - (s.w.clock() - s.used))
		}
		s.recalled, s.pin.once = r, true
		link.Recall(func(reply []byte, was *multiplex.Special) { s.cameBack(r, reply, was) })
	}
	if now := s.w.loop.Now(); now.Sub(s.recalled.asked) >= askAgainAfter {
		s.recalled.asked = now
		order := resp.AppendCommand(nil, "CLIENT", "UNBLOCK", strconv.FormatInt(id, 10))
		s.w.control.Do(s.w.cfg.Upstream.Actor(), order, func([]byte, error) {})
	}
	return true
}

// cameBack receives the reply to a command that is taken back. It may be a true one, which is the client's.
func (s *session) cameBack(r *recalled, reply []byte, was *multiplex.Special) {
	if s.state == gone {
		return
	}
	if !isNothing(reply) || s.eof || !r.due.IsZero() && !s.w.loop.Now().Before(r.due) {
		s.recalled = nil
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
	r := s.recalled
	r.timer.Stop()
	s.recalled = nil
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
	reply := s.recalled.reply
	s.recalled = nil
	s.write(reply)
	s.unpaused()
}

// dropRecalled gives up a command that was taken back: its client goes.
func (s *session) dropRecalled() {
	if s.recalled != nil {
		s.recalled.timer.Stop()
		s.recalled = nil
	}
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
		for i := 1; i < r.Len()-1; i++ {
			if isWord(r.Arg(i), "BLOCK") && !mentions(c, "$") && !mentions(c, "+") {
				return i + 1, time.Millisecond
			}
		}
	}
	return 0, 0
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
