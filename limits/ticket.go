package limits

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Holder is told what becomes of a ticket that has to wait. Decided is called once for each time that a ticket had to
// wait, from any goroutine, with nothing locked; Ticket.State tells the outcome.
type Holder interface{ Decided(t *Ticket) }

// TicketState is where a ticket stands.
//
//	(Admit) ──► Admitted ◄──► Waiting ──► Refused
//
// A ticket begins in any of them. One that is admitted waits, or is refused, when more becomes known of its client.
type TicketState uint8

// The states of a ticket.
const (
	Admitted TicketState = iota // it is counted in all that it has to be counted in
	Waiting                     // it is in a queue; Decided will be called
	Refused                     // the client may not go on; Why tells the reason
)

// Ticket is a client's place, from when it knocks until Leave is called.
type Ticket struct {
	// Static after Admit.
	gate *Gate

	// Guarded by the gate's mu.
	holder     Holder
	prev, next *Ticket // neighbours in the gate's list; nil once it has left
	who        *who
	groups     []*group // it is counted in; without the total
	why        *group   // what had no room for it, or would have had none
	wait       *waiting // while it waits
	pins       *pinUse  // while it holds a pin, or waits for one
	state      TicketState
	inside     bool // it is counted in the total
	privileged bool // a rule reserves places for it
	observed   bool // a rule that only observes would have refused it

	bounds atomic.Pointer[Bounds]
}

// who is what is known of a client. Clients of which the same is known share it.
type who struct {
	Identities
	place  string // for fairness: the address, or the process behind a unix socket. It never changes
	n      int    // tickets
	shared bool   // it has been that of several, and may still be looked at when all have gone
}

// Bounds are what the rules allow a client, each the smallest of those that match. Zero is no limit.
type Bounds struct {
	MaxIdle                 time.Duration
	MaxInFlight             int
	OutputLimit, QueryLimit int64
	LimitsPins              bool // TakePin has to be asked
}

// unbounded is what a client may that no rule bounds.
var unbounded Bounds

// Bounds returns what the client is allowed at the moment. It takes no lock.
func (t *Ticket) Bounds() *Bounds { return t.bounds.Load() }

// become changes what is known of a ticket's client.
func (t *Ticket) become(ids Identities) {
	known := t.gate.known
	if t.who != nil {
		t.forget()
	}
	w := known[ids]
	if w == nil {
		if w = t.gate.spareWho; w == nil {
			w = &who{}
		}
		t.gate.spareWho = nil
		*w = who{Identities: ids, place: ids[ByAddr]}
		if ids[ByPID] != "" && isPath(ids[ByAddr]) {
			w.place += " " + ids[ByPID]
		}
		known[ids] = w
	}
	w.shared = w.shared || w.n > 0
	w.n++
	t.who = w
}

// forget takes a ticket off those of whom the same is known.
func (t *Ticket) forget() {
	if t.who.n--; t.who.n == 0 {
		delete(t.gate.known, t.who.Identities)
	}
}

// isPath reports whether an address is that of a unix socket, which all of its clients share.
func isPath(addr string) bool {
	_, err := netip.ParseAddr(addr)
	return err != nil
}

// setBounds changes what the client is allowed. Most tickets share what the one before got.
func (t *Ticket) setBounds(b *Bounds) {
	if *t.Bounds() == *b {
		return
	}
	if *t.gate.latest != *b {
		latest := *b
		t.gate.latest = &latest
	}
	t.bounds.Store(t.gate.latest)
}

// leaveAllBut takes a ticket out of those of its groups that are not among matching, and returns the others of those.
func (t *Ticket) leaveAllBut(matching []*group) (wanted []*group) {
	kept := t.groups[:0]
	for _, x := range t.groups {
		if i := slices.Index(matching, x); i >= 0 {
			kept = append(kept, x)
			matching = slices.Delete(matching, i, i+1)
		} else {
			x.uncount()
		}
	}
	clear(t.groups[len(kept):])
	t.groups = kept
	return matching
}

// Identify says that more of the client has become known, or has changed: change gets what is known. If a rule has no
// room for what the client is then, the ticket waits or is refused from then on; what it is counted in besides it stays
// counted in until it leaves.
func (t *Ticket) Identify(change func(*Identities), now time.Time) TicketState {
	g := t.gate
	g.mu.Lock()
	defer g.unlock()
	ids := &g.changed
	*ids = t.who.Identities
	change(ids)
	ids.shorten()
	if *ids == t.who.Identities || t.prev == nil {
		return t.state
	}
	t.become(*ids)
	g.rematch(t, now)
	return t.state
}

// Hold changes who is told what becomes of the ticket.
func (t *Ticket) Hold(holder Holder) {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.holder = holder
}

// State returns where the ticket stands.
func (t *Ticket) State() TicketState {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	return t.state
}

// Why returns the head of the rule that has no room for the ticket, "total" being maxclients; or of the one that would
// have had none and only observes.
func (t *Ticket) Why() Reason {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	if t.why == nil {
		return ""
	}
	return Reason(t.why.rule.Head())
}

// Observed reports whether the ticket was admitted against a rule that only observes.
func (t *Ticket) Observed() bool {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	return t.observed
}

// Identities returns what is known of the client. They are shared, and not to be changed.
func (t *Ticket) Identities() *Identities {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	return &t.who.Identities
}

// Leave says that the client has gone, or does not want to wait any longer. It is called once.
func (t *Ticket) Leave(now time.Time) {
	t.gate.mu.Lock()
	defer t.gate.unlock()
	t.leave(now)
}

// Discard is Leave for a ticket that nobody else knows of, and that is not looked at any more: the next client gets it. In a
// storm, refusals leave less garbage so.
func (t *Ticket) Discard(now time.Time) {
	g := t.gate
	g.mu.Lock()
	defer g.unlock()
	t.leave(now)
	if t.who.n == 0 && !t.who.shared {
		*t.who = who{}
		g.spareWho = t.who
	}
	*t = Ticket{gate: g, groups: t.groups[:0]}
	g.spare = t
}

func (t *Ticket) leave(now time.Time) {
	g := t.gate
	if t.prev == nil {
		panic("bug: a client leaves twice")
	}
	t.prev.next, t.next.prev = t.next, t.prev
	t.prev, t.next = nil, nil
	if t.state == Waiting {
		g.dequeue(t)
	}
	t.givePin()
	groups := slices.Clone(t.groups)
	t.leaveAllBut(nil)
	if t.inside {
		t.inside = false
		g.open--
		if t.privileged {
			g.inside--
		}
		if g.places[t.who.place]--; g.places[t.who.place] == 0 {
			delete(g.places, t.who.place)
		}
		g.serve(g.total, now)
	}
	for _, x := range groups {
		g.serve(x, now)
	}
	t.forget()
}
