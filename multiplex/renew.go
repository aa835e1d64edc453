package multiplex

import (
	"net"

	"github.com/redbouncer/redbouncer/limits"
)

// An operator may have all connections closed, or replaced by new ones, while clients go on.

// Rest has every lane take nothing new and go once it has answered what is in flight, and closes the pins that nobody
// holds. A client that sends something later has a lane opened.
func (p *Pool) Rest() {
	for k := range p.links {
		switch {
		case k.kind == limits.Lane:
			k.Drain()
		case k.owner == nil && k.state == serving:
			k.retire()
		}
	}
}

// Hold has no lane opened, nor a pin kept that is given back, until it is called with false, and requests that are to be sent again wait for that, however long.
func (p *Pool) Hold(held bool) {
	p.held = held
	for _, c := range p.contexts {
		switch {
		case held:
			c.expire.Stop()
			c.expire = nil
		case len(c.resend) > 0:
			c.expireResend()
		}
	}
}

// turnAway closes a connection that has been opened too late, and then calls done on the loop. It runs in a goroutine of its
// own, which ends within goodbye.
func (p *Pool) turnAway(nc net.Conn, done func()) {
	hangUp(nc)
	p.loop.Post(done)
}

// Resending returns how many requests of each client are to be sent again.
func (p *Pool) Resending() map[Client]int {
	all := map[Client]int{}
	for _, c := range p.contexts {
		for _, r := range c.resend {
			all[r.c]++
		}
	}
	return all
}

// Renew is Rest; what is lent is closed when it is given back, instead of being lent to the next.
func (p *Pool) Renew() {
	p.Rest()
	for k := range p.links {
		k.stale = k.state == serving
	}
}

// Lanes returns how many lanes there are that have not been closed.
func (p *Pool) Lanes() int {
	n := 0
	for k := range p.links {
		if k.kind == limits.Lane {
			n++
		}
	}
	return n
}

// Sole returns the one request that is in flight on a pin. It is not to be changed, and is there until it is answered. It
// reports false if there is not exactly one, if a part of its reply has come, or if nobody is to be told of the reply.
func (k *Link) Sole() (raw []byte, ok bool) {
	if k.state != serving || k.queue.len() != 1 || k.dirty || k.send.pending() || !k.framer.Between() ||
		k.frames != nil || k.raw != nil || k.queue.front().flags&Mute != 0 {
		return nil, false
	}
	return k.send.front(int(k.queue.front().size)), true
}

// Recall has the reply to the request that Sole returns handed to done, as a whole, and not to the client: done delivers
// and counts it. Was is what was to be done with it; or nil.
func (k *Link) Recall(done func(reply []byte, was *Special)) {
	e := k.queue.front()
	was := e.sp
	e.sp = &Special{Collect: true, Done: func(reply []byte) { done(reply, was) }}
}
