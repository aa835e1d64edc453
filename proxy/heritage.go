package proxy

import (
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// The new program's side of a hand-over; the old one's is in upgrade.go.

// predecessor is the program before this one, of which clients are taken over. Until one is, or has gone, it keeps its place at
// the gate, so that no limit is exceeded by what both programs have together.
type predecessor struct {
	// Static after construction.
	s    *Server
	line *handover.Line
	pid  int

	// mu guards the following field.
	mu     sync.Mutex
	places map[int64]*limits.Ticket

	// Owned by follow.
	turn  int
	taken int

	ended atomic.Bool
}

// Succeed says that this program is ready, learns who the clients of the one before it are, and returns when it is to serve: Run
// is called then, and takes the clients over as they come. The line is the server's. After an error, the program before
// goes on, and this one is of no use.
func (s *Server) Succeed(line *handover.Line) error {
	h := &predecessor{s: s, line: line, pid: os.Getppid(), places: map[int64]*limits.Ticket{}}
	if err := line.Send(handover.ReadyKind, &handover.Ready{PID: os.Getpid()}); err != nil {
		return errNoBegin(err)
	}
	for {
		r, err := line.Receive()
		if err != nil {
			return errNoBegin(err)
		}
		switch r.Kind {
		case handover.PlaceKind:
			if err := h.take(r); err != nil {
				return err
			}
		case handover.BeginKind:
			var begin handover.Begin
			if err := r.Read(&begin); err != nil {
				return err
			}
			s.ids.Store(begin.LastID)
			if err := s.readRunTime(&begin); err != nil {
				return err
			}
			s.elsewhere.Store(int64(begin.Upstream))
			s.heritage = h
			s.sharePool()
			return nil
		default:
			r.Close()
			return errNoBegin(fmt.Errorf("a record of kind %d came", r.Kind))
		}
	}
}

func errNoBegin(err error) error {
	return fmt.Errorf("the program before this one does not hand over: %w", err)
}

// ownPaths has the paths of unix sockets removed at the end: from now on they are this program's.
func (s *Server) ownPaths() {
	s.listening.Lock()
	defer s.listening.Unlock()
	for i, ln := range s.listeners {
		if unix, ok := ln.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(s.sockets[i] == nil)
		}
	}
}

// alive reports whether there still is a program before this one.
func (h *predecessor) alive() bool { return !h.ended.Load() }

// clients is how many clients the program before this one still has.
func (h *predecessor) clients() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.places)
}

// take counts a client, or notes what else is known of it. One that a rule has no room for is counted as what it was when it came,
// until it is here.
func (h *predecessor) take(r *handover.Record) error {
	var p handover.Place
	if err := r.Read(&p); err != nil {
		return err
	}
	ids, now := unpackIdentities(p.Identities), time.Now()
	if p.Outside {
		ids[limits.ByUser], ids[limits.ByName], ids[limits.ByLib], ids[limits.ByProcess], ids[limits.ByContainer] = "", "", "", "", ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.places[p.Client]; t != nil {
		t.Leave(now)
	}
	h.places[p.Client] = h.s.gate.Readmit(&ids, nil, now)
	return nil
}

// ticket returns the place of a client, which is not the predecessor's any more; nil: it has none.
func (h *predecessor) ticket(id int64) *limits.Ticket {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.places[id]
	delete(h.places, id)
	return t
}

// follow takes clients over until the predecessor hangs up.
func (h *predecessor) follow() {
	log := h.s.cfg.Log
	if err := h.line.Send(handover.ServingKind, &handover.Serving{}); err != nil {
		log.Error("the program before this one cannot be told that this one serves", "error", err)
	}
	begun := time.Now()
	for {
		r, err := h.line.Receive()
		if err != nil {
			break
		}
		if err := h.receive(r); err != nil {
			log.Error("a client could not be taken over", "error", err)
		}
		r.Close()
	}
	h.end()
	log.Info("the program before this one has ended", "clients_taken_over", h.taken, "took", time.Since(begun).Round(time.Millisecond).String())
}

// end forgets those who have not been taken over.
func (h *predecessor) end() {
	h.line.Close()
	h.mu.Lock()
	for id, t := range h.places {
		t.Leave(time.Now())
		delete(h.places, id)
	}
	h.mu.Unlock()
	h.s.elsewhere.Store(0)
	h.s.sharePool()
	h.ended.Store(true)
}

// receive does what a record says. What is left of its descriptors the caller closes.
func (h *predecessor) receive(r *handover.Record) error {
	switch r.Kind {
	case handover.PlaceKind, handover.KnownKind:
		return h.take(r)
	case handover.LeftKind:
		var left handover.Left
		if err := r.Read(&left); err != nil {
			return err
		}
		if t := h.ticket(left.Client); t != nil {
			t.Leave(time.Now())
		}
	case handover.UpstreamKind:
		var u handover.Upstream
		if err := r.Read(&u); err != nil {
			return err
		}
		h.s.elsewhere.Store(int64(u.Size))
		h.s.sharePool()
	case handover.ClientKind:
		return h.receiveClient(r)
	case handover.CallerKind:
		return h.receiveCaller(r)
	default:
		return fmt.Errorf("a record of kind %d is not understood", r.Kind)
	}
	return nil
}

// socket returns the connection that came with a record.
func socketOf(r *handover.Record) (eventloop.Incoming, error) {
	if len(r.FDs) != 1 {
		return eventloop.Incoming{}, fmt.Errorf("a client came with %d sockets", len(r.FDs))
	}
	fd := r.FDs[0]
	r.FDs = nil
	return eventloop.Received(fd)
}

// next is the worker whose turn it is.
func (h *predecessor) next() *worker {
	h.turn++
	return h.s.workers[h.turn%len(h.s.workers)]
}

// receiveClient has a client that was in go on here.
func (h *predecessor) receiveClient(r *handover.Record) error {
	var c handover.Client
	if err := r.Read(&c); err != nil {
		return err
	}
	t := h.ticket(c.ID)
	if t == nil {
		ids := unpackIdentities(c.Identities)
		t = h.s.gate.Readmit(&ids, nil, time.Now())
	}
	in, err := socketOf(r)
	if err != nil {
		t.Leave(time.Now())
		return err
	}
	w := h.next()
	if !w.loop.Post(func() { w.adopt(&c, in, t) }) {
		in.Close()
		t.Leave(time.Now())
	}
	h.taken++
	return nil
}

// receiveCaller has a client that waited to be let in wait here, or lets it in.
func (h *predecessor) receiveCaller(r *handover.Record) error {
	var x handover.Caller
	if err := r.Read(&x); err != nil {
		return err
	}
	in, err := socketOf(r)
	if err != nil {
		return err
	}
	c := caller{in: in, ids: unpackIdentities(x.Identities), remote: string(x.Remote), onHost: x.OnHost, process: unpackProcess(x.Process)}
	c.ends()
	w := h.next()
	if !w.loop.Post(func() { w.receiveCaller(c, x.Heard) }) {
		in.Close()
	}
	return nil
}

// receiveCaller has a client knock that has waited at another program's door.
func (w *worker) receiveCaller(c caller, heard []byte) {
	d := &door{w: w, caller: c}
	conn, err := w.loop.Attach(c.in, d)
	if err != nil {
		return
	}
	w.srv.knockWith(w, c, conn, heard)
}

// readRunTime sets what operators have set while the program before this one ran. It goes before the settings, as it did there.
func (s *Server) readRunTime(begin *handover.Begin) error {
	for name, n := range begin.Parameters {
		p := ourParameter([]byte(name))
		if p == nil {
			return fmt.Errorf("an operator has set %s in the program before this one, which does not know it", name)
		}
		s.setAtRunTime(p, n)
	}
	if !begin.RulesSet {
		return nil
	}
	rules := make([]limits.Rule, len(begin.Rules))
	for i, text := range begin.Rules {
		var err error
		if rules[i], err = limits.ParseRule(text); err != nil {
			return fmt.Errorf("a rule that an operator has set in the program before this one is not understood: %w", err)
		}
	}
	set, unset := changedRules(s.current.Load().Limits, rules)
	s.gate.SetRules(set, unset, time.Now())
	return nil
}
