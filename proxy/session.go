package proxy

import (
	"bytes"
	"errors"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// sessionState says what a session is doing with its input.
//
//	flowing ◄──► barred           until nothing is in flight
//	   ▲ ▲─────► awaitingLane     until its context has a lane
//	   │ ▲─────► awaitingPin      until it gets a connection of its own
//	   │ ├─────► awaitingTurn     until the upstream may be asked who it is
//	   │ └─────► awaitingControl  until the control connection has an answer for it
//	   ├───────► awaitingPlace    until a rule has room for what it has become
//	   ├───────► paused           until CLIENT PAUSE or PROXY PAUSE is over
//	   └───────► leaving ──► gone (terminal; any state may go there)
type sessionState uint8

const (
	flowing sessionState = iota
	barred
	awaitingLane
	awaitingPin
	awaitingTurn
	awaitingControl
	awaitingPlace
	paused
	leaving // has been said goodbye to: nothing is read, what is left is written
	gone
)

const (
	// A session that has this much in flight is not read until all of it has been answered, so that nobody fills a
	// lane for the others.
	maxInFlight      = 8192
	maxInFlightBytes = 8 << 20

	// waitingInput is how much a session that waits may send on before its socket is left unread, in bytes.
	waitingInput = 64 << 10
	// keepProgress is the size from which a command that has come in part is not parsed from its start again.
	keepProgress = 4 << 10
	// largeValue is the size from which a value is read into its place without a copy, and handed on likewise.
	largeValue = 64 << 10
	// trustValue is how many times as much memory is set aside for a value as has come of it, or half as much again for its
	// end, so that a client cannot claim by announcing.
	trustValue = 4
)

// session is our state for a client. It implements eventloop.Handler for the client's connection and
// multiplex.Client for the replies. It belongs to its worker's loop.
type session struct {
	// Static after construction.
	w       *worker
	conn    *eventloop.Conn
	id      int64
	remote  string        // the client's address, as CLIENT LIST shows it
	created time.Duration // by worker.clock, as all times here

	// Neighbours in the worker's list.
	prev, next *session

	// Owned by the loop. What is small stands together: there are many idle sessions.
	state       sessionState
	counted     condition // as what the server's gauges have it
	queued      bool      // is in worker.ready
	pushed      bool      // is in worker.pushed
	eof         bool      // the client will send nothing more
	relaying    bool      // commands are passed on as they come, and replies too
	inLent      bool      // a link owns the memory under in
	inPlace     bool      // the next read lands in the spare capacity of in
	blockScript bool      // one of the commands that block counts is a script
	muted       bool      // an error to the SUBSCRIBE in flight is not to be told
	replyOff    bool
	skipNext    bool
	noEvict     bool   // CLIENT NO-EVICT ON
	killed      bool   // goes once it has been answered
	limited     bool   // a rule may have no room for it
	refused     bool   // a rule has none
	toldRefused bool   // and it has been told so
	pinTaken    bool   // a pin is counted by the rules
	signs       uint32 // of life, among its commands

	in      []byte
	partial *resp.Reader
	out     outbox

	weight        int   // of its buffers, as the server's clientMemory has it
	inFlight      int32 // commands
	block         int32 // commands of a transaction that follow, all in hand
	inFlightBytes int
	ticket        *limits.Ticket
	ctx           *multiplex.Context
	link          *multiplex.Link // the lane of what is in flight
	pin           *pin
	wait          *waiting
	front         *front          // nil: nothing is known
	denied        *verdict        // what the command at the front of the input is to be answered
	acks          *multiplex.Link // the former lane on which WAIT waits
	doom          *verdict        // what the client is told once nothing is in flight, before it goes
	subs          *subscriber     // nil if the client has never subscribed, nor tracked keys
	tracks        *trackingTable  // of its context, if that tracks what is read
	who           *identity

	// What CLIENT LIST tells of it. Owned by the loop.
	active   time.Duration // when it last sent something, or was sent something
	used     time.Duration // when it last sent a command that is no sign of life, or connected
	process  *peer.Process // nil: not known
	last     *row          // of its last command
	commands uint64
	received uint64 // bytes
	sent     uint64 // bytes
}

// verdict is what a client is told in the place of an answer.
type verdict struct {
	line []byte
	byUs bool // it is the proxy's own word, not the upstream's
}

// front is what has been found out for the command at the front of the input, where that has to wait. Most sessions have
// none, and so it is apart.
type front struct {
	stuck     time.Duration      // since when it waits for the upstream; zero: it does not
	moving    *multiplex.Context // where the session is about to move; entered
	redirects *redirection       // of a CLIENT TRACKING, once it is known
	turn      bool               // the password in it may be checked
	recalled  *recalled          // it is in flight, and taken back because of PROXY PAUSE
}

// ahead returns the session's front, to be written to.
func (s *session) ahead() *front {
	if s.front == nil {
		s.front = &front{}
	}
	return s.front
}

// identity is what a client has said of itself, and whom its certificate says it is to be.
type identity struct {
	name, libName, libVer string
	byCert                bool   // it is nobody but certUser until it authenticates
	certUser              string // its certificate's
}

// waiting is what a session waits for.
type waiting struct {
	timer *eventloop.Timer
	lane  *multiplex.Context // entered
	pin   *multiplex.PinRequest
	hub   *hub
	since time.Time

	place     bool // under a rule with max-pins
	forOthers bool // the command that waits may wait for others once it is sent
	blocks    bool // and is one that blocks the client
}

// queued reports whether the session waits for its turn, and not only for a connection that is being opened.
func (w *waiting) queued() bool {
	switch {
	case w.place:
		return true
	case w.pin != nil:
		return w.pin.Queued()
	case w.hub != nil && w.hub.request != nil:
		return w.hub.request.Queued()
	}
	return false
}

// Data implements eventloop.Handler: the client has sent something.
func (s *session) Data(b []byte) {
	if s.received == 0 && greetsTLS(b) {
		s.refuseTLS()
		return
	}
	s.active = s.w.clock()
	s.received += uint64(len(b))
	if s.front != nil && len(s.in) == 0 {
		s.front.stuck = 0
	}
	switch {
	case s.state >= leaving, s.doom != nil:
		return
	case s.relaying:
		s.used = s.active
		s.relay(b)
		return
	case s.inPlace:
		s.in = s.in[:len(s.in)+len(b)]
	case len(s.in) > 0:
		s.in = append(s.in, b...)
	case s.state == flowing:
		s.advance(b, true)
		return
	default:
		s.in = append(s.in, b...)
	}
	if s.state == flowing {
		s.advance(s.in, false)
	} else {
		s.bound()
	}
}

// queryLimit is how much the client may have waiting to be forwarded.
func (s *session) queryLimit() int64 {
	if most := s.ticket.Bounds().QueryLimit; most > 0 {
		return min(most, s.w.cfg.ClientQueryBufferLimit)
	}
	return s.w.cfg.ClientQueryBufferLimit
}

// mostInFlight is how many commands the client may have in flight.
func (s *session) mostInFlight() int {
	if most := s.ticket.Bounds().MaxInFlight; most > 0 {
		return min(most, maxInFlight)
	}
	return maxInFlight
}

// bound stops reading a client that waits, and closes one that has sent more than it may.
func (s *session) bound() {
	s.weigh()
	switch {
	case int64(len(s.in)) > s.queryLimit():
		s.w.log.Warn("client closed: it exceeds client-query-buffer-limit", "client", s.remote, "bytes", len(s.in))
		s.close()
	case s.state != flowing && len(s.in) > waitingInput:
		s.conn.ReadInto(nil)
		s.inPlace = false
		s.conn.PauseRead()
	}
}

// advance works on the input as far as it goes. Borrowed input is the loop's and must be copied to be kept.
func (s *session) advance(in []byte, borrowed bool) {
	if !s.w.pool.Introduced() && s.denied == nil {
		// Which limits the client has to keep depends on whether the upstream wants it to authenticate.
		s.keep(in, borrowed)
		if s.w.held {
			s.state = paused
		} else {
			s.awaitLane(s.ctx)
		}
		s.bound()
		return
	}
	r := &s.w.reader
	if s.partial != nil {
		r = s.partial
	}
	r.Unauthenticated = s.ctx.Unauthenticated()
	for s.state == flowing && !s.relaying && len(in) > 0 {
		n, err := r.Next(in)
		if err != nil {
			r.Reset()
			s.condemn([]byte("-ERR " + err.Error() + "\r\n"))
			return
		}
		if n == 0 {
			break
		}
		if r.Len() > 0 {
			if !s.dispatch(r, in[:n], in[n:], borrowed) {
				break
			}
			s.count()
		}
		in = in[n:]
		if s.partial != nil {
			s.partial, r = nil, &s.w.reader
			r.Unauthenticated = s.ctx.Unauthenticated()
		}
	}
	if s.state >= leaving {
		r.Reset()
		return
	}
	if s.relaying {
		s.in, s.partial = nil, nil
		s.relay(in)
		if s.eof {
			s.cutOff()
		}
		return
	}
	if s.state == flowing {
		s.denied = nil // there was no command to answer after all
	}
	s.keep(in, borrowed)
	s.keepProgress(r)
	s.bound()
	s.settle()
}

// keep stores the input that is left.
func (s *session) keep(in []byte, borrowed bool) {
	switch {
	case len(in) == 0:
		s.in = nil
	case borrowed || s.inLent:
		s.in = append(make([]byte, 0, len(in)+512), in...)
	case len(in) < len(s.in):
		s.in = s.in[:copy(s.in, in)]
	}
	s.inLent = false
}

// keepProgress remembers how far an unfinished command has been parsed, where that saves work, and makes room for
// the rest of a large value.
func (s *session) keepProgress(r *resp.Reader) {
	s.inPlace = false
	if len(s.in) < keepProgress || s.state != flowing {
		r.Reset()
		s.partial = nil
		s.conn.ReadInto(nil)
		return
	}
	if s.partial == nil {
		s.partial = r.Detach()
	}
	missing := s.partial.Missing(len(s.in))
	if missing < largeValue {
		s.conn.ReadInto(nil)
		return
	}
	room := max((trustValue-1)*len(s.in), largeValue)
	if missing < room+room/2 { // no small rest is left, for which it would have to grow again
		room = missing
	}
	if cap(s.in)-len(s.in) < min(room, largeValue) {
		s.in = append(s.w.pool.LargeBuffer(len(s.in)+room, len(s.in)+missing), s.in...)
	}
	s.inPlace = true
	s.conn.ReadInto(s.in[len(s.in):min(cap(s.in), len(s.in)+missing)])
}

// Writable implements eventloop.Handler.
func (s *session) Writable() {
	if err := s.out.flush(s.conn, &s.w.pieces); err != nil {
		s.close()
		return
	}
	s.weigh()
	s.settle()
}

// Reply implements multiplex.Client.
func (s *session) Reply(b []byte, done int) {
	s.inFlight -= int32(done)
	if done == 0 && s.pin != nil && s.pin.redirect.inbox != 0 && bytes.HasPrefix(b, []byte(redirectionBroken)) {
		b = s.pin.redirectReply(b) // it may be the end of the redirection
	}
	if len(b) > 0 {
		s.write(b)
	}
	if s.subs != nil && s.subs.held.size > 0 && (s.inFlight == 0 || s.pin == nil) && !s.midway() {
		s.releaseHeld()
	}
	if s.inFlight == 0 {
		s.inFlightBytes = 0
		if s.state == barred || s.eof || s.doom != nil || s.pin != nil || s.w.stopping || s.w.goodbyes > 0 || s.w.mover != nil {
			s.wake()
		}
	}
}

// wake has the session go on in this turn, after what is being done now.
func (s *session) wake() {
	if !s.queued {
		s.queued = true
		s.w.ready = append(s.w.ready, s)
	}
}

// proceed goes on after something that the session waited for.
func (s *session) proceed() {
	if s.state >= leaving {
		return
	}
	if s.inFlight == 0 {
		s.releasePin()
		if s.state == barred {
			s.state = flowing
		}
	}
	s.recount()
	if s.state == flowing && s.doom == nil {
		s.conn.ResumeRead()
		if len(s.in) > 0 {
			s.advance(s.in, false)
			return
		}
	}
	s.settle()
}

// settle does what was put off until nothing is in flight: the goodbye to a client that broke the protocol, the end
// of one that has hung up, or of all of them.
func (s *session) settle() {
	if s.state == leaving {
		if s.out.size == 0 {
			s.linger()
		}
		return
	}
	if s.inFlight > 0 || s.state == gone {
		return
	}
	switch {
	case s.doom != nil:
		s.write(s.doom.line)
		s.leave()
	case s.state == paused && (s.eof && !s.w.held || s.w.stopping):
		s.flushAndClose()
	case s.state == awaitingTurn && s.w.stopping:
		s.flushAndClose()
	case s.state == awaitingPlace && (s.eof || s.w.closing):
		s.answer(replyFull) // as whoever gives up his place at the door
		s.leave()
	case s.state != flowing, s.queued: // it goes on first
	case s.eof, s.w.stopping, s.w.goodbyes > 0 && s.sayGoodbye():
		s.leave()
	case s.w.mover != nil:
		s.w.mover.offer(s)
	}
}

// write sends to the client, or keeps what it does not take at once.
func (s *session) write(b []byte) {
	if s.state == gone {
		return
	}
	s.active = s.w.clock()
	s.sent += uint64(len(b))
	if s.out.size == 0 {
		n, err := s.conn.Write(b)
		if err != nil {
			s.close()
			return
		}
		b = b[n:]
		if len(b) == 0 {
			return
		}
	}
	s.out.add(b, &s.w.pieces)
	s.boundOutput()
}

// boundOutput closes a client that has left too much unread, by the limits of its class. One that is above the soft
// limit is looked at again, as nothing more may come for it.
func (s *session) boundOutput() {
	s.weigh()
	all, class, size := &s.w.cfg.ClientOutputBufferLimit, "normal", int64(s.out.size)
	limit := all.Normal
	if s.subs != nil && s.isSubscribed() {
		limit, class, size = all.PubSub, "pubsub", size+int64(s.subs.held.size)
	}
	if most := s.ticket.Bounds().OutputLimit; most > 0 && (limit.Hard == 0 || most < limit.Hard) {
		limit.Hard = most
	}
	if !s.out.exceeds(limit, size, s.w.loop.Now()) {
		if s.out.over != 0 {
			s.w.slow[s] = struct{}{}
		}
		return
	}
	s.w.log.Warn("client closed: it exceeds client-output-buffer-limit", "client", s.remote, "class", class, "bytes", size)
	s.w.counters.slow.Add(1)
	s.close()
}

// errFull is what a client is told that cannot have what it needs, in Redis's own words: client libraries know
// them.
var errFull = errors.New("max number of clients reached")

var replyFull = []byte("-ERR " + errFull.Error() + "\r\n")
