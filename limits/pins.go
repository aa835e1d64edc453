package limits

import "slices"

// pinUse is a ticket's upstream connection of its own, as the rules with max-pins count it.
type pinUse struct {
	groups  []*group // it is counted in
	in      *group   // whose queue it waits in, or nil
	granted func()
}

// TakePin counts an upstream connection of the client's own, before it is asked for. It reports false if a rule has no
// room for it: then granted is called once there is, from any goroutine, unless GivePin is called before. A ticket has
// one at most.
func (t *Ticket) TakePin(granted func()) bool {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.pins != nil {
		panic("bug: a client has two pins")
	}
	t.pins = &pinUse{granted: granted}
	return t.tryPin()
}

// tryPin counts the pin in all groups that bound pins, or waits for the first that has no room.
func (t *Ticket) tryPin() bool {
	p := t.pins
	for _, x := range t.groups {
		if limit := x.rule.MaxPins; limit > 0 && x.pins >= limit && x.rule.Overflow != Observe {
			p.in = x
			x.pinQueue = append(x.pinQueue, t)
			return false
		}
	}
	p.in = nil
	for _, x := range t.groups {
		if limit := x.rule.MaxPins; limit > 0 {
			if x.pins >= limit {
				x.wouldRefuse++
			}
			x.pins++
			p.groups = append(p.groups, x)
		}
	}
	return true
}

// GivePin gives back what TakePin took, or waits for no longer. Without either, it does nothing.
func (t *Ticket) GivePin() {
	t.gate.mu.Lock()
	defer t.gate.unlock()
	t.givePin()
}

func (t *Ticket) givePin() {
	p := t.pins
	if p == nil {
		return
	}
	t.pins = nil
	t.leavePinQueue(p)
	for _, x := range p.groups {
		x.pins--
		t.gate.servePins(x)
		x.forget()
	}
}

func (t *Ticket) leavePinQueue(p *pinUse) {
	if x := p.in; x != nil {
		p.in = nil
		x.pinQueue = slices.DeleteFunc(x.pinQueue, func(o *Ticket) bool { return o == t })
		x.forget()
	}
}

// servePins lets those take a pin who wait for one in a group, as far as there is room now.
func (g *Gate) servePins(x *group) {
	for len(x.pinQueue) > 0 && (x.rule.MaxPins == 0 || x.pins < x.rule.MaxPins) {
		t := x.pinQueue[0]
		x.pinQueue = x.pinQueue[1:]
		if t.tryPin() {
			g.granted = append(g.granted, t.pins.granted)
		}
	}
}

// retryPin has a ticket that waits for a pin look again, because the rules have changed.
func (t *Ticket) retryPin() {
	if p := t.pins; p != nil && p.in != nil {
		t.leavePinQueue(p)
		if t.tryPin() {
			t.gate.granted = append(t.gate.granted, p.granted)
		}
	}
}
