package multiplex

import (
	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// PinRequest is a place in the queue for a pin.
type PinRequest struct {
	pool    *Pool
	ctx     *Context
	done    func(*Link, error)
	request *limits.Request
	retry   *eventloop.Timer
	granted bool
	over    bool
}

// AcquirePin asks for a connection of the client's own, in a context. It returns the connection if there is one at
// hand. Otherwise done is called on the loop, with the connection or with a *ReplyError, unless the request is
// cancelled. Requests are served in the order in which they come; while the upstream is gone they wait.
func (p *Pool) AcquirePin(c *Context, owner Client, done func(*Link, error)) (*Link, *PinRequest) {
	for i := len(p.idle) - 1; i >= 0; i-- {
		if k := p.idle[i]; k.ctx.Key == c.Key && !k.outdated() {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			k.owner = owner
			return k, nil
		}
	}
	r := &PinRequest{pool: p, ctx: c, done: func(k *Link, err error) {
		if k != nil {
			k.owner = owner
		}
		done(k, err)
	}}
	r.request = p.budget.Acquire(limits.Pin, func() { p.loop.Post(r.grant) })
	if r.request == nil {
		r.granted = true
		r.dial()
	} else {
		p.pinQueue[r.request] = r
	}
	return nil, r
}

// Queued reports whether the request waits for the budget, and not for the upstream.
func (r *PinRequest) Queued() bool { return !r.granted }

// Cancel gives the request up: done is not called any more.
func (r *PinRequest) Cancel() {
	if r.over {
		return
	}
	r.over = true
	delete(r.pool.pinQueue, r.request)
	switch {
	case !r.granted && r.pool.budget.Cancel(r.request): // was still waiting
	case r.granted && r.retry != nil:
		r.retry.Stop()
		r.pool.budget.Release(limits.Pin)
	}
	// Otherwise a grant or a connection is on its way, and will find that nobody wants it.
}

func (r *PinRequest) grant() {
	r.granted = true
	delete(r.pool.pinQueue, r.request)
	if r.over {
		r.pool.budget.Release(limits.Pin)
		return
	}
	r.dial()
}

func (r *PinRequest) dial() {
	p := r.pool
	r.retry = nil
	if d := p.backoff.remaining(p.loop.Now()); d > 0 {
		r.retry = p.loop.AfterFunc(d, r.dial)
		return
	}
	p.dial(r.ctx, limits.Pin, r.dialed)
}

func (r *PinRequest) dialed(est *established, err error) {
	p := r.pool
	var k *Link
	if err == nil {
		k, err = p.newLink(est, r.ctx, limits.Pin)
	}
	switch {
	case err == nil && r.over:
		p.ReleasePin(k)
	case err == nil:
		r.over = true
		r.done(k, nil)
	case r.over:
		p.budget.Release(limits.Pin)
	case isUnreachable(err):
		r.dial() // waits for the backoff
	default:
		r.over = true
		p.budget.Release(limits.Pin)
		r.done(nil, err)
	}
}

// ReleasePin takes back a pin whose client has left no state on it, for the next client of the same context: at once,
// if it is that client's turn. If it is somebody else's, the connection is closed to make room.
func (p *Pool) ReleasePin(k *Link) {
	if k.state != serving {
		return
	}
	k.owner, k.frames, k.raw, k.used = nil, nil, nil, p.loop.Now()
	if p.held || k.stale || k.queue.len() > 0 || k.send.pending() || !k.framer.Between() || k.outdated() {
		k.retire()
		return
	}
	if !p.budget.Wanted() {
		p.idle = append(p.idle, k)
		return
	}
	r := p.pinQueue[p.budget.Heir(limits.Pin)]
	if r == nil || r.ctx.Key != k.ctx.Key || !p.budget.Cancel(r.request) {
		k.retire()
		return
	}
	delete(p.pinQueue, r.request)
	r.granted, r.over = true, true
	r.done(k, nil)
}

// DiscardPin closes a pin, whatever is on it.
func (p *Pool) DiscardPin(k *Link) {
	if k.state == serving {
		k.retire()
	}
}

// HalfClose tells the upstream that nothing more will come on a pin, after what has been submitted. What it still
// replies is delivered; then it hangs up, and the pin breaks.
func (k *Link) HalfClose() {
	if k.dirty {
		k.flush()
	}
	if k.state == serving {
		k.parting = true
		k.conn.CloseWrite()
	}
}

// Frames has every complete frame handed to f, replies and pushes alike, instead of counting replies; requests are
// written by Send. Nil goes back to counting. The caller holds the pin and has nothing in flight on it.
func (k *Link) Frames(f func(frame []byte, top byte)) {
	k.frames = f
	k.send.answerSent()
}

// Raw has everything that the upstream sends handed to f as it comes; the client's bytes are written by Send.
// There is no way back.
func (k *Link) Raw(f func(b []byte)) {
	k.raw, k.queue = f, fifo{}
	k.send.answerSent()
}

// Send writes to a pin in frames or raw mode. b is copied.
func (k *Link) Send(b []byte) {
	k.send.add(b)
	k.markDirty()
}

// Backlog returns how many bytes wait to be written to the upstream, of a pin in frames or raw mode.
func (k *Link) Backlog() int { return k.send.backlog() }
