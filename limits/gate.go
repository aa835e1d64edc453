package limits

import (
	"slices"
	"sync"
	"time"
)

// Gate admits clients: up to a number in all, and as the rules say for those of an identity.
//
// A client has a Ticket from the moment it knocks until it has gone. The ticket is counted in the groups of the rules
// that match what is known of the client; when more becomes known, in more. It is counted in all that it has to be
// counted in at once, or in none, so that no limit is exceeded, not for a moment. What there is no room for waits in
// the queue of the group that has none (queue.go).
type Gate struct {
	// mu guards the following fields, and those of tickets and groups. It is not held while a ticket's holder is told.
	mu       sync.Mutex
	open     int // clients that are in
	reserved int // places that only privileged clients get
	inside   int // privileged clients that are in
	admitted uint64
	refused  uint64
	total    *group
	rules    []*ruleState
	places   map[string]int      // clients that are in, by who.place
	known    map[Identities]*who // shared by tickets
	queues   map[*group]struct{} // in which somebody waits
	tickets  Ticket              // head of the ring
	waiting  int                 // tickets in a queue
	outside  int                 // those of them whose clients are not in yet
	seq      uint64
	told     []decision // of whom the holders are to be told when mu is free
	granted  []func()   // who has got a pin, to be told likewise
	matching []*group   // kept for its capacity
	latest   *Bounds    // that a ticket got last
	spare    *Ticket    // for the next client, as spareWho is; nil: there is none
	spareWho *who
	handed   bool       // see HandOver
	changed  Identities // those that Identify is about; in one place, as garbage costs idle clients' memory

	refusals refusalLog
}

// Reason is why clients are refused.
type Reason string

// NewGate returns a gate for at most maxclients clients, without further rules. Each source's refusals are reported
// once an interval.
func NewGate(maxclients int, interval time.Duration) *Gate {
	g := &Gate{places: map[string]int{}, known: map[Identities]*who{}, queues: map[*group]struct{}{}, latest: &unbounded, refusals: refusalLog{interval: interval, told: map[Refusal]*refusals{}}}
	g.tickets.next, g.tickets.prev = &g.tickets, &g.tickets
	total := &ruleState{Rule: Rule{Total: true}.withDefaults()}
	g.total = &group{rule: total, max: maxclients}
	total.groups = map[string]*group{"": g.total}
	return g
}

// unlock lets go of mu, and then tells those whom something has become of.
func (g *Gate) unlock() {
	told, granted := g.told, g.granted
	g.told, g.granted = nil, nil
	g.mu.Unlock()
	for _, d := range told {
		if d.holder != nil {
			d.holder.Decided(d.ticket)
		}
	}
	for _, f := range granted {
		f()
	}
}

// Admit decides on a client that knocks. Whatever becomes of it, the ticket's Leave has to be called, once.
func (g *Gate) Admit(ids *Identities, holder Holder, now time.Time) *Ticket {
	g.mu.Lock()
	t := g.spare
	if g.spare = nil; t == nil {
		t = &Ticket{gate: g}
	}
	t.holder = holder
	t.bounds.Store(&unbounded)
	t.prev, t.next = g.tickets.prev, &g.tickets
	t.prev.next, g.tickets.prev = t, t
	short := *ids
	short.shorten()
	t.become(short)
	g.decide(t, now)
	g.unlock()
	return t
}

// AdmitAtOnce lets in a client that there is a place for now, and returns nil otherwise: it is neither refused nor does it
// wait, and nobody else makes room for it. It is for somebody who has a ticket, or has been refused, and turns out to be
// somebody else; the ticket's holder is for Hold to say.
func (g *Gate) AdmitAtOnce(ids *Identities, now time.Time) *Ticket {
	t := &Ticket{gate: g}
	t.bounds.Store(&unbounded)
	short := *ids
	short.shorten()
	g.mu.Lock()
	defer g.unlock()
	t.become(short)
	wanted := g.match(t, now)
	if g.blocked(t, wanted, now) != nil {
		for _, x := range wanted {
			x.forget()
		}
		t.forget()
		return nil
	}
	t.prev, t.next = g.tickets.prev, &g.tickets
	t.prev.next, g.tickets.prev = t, t
	g.count(t, wanted, now)
	return t
}

// match returns the groups that a ticket has to be counted in besides those that it is counted in; the latter are left
// where their rules match no longer. What it returns is valid until the next call.
func (g *Gate) match(t *Ticket, now time.Time) (wanted []*group) {
	privileged := false
	matching := g.matching[:0]
	bounds := unbounded
	g.total.rule.narrow(&bounds)
	for _, r := range g.rules {
		value, ok := r.matches(&t.who.Identities)
		if !ok {
			continue
		}
		privileged = privileged || r.Reserved > 0
		r.narrow(&bounds)
		if r.counts() {
			matching = append(matching, r.group(value, now))
		}
	}
	g.matching = matching
	t.setBounds(&bounds)
	if t.privileged != privileged {
		t.privileged = privileged
		if t.inside {
			g.inside += map[bool]int{true: 1, false: -1}[privileged]
		}
	}
	return t.leaveAllBut(matching)
}

// decide counts a ticket in all that it has to be counted in, or finds out what is to become of it.
func (g *Gate) decide(t *Ticket, now time.Time) {
	wanted := g.match(t, now)
	blocked := g.blocked(t, wanted, now)
	switch {
	case blocked == nil:
		g.count(t, wanted, now)
	case blocked.rule.Overflow == Queue, blocked.rule.Overflow == EvictIdle && (blocked.full(t) || blocked.queue.size > 0):
		g.enqueue(t, blocked, now)
	default:
		g.refuse(t, blocked)
	}
	for _, x := range wanted {
		x.forget()
	}
}

// blocked returns a group that has no room for a ticket, or in which others wait that it must not overtake; or nil. Of several, one that rejects counts before those that
// let wait. Groups whose rule only observes have room for everybody.
func (g *Gate) blocked(t *Ticket, wanted []*group, now time.Time) *group {
	var found *group
	overtakes := func(x *group) bool { return t.wait == nil && x.queue.size > 0 && !t.privileged }
	if !t.inside && (!g.total.lets(t, now) || overtakes(g.total)) {
		found = g.total
	}
	for _, x := range wanted {
		if (!x.lets(t, now) || overtakes(x)) && (found == nil || x.rule.Overflow == Reject && found.rule.Overflow != Reject) {
			found = x
		}
	}
	return found
}

// count counts a ticket in all that it wants.
func (g *Gate) count(t *Ticket, wanted []*group, now time.Time) {
	t.state, t.why, t.wait, t.observed = Admitted, nil, nil, false
	if !t.inside {
		t.inside = true
		g.open++
		g.admitted++
		g.places[t.who.place]++
		if t.privileged {
			g.inside++
		}
		if !g.total.hasToken(now) {
			t.note(g.total)
		}
		g.total.take()
	}
	for _, x := range wanted {
		if !t.privileged && !x.hasRoom(t, now) {
			t.note(x)
		}
		x.open++
		x.take()
	}
	if len(wanted) > 0 {
		t.groups = append(t.groups, wanted...)
	}
}

// refuse says no.
func (g *Gate) refuse(t *Ticket, by *group) {
	t.state, t.why, t.wait, t.observed = Refused, by, nil, false
	by.refused++
	g.refused++
}

// rematch has a ticket counted as it has to be now. Mu is held.
func (g *Gate) rematch(t *Ticket, now time.Time) {
	if t.state == Refused {
		return
	}
	before, privileged := slices.Clone(t.groups), t.privileged
	waited := t.state == Waiting
	if waited {
		g.dequeue(t)
	}
	g.decide(t, now)
	if waited && t.state != Waiting {
		g.tell(t)
	}
	for _, x := range before {
		if !slices.Contains(t.groups, x) {
			g.serve(x, now)
		}
	}
	if privileged != t.privileged {
		g.serve(g.total, now)
	}
}

// CountRefusal counts a client that was turned away without a ticket.
func (g *Gate) CountRefusal() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused++
}

// GateStats are a gate's counters.
type GateStats struct {
	Max     int    // maxclients in force
	Open    int    // clients that are in
	Waiting int    // tickets that wait in a queue
	Total   uint64 // clients let in since the start
	Refused uint64 // clients refused since the start
}

// Stats returns the counters.
func (g *Gate) Stats() GateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GateStats{Max: g.total.max, Open: g.open, Waiting: g.waiting, Total: g.admitted, Refused: g.refused}
}

// HandOver says that another program's gate counts the clients from now on, and Leave that they have gone there: nobody who waits gets
// a place that one of them leaves. Who waits is refused when its time is over, or goes there too.
func (g *Gate) HandOver() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handed = true
}

// Readmit counts a client that another program's gate has let in before. There is room for it, whatever the limits: they
// let nobody else in until they have room again. It takes no part in the rate of new connections. Holder may be nil.
func (g *Gate) Readmit(ids *Identities, holder Holder, now time.Time) *Ticket {
	t := &Ticket{gate: g, holder: holder}
	t.bounds.Store(&unbounded)
	short := *ids
	short.shorten()
	g.mu.Lock()
	defer g.unlock()
	t.become(short)
	t.prev, t.next = g.tickets.prev, &g.tickets
	t.prev.next, g.tickets.prev = t, t
	wanted := g.match(t, now)
	t.inside = true
	g.open++
	g.admitted++
	g.places[t.who.place]++
	if t.privileged {
		g.inside++
	}
	for _, x := range wanted {
		x.open++
	}
	t.groups = append(t.groups, wanted...)
	return t
}
