package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// pin is the upstream connection that a session has for itself, and the state of the client that lives on it. The
// session gives it back as soon as there is none.
type pin struct {
	link     *multiplex.Link
	fresh    bool         // has not carried a command of this client
	tx       *transaction // between MULTI and EXEC
	watching bool         // WATCH is in force
	blocking bool         // the command in flight may wait for others
	sticky   bool         // there is state that we do not follow: until the client goes
	once     bool         // closed once it is given back
	stranger bool         // it acts as another user than the context says
	resp     uint8        // the protocol version that HELLO has set on it; 0: the context's
	selected bool         // db is what SELECT has set on it; otherwise it is the context's
	tracking trackingMode
	redirect redirection // of what tracking tells
	db       int
	watched  int // keys that WATCH has been given
}

func (s *session) takePin(link *multiplex.Link) {
	s.pin = &pin{link: link, fresh: true, sticky: s.ctx.Tracking} // it remembers what is read on it
	s.link = link
}

// releasePin gives the pin back if no state of the client is on it. The caller has made sure that nothing is in
// flight.
func (s *session) releasePin() {
	p := s.pin
	if p == nil || p.fresh || s.relaying {
		return
	}
	p.blocking = false
	if p.tx != nil || p.watching || p.sticky {
		return
	}
	s.pin, s.link = nil, nil
	if p.selected && p.db != s.ctx.DB {
		key := s.ctx.Key
		key.DB = p.db
		s.setContext(key)
	}
	if p.once {
		s.w.pool.DiscardPin(p.link)
	} else {
		s.w.pool.ReleasePin(p.link)
	}
	s.uncountPin()
}

// dropPin closes the pin, with whatever is on it.
func (s *session) dropPin() {
	if p := s.pin; p != nil {
		s.pin, s.link = nil, nil
		s.w.pool.DiscardPin(p.link)
	}
	s.uncountPin()
}

// onPin treats a command of a session that has a pin. Outside of a transaction, whatever may change the state of
// the connection goes alone: the next command is read when it has been answered.
func (s *session) onPin(c command) bool {
	p := s.pin
	switch c.row.how {
	case refuse:
		return s.refuse(c)
	case kill:
		s.close()
		return true
	case quit:
		return s.quit()
	case reset:
		if c.Len() == 1 {
			return s.reset()
		}
	}
	switch {
	case p.tx != nil:
		return s.inTransaction(c)
	case c.row.how == subscribe:
		return s.subscribe(c)
	}
	if c.row.how == console {
		return s.onConsole(c)
	}
	if c.row.interrupts() && !p.keepsControl() {
		return s.dispatchState(c)
	}
	if !c.row.plain() && s.inFlight > 0 {
		s.state = barred
		return false
	}
	fresh := p.fresh
	p.fresh = false
	switch c.row.how {
	case read, share:
		s.submit(p.link, c, nil)
		return true
	case clientID, clientInfo, clientSetName, clientGetName, clientSetInfo, clientNoEvict, clientReply, clientMaint:
		s.identify(c, p.link)
	case info, configGet, configSet, configResetStat, clientList, clientKill, clientUnblock, pubsubNumSub:
		s.ask(c, p.link)
	case relay:
		if !s.ctx.Unauthenticated() {
			return s.startRelay(c)
		}
		p.once = true // it will be refused; if not, the pin breaks
		s.submit(p.link, c, nil)
	case unknown:
		s.submit(p.link, c, &multiplex.Special{Done: func(head []byte) { p.sticky = p.sticky || !harmless(head) }})
	case multi:
		s.submit(p.link, c, &multiplex.Special{Done: func(head []byte) {
			if head[0] == '+' {
				p.tx = &transaction{pace: multiplex.Prompt}
			}
		}})
	case watch:
		keys := c.Len() - 1
		s.submit(p.link, c, &multiplex.Special{Done: func(head []byte) {
			if head[0] == '+' {
				if !p.watching {
					p.watched = 0
				}
				p.watching, p.watched = true, p.watched+keys
			}
		}})
	case unwatch:
		s.submit(p.link, c, &multiplex.Special{Done: func(head []byte) { p.watching = p.watching && head[0] != '+' }})
	case auth:
		p.once = p.once || fresh
		s.submit(p.link, c, &multiplex.Special{Done: s.authOnPin(c)})
	case hello:
		p.sticky = true
		s.submit(p.link, c, s.collect(s.helloOnPin(c)))
	case block, blockOption, waitAcks:
		if s.w.stopping { // it has waited for its pin until now
			s.flushAndClose()
			return true
		}
		p.blocking = true
		if c.row.how == waitAcks {
			s.submitWait(p.link, c, func() {})
		} else {
			s.submit(p.link, c, s.unlessForced(c))
		}
		if s.eof {
			s.cutOff()
		}
	case once, script:
		p.once = true
		s.submit(p.link, c, nil)
	case tracking:
		raw, to, ready := s.redirect(c)
		if !ready {
			p.fresh = fresh
			return false
		}
		p.once = p.once || fresh
		s.trackOnPin(c, raw, to)
	case clientRedirect:
		s.submit(p.link, c, s.collect(p.redirectReply))
	case own, control, exec, discard, flush:
		s.submit(p.link, c, nil)
	case reload:
		s.submit(p.link, c, &multiplex.Special{Done: s.w.reloaded})
	case clientPause:
		s.submit(p.link, c, s.collect(s.pauseAnswer(c)))
	default: // SELECT and others that change what the connection is, unless they are refused
		p.once = p.once || fresh
		follow := p.follow(c)
		s.submit(p.link, c, &multiplex.Special{Done: func(head []byte) {
			if head[0] != '-' {
				p.sticky = p.sticky || c.row.how != selectDB
				follow()
			}
		}})
	}
	s.bar()
	return true
}

// forced is what Redis tells a client that waits, before it closes its connection: it has become a replica.
var forced = []byte("-UNBLOCKED force ")

// unlessForced returns what is done when a command that may wait has been answered: a client whose connection Redis
// closes then is closed, and what it has sent behind is not run.
func (s *session) unlessForced(c command) *multiplex.Special {
	var note *multiplex.Special
	if s.tracks != nil {
		note = s.noteRead(c)
	}
	return &multiplex.Special{Done: func(head []byte) {
		if note != nil {
			note.Done(head)
		}
		if bytes.HasPrefix(head, forced) {
			s.leave()
		}
	}}
}

// trackingMode is what CLIENT TRACKING has switched on.
type trackingMode uint8

const (
	trackingOff trackingMode = iota
	trackingOn
	trackingBroadcast
)

// follow returns what is to be noted of a command that changes what the connection is, once it has been accepted.
func (p *pin) follow(c command) func() {
	switch {
	case c.row.how == selectDB && c.Len() == 2:
		if n, ok := resp.ParseInt(c.Arg(1)); ok {
			return func() { p.selected, p.db, p.once = true, int(n), true }
		}
	case c.row.how == tracking && c.Len() > 2:
		mode := trackingOff
		switch {
		case isWord(c.Arg(2), "ON") && mentions(c, "BCAST"):
			mode = trackingBroadcast
		case isWord(c.Arg(2), "ON"):
			mode = trackingOn
		}
		return func() { p.tracking, p.redirect = mode, redirection{} }
	}
	return func() {}
}

// bar has the session read on when everything in flight has been answered.
func (s *session) bar() {
	if s.inFlight > 0 && s.state == flowing {
		s.state = barred
	}
	s.recount()
}

// harmless reports whether a reply, which starts with head, says that a command was not even looked at, so that it
// cannot have left state behind.
func harmless(head []byte) bool {
	for _, prefix := range []string{
		"-ERR unknown command", "-ERR unknown subcommand", "-ERR Unknown subcommand", "-ERR wrong number of arg",
		"-NOPERM", "-NOAUTH",
	} {
		if bytes.HasPrefix(head, []byte(prefix)) {
			return true
		}
	}
	return false
}

// startRelay has the pin carry whatever comes from now on, until one side hangs up: nobody can follow the state of
// such a connection, or tell where a reply of its ends. So nothing else may be told to the client from then on: it might
// come in the middle of something.
func (s *session) startRelay(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	if s.isSubscribed() {
		s.condemn([]byte("-ERR a client that is subscribed cannot do this through redbouncer: use another connection\r\n"))
		return true
	}
	if s.tracks != nil {
		s.leaveTracking()
		s.pushTracking([]byte(invalidateAll)) // what it has read so far is not followed any more
	}
	if s.subs != nil && s.subs.inbox != nil {
		s.subs.inbox.close() // the upstream tells those who count on it
		s.subs.inbox = nil
	}
	s.relaying = true
	s.conn.ReadInto(nil)
	s.inPlace = false
	s.pin.sticky = true
	s.pin.link.Raw(func(b []byte) { s.write(b) })
	if s.replyOff && s.pin.tx == nil { // from now on, the upstream keeps it
		s.pin.link.Send(resp.AppendCommand(nil, "CLIENT", "REPLY", "OFF"))
	}
	s.pin.link.Send(c.Bytes())
	return true
}

// relay passes commands on, as they come. What the operator forbids is forbidden here too; but as nobody knows what
// is in flight, the refusal has to come from the upstream: it is sent as the name of a command, which the upstream
// quotes when it says that it does not know it.
func (s *session) relay(b []byte) {
	if s.pin == nil {
		return
	}
	if s.partial == nil {
		s.partial = &resp.Reader{MaxBulk: s.w.cfg.ProtoMaxBulkLen}
	}
	kept := len(s.in) > 0
	if kept {
		s.in = append(s.in, b...)
		b = s.in
	}
	for len(b) > 0 {
		n, err := s.partial.Next(b)
		if err != nil {
			s.write([]byte("-ERR " + err.Error() + "\r\n"))
			s.leave()
			return
		}
		if n == 0 {
			break
		}
		b, kept = b[n:], false
		if !s.relayOne(s.partial) {
			return
		}
	}
	if !kept {
		s.in = append([]byte(nil), b...)
	}
	s.weigh()
	if int64(s.pin.link.Backlog()+len(s.in)) > s.queryLimit() {
		s.close()
	}
}

// relayOne passes one command on. It reports false if the client has been closed for it.
func (s *session) relayOne(r *resp.Reader) bool {
	if r.Len() == 0 {
		return true
	}
	var sub []byte
	if r.Len() > 1 {
		sub = r.Arg(1)
	}
	row := s.w.table.lookup(r.Arg(0), sub)
	if (command{Reader: r, row: row}).showsPassword() {
		s.pin.link.Send(relayedPassword)
		return true
	}
	switch row.how {
	case kill:
		s.close()
		return false
	case clientKill, clientUnblock, tracking: // it would meet the connections that clients share
		s.pin.link.Send(resp.AppendCommand(nil, row.full+" is not possible on this connection any more: use another"))
	case console:
		s.pin.link.Send(relayedConsole)
	case refuse:
		s.pin.link.Send(resp.AppendCommand(nil, row.reason()))
	default:
		s.pin.link.Send(r.Bytes())
	}
	return true
}

// quit answers and closes, once everything before it has been answered. What was sent behind it is not run.
func (s *session) quit() bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	s.answer(replyOK)
	s.leave()
	return true
}

// reset puts the session back to where it began: who came by a certificate is its user again, and nobody else.
func (s *session) reset() bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	s.dropPin()
	s.unsubscribeAll()
	s.setContext(s.w.pool.Initial())
	user, byCert := s.w.cfg.Upstream.User(), s.who != nil && s.who.byCert
	if byCert {
		user = s.who.certUser
	}
	s.know(func(ids *limits.Identities) { ids[limits.ByUser], ids[limits.ByName] = user, "" })
	skipped := s.skipNext // by CLIENT REPLY SKIP; OFF is over, SKIP is not
	s.replyOff, s.skipNext, s.noEvict = false, false, false
	if s.who != nil {
		s.who.name = ""
	}
	s.recount()
	tell := func() {
		if !skipped {
			s.write([]byte("+RESET\r\n"))
		}
	}
	if byCert {
		s.loginByCertificate(tell)
	} else {
		tell()
	}
	return true
}

var replyOK = []byte("+OK\r\n")
