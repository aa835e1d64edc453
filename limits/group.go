package limits

import (
	"time"
)

// ruleState is a rule in force, and who is counted by it.
type ruleState struct {
	Rule
	groups map[string]*group // by value; one, called "", unless the rule is for each value
	// Totals of groups that have been dropped.
	past groupCounts
}

// group is who a rule counts together.
type group struct {
	rule  *ruleState
	value string
	max   int // clients; 0: no limit

	open     int
	pins     int
	tokens   float64 // for new-connections-per-second
	filled   time.Time
	queue    queue
	pinQueue []*Ticket
	groupCounts
}

// groupCounts are what has happened since the rule is in force.
type groupCounts struct {
	refused, queued, evicted, wouldRefuse uint64
}

// counts reports whether a rule bounds what its clients have together.
func (r *Rule) counts() bool {
	return r.MaxClients > 0 || r.NewPerSecond > 0 || r.MaxPins > 0 || r.Reserved > 0
}

// narrow applies a rule's bounds for each client.
func (r *Rule) narrow(b *Bounds) {
	b.MaxIdle = least(b.MaxIdle, r.MaxIdle)
	b.MaxInFlight = least(b.MaxInFlight, r.MaxInFlight)
	b.OutputLimit = least(b.OutputLimit, r.OutputLimit)
	b.QueryLimit = least(b.QueryLimit, r.QueryLimit)
	b.LimitsPins = b.LimitsPins || r.MaxPins > 0
}

// least returns the smaller of two limits, of which zero is none.
func least[T int | int64 | time.Duration](a, b T) T {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// group returns who the rule counts under a value.
func (r *ruleState) group(value string, now time.Time) *group {
	x := r.groups[value]
	if x == nil {
		x = &group{rule: r, value: value, max: r.MaxClients, tokens: float64(r.Burst), filled: now}
		r.groups[value] = x
	}
	return x
}

// lets reports whether a group lets one more in.
func (x *group) lets(t *Ticket, now time.Time) bool {
	switch {
	case x == t.gate.total:
		return !x.full(t) && (t.privileged || x.rule.Overflow == Observe || x.hasToken(now))
	case t.privileged, x.rule.Overflow == Observe:
		return true
	}
	return x.hasRoom(t, now)
}

// hasRoom reports whether a group can take one more and keep within its limits.
func (x *group) hasRoom(t *Ticket, now time.Time) bool { return !x.full(t) && x.hasToken(now) }

// full reports whether a group has as many clients as it may.
func (x *group) full(t *Ticket) bool {
	g := t.gate
	if x != g.total {
		return x.max > 0 && x.open >= x.max
	}
	// What is reserved, ordinary clients leave free.
	return g.open >= x.max || !t.privileged && g.open-g.inside >= x.max-g.reserved
}

// hasToken reports whether the rate of new connections allows for one more.
func (x *group) hasToken(now time.Time) bool {
	if x.rule.NewPerSecond == 0 {
		return true
	}
	if passed := now.Sub(x.filled); passed > 0 {
		x.tokens = min(x.tokens+passed.Seconds()*x.rule.NewPerSecond, float64(x.rule.Burst))
		x.filled = now
	}
	return x.tokens >= 1
}

// note remembers that a rule would have refused the ticket if it did more than observe.
func (t *Ticket) note(x *group) {
	if x.rule.Overflow == Observe {
		x.wouldRefuse++
		t.observed, t.why = true, x
	}
}

func (x *group) take() {
	if x.rule.NewPerSecond > 0 {
		x.tokens = max(x.tokens-1, 0)
	}
}

// uncount takes a client out of a group.
func (x *group) uncount() {
	if x.open--; x.open < 0 {
		panic("bug: a client has left that never came")
	}
	x.forget()
}

// forget drops a group of one value that nobody is counted in any more, and that has nothing to remember.
func (x *group) forget() {
	r := x.rule
	if x.value == "" || x.open > 0 || x.pins > 0 || x.queue.size > 0 || len(x.pinQueue) > 0 ||
		r.NewPerSecond > 0 && x.tokens < float64(r.Burst) || r.groups[x.value] != x {
		return
	}
	r.past.add(x.groupCounts)
	delete(r.groups, x.value)
}

func (c *groupCounts) add(d groupCounts) {
	c.refused += d.refused
	c.queued += d.queued
	c.evicted += d.evicted
	c.wouldRefuse += d.wouldRefuse
}
