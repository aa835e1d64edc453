package limits

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// Clients wait for a place in the queue of the group that has none for them. It is fair between places, that is, between
// addresses: whoever comes from where the fewest are in goes first, so that a flood from one address delays no
// single client from another; among equals, whoever has waited longest. A full queue makes room in the same way: for
// somebody from a place with few waiting, the newest from the place with the most waiting is refused.

// queue holds the tickets that wait for one group.
type queue struct {
	places map[string][]*Ticket // in the order of coming
	size   int
}

// waiting is what a ticket knows while it waits.
type waiting struct {
	in           *group
	since, until time.Time
	seq          uint64
	evicting     bool // somebody has been asked to make room for it
}

// evictTimeout is how long a client waits until another has made room for it. That takes a moment, unless all are busy.
const evictTimeout = time.Second

// maxEvicting bounds those that wait for others to make room, in one group.
const maxEvicting = 256

// enqueue has a ticket wait for a group, or refuses it.
func (g *Gate) enqueue(t *Ticket, x *group, now time.Time) {
	patience, size := x.rule.QueueTimeout, x.rule.QueueSize
	if x.rule.Overflow == EvictIdle {
		patience, size = evictTimeout, maxEvicting
	}
	full := x.queue.size >= size || !t.inside && g.outside >= g.mostOutside()
	if full && !g.displace(t, x) {
		g.refuse(t, x)
		return
	}
	if t.wait == nil { // otherwise it has waited elsewhere before, and goes on
		g.seq++
		t.wait = &waiting{since: now, until: now.Add(patience), seq: g.seq}
		x.queued++
	}
	t.state, t.why = Waiting, x
	t.wait.evicting = t.wait.evicting && t.wait.in == x
	t.wait.in = x
	q := &x.queue
	if q.places == nil {
		q.places = map[string][]*Ticket{}
	}
	list := q.places[t.who.place]
	i := len(list)
	for i > 0 && list[i-1].wait.seq > t.wait.seq {
		i--
	}
	q.places[t.who.place] = slices.Insert(list, i, t)
	q.size++
	g.waiting++
	if !t.inside {
		g.outside++
	}
	g.queues[x] = struct{}{}
}

// mostOutside bounds those that wait before they are in, by all rules together: each keeps a connection open, and a rule
// for each value may have many queues.
func (g *Gate) mostOutside() int {
	most := g.total.rule.mostOutside()
	for _, r := range g.rules {
		most += r.mostOutside()
	}
	return most
}

func (r *Rule) mostOutside() int {
	switch r.Overflow {
	case Queue:
		return cmp.Or(r.QueueSize, DefaultQueueSize)
	case EvictIdle:
		return maxEvicting
	}
	return 0
}

// MostWaiting returns how many connections rules may keep waiting at the door.
func MostWaiting(rules []Rule) (n int) {
	for i := range rules {
		n += rules[i].mostOutside()
	}
	return n
}

// MostWaiting returns how many connections the rules in force may keep waiting at the door; given more rules, as if those
// were in force as well, each in the place of the one with the same head.
func (g *Gate) MostWaiting(more ...Rule) int { return g.MostWaitingWithout(nil, more...) }

// MostWaitingWithout is MostWaiting as if rules with the heads of some others were not in force.
func (g *Gate) MostWaitingWithout(some []Rule, more ...Rule) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.mostOutside() + MostWaiting(more)
	for _, other := range slices.Concat(some, more) {
		for _, r := range append([]*ruleState{g.total.rule}, g.rules...) {
			if r.Head() == other.Head() {
				n -= r.mostOutside()
			}
		}
	}
	return n
}

// displace makes room in a full queue for a ticket from a place that has clearly fewer waiting than another.
func (g *Gate) displace(t *Ticket, x *group) bool {
	var most []*Ticket
	for _, list := range x.queue.places {
		if len(list) > len(most) {
			most = list
		}
	}
	if len(most) < len(x.queue.places[t.who.place])+2 {
		return false
	}
	last := most[len(most)-1]
	g.dequeue(last)
	g.refuse(last, x)
	g.tell(last)
	return true
}

// dequeue takes a ticket out of the queue. It keeps what it knows of waiting, in case that it goes on elsewhere.
func (g *Gate) dequeue(t *Ticket) {
	x := t.wait.in
	q := &x.queue
	place := t.who.place
	list := q.places[place]
	i := slices.Index(list, t)
	if list = slices.Delete(list, i, i+1); len(list) > 0 {
		q.places[place] = list
	} else {
		delete(q.places, place)
	}
	q.size--
	g.waiting--
	if !t.inside {
		g.outside--
	}
	if q.size == 0 {
		delete(g.queues, x)
		x.forget()
	}
}

// next returns the ticket whose turn it is.
func (g *Gate) next(x *group) *Ticket {
	var best *Ticket
	open := 0
	for place, list := range x.queue.places {
		t, n := list[0], g.places[place]
		for _, other := range list { // who never is refused goes first
			if other.privileged {
				t, n = other, -1
				break
			}
		}
		if best == nil || n < open || n == open && t.wait.seq < best.wait.seq {
			best, open = t, n
		}
	}
	return best
}

// serve lets in who waits for a group, as far as there is room now.
func (g *Gate) serve(x *group, now time.Time) {
	for x.queue.size > 0 && !g.handed {
		t := g.next(x)
		if !x.lets(t, now) {
			return
		}
		g.dequeue(t)
		g.decide(t, now)
		if t.state != Waiting { // otherwise it waits for another group now
			g.tell(t)
		}
	}
}

// tell has a ticket's holder told, once mu is free.
func (g *Gate) tell(t *Ticket) { g.told = append(g.told, decision{t, t.holder}) }

// decision is that a ticket does not wait any longer.
type decision struct {
	ticket *Ticket
	holder Holder
}

// Tick refuses those who have waited for too long, and lets in those whom the rate of new connections allows by now. It
// is to be called every few milliseconds while somebody waits, and now and then otherwise. It reports whether somebody
// waits.
func (g *Gate) Tick(now time.Time) bool {
	g.mu.Lock()
	defer g.unlock()
	for x := range g.queues {
		for _, list := range x.queue.places {
			for _, t := range slices.Clone(list) {
				if now.Before(t.wait.until) {
					continue // those behind may be less patient
				}
				g.dequeue(t)
				g.refuse(t, x)
				g.tell(t)
			}
		}
		g.serve(x, now)
	}
	return g.waiting > 0
}

// Sweep forgets the groups of single values that nobody is counted in, once their rate allows for all that it ever
// does.
func (g *Gate) Sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, r := range g.rules {
		for _, x := range r.groups {
			x.hasToken(now)
			x.forget()
		}
	}
}

// Waiter is a ticket that waits, as the operator sees it.
type Waiter struct {
	Ticket *Ticket
	Who    *Identities   // shared, not to be changed
	Rule   string        // the head of the rule that has no room
	Value  string        // that it counts by itself
	Since  time.Duration // how long it has waited
	Inside bool          // the client is in, and what became known of it later has to wait
}

// Queue returns those who wait, by group, in the order of coming.
func (g *Gate) Queue(now time.Time) []Waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Waiter
	seqs := map[*Ticket]uint64{}
	for x := range g.queues {
		for _, list := range x.queue.places {
			for _, t := range list {
				seqs[t] = t.wait.seq
				out = append(out, Waiter{t, &t.who.Identities, x.rule.Head(), x.value, now.Sub(t.wait.since), t.inside})
			}
		}
	}
	slices.SortFunc(out, func(a, b Waiter) int { return int(seqs[a.Ticket]) - int(seqs[b.Ticket]) })
	return out
}

// Eviction is a group in which somebody waits for an idle client to make room.
type Eviction struct {
	gate    *Gate
	group   *group
	waiters []*Ticket
}

// MaxEvictions bounds the groups that Evictions returns at once: a rule for each value may have any number.
const MaxEvictions = 16

// Evictions returns what evictions are needed and have not been asked for yet, some of them if there are many. Of each,
// Choose is to be asked whom to close, and then Done is to be called.
func (g *Gate) Evictions() []*Eviction {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []*Eviction
	for x := range g.queues {
		if len(out) == MaxEvictions {
			break
		}
		if x.rule.Overflow != EvictIdle {
			continue
		}
		e := &Eviction{gate: g, group: x}
		for _, list := range x.queue.places {
			for _, t := range list {
				if !t.wait.evicting {
					t.wait.evicting = true
					e.waiters = append(e.waiters, t)
				}
			}
		}
		if len(e.waiters) > 0 {
			out = append(out, e)
		}
	}
	return out
}

// Candidate is a client that is in, as an eviction looks at it.
type Candidate struct {
	Ticket    *Ticket
	Idle      time.Duration
	Evictable bool // it holds no state, and has nothing in flight
}

// evictable are the candidates of a place, the one that has been idle for longest first.
type evictable struct {
	clients    int // of the place, in the group
	candidates []Candidate
}

// evictables is a heap, with the place on top from which the next one is to go.
type evictables []*evictable

func (h evictables) Len() int      { return len(h) }
func (h evictables) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h evictables) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[j].clients, h[i].clients), cmp.Compare(h[j].candidates[0].Idle, h[i].candidates[0].Idle)) < 0
}
func (h *evictables) Push(x any) { *h = append(*h, x.(*evictable)) }
func (h *evictables) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}

// Choose returns those of the candidates that are to be closed, one for each who waits, as far as there are any: of the
// place that has the most clients in the group, the one that has been idle for longest; then again. Candidates are all
// clients that are in.
func (e *Eviction) Choose(candidates []Candidate) (chosen []Candidate) {
	h := e.places(candidates)
	heap.Init(&h)
	for len(chosen) < len(e.waiters) && len(h) > 0 {
		p := h[0]
		chosen = append(chosen, p.candidates[0])
		p.clients--
		if p.candidates = p.candidates[1:]; len(p.candidates) == 0 {
			heap.Pop(&h)
		} else {
			heap.Fix(&h, 0)
		}
	}
	return chosen
}

// places returns the places of the candidates that may be closed.
func (e *Eviction) places(candidates []Candidate) (out evictables) {
	all := map[string]*evictable{}
	e.gate.mu.Lock()
	for _, c := range candidates {
		t := c.Ticket
		if !t.inside || e.group != e.gate.total && !slices.Contains(t.groups, e.group) {
			continue
		}
		p := all[t.who.place]
		if p == nil {
			p = &evictable{}
			all[t.who.place] = p
		}
		p.clients++
		if c.Evictable && !t.privileged {
			p.candidates = append(p.candidates, c)
		}
	}
	e.gate.mu.Unlock()
	for _, p := range all {
		if len(p.candidates) > 0 {
			slices.SortFunc(p.candidates, func(a, b Candidate) int { return cmp.Compare(b.Idle, a.Idle) })
			out = append(out, p)
		}
	}
	return out
}

// Done says how many of the chosen are being closed. Those for whom nobody makes room are refused, the latest first.
func (e *Eviction) Done(closed int) {
	g := e.gate
	g.mu.Lock()
	defer g.unlock()
	e.group.evicted += uint64(closed)
	waiters := slices.DeleteFunc(slices.Clone(e.waiters), func(t *Ticket) bool {
		return t.prev == nil || t.state != Waiting || t.wait.in != e.group // it has hung up, or been decided on, meanwhile
	})
	slices.SortFunc(waiters, func(a, b *Ticket) int { return int(a.wait.seq) - int(b.wait.seq) })
	helpless := max(len(e.waiters)-closed, 0)
	n := max(len(waiters)-helpless, 0)
	for _, t := range waiters[n:] {
		g.dequeue(t)
		g.refuse(t, e.group)
		g.tell(t)
	}
	for _, t := range waiters[:n] { // somebody else has got the place that was made for it
		t.wait.evicting = false
	}
}
