package proxy

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// command is a command that has been read, in the buffer it was read in.
type command struct {
	*resp.Reader
	row *row
	// owned: the command is the front of the session's own buffer, which may be given away.
	owned bool
}

// dispatch gives a command the treatment that the table has for it. Rest is the input behind it. It reports false
// if the command has to wait: then it has not been consumed, and will come again.
func (s *session) dispatch(r *resp.Reader, raw, rest []byte, borrowed bool) bool {
	var sub []byte
	if r.Len() > 1 {
		sub = r.Arg(1)
	}
	c := command{r, s.w.table.lookup(r.Arg(0), sub), !borrowed && len(raw) >= largeValue && &raw[0] == &s.in[0]}
	s.last = c.row
	if s.limited && s.block == 0 {
		if dealt, consumed := s.atLimit(); dealt {
			return consumed
		}
	}
	switch {
	case s.block > 0:
		s.transact(c)
		return true
	case s.denied != nil:
		return s.deny(c)
	case r.Unauthenticated && tooMuch(r):
		return s.refuseUnauthenticated()
	case (s.w.held || s.w.pause != nil) && s.holdBack(c, rest):
		return false
	case s.subs != nil && s.outOfTheWay(c):
		return s.onSubscriber(c)
	case c.showsPassword():
		return s.authenticate(c)
	case s.pin != nil:
		return s.onPin(c)
	}
	switch c.row.how {
	case share:
		if c.row.publishes {
			return s.publishes(c)
		}
		return s.share(c, nil)
	case read:
		return s.share(c, nil)
	case script:
		return s.shareScript(c)
	case info, configGet, configSet, configResetStat, clientList, clientKill, pubsubNumSub:
		return s.administer(c)
	case block:
		return s.onNewPin(c)
	case blockOption:
		if mentions(c, "BLOCK") { // at any place: a key of that name costs no more than a pin
			return s.onNewPin(c)
		}
		return s.share(c, nil)
	case waitAcks:
		return s.waitForAcks(c)
	case flush:
		return s.flush(c)
	case multi:
		return s.startTransaction(c, rest)
	case exec, discard, unwatch: // there is nothing to end; the upstream says so
		return s.share(c, nil)
	case subscribe:
		return s.subscribe(c)
	}
	return s.dispatchState(c)
}

// dispatchState treats the commands that change what the connection is.
func (s *session) dispatchState(c command) bool {
	switch c.row.how {
	case refuse:
		return s.refuse(c)
	case control:
		return s.onControl(c)
	case console:
		return s.onConsole(c)
	case clientPause:
		return s.onPause(c)
	case kill:
		s.close()
		return true
	case quit:
		return s.quit()
	case reset:
		if c.Len() != 1 {
			return s.onNewPin(c) // it will be refused
		}
		return s.reset()
	case hello:
		return s.hello(c)
	case selectDB, noTouch, readOnly:
		return s.switchContext(c)
	case tracking:
		return s.track(c)
	case clientRedirect: // a lane has nothing redirected
		return s.share(c, nil)
	case clientUnblock:
		return s.onUnblock(c)
	case clientID, clientInfo, clientSetName, clientGetName, clientSetInfo, clientNoEvict, clientReply, clientMaint:
		link := s.lane()
		if link == nil {
			return false
		}
		s.identify(c, link)
		return true
	}
	return s.onNewPin(c)
}

// tooMuch reports whether a command has more arguments, or longer ones, than Redis takes from a client that has not
// authenticated, when they are sent as an array. Inline commands may have them, and become arrays here.
func tooMuch(r *resp.Reader) bool {
	if r.Len() > resp.MaxArgsUnauthenticated {
		return true
	}
	for i := range r.Len() {
		if len(r.Arg(i)) > resp.MaxBulkUnauthenticated {
			return true
		}
	}
	return false
}

// refuseUnauthenticated answers for the upstream, which would close the connection.
func (s *session) refuseUnauthenticated() bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	s.answer([]byte("-NOAUTH Authentication required.\r\n"))
	return true
}

// flush treats FLUSHALL and its like. They hold up their connection alone where a thread of its own does the work.
func (s *session) flush(c command) bool {
	link := s.lane()
	if link == nil {
		return false
	}
	if c.Len() == 2 && isWord(c.Arg(1), "ASYNC") || !flushesAside(link) {
		return s.share(c, nil)
	}
	return s.onNewPin(c)
}

// flushesAside reports whether the upstream is Redis 7.4 or later (db.c: flushCommandCommon), or not known to be another.
func flushesAside(link *multiplex.Link) bool {
	if server := link.HelloField("server"); server != nil && string(server) != "redis" {
		return false
	}
	major, rest, _ := strings.Cut(string(link.HelloField("version")), ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, err := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	return err != nil || err2 != nil || x > 7 || x == 7 && y >= 4
}

// deny answers a command that could not have what it needs. What follows must not run as if it had: the body of a
// transaction, or what was to run in another database or as another user. Such a client is closed. (If it is the
// upstream that refused to switch, the client goes on where it was, as with the upstream itself.)
func (s *session) deny(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	denied := s.denied
	s.denied = nil
	switch c.row.how {
	case selectDB, auth, hello, noTouch, readOnly:
		if !denied.byUs {
			break
		}
		fallthrough
	case multi, watch:
		s.condemn(denied.line)
		return true
	}
	s.answer(denied.line)
	return true
}

// reply is answer for what CLIENT REPLY does not suppress.
func (s *session) reply(b []byte) {
	_ = s.mute()
	s.write(b)
}

// answer sends a reply that is ours. The caller has made sure that nothing is in flight.
func (s *session) answer(reply []byte) {
	if s.mute() == 0 {
		s.write(reply)
	}
}

// mute returns the flag for the reply to the command that is being treated, as CLIENT REPLY has it. It is called
// once a command.
func (s *session) mute() multiplex.Flags {
	if s.replyOff {
		return multiplex.Mute
	}
	if s.skipNext {
		s.skipNext = false
		return multiplex.Mute
	}
	return 0
}

// lane returns the lane of the session's context, or nil if the session has to wait: for the lane, or until what
// it has in flight elsewhere has been answered.
func (s *session) lane() *multiplex.Link {
	return s.laneOf(s.ctx)
}

func (s *session) laneOf(ctx *multiplex.Context) *multiplex.Link {
	link := ctx.Link()
	switch {
	case link == nil:
		s.awaitLane(ctx)
		return nil
	case link != s.link:
		if s.inFlight > 0 {
			s.state = barred
			return nil
		}
		s.link = link
	}
	return link
}

// share sends a command on the lane. Sp may be nil.
func (s *session) share(c command, sp *multiplex.Special) bool {
	link := s.ctx.Link()
	if link == nil || link != s.link {
		if link = s.lane(); link == nil {
			return false
		}
	}
	s.submit(link, c, sp)
	return true
}

// pace says how soon a command is answered, as treatment.pace does. Redis answers what it has read in one go at once, so
// that all commands of a block are answered as late as its EXEC.
func (s *session) pace(c command) multiplex.Flags {
	switch how := c.row.how; {
	case s.block > 0 && s.blockScript:
		return multiplex.Long
	case how == exec && s.pin != nil && s.pin.tx != nil:
		return s.pin.tx.pace
	case how == blockOption && !mentions(c, "BLOCK"):
		return multiplex.Prompt
	default:
		return how.pace()
	}
}

// submit sends a command on a link. What is sent in the place of a command has submitRaw.
func (s *session) submit(link *multiplex.Link, c command, sp *multiplex.Special) {
	flags := s.mute() | s.pace(c)
	if c.row.how == read {
		flags |= multiplex.Safe
	}
	raw := c.Bytes()
	if s.tracks != nil && sp == nil {
		sp = s.noteRead(c)
	}
	switch {
	case sp != nil:
		link.SubmitSpecial(s, raw, flags, sp)
	case c.owned && len(raw) > 0 && &raw[0] == &s.in[0]:
		s.inLent = true
		link.SubmitOwned(s, s.in, len(raw), flags)
	default:
		link.Submit(s, raw, flags)
	}
	s.inFlight++
	s.inFlightBytes += len(raw)
	if s.block == 0 && (int(s.inFlight) >= s.mostInFlight() || s.inFlightBytes >= maxInFlightBytes) {
		s.state = barred
	}
}

// shareScript sends a script on the lane, with a barrier behind it. A user who may not use the barrier's command
// gets a connection that is closed afterwards, and so does a script that is up to no good: the barrier would break the
// lane, and take others along.
func (s *session) shareScript(c command) bool {
	if hasEscapes(c.Reader) {
		return s.onNewPin(c)
	}
	link := s.lane()
	if link == nil {
		return false
	}
	if !link.CanEcho() && !s.ctx.Unauthenticated() {
		return s.onNewPin(c)
	}
	s.submit(link, c, nil)
	if link.CanEcho() {
		link.Barrier()
	}
	return true
}

// hasEscapes reports whether the first line of a script, which names its language and its flags, has escapes or quotes:
// no script needs them, and Redis repeats what they stand for in an error, line ends included.
func hasEscapes(r *resp.Reader) bool {
	for i := 1; i < min(r.Len(), 3); i++ { // EVAL script, SCRIPT LOAD script
		if line, _, _ := bytes.Cut(r.Arg(i), []byte("\n")); bytes.HasPrefix(line, []byte("#!")) && bytes.ContainsAny(line, "\"'\\") {
			return true
		}
	}
	return false
}
