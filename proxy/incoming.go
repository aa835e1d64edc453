package proxy

import (
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// How clients come to the loops, and what the log is told of those who are refused. What becomes of one that waits is in
// door.go, how one is told is in refusal.go.

// incoming puts a new client on a loop, in turn, if the gate lets it in.
func (s *Server) incoming(in eventloop.Incoming, listener string) {
	c := &s.caller
	*c = s.call(in, listener)
	if slices.Contains(s.workers[0].cfg.AcceptProxy, listener) {
		w, mine := s.next(), *c
		s.keepAliveOf(in)
		s.hand(w, func() { w.introduce(mine) }, in)
		return
	}
	s.decideOn(c)
}

// next is the worker whose turn it is to get a client.
func (s *Server) next() *worker {
	w := s.workers[s.turn%len(s.workers)]
	s.turn++
	return w
}

// decideOn lets a client in, has it wait, or refuses it. C is valid during the call only.
func (s *Server) decideOn(c *caller) {
	w := s.next()
	if text := s.turnsAway(c); text != nil {
		mine := *c
		s.hand(w, func() { w.refuse(&mine, text) }, c.in)
		return
	}
	s.knock(w, c)
}

// setKeepAlive has the kernel probe clients that come from now on.
func (s *Server) setKeepAlive(idle time.Duration) {
	s.keepAlive.Store(int64(idle))
	s.listening.Lock()
	defer s.listening.Unlock()
	for _, ln := range s.listeners {
		_ = eventloop.SetKeepAlive(ln, idle) // fails on a closed listener, which nobody comes from
	}
}

// keepAliveOf has the kernel probe a client, where it has not been told so already.
func (s *Server) keepAliveOf(in eventloop.Incoming) { in.KeepAlive(time.Duration(s.keepAlive.Load())) }

// turnsAway returns what a client is told that protected mode refuses; nil: it does not. One that there is no place for
// anyway is told that instead, but does not wait for one either.
func (s *Server) turnsAway(c *caller) []byte {
	if !s.protected.Load() || c.certified || isLocal(c.remote) {
		return nil
	}
	c.outsider = true
	reason, text := refusedProtected, replyProtected
	if st := s.gate.Stats(); st.Open >= st.Max {
		reason, text = refusedFull, replyFull
	}
	s.gate.CountRefusal()
	s.tell(limits.Refusal{Source: c.ids[limits.ByAddr], Reason: reason}, c.remote)
	return text
}

// hand runs f on a worker's loop; this is the first worker's.
func (s *Server) hand(w *worker, f func(), in eventloop.Incoming) bool {
	if w == s.workers[0] {
		f()
		return true
	}
	if !w.loop.Post(f) {
		in.Close()
		return false
	}
	return true
}

// tell has the log told of a refusal, once an interval for a source and a reason.
func (s *Server) tell(r limits.Refusal, client string, more ...any) {
	if s.gate.Tell(r, time.Now()) {
		s.log(r, client, more...)
	}
}

func (s *Server) log(r limits.Refusal, client string, more ...any) {
	what := "client refused: "
	if r.Observed {
		what = "client would have been refused: "
	}
	args := []any{"source", r.Source, "client", client, "maxclients", s.gate.Stats().Max}
	s.cfg.Log.Warn(what+string(r.Reason), append(args, more...)...)
}

// tellRefused has the log told of a client that the gate has no room for; with its process, if it can be found.
func (s *Server) tellRefused(t *limits.Ticket, c *caller) {
	ids := t.Identities()
	s.ledger.Refused(ids, time.Now())
	r := limits.Refusal{Source: ids.Source(), Reason: whyFull(t)}
	if s.gate.Tell(r, time.Now()) {
		s.logRefused(r, *c)
	}
}

// logRefused has the log told of a client that was refused, once its process has been looked for.
func (s *Server) logRefused(r limits.Refusal, c caller) {
	done := func(p *peer.Process) {
		if p != nil {
			s.log(r, c.remote, "pid", p.PID, "process", p.Executable, "command_line", p.Command, "container", p.Container)
		} else {
			s.log(r, c.remote)
		}
	}
	if c.ends(); !c.peer.IsValid() || !s.resolver.Lookup(c.local, c.peer, done) {
		done(c.process)
	}
}

// tellObserved has the log told of a client that was let in against a rule that only observes.
func (s *Server) tellObserved(t *limits.Ticket, client string) {
	if t.Observed() {
		s.tell(limits.Refusal{Source: t.Identities().Source(), Reason: whyFull(t), Observed: true}, client)
	}
}

// whyFull is the reason for a refusal, with the rule, unless it is maxclients.
func whyFull(t *limits.Ticket) limits.Reason {
	if rule := t.Why(); rule != "total" {
		return refusedFull + ", by the rule " + rule
	}
	return refusedFull
}

// attend looks after those who wait at the gate, until nobody does: their time runs out, the rate of new connections lets
// them in, idle clients are closed to make room for them. It runs on the first worker's loop.
func (s *Server) attend() {
	if !s.attending {
		s.attending = true
		s.attendOnce()
	}
}

// attendEvery is how often those who wait are looked after.
const attendEvery = 5 * time.Millisecond

func (s *Server) attendOnce() {
	w := s.workers[0]
	s.evict()
	s.attending = s.gate.Tick(time.Now())
	if s.attending {
		w.loop.AfterFunc(attendEvery, s.attendOnce)
	}
}

// reportRefusals tells the log, at the end of an interval, how many refusals it was not told of.
func (s *Server) reportRefusals() {
	w := s.workers[0]
	w.loop.AfterFunc(time.Second, s.reportRefusals)
	s.tellSuppressed(w.loop.Now())
	s.gate.Sweep(w.loop.Now())
	s.guesses.Sweep(w.loop.Now())
	s.forgetProcesses()
}

func (s *Server) tellSuppressed(now time.Time) {
	for _, x := range s.gate.Expire(now) {
		what := "more clients refused: "
		if x.Observed {
			what = "more clients would have been refused: "
		}
		s.cfg.Log.Warn(what+string(x.Reason), "source", x.Source, "suppressed", x.Count,
			"interval", s.cfg.LogInterval.String(), "maxclients", s.gate.Stats().Max)
	}
}
