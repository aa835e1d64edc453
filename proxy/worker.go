package proxy

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// worker is one event loop with the sessions that live on it.
type worker struct {
	// Static after construction.
	srv      *Server
	index    int // among the server's workers
	cfg      *Config
	log      *slog.Logger
	loop     *eventloop.Loop
	pool     *multiplex.Pool
	control  *multiplex.Control
	counters *counters
	learner  *learner
	ids      *atomic.Int64
	done     chan struct{} // closed when the loop has ended

	// Owned by the loop.
	table    *table
	curious  bool    // there is a new lane, or a second has passed: it may be time to ask for the upstream's commands
	sessions session // head of the ring
	count    int
	commands uint64     // that clients have sent
	ready    []*session // to be woken in this turn
	waking   []*session
	deferred []*multiplex.Context  // to be left when they have gone on
	pushed   []*session            // have messages to be written at the end of this turn
	pieces   pieces                // for outboxes
	hubs     map[string]*hub       // by user
	idleHubs []*hub                // may not be needed any more
	slow     map[*session]struct{} // have been above the soft limit of their output
	tracking map[*multiplex.Context]*trackingTable

	// What the transaction that is being sent as a block reads, if its client tracks it.
	blockReads   []string
	blockUnknown bool
	reader       resp.Reader // of commands that come in one piece
	scanner      resp.Reader // looks ahead
	pause        *pause      // CLIENT PAUSE, while it is in force
	held         bool        // PROXY PAUSE is
	afterPause   []func()    // run when that is over, before anybody goes on
	waiting      map[*door]struct{}
	prefaces     int // connections whose PROXY protocol header has not come yet
	refusals     int
	lingering    int
	// Those that have gone are used again: at most maxRefusals and maxLingering.
	spareRefusal  *refusal
	spareLingerer *lingerer
	draining      bool   // clients go as they fall idle
	goodbyes      int    // how many may go until the next step
	step          int    // how many may go in one
	closing       bool   // the proxy ends
	stopping      bool   // and the time of those who fall idle is over
	stopped       func() // called once the last session has gone
	mover         *mover // hands clients over to the program that replaces this one; nil: there is none
}

// counters count events of all workers. All are atomic.
type counters struct {
	evicted      atomic.Uint64
	lost         atomic.Uint64
	slow         atomic.Uint64
	poolTimeouts atomic.Uint64
}

func newWorker(s *Server) (*worker, error) {
	w := &worker{
		srv: s, index: len(s.workers), cfg: &s.cfg, log: s.cfg.Log, control: s.control, counters: &s.counters, ids: &s.ids,
		learner: s.learner, table: s.learner.compiledIn(), done: make(chan struct{}), hubs: map[string]*hub{},
		slow: map[*session]struct{}{}, waiting: map[*door]struct{}{}, tracking: map[*multiplex.Context]*trackingTable{},
	}
	w.sessions.next, w.sessions.prev = &w.sessions, &w.sessions
	w.reader.MaxBulk = s.cfg.ProtoMaxBulkLen
	w.scanner.MaxBulk = s.cfg.ProtoMaxBulkLen
	loop, err := eventloop.New(eventloop.Options{Flush: w.flush, Streams: s.cfg.streams})
	if err != nil {
		return nil, err
	}
	w.loop = loop
	w.pool = multiplex.NewPool(multiplex.Config{
		Loop: loop, Upstream: s.cfg.Upstream, Primary: s.primary, Budget: s.budget, UpstreamTimeout: s.cfg.UpstreamTimeout, Log: s.cfg.Log,
		ResponseTimeout: s.cfg.UpstreamResponseTimeout, Excused: func() bool { return w.pause != nil },
		Pushed: w.trackingPushed, Untracked: w.untracked,
		Opened: func() { w.curious = true }, Broken: s.learner.changed,
		Vanished: w.vanished,
	})
	return w, nil
}

// run serves until the loop is stopped.
func (w *worker) run() {
	defer close(w.done)
	w.loop.AfterFunc(time.Second, w.tick)
	w.pool.Watch()
	w.loop.Run()
}

// tick does what is due once a second.
func (w *worker) tick() {
	w.loop.AfterFunc(time.Second, w.tick)
	w.pool.Tick()
	w.curious = true
	w.closeIdle()
	for s := range w.slow {
		s.boundOutput()
		if s.out.over == 0 {
			delete(w.slow, s)
		}
	}
}

// learn asks the upstream for its commands, if it is time to and a lane is there to ask on.
func (w *worker) learn() {
	w.curious = false
	if w.held || !w.learner.due(w.loop.Now()) {
		return
	}
	if link := w.pool.Lane(w.learner.speaks); link != nil {
		w.learner.ask(link, w.loop.Now())
	}
}

// reloaded is called with the beginning of the reply to a command that may change the upstream's commands.
func (w *worker) reloaded(reply []byte) {
	if !isErrorReply(reply) {
		w.learner.changed()
	}
}

// reconfigure has the loop and its sessions keep to another configuration.
func (w *worker) reconfigure(cfg *Config) {
	before := w.cfg
	w.cfg = cfg
	w.reader.MaxBulk, w.scanner.MaxBulk = cfg.ProtoMaxBulkLen, cfg.ProtoMaxBulkLen
	w.pool.SetUpstreamTimeout(cfg.UpstreamTimeout)
	w.pool.SetResponseTimeout(cfg.UpstreamResponseTimeout)
	if before.ClientOutputBufferLimit == cfg.ClientOutputBufferLimit && before.ClientQueryBufferLimit == cfg.ClientQueryBufferLimit {
		return
	}
	for s := range w.all { // those that send or read nothing more would not be looked at
		if s.boundOutput(); s.state < leaving && int64(len(s.in)) > s.queryLimit() {
			s.bound()
		}
	}
}

// clock returns the time at which this turn began, since the server was made. It is never zero.
func (w *worker) clock() time.Duration { return w.loop.Now().Sub(w.srv.started) }

// flush ends a half of a turn: sessions that were waiting go on, then what all of them submitted is written.
func (w *worker) flush() {
	w.proceed()
	for len(w.idleHubs) > 0 {
		idle := w.idleHubs
		w.idleHubs = nil
		for _, h := range idle {
			h.end()
		}
		w.proceed() // those to whom connections of hubs were handed on
	}
	if w.curious {
		w.learn()
	}
	w.pool.Flush()
}

// proceed has the sessions go on that were waiting.
func (w *worker) proceed() {
	for len(w.ready) > 0 {
		w.ready, w.waking = w.waking[:0], w.ready
		for i, s := range w.waking {
			w.waking[i] = nil
			s.queued = false
			s.proceed()
		}
	}
	for i, c := range w.deferred {
		c.Leave()
		w.deferred[i] = nil
	}
	w.deferred = w.deferred[:0]
	w.flushPushed()
}

// flushPushed writes the messages of this turn.
func (w *worker) flushPushed() {
	for i := 0; i < len(w.pushed); i++ {
		s := w.pushed[i]
		w.pushed[i] = nil
		s.pushed = false
		if s.state != gone {
			s.Writable()
		}
	}
	w.pushed = w.pushed[:0]
}

// admit makes a session of a connection that the gate has let in.
func (w *worker) admit(c *caller, t *limits.Ticket) {
	s := w.newSession(c, t)
	conn, err := w.loop.Attach(c.in, s)
	if err != nil {
		t.Leave(w.loop.Now())
		w.log.Error("client could not be served", "client", c.remote, "error", err)
		return
	}
	w.seat(s, conn, c)
}

// admitLate makes a session of a connection that had to wait for a place. Heard is what the client has said meanwhile.
func (w *worker) admitLate(conn *eventloop.Conn, c *caller, t *limits.Ticket, heard []byte) {
	s := w.newSession(c, t)
	conn.SetHandler(s)
	conn.Join()
	w.seat(s, conn, c)
	conn.ResumeRead()
	if len(heard) > 0 && s.state != gone {
		s.Data(heard)
	}
}

func (w *worker) newSession(c *caller, t *limits.Ticket) *session {
	now := w.clock()
	s := &session{
		w: w, id: w.ids.Add(1), remote: c.remote, ticket: t, created: now, active: now, used: now,
		process: c.process,
	}
	t.Hold(s)
	return s
}

// seat puts a session among the others.
func (w *worker) seat(s *session, conn *eventloop.Conn, c *caller) {
	if c.peer.IsValid() {
		s.findProcess(c)
	}
	w.place(s, conn, w.pool.Initial())
	if w.mover != nil {
		w.mover.came(s)
	}
	switch {
	case w.stopping:
		s.close()
	case c.byCert:
		who := s.identity()
		who.byCert, who.certUser = true, c.certUser
		s.loginByCertificate(func() {})
	}
}

// place puts a session into the list, in a context.
func (w *worker) place(s *session, conn *eventloop.Conn, key multiplex.Key) {
	s.conn = conn
	w.srv.ledger.Opened(s.ticket.Identities(), w.loop.Now())
	s.ctx = w.pool.Context(key)
	s.ctx.Enter()
	s.prev, s.next = w.sessions.prev, &w.sessions
	s.prev.next, w.sessions.prev = s, s
	w.count++
}

// remove takes a session that has gone out of the list.
func (w *worker) remove(s *session) {
	s.prev.next, s.next.prev = s.next, s.prev
	s.prev, s.next = nil, nil
	w.count--
	if w.mover != nil {
		w.mover.left(s)
	}
	w.srv.ledger.Closed(s.ticket.Identities(), s.usage(), w.loop.Now())
	s.ticket.Leave(w.loop.Now())
	w.checkStopped()
}

// stop ends the sessions: what they have sent is answered, then they are closed. Those that wait for something that
// may never come are closed at once. Done is called, on the loop, when all have gone.
func (w *worker) stop(done func()) {
	w.closing, w.stopping, w.stopped = true, true, done
	for d := range w.waiting {
		d.decided()
	}
	for s := w.sessions.next; s != &w.sessions; {
		next := s.next
		if s.relaying || s.acks != nil || s.pin != nil && s.pin.blocking {
			s.flushAndClose()
		} else {
			s.settle()
		}
		s = next
	}
	w.checkStopped()
}

// vanished closes the clients of a user that the upstream does not accept any more, as the upstream has done with those
// that had a connection of theirs: see multiplex.Pool.Verify. One that still has a connection goes with it.
func (w *worker) vanished(user string) {
	closed := 0
	for s := w.sessions.next; s != &w.sessions; {
		next := s.next
		if s.ctx.User == user && s.ctx.Link() == nil && s.pin == nil && s.state < leaving {
			closed++
			w.counters.lost.Add(1)
			s.flushAndClose()
		}
		s = next
	}
	if closed == 0 {
		return
	}
	w.log.Info("clients closed: the upstream does not accept their user any more", "user", user, "clients", closed)
	w.srv.onAll(func(other *worker) { other.pool.Verify(user) })
}

// checkStopped reports the end of the last session.
func (w *worker) checkStopped() {
	if w.stopping && w.count == 0 && w.stopped != nil {
		done := w.stopped
		w.stopped = nil
		done()
	}
}

// abandon closes what is left.
func (w *worker) abandon() {
	for s := w.sessions.next; s != &w.sessions; {
		next := s.next
		s.close()
		s = next
	}
	w.pool.Close()
}
