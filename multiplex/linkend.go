package multiplex

import (
	"errors"
	"fmt"
	"io"
	"time"
)

var (
	errOutOfStep   = errors.New("it answered what nobody asked")
	errNotExpected = errors.New("a script was not answered exactly once")
	errHungUp      = errors.New("it closed the connection")
)

// EOF implements eventloop.Handler.
func (k *Link) EOF() { k.hangup(errHungUp) }

// HungUp implements eventloop.Handler.
func (k *Link) HungUp() {}

// Writable implements eventloop.Handler: the upstream has taken some of what it had not been sent yet. While that is a part of
// the oldest request, as of a large value on a slow line, no answer is due.
func (k *Link) Writable() {
	if k.queue.len() > 0 && !k.send.isSent(int(k.queue.front().size)) {
		k.since = k.pool.loop.Now()
	}
	k.flush()
}

// Failed implements eventloop.Handler.
func (k *Link) Failed(err error) { k.hangup(err) }

// hangup is called when the upstream has closed its side, or the connection has broken.
func (k *Link) hangup(err error) {
	k.conn.Close()
	if k.state == retiring {
		k.close()
		return
	}
	k.broke(err)
}

// Break ends the link as if the upstream had: the stream of replies cannot be trusted any more.
func (k *Link) Break(err error) { k.broke(err) }

// breakAll ends links that break for one reason. First no context has one of them any more, so that what is sent again of the
// one is not put on the other, and lost with it.
func breakAll(links []*Link, err error) {
	for _, k := range links {
		if k.ctx.link == k {
			k.ctx.link = nil
		}
	}
	for _, k := range links {
		k.broke(err)
	}
}

// broke ends the link. Clients whose requests in flight only read have them sent again, once; the others are
// told that they are lost. A client with nothing in flight does not notice, unless the link was its pin.
func (k *Link) broke(err error) {
	if k.state > draining {
		return
	}
	if errors.Is(err, io.EOF) {
		err = errHungUp
	}
	if !k.parting {
		k.pool.lost(k, err)
	}
	c, owner := k.ctx, k.owner
	if k.conn.Closed() {
		k.close()
	} else {
		k.retire() // it is we who give it up: the upstream counts it for a moment more
	}
	if c.link == k {
		c.link = nil
	}
	if owner != nil {
		owner.Lost(err)
	} else {
		k.salvage(err)
	}
	if c.wanted() {
		c.open()
	}
	k.pool.Verify(c.User)
	k.pool.forget(c)
}

// salvage sorts the requests in flight into those that are sent again and those that are lost.
func (k *Link) salvage(err error) {
	lost := map[Client]bool{}
	for i := range k.queue.len() {
		e := k.queue.at(i)
		if e.c != nil && (e.flags&Safe == 0 || e.flags&resent != 0 || i == 0 && k.partial) {
			lost[e.c] = true
		}
	}
	again := len(k.ctx.resend)
	for k.queue.len() > 0 {
		e := k.queue.pop()
		raw := k.send.take(int(e.size))
		if e.c != nil && !lost[e.c] && !e.c.Gone() {
			e.flags |= resent
			k.ctx.resend = append(k.ctx.resend, resend{e, raw})
		}
	}
	switch c := k.ctx; {
	case len(c.resend) == again:
	case c.link != nil: // this lane was draining, and another has taken over
		c.resubmit(c.link)
	default:
		c.expireResend()
	}
	for c := range lost {
		c.Lost(fmt.Errorf("upstream connection lost with commands in flight: %w", err))
	}
}

// Abort closes a link that is draining as soon as only requests of clients that have gone are in flight on it.
func (k *Link) Abort() {
	k.aborted = true
	k.settle()
}

// Drain has the link take nothing new, and go once it has answered everything.
func (k *Link) Drain() {
	if k.state != serving {
		return
	}
	k.state = draining
	if k.ctx.link == k {
		k.ctx.link = nil
	}
	k.settle()
}

// goodbye bounds the time that the upstream has to close its side of a connection that we have closed.
const goodbye = time.Second

// retire closes our side and waits for the upstream to close its own, so that the upstream, too, never counts
// more connections than the budget has.
func (k *Link) retire() {
	k.state = retiring
	if k.ctx.link == k {
		k.ctx.link = nil
	}
	k.owner, k.frames, k.raw = nil, nil, nil
	k.unlend()
	k.unheard()
	k.conn.CloseWrite()
	k.bye = k.pool.loop.AfterFunc(goodbye, k.close)
}

// close gives the connection back.
func (k *Link) close() {
	if k.state == closed {
		return
	}
	k.state = closed
	k.unheard()
	k.bye.Stop()
	k.conn.Close()
	delete(k.pool.links, k)
	k.unlend()
	k.pool.budget.Release(k.kind)
	k.pool.forget(k.ctx)
}
