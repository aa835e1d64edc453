package limits

import (
	"cmp"
	"slices"
	"time"
)

// Rules change while clients are in. Whoever is in stays in, also where a new limit is exceeded by that: it lets nobody
// else in until enough have gone. Whoever waits is decided on anew.

// withDefaults returns the rule with what it does not say filled in.
func (r Rule) withDefaults() Rule {
	r.QueueSize = cmp.Or(r.QueueSize, DefaultQueueSize)
	r.QueueTimeout = cmp.Or(r.QueueTimeout, DefaultQueueTimeout)
	r.Burst = cmp.Or(r.Burst, max(int(r.NewPerSecond), 1))
	return r
}

// SetMax changes how many clients may be in. Those that are in stay, however many they are.
func (g *Gate) SetMax(maxclients int, now time.Time) {
	g.mu.Lock()
	defer g.unlock()
	g.total.max = maxclients
	g.serve(g.total, now)
}

// SetRule puts a rule in force, in the place of the one with the same head, if there is one.
func (g *Gate) SetRule(r Rule, now time.Time) {
	g.SetRules([]Rule{r}, nil, now)
}

// SetRules puts rules in force, each in the place of the one with the same head, and takes those with other heads out of
// force: all at once, so that no client is decided on by some of them.
func (g *Gate) SetRules(set, unset []Rule, now time.Time) {
	g.mu.Lock()
	defer g.unlock()
	for _, r := range unset {
		g.remove(r, now)
	}
	for _, r := range set {
		g.put(r, now)
	}
	g.apply(now)
}

// put adds or replaces a rule. Clients are not counted by it before apply.
func (g *Gate) put(r Rule, now time.Time) {
	head := r.Head()
	i := slices.IndexFunc(g.rules, func(x *ruleState) bool { return x.Head() == head })
	switch {
	case r.Total:
		g.total.rule.Rule = r.withDefaults()
		g.total.refresh(now)
	case i >= 0:
		g.rules[i].Rule = r.withDefaults()
		for _, x := range g.rules[i].groups {
			x.refresh(now)
		}
	default:
		g.rules = append(g.rules, &ruleState{Rule: r.withDefaults(), groups: map[string]*group{}})
	}
}

// refresh has a group keep to what its rule says now.
func (x *group) refresh(now time.Time) {
	r := x.rule
	if !r.Total {
		x.max = r.MaxClients
	}
	x.tokens, x.filled = float64(r.Burst), now
}

// UnsetRule takes the rule with a head out of force, and reports whether there was one.
func (g *Gate) UnsetRule(head Rule, now time.Time) bool {
	g.mu.Lock()
	defer g.unlock()
	if !g.remove(head, now) {
		return false
	}
	g.apply(now)
	return true
}

// remove takes out the rule with a head, and reports whether there was one. Clients are counted by it until apply.
func (g *Gate) remove(head Rule, now time.Time) bool {
	text := head.Head()
	i := slices.IndexFunc(g.rules, func(x *ruleState) bool { return x.Head() == text })
	switch {
	case head.Total && g.total.rule.text() != "total":
		g.total.rule.Rule = Rule{Total: true}.withDefaults()
		g.total.refresh(now)
	case i >= 0:
		g.rules = slices.Delete(slices.Clone(g.rules), i, i+1)
	default:
		return false
	}
	return true
}

// apply has all tickets counted by the rules as they are now.
func (g *Gate) apply(now time.Time) {
	g.reserved = 0
	for _, r := range g.rules {
		g.reserved += r.Reserved
	}
	var undecided []*Ticket
	for t := g.tickets.next; t != &g.tickets; t = t.next {
		switch t.state {
		case Waiting:
			g.dequeue(t)
			undecided = append(undecided, t)
		case Admitted:
			g.recount(t, now)
		}
		t.retryPin()
	}
	slices.SortFunc(undecided, func(a, b *Ticket) int { return cmp.Compare(a.wait.seq, b.wait.seq) })
	for _, t := range undecided {
		g.decide(t, now)
		if t.state != Waiting {
			g.tell(t)
		}
	}
	for x := range g.queues {
		g.serve(x, now)
	}
}

// recount counts a ticket that is in by the rules as they are now, room or not.
func (g *Gate) recount(t *Ticket, now time.Time) {
	for _, x := range g.match(t, now) {
		x.open++
		t.groups = append(t.groups, x)
	}
}

// Reserves reports whether a rule reserves places for clients of that kind of identity that are known late, so that it may
// be worth looking at what a client says before it is turned away.
func (g *Gate) Reserves() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.rules, func(r *ruleState) bool {
		return r.Reserved > 0 && (r.Kind == ByUser || r.Kind == ByName)
	})
}

// BoundsIdle reports whether a rule says how long clients may be idle.
func (g *Gate) BoundsIdle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.total.rule.MaxIdle > 0 || slices.ContainsFunc(g.rules, func(r *ruleState) bool { return r.MaxIdle > 0 })
}

// RuleReport is a rule in force, as the operator sees it.
type RuleReport struct {
	Rule   string // its text
	Head   string // its beginning, which names it
	Groups []GroupReport
	// Totals of the values that nobody is counted under any more.
	Past GroupReport
}

// GroupReport is who a rule counts together. What it counts, it counts since the rule is in force.
type GroupReport struct {
	Value       string // of a rule for each value; otherwise ""
	Open        int    // clients counted
	Max         int    // maxclients; 0: no limit
	Waiting     int    // in the queue
	Pins        int    // upstream connections of their own
	MaxPins     int    // 0: no limit
	Refused     uint64
	Queued      uint64
	Evicted     uint64
	WouldRefuse uint64 // admitted only because the rule observes
}

// Rules returns the rules in force, that for all clients first, with who is counted.
func (g *Gate) Rules() []RuleReport {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := []RuleReport{g.total.rule.report()}
	out[0].Groups[0].Open = g.open
	for _, r := range g.rules {
		out = append(out, r.report())
	}
	return out
}

func (r *ruleState) report() RuleReport {
	past := &group{rule: r, groupCounts: r.past}
	rep := RuleReport{Rule: r.text(), Head: r.Head(), Past: past.report()}
	for _, x := range r.groups {
		rep.Groups = append(rep.Groups, x.report())
	}
	slices.SortFunc(rep.Groups, func(a, b GroupReport) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Value, b.Value))
	})
	return rep
}

func (x *group) report() GroupReport {
	return GroupReport{
		Value: x.value, Open: x.open, Max: x.max, Waiting: x.queue.size, Pins: x.pins, MaxPins: x.rule.MaxPins,
		Refused: x.refused, Queued: x.queued, Evicted: x.evicted, WouldRefuse: x.wouldRefuse,
	}
}

// InForce returns the rule's text as Rules shows it once it is in force.
func (r Rule) InForce() string { return (&ruleState{Rule: r.withDefaults()}).text() }

// text returns the rule as it was given: what it does not say is not said.
func (r *ruleState) text() string {
	plain := r.Rule
	if plain.Overflow != Queue || plain.QueueSize == DefaultQueueSize {
		plain.QueueSize = 0
	}
	if plain.Overflow != Queue || plain.QueueTimeout == DefaultQueueTimeout {
		plain.QueueTimeout = 0
	}
	if plain.NewPerSecond == 0 || plain.Burst == max(int(plain.NewPerSecond), 1) {
		plain.Burst = 0
	}
	return plain.String()
}
