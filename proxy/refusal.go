package proxy

import (
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

const (
	// A refusal waits this long for the client's first command, so that the text is a reply to it.
	refusalGrace = 500 * time.Millisecond
	// refusalTalk is how long a client that has begun with HELLO is answered.
	refusalTalk = 500 * time.Millisecond
	// lingerTime is how long a client that has been said goodbye to may go on sending, unheard.
	lingerTime = 250 * time.Millisecond
	// maxRefusals and maxLingering bound the connections a worker holds open for the sake of a last word. Beyond
	// them, it is text and close at once.
	maxRefusals  = 512
	maxLingering = 512
)

// Why clients are refused, as the log has it.
const (
	refusedFull      limits.Reason = "max number of clients reached"
	refusedProtected limits.Reason = "protected mode"
)

// refuse tells a client that it is not let in, and why, in a way that its library will show: the text is the reply to the
// client's first command, or comes after a short grace, and the connection is not closed under what the client
// still sends. (Redis writes at accept and closes; a client that writes before it reads gets a reset.) C is valid during the
// call only.
func (w *worker) refuse(c *caller, text []byte) {
	r := w.newRefusal(c, text)
	conn, err := w.loop.AttachAside(c.in, r)
	if err != nil {
		return
	}
	r.begin(conn)
}

// refuseConn does so with a client that has waited for a place, and has said something meanwhile.
func (w *worker) refuseConn(conn *eventloop.Conn, c *caller, text, heard []byte) {
	r := w.newRefusal(c, text)
	conn.SetHandler(r)
	if r.begin(conn) && len(heard) > 0 {
		r.Data(heard)
	}
}

// refusal is a client that was not let in and has not been told yet, or is being told. In a storm there are thousands a
// second: it is small.
type refusal struct {
	w     *worker
	text  []byte
	conn  *eventloop.Conn
	timer *eventloop.Timer
	hope  *hope // nil: there is none
	in    []byte
	gone  bool
	spoke bool     // has said HELLO, and is answered command by command
	next  *refusal // when it is spare
}

// hope is that a client that was not let in may turn out to be one for whom there is a place.
type hope struct {
	caller
	peek peek
}

func (w *worker) newRefusal(c *caller, text []byte) *refusal {
	r := w.spareRefusal
	if r == nil {
		r = &refusal{w: w}
		r.timer = w.loop.NewTimer(r.expired)
	} else {
		w.spareRefusal = r.next
		*r = refusal{w: w, timer: r.timer}
	}
	r.text = text
	if !c.outsider && w.srv.gate.Reserves() {
		r.hope = &hope{caller: *c}
	}
	return r
}

// begin waits for the client's first command, or reports false: it has been told at once, and closed.
func (r *refusal) begin(conn *eventloop.Conn) bool {
	r.conn = conn
	if r.w.refusals >= maxRefusals || r.w.stopping {
		_, _ = conn.Write(r.text) // fits the socket's buffer; and the client may be gone
		conn.Close()
		r.spare()
		return false
	}
	r.w.refusals++
	r.timer.Reset(refusalGrace)
	return true
}

// spare keeps a refusal whose connection has gone, or is somebody else's, for the next client. One with a hope may still be
// waited for by a check.
func (r *refusal) spare() {
	if r.hope == nil {
		r.next, r.w.spareRefusal = r.w.spareRefusal, r
	}
}

// expired is called when the client has not spoken in time, or has been talked to for long enough.
func (r *refusal) expired() {
	switch {
	case r.w.held && r.hope != nil && r.hope.peek.checking:
		r.timer.Reset(refusalGrace) // there may be a place for it after the pause
	case r.spoke:
		r.leave()
	default:
		r.tell()
	}
}

// tell writes the text and says goodbye.
func (r *refusal) tell() {
	r.end()
	if !r.w.startLinger(r.conn, r.text) {
		_, _ = r.conn.Write(r.text) // as in begin
		r.conn.Close()
	}
}

// leave says goodbye to a client that has been told.
func (r *refusal) leave() {
	r.end()
	if !r.w.startLinger(r.conn, nil) {
		r.conn.Close()
	}
}

func (r *refusal) end() {
	r.gone = true
	r.timer.Stop()
	r.w.refusals--
	r.spare()
}

// Data implements eventloop.Handler: the client has spoken. One that begins with HELLO is a library that takes the
// error for that of an old server, and goes on without HELLO: it shows only what it is told then. So each of its
// commands gets the text, for a while. All others get it once.
func (r *refusal) Data(b []byte) {
	if r.hope == nil && len(r.in) == 0 {
		if left := r.answerTo(b); len(left) > 0 {
			r.in = append(r.in, left...)
		}
		return
	}
	r.in = append(r.in, b...)
	if r.hope != nil {
		r.hope.peek.at(r.w, r.in, &r.hope.caller, r.recognised, r.answer)
	}
	switch {
	case r.gone:
	case r.hope == nil || !r.hope.peek.checking:
		r.answer()
	case len(r.in) > waitingInput:
		r.conn.PauseRead()
	}
}

// recognised makes a session of a client that has shown who it is, and has a place reserved. It reports false if the
// client has gone meanwhile.
func (r *refusal) recognised(t *limits.Ticket) bool {
	if r.gone {
		return false
	}
	r.end()
	r.w.admitLate(r.conn, &r.hope.caller, t, r.in)
	return true
}

// answer tells the client, at each command that it has sent.
func (r *refusal) answer() {
	if r.gone {
		return
	}
	r.conn.ResumeRead()
	if r.hope != nil {
		r.hope.peek.checked = 0 // what has been answered is not heard again
	}
	r.in = r.answerTo(r.in)
}

// answerTo tells the client at each of its commands, and returns what is left: the beginning of one.
func (r *refusal) answerTo(in []byte) []byte {
	reader := &r.w.scanner
	for len(in) > 0 {
		reader.Reset()
		n, err := reader.Next(in)
		switch {
		case err != nil || n == 0 && len(in) > waitingInput:
			r.tell()
			return nil
		case n == 0: // the rest may come in time
			return in
		case reader.Len() == 0:
		case !r.spoke && !isWord(reader.Arg(0), "HELLO"):
			r.tell()
			return nil
		default:
			if !r.spoke {
				r.spoke = true
				r.timer.Reset(refusalTalk)
			}
			if _, err := r.conn.Write(r.text); err != nil {
				r.end()
				r.conn.Close()
				return nil
			}
		}
		in = in[n:]
	}
	return nil
}

// EOF implements eventloop.Handler.
func (r *refusal) EOF() { r.expired() }

// HungUp implements eventloop.Handler.
func (r *refusal) HungUp() {}

// Writable implements eventloop.Handler.
func (r *refusal) Writable() {}

// Failed implements eventloop.Handler.
func (r *refusal) Failed(error) { r.end() }

// startLinger writes a last word, if there is one, shuts the write side of a connection, drops what still comes, and closes
// it when the peer has, or after lingerTime. It reports false, and has done nothing, if too many linger already.
func (w *worker) startLinger(conn *eventloop.Conn, word []byte) bool {
	if w.lingering >= maxLingering {
		return false
	}
	if err := conn.WriteLast(word); err != nil {
		conn.Close()
		return true
	}
	w.lingering++
	l := w.spareLingerer
	if l == nil {
		l = &lingerer{w: w}
		l.timer = w.loop.NewTimer(l.close)
	} else {
		w.spareLingerer = l.next
	}
	l.conn, l.next = conn, nil
	conn.SetHandler(l)
	conn.ResumeRead()
	l.timer.Reset(lingerTime)
	return true
}

// lingerer is a connection that has been told its last word.
type lingerer struct {
	w     *worker
	conn  *eventloop.Conn
	timer *eventloop.Timer
	next  *lingerer // when it is spare
}

func (l *lingerer) close() {
	l.conn.Close()
	l.Failed(nil)
}

// Data implements eventloop.Handler: nobody listens.
func (l *lingerer) Data([]byte) {}

// EOF implements eventloop.Handler.
func (l *lingerer) EOF() { l.close() }

// HungUp implements eventloop.Handler.
func (l *lingerer) HungUp() {}

// Writable implements eventloop.Handler.
func (l *lingerer) Writable() {}

// Failed implements eventloop.Handler.
func (l *lingerer) Failed(error) {
	l.timer.Stop()
	l.w.lingering--
	l.conn, l.next, l.w.spareLingerer = nil, l.w.spareLingerer, l
}
