package proxy

import (
	"bytes"
	"net/netip"
	"strings"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// At the door: clients that knock are let in, wait, or are refused, as the gate says. What one that waits has written
// already is kept, and is the first thing its session hears.

// caller is a client at the door.
type caller struct {
	in     eventloop.Incoming
	ids    limits.Identities
	remote string // its address, as CLIENT LIST shows it

	onHost  bool          // a TCP client of this host, whose process may be found
	process *peer.Process // where it is known already; or nil

	// The two ends of such a client's connection. They are asked for before it is attached, and only if they are needed:
	// most who are refused cost as little as can be.
	local, peer netip.AddrPort

	byCert    bool // it is to act as certUser
	certUser  string
	certified bool // it has shown a TLS certificate, which is good
	outsider  bool // protected mode refuses it, whoever it says that it is
}

// ends finds the ends of the caller's connection.
func (c *caller) ends() {
	if c.onHost {
		c.local, c.peer = c.in.Addrs()
	}
}

// call returns what is known of a client that has said nothing.
func (s *Server) call(in eventloop.Incoming, listener string) caller {
	c := caller{in: in, remote: in.Remote()}
	c.ids[limits.ByListener], c.ids[limits.ByUser] = listener, s.cfg.Upstream.User()
	if !strings.HasPrefix(listener, "unix:") {
		c.ids[limits.ByAddr] = hostOf(c.remote)
		c.onHost = isLocal(c.remote)
		return c
	}
	c.ids[limits.ByAddr] = strings.TrimSuffix(c.remote, ":0")
	if c.process = s.processOf(in.PeerPID()); c.process != nil {
		identifyProcess(&c.ids, c.process)
	}
	return c
}

// knock decides on a new client. It runs on the first worker's loop, and hands the client to w. C is valid during the call
// only.
func (s *Server) knock(w *worker, c *caller) {
	now := s.workers[0].loop.Now()
	t := s.gate.Admit(&c.ids, nil, now)
	switch t.State() {
	case limits.Admitted:
		s.tellObserved(t, c.remote)
		c.ends()
		s.keepAliveOf(c.in)
		if w == s.workers[0] {
			w.admit(c, t)
			break
		}
		mine := *c
		if !s.hand(w, func() { w.admit(&mine, t) }, c.in) {
			t.Leave(now)
		}
	case limits.Waiting:
		c.ends()
		d := &door{w: w, caller: *c, ticket: t}
		t.Hold(d) // what has been decided meanwhile, open finds out
		s.keepAliveOf(c.in)
		if !s.hand(w, d.open, c.in) {
			t.Leave(now)
		}
		s.attend()
	default:
		s.tellRefused(t, c)
		t.Discard(now)
		if w == s.workers[0] {
			w.refuse(c, replyFull)
			break
		}
		mine := *c
		s.hand(w, func() { w.refuse(&mine, replyFull) }, c.in)
	}
}

// knockWith decides on a client whose connection is on w's loop already. Heard is what it has said.
func (s *Server) knockWith(w *worker, c caller, conn *eventloop.Conn, heard []byte) {
	if text := s.turnsAway(&c); text != nil {
		w.refuseConn(conn, &c, text, heard)
		return
	}
	d := &door{w: w, caller: c, conn: conn, heard: heard}
	now := w.loop.Now()
	d.ticket = s.gate.Admit(&c.ids, d, now)
	// Whoever leaves on another loop may have had it decided since Admit, which Decided tells as well: the state that is seen
	// here is the one that counts, and a door that does not wait is closed.
	state := d.ticket.State()
	d.closed = state != limits.Waiting
	switch state {
	case limits.Admitted:
		s.tellObserved(d.ticket, c.remote)
		w.admitLate(conn, &c, d.ticket, heard)
	case limits.Waiting:
		conn.SetHandler(d)
		d.wait()
		s.workers[0].loop.Post(s.attend)
	default:
		s.tellRefused(d.ticket, &c)
		d.ticket.Leave(now)
		w.refuseConn(conn, &c, replyFull, heard)
	}
}

// door is a client that waits to be let in. It implements eventloop.Handler and limits.Holder.
type door struct {
	caller

	// Static after open.
	w      *worker
	ticket *limits.Ticket

	// Owned by the loop.
	conn   *eventloop.Conn
	heard  []byte
	closed bool // somebody else has the connection
	peek   peek
}

// open has the client wait on its loop.
func (d *door) open() {
	conn, err := d.w.loop.AttachAside(d.in, d)
	if err != nil {
		d.ticket.Leave(d.w.loop.Now())
		return
	}
	d.conn = conn
	d.wait()
}

func (d *door) wait() {
	d.w.waiting[d] = struct{}{}
	if d.w.draining || d.w.stopping || d.ticket.State() != limits.Waiting { // it has been decided on meanwhile
		d.decided()
	}
}

// Decided implements limits.Holder.
func (d *door) Decided(*limits.Ticket) { d.w.loop.PostAside(d.decided) }

// decided lets the client in, or refuses it.
func (d *door) decided() {
	if d.closed || d.conn == nil {
		return
	}
	switch {
	case d.w.draining, d.w.stopping:
		d.turnedAway()
	case d.ticket.State() == limits.Admitted:
		d.end()
		d.w.srv.tellObserved(d.ticket, d.remote)
		d.w.admitLate(d.conn, &d.caller, d.ticket, d.heard)
	case d.ticket.State() == limits.Refused:
		d.turnAway()
	}
}

// turnedAway ends the wait of a client that has hung up, or that nobody is going to let in any more.
func (d *door) turnedAway() {
	d.w.srv.gate.CountRefusal()
	d.leave()
	_, _ = d.conn.Write(replyFull) // fits the socket's buffer; and the client may be gone
	d.conn.Close()
}

// turnAway tells the client that there is no place for it.
func (d *door) turnAway() {
	d.w.srv.tellRefused(d.ticket, &d.caller)
	d.leave()
	d.conn.ResumeRead()
	d.w.refuseConn(d.conn, &d.caller, replyFull, d.heard)
}

func (d *door) end() {
	d.closed = true
	delete(d.w.waiting, d)
}

func (d *door) leave() {
	d.end()
	d.ticket.Leave(d.w.loop.Now())
}

// Data implements eventloop.Handler: what the client says is kept until it is let in.
func (d *door) Data(b []byte) {
	d.heard = append(d.heard, b...)
	if len(d.heard) > waitingInput {
		d.conn.PauseRead()
	}
	d.peek.at(d.w, d.heard, &d.caller, d.recognised, func() {})
}

// recognised is called with the ticket of a client that has shown who it is, and has a place reserved.
func (d *door) recognised(t *limits.Ticket) bool {
	if d.closed {
		return false
	}
	d.ticket.Leave(d.w.loop.Now())
	d.ticket = t
	d.end()
	d.w.admitLate(d.conn, &d.caller, t, d.heard)
	return true
}

// EOF implements eventloop.Handler. A client that has hung up gives up its place in the queue. It is told why, as it may
// have closed its sending side alone.
func (d *door) EOF() { d.turnedAway() }

// HungUp implements eventloop.Handler.
func (d *door) HungUp() {
	d.w.srv.gate.CountRefusal()
	d.leave()
	d.conn.Close()
}

// Writable implements eventloop.Handler.
func (d *door) Writable() {}

// Failed implements eventloop.Handler.
func (d *door) Failed(error) {
	d.w.srv.gate.CountRefusal()
	d.leave()
}

// peek looks at what a client says before it is let in, where places are reserved for some: AUTH, HELLO and CLIENT
// SETNAME tell who it is. A password is checked by the upstream, as always. Nothing is consumed: the session reads it all
// again.
type peek struct {
	reader   resp.Reader
	checking bool
	checked  int // how far the input has been looked at
	idle     bool
}

// at looks on. Recognised gets the ticket of a client for whom there is a place, and reports whether it takes it.
// Otherwise is called if it turns out, after the upstream has been asked, that there is none.
func (p *peek) at(w *worker, heard []byte, c *caller, recognised func(*limits.Ticket) bool, otherwise func()) {
	if p.checking || p.idle || c.outsider || !w.srv.gate.Reserves() {
		return
	}
	ids := c.ids
	for {
		n, err := p.reader.Next(heard[p.checked:])
		if err != nil || n == 0 {
			p.reader.Reset()
			return
		}
		claim, ok := claimOf(&p.reader)
		if !ok {
			p.idle = true // from here on it is no introduction
			return
		}
		p.checked += n
		if claim.name != nil {
			c.ids[limits.ByName] = *claim.name
		}
		if claim.auth != nil {
			p.check(w, claim, c, func() {
				if !p.enter(w, c, recognised) {
					otherwise()
				}
			})
			return
		}
		if c.ids != ids && p.enter(w, c, recognised) {
			return
		}
	}
}

// check has the upstream check credentials, and then goes on.
func (p *peek) check(w *worker, claim claim, c *caller, then func()) {
	p.checking = w.checkFor(guessOf(&c.ids, claim.user), claim.auth, func(reply []byte, err error) {
		p.checking = false
		if err == nil && !isErrorReply(reply) {
			c.ids[limits.ByUser] = claim.user
		}
		then()
	})
}

// enter lets the client in if it has a place.
func (p *peek) enter(w *worker, c *caller, recognised func(*limits.Ticket) bool) bool {
	t := w.srv.gate.AdmitAtOnce(&c.ids, w.loop.Now())
	if t == nil {
		return false
	}
	if recognised(t) {
		p.idle = true
		return true
	}
	t.Leave(w.loop.Now())
	return false
}

// claim is what a command says of its client.
type claim struct {
	auth []byte // AUTH, or HELLO with AUTH, to be checked; or nil
	user string
	name *string
}

// claimOf reports whether a command belongs to a client's introduction, and what it says.
func claimOf(r *resp.Reader) (c claim, ok bool) {
	switch {
	case r.Len() == 0:
		return c, true
	case isWord(r.Arg(0), "AUTH") && (r.Len() == 2 || r.Len() == 3):
		c.auth, c.user = bytes.Clone(r.Bytes()), "default"
		if r.Len() == 3 {
			c.user = string(r.Arg(1))
		}
		return c, true
	case isWord(r.Arg(0), "HELLO"):
		h, ok := parseHello(command{Reader: r})
		if h.auth {
			c.auth, c.user = bytes.Clone(r.Bytes()), h.user
		}
		c.name = h.name
		return c, ok
	case isWord(r.Arg(0), "CLIENT") && r.Len() == 3 && isWord(r.Arg(1), "SETNAME"):
		name := string(r.Arg(2))
		c.name = &name
		return c, validName(r.Arg(2))
	case isWord(r.Arg(0), "CLIENT") && r.Len() > 1 && (isWord(r.Arg(1), "SETINFO") || isWord(r.Arg(1), "MAINT_NOTIFICATIONS")):
		return c, true
	case isWord(r.Arg(0), "SELECT"), isWord(r.Arg(0), "PING"):
		return c, true
	}
	return c, false
}
