package proxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// What operators are shown. Sessions and links belong to their loops: they are asked there, and what comes back is a
// copy. All of it may be called from any goroutine but a loop.

// ClientReport is what an operator is shown of a client. Each field is a column of the console.
type ClientReport struct {
	ID          int64
	Remote      string // its address, or the path of the unix socket
	Listener    string // the address at which it was accepted
	User        string // the ACL user that it acts as
	Name        string // by CLIENT SETNAME
	Lib         string // by CLIENT SETINFO: library/version
	PID         string // its process, if it is on this host and has been found out
	Process     string // the executable of that process
	Container   string // the container of that process
	Cert        string // the name in its TLS certificate
	State       string // what the session does: see sessionState
	Pin         string // why it holds an upstream connection of its own; empty: it holds none
	LastCommand string // as Redis spells it
	Source      string // as limits.Identities.Source has it

	Age, Idle      time.Duration
	DB, RESP       int
	Commands       uint64 // that it has sent
	InFlight       int    // commands that have not been answered
	QueryBuffer    int    // bytes that wait to be forwarded
	OutputBuffer   int    // bytes that it has not read
	Received, Sent uint64 // bytes
}

// LaneReport is what an operator is shown of an upstream connection that clients share.
type LaneReport struct {
	Loop     int
	ID       int64 // the upstream's id of the connection; 0: it has not said
	User     string
	DB, RESP int
	Upstream string        // the address that it leads to
	State    string        // serving, draining or retiring
	Sessions int           // clients that use it
	InFlight int           // commands that have not been answered
	Silence  time.Duration // for how long an answer has been due, without a word
	Age      time.Duration
}

// PinReport is what an operator is shown of an upstream connection that is lent, or kept for lending.
type PinReport struct {
	Loop     int
	ID       int64 // the upstream's id of the connection; 0: it has not said
	User     string
	DB, RESP int
	Upstream string // the address that it leads to
	State    string // serving or retiring
	Holder   int64  // the client's id; 0: no client in particular
	Remote   string // the client's address
	Why      string // what keeps it: see pinReason; "subscriptions" of several clients, "idle" for the next one
	InFlight int    // commands that have not been answered
	Age      time.Duration
}

// PoolReport is how the upstream connections stand.
type PoolReport struct {
	State                string        // see Server.State
	PauseLeft            time.Duration // until a pause ends by itself; 0: there is none
	Upstream             string        // up, or down: the last attempt to connect to it has failed
	Down                 time.Duration // for how long
	Tries                int           // attempts that have failed since
	Error                string        // why the last one has
	Size                 int           // the limit in force
	Lanes, LanesWaiting  int           // open, or being opened, and those that wait to be
	Pins, PinsWaiting    int           // idle ones included
	Control, ControlWait int
	IdlePins             int    // kept for lending
	PoolTimeouts         uint64 // commands refused because no connection came free in time
	Connects             uint64 // connections opened since the start, but for the control connection
	Lost                 uint64 // connections that broke
	Addr                 string // of the upstream that is in use; empty: no sentinel has told one
	Failovers            uint64 // how often the primary has become another server
	Sentinels            int    // that are known
	SentinelsHeard       int    // of these, that are being listened to
}

// WaiterReport is what an operator is shown of somebody in the queue of a rule.
type WaiterReport struct {
	Remote string // the client's address
	Source string // who the client is taken to be: see limits.Identities.Source
	Rule   string // the head of the rule that has no room
	Value  string // that the rule counts by itself, if it does
	Waited time.Duration
	Bytes  int  // that the client has sent meanwhile
	Inside bool // the client is in, and waits because of what has become known of it
}

// Queue returns who waits for a place, in the order of coming.
func (s *Server) Queue(ctx context.Context) ([]WaiterReport, error) {
	type seen struct {
		ticket *limits.Ticket
		remote string
		bytes  int
	}
	all, err := collectAll(ctx, s, func(w *worker) (out []seen) {
		for d := range w.waiting {
			out = append(out, seen{d.ticket, d.remote, len(d.heard)})
		}
		for x := range w.all {
			if x.limited {
				out = append(out, seen{x.ticket, x.remote, len(x.in)})
			}
		}
		return out
	})
	byTicket := map[*limits.Ticket]seen{}
	for _, x := range all {
		byTicket[x.ticket] = x
	}
	var out []WaiterReport
	for _, q := range s.gate.Queue(time.Now()) {
		x := byTicket[q.Ticket]
		out = append(out, WaiterReport{
			Remote: x.remote, Source: q.Who.Source(), Rule: q.Rule, Value: q.Value, Waited: q.Since, Bytes: x.bytes, Inside: q.Inside,
		})
	}
	return out, err
}

// Rules returns the limits in force, and who is counted by them.
func (s *Server) Rules() []limits.RuleReport { return s.gate.Rules() }

// SetRule puts a limit in force until the end of the process, in the place of the one with the same head, if there is one;
// unless those who may wait for its sake would be more than the process can have files open.
func (s *Server) SetRule(text string) error {
	r, err := limits.ParseRule(text)
	if err != nil {
		return err
	}
	now, then := s.gate.MostWaiting(), s.gate.MostWaiting(r)
	if _, ok := roomFor(s.current.Load(), s.gate.Stats().Max, then); !ok && then > now {
		return errors.New("the process may not open as many files as clients could wait then: want a smaller queue-size, a lower " +
			"maxclients, or a higher limit on open files (ulimit -n)")
	}
	s.gate.SetRule(r, time.Now())
	return nil
}

// UnsetRule takes the limit with a head out of force.
func (s *Server) UnsetRule(head string) error {
	r, err := limits.ParseRuleHead(head)
	if err != nil {
		return err
	}
	if !s.gate.UnsetRule(r, time.Now()) {
		return fmt.Errorf("there is no limit %s", r.Head())
	}
	return nil
}

// Ledger is the book of who holds what since when, and of the sources that a leak rule has named.
func (s *Server) Ledger() *limits.Ledger { return s.ledger }

// visit runs f on every loop, at the same time, and returns when it has been run on all of them. A loop that has ended
// has nothing to tell. After an error, f may still be running: what it writes to is not to be looked at.
func (s *Server) visit(ctx context.Context, f func(*worker)) error {
	done := make([]chan struct{}, len(s.workers))
	for i, w := range s.workers {
		ran := make(chan struct{})
		if w.loop.Post(func() { f(w); close(ran) }) {
			done[i] = ran
		}
	}
	for i, w := range s.workers {
		if done[i] == nil {
			continue
		}
		select {
		case <-done[i]:
		case <-w.done:
		case <-ctx.Done():
			return errors.New("the event loops did not answer in time")
		}
	}
	return nil
}

// collectAll returns what f makes of each loop, in their order.
func collectAll[T any](ctx context.Context, s *Server, f func(*worker) []T) ([]T, error) {
	found := make([][]T, len(s.workers)) // each loop has its own
	if err := s.visit(ctx, func(w *worker) { found[w.index] = f(w) }); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// Clients returns the clients that match, in the order of their ids. The zero filter matches all.
func (s *Server) Clients(ctx context.Context, filter ClientFilter) ([]ClientReport, error) {
	all, err := collectAll(ctx, s, func(w *worker) []ClientReport {
		var out []ClientReport
		if filter.Empty() {
			out = make([]ClientReport, 0, w.count)
		}
		for s := range w.all {
			if r := s.report(); filter.Matches(&r) {
				out = append(out, r)
			}
		}
		return out
	})
	slices.SortFunc(all, func(a, b ClientReport) int { return cmp.Compare(a.ID, b.ID) })
	return all, err
}

// report returns what an operator is shown of the session.
func (s *session) report() ClientReport {
	now := s.w.clock()
	ids := s.ticket.Identities()
	last, _ := s.text("cmd")
	r := ClientReport{
		ID: s.id, Remote: s.remote, Listener: ids[limits.ByListener], User: s.user(), Name: ids[limits.ByName], Lib: ids[limits.ByLib],
		PID: ids[limits.ByPID], Process: ids[limits.ByProcess], Container: ids[limits.ByContainer],
		Cert: ids[limits.ByCert], Source: ids.Source(),
		State: s.state.String(), Pin: s.pinReason(), LastCommand: last,
		Age: now - s.created, Idle: now - s.active, DB: s.db(), RESP: int(s.protocol()),
		Commands: s.commands, InFlight: int(s.inFlight), QueryBuffer: len(s.in), OutputBuffer: s.out.size,
		Received: s.received, Sent: s.sent,
	}
	if r.LastCommand == "NULL" {
		r.LastCommand = ""
	}
	return r
}

var sessionStates = [...]string{
	flowing: "flowing", barred: "barred", awaitingLane: "awaiting-lane", awaitingPin: "awaiting-pin",
	awaitingTurn: "awaiting-turn", awaitingControl: "awaiting-control", awaitingPlace: "awaiting-place", paused: "paused", leaving: "leaving", gone: "gone",
}

// String returns the state as the console spells it.
func (s sessionState) String() string { return sessionStates[s] }

// pinReason says what keeps the session's pin: the strongest reason, if there are several.
func (s *session) pinReason() string {
	p := s.pin
	switch {
	case p == nil:
		return ""
	case s.relaying && s.last != nil && s.last.how == relay:
		return strings.ToLower(s.last.name)
	case s.relaying:
		return "relayed"
	case p.tx != nil:
		return "transaction"
	case p.watching:
		return "watch"
	case p.blocking:
		return "blocked"
	case p.tracking != trackingOff || s.ctx.Tracking:
		return "tracking"
	case p.sticky:
		return "state"
	}
	return "command"
}

// Lanes returns the upstream connections that clients share.
func (s *Server) Lanes(ctx context.Context) ([]LaneReport, error) {
	return collectAll(ctx, s, func(w *worker) []LaneReport {
		var out []LaneReport
		sessions := map[*multiplex.Link]int{}
		for s := range w.all {
			sessions[s.ctx.Link()]++
		}
		for _, l := range w.pool.Links() {
			if l.Kind != limits.Lane {
				continue
			}
			id, _ := upstreamID(l.Link)
			out = append(out, LaneReport{
				Loop: w.index, ID: id, User: w.userOf(l.Key), DB: l.Key.DB, RESP: int(l.Key.RESP), State: l.State, Upstream: l.Upstream,
				Sessions: sessions[l.Link], InFlight: l.InFlight, Silence: l.Silence, Age: w.loop.Now().Sub(l.Opened),
			})
		}
		return out
	})
}

// userOf returns the ACL user of a context.
func (w *worker) userOf(key multiplex.Key) string { return cmp.Or(key.User, w.cfg.Upstream.User()) }

// Pins returns the upstream connections that are lent to one client, or kept for lending.
func (s *Server) Pins(ctx context.Context) ([]PinReport, error) {
	return collectAll(ctx, s, (*worker).reportPins)
}

func (w *worker) reportPins() []PinReport {
	holders := w.pinHolders()
	var out []PinReport
	for _, l := range w.pool.Links() {
		if l.Kind != limits.Pin {
			continue
		}
		r := holders[l.Link]
		switch {
		case r.Why != "":
		case l.State == "serving":
			r.Why = "idle"
		default:
			r.Why = "closing"
		}
		r.ID, _ = upstreamID(l.Link)
		r.Loop, r.User, r.DB, r.RESP, r.State = w.index, w.userOf(l.Key), l.Key.DB, int(l.Key.RESP), l.State
		r.Upstream, r.InFlight, r.Age = l.Upstream, l.InFlight, w.loop.Now().Sub(l.Opened)
		out = append(out, r)
	}
	return out
}

// pinHolders returns who holds each of the loop's pins, and why.
func (w *worker) pinHolders() map[*multiplex.Link]PinReport {
	holders := map[*multiplex.Link]PinReport{}
	for s := range w.all {
		if s.pin != nil {
			holders[s.pin.link] = PinReport{Holder: s.id, Remote: s.remote, Why: s.pinReason()}
		}
		if s.subs != nil && s.subs.inbox != nil && s.subs.inbox.link != nil {
			holders[s.subs.inbox.link] = PinReport{Holder: s.id, Remote: s.remote, Why: "redirect"}
		}
	}
	for _, h := range w.hubs {
		if h.link != nil {
			holders[h.link] = PinReport{Why: "subscriptions"}
		}
	}
	return holders
}

// Pool returns how the upstream connections stand.
func (s *Server) Pool(ctx context.Context) (PoolReport, error) {
	b, primary := s.budget, s.primary.Report()
	r := PoolReport{
		State: s.State(), PauseLeft: s.op.left(), Upstream: "up",
		Size:  b.Size(),
		Lanes: b.Open(limits.Lane), LanesWaiting: b.Waiting(limits.Lane),
		Pins: b.Open(limits.Pin), PinsWaiting: b.Waiting(limits.Pin),
		Control: b.Open(limits.Control), ControlWait: b.Waiting(limits.Control),
		PoolTimeouts: s.counters.poolTimeouts.Load(),
		Addr:         primary.Addr, Failovers: primary.Failovers, Sentinels: primary.Sentinels, SentinelsHeard: primary.Heard,
	}
	for _, w := range s.workers {
		r.Connects += w.pool.Connects()
		r.Lost += w.pool.Lost()
	}
	idle, err := collectAll(ctx, s, func(w *worker) []int { return []int{w.pool.Stats().Idle} })
	for _, n := range idle {
		r.IdlePins += n
	}
	health, _ := collectAll(ctx, s, func(w *worker) []multiplex.Health { return []multiplex.Health{w.pool.Health()} })
	for _, h := range health {
		if h.Down {
			r.Upstream, r.Down, r.Tries, r.Error = "down", max(r.Down, time.Since(h.Since)), r.Tries+h.Tries, h.Err.Error()
		}
	}
	return r, err
}

// Latency returns how long commands on lanes have taken, since the start.
func (s *Server) Latency(ctx context.Context) (multiplex.Latency, error) {
	var sum multiplex.Latency
	all, err := collectAll(ctx, s, func(w *worker) []multiplex.Latency { return []multiplex.Latency{w.pool.Latency()} })
	for i := range all {
		sum.Add(&all[i])
	}
	return sum, err
}
