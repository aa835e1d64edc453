package proxy

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A command that CLIENT PAUSE has the upstream put off holds up everything behind it on its lane, other clients' reads
// as well. So what the pause would put off stays here until it ends. The pause itself is the upstream's business: it
// gets the command, as the client's user, and what it says counts.
//
// A pause that was set past the proxy is not known here: the lanes wait, and nothing is lost.

// pause is a pause in force. As in Redis, the longest and the strictest win (networking.c: pauseClients).
type pause struct {
	until time.Time
	all   bool // commands that only read are put off too
	hush  bool // it is about to begin
	timer *eventloop.Timer
}

// onPause treats CLIENT PAUSE and CLIENT UNPAUSE.
func (s *session) onPause(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	as, w := s.actor(), s.w
	raw, effect, writes := bytes.Clone(c.Bytes()), w.pauseEffect(c), c.Len() == 4 && isWord(c.Arg(3), "WRITE")
	s.await(func(done func([]byte, error)) bool {
		run := func() bool {
			return w.control.Do(as, raw, func(reply []byte, err error) {
				if err == nil {
					effect(reply) // here, so that the order is the upstream's, and before anybody knows
				}
				w.srv.onAll((*worker).endHush)
				done(reply, err)
			})
		}
		if !writes {
			return run()
		}
		return w.control.Do(as, mayPause, func(reply []byte, err error) {
			switch {
			case err != nil && !errors.Is(err, multiplex.ErrLost): // it was nothing of the client's that was lost
				done(nil, err)
				return
			case bytes.HasPrefix(reply, []byte("-ERR timeout")):
				w.hush()
			}
			if !run() {
				w.srv.onAll((*worker).endHush)
				done(nil, errFull)
			}
		})
	}, func(reply []byte, err error) { s.controlled(reply, err, nil) })
	return true
}

// mayPause finds out whether a user may use CLIENT PAUSE: then it is the argument that is wrong.
var mayPause = resp.AppendCommand(nil, "CLIENT", "PAUSE", "?", "WRITE")

const (
	// hushTime is how long CLIENT PAUSE WRITE waits for writes that are in flight.
	hushTime = 100 * time.Millisecond
	// hushLimit bounds the time that writes are held back for a pause that does not come.
	hushLimit = time.Second
)

// hush has writes held back on all loops, and waits until those in flight have been answered: the pause would overtake
// them, and the reads behind them would wait for its end. Only for a user who may pause everybody anyway. It is for the
// control connection's goroutine.
func (w *worker) hush() {
	w.srv.onAll((*worker).beginHush).Wait()
	for end := time.Now().Add(hushTime); time.Now().Before(end); time.Sleep(time.Millisecond / 4) {
		var writing atomic.Bool
		w.srv.onAll(func(w *worker) {
			if w.pool.Writing() {
				writing.Store(true)
			}
		}).Wait()
		if !writing.Load() {
			return
		}
	}
}

func (w *worker) beginHush() {
	if w.pause == nil {
		w.pause = &pause{hush: true, timer: w.loop.AfterFunc(hushLimit, w.unpause)}
	}
}

func (w *worker) endHush() {
	if w.pause != nil && w.pause.hush {
		w.unpause()
	}
}

// pauseEffect returns what CLIENT PAUSE or UNPAUSE does to the clients of all loops, given the upstream's reply. It has
// done so when it returns, and is for the control connection's goroutine, which ends before the loops do.
func (w *worker) pauseEffect(c command) func(reply []byte) {
	change := pauseChange(c)
	return func(reply []byte) {
		if bytes.Equal(reply, replyOK) {
			w.srv.onAll(change()).Wait()
		}
	}
}

// pauseAnswer is pauseEffect for a reply that comes on a pin. It takes effect here before the client has it.
func (s *session) pauseAnswer(c command) func(reply []byte) []byte {
	change := pauseChange(c)
	return func(reply []byte) []byte {
		if bytes.Equal(reply, replyOK) {
			f := change()
			f(s.w)
			s.w.srv.onAll(f)
		}
		return reply
	}
}

// pauseChange returns what CLIENT PAUSE or UNPAUSE changes on each loop, from the time of the call on.
func pauseChange(c command) func() func(*worker) {
	if c.row.name == "CLIENT|UNPAUSE" {
		return func() func(*worker) { return (*worker).unpause }
	}
	var ms int64
	if c.Len() > 2 {
		ms, _ = resp.ParseInt(c.Arg(2))
	}
	length := time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)/2)) * time.Millisecond
	all := c.Len() < 4 || isWord(c.Arg(3), "ALL")
	return func() func(*worker) {
		until := time.Now().Add(length)
		return func(w *worker) { w.startPause(until, all) }
	}
}

// startPause has commands held back until a time: all of them, or those that may write.
func (w *worker) startPause(until time.Time, all bool) {
	if p := w.pause; p != nil {
		p.timer.Stop()
		all = all || p.all // a hush has neither
		if p.until.After(until) {
			until = p.until
		}
	}
	w.pause = &pause{until: until, all: all, timer: w.loop.AfterFunc(time.Until(until), w.unpause)}
	if !all {
		w.pool.Bypass() // what was on its way may have come too late
	}
}

// unpause has those that were held back go on.
func (w *worker) unpause() {
	if w.pause == nil {
		return
	}
	w.pause.timer.Stop()
	w.pause = nil
	for s := range w.all {
		s.unpaused()
	}
}

// holdBack holds a command back if the pauses that are in force say so: the operator's, or a client's. Rest is the input
// behind the command.
func (s *session) holdBack(c command, rest []byte) bool {
	if s.w.held && s.holds(c) || s.w.pause != nil && s.putsOff(c, rest) {
		s.state = paused
		return true
	}
	return false
}

// putsOff reports whether CLIENT PAUSE puts a command off. On a pin, the upstream does that: there it stalls nobody else.
func (s *session) putsOff(c command, rest []byte) bool {
	if c.row.how == console { // whoever looks into a pause is not to wait for its end
		return false
	}
	if s.pin != nil && (!c.row.interrupts() || s.pin.keepsControl()) {
		return false
	}
	return s.w.pause.all || s.mayWrite(c, rest)
}

// mayWrite reports whether a command is one that CLIENT PAUSE WRITE puts off, of those that go on a lane or block.
func (s *session) mayWrite(c command, rest []byte) bool {
	switch c.row.how {
	case multi:
		return s.wholeTransaction(c, rest).writes
	case own, once:
		return c.row.writes && s.isSubscribed() // then it is asked whether the client may, and the pause would hold up the answer
	}
	return c.row.stalls()
}

// stalls reports whether CLIENT PAUSE WRITE puts the command off on a lane, or may make it block longer.
func (r *row) stalls() bool {
	switch r.how {
	case read, share, script, block, blockOption, flush:
		return r.writes && !strings.HasSuffix(r.name, "_RO") // whether or not the upstream has said so
	}
	return false
}

// interrupts reports whether a command goes on the control connection.
func (r *row) interrupts() bool {
	return r.how == control || r.how == clientPause || r.how == clientUnblock
}

// keepsControl reports whether commands that interrupt others have to go on the pin: it says whom they act as, or that
// they have to wait for EXEC.
func (p *pin) keepsControl() bool { return p.tx != nil || p.stranger }
