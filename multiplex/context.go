package multiplex

import (
	"bytes"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// Key names a context: clients share a connection if all of it is equal.
type Key struct {
	// User is the ACL user that clients authenticated as. Empty: they did not, and act as the proxy's own user.
	User string
	// DB is the database.
	DB int
	// RESP is the version of the protocol, 2 or 3.
	RESP uint8
	// NoTouch: commands do not count as accesses of their keys (CLIENT NO-TOUCH).
	NoTouch bool
	// Tracking: the upstream tells of changes to keys that were read (CLIENT TRACKING ON, without options). Clients that
	// share the lane share what it is told; whose business a key is, is for Config.Pushed to know.
	Tracking bool
	// ReadOnly: a replica of a cluster may answer (READONLY).
	ReadOnly bool
}

// Context is a Key on one loop, with the lane that serves it. See Pool.Context.
type Context struct {
	// Static after construction.
	Key
	pool *Pool
	cred *credential

	// Owned by the loop.
	users   int    // clients that are in this context
	link    *Link  // the lane; nil while there is none to submit to
	opening bool   // a lane has been asked for
	probing bool   // it is asked for to see whether the upstream still knows the user
	tried   string // the password that the lane is being opened with
	request *limits.Request
	retry   *eventloop.Timer
	waiters map[Waiter]struct{}
	resend  []resend // requests of a lane that broke, to be sent again
	expire  *eventloop.Timer
}

// Waiter is told when a lane it waits for is there. Both are called on the loop, once, and one of them only.
type Waiter interface {
	// LaneReady says that Context.Link is not nil now.
	LaneReady()
	// LaneFailed says that the upstream refused what the context is; the error is a *ReplyError.
	LaneFailed(err error)
}

// Link returns the context's lane, or nil if there is none at the moment: see Await.
func (c *Context) Link() *Link { return c.link }

// Unauthenticated reports whether the upstream wants authentication and the context's lane has none. Without a lane
// it goes by the last connection that was opened.
func (c *Context) Unauthenticated() bool {
	if c.link != nil {
		return c.link.unauth
	}
	return c.User == "" && c.pool.unauth
}

// Actor returns whom the context's clients are on the control connection.
func (c *Context) Actor() Actor { return Actor{*c.cred, c.RESP} }

// Password is the password that the upstream accepted last for the context's user; empty for the proxy's own.
func (c *Context) Password() string {
	if c.User == "" {
		return ""
	}
	return c.cred.password
}

// Enter counts a client in. Each Enter is followed by a Leave.
func (c *Context) Enter() { c.users++ }

// Leave counts a client out. A context without clients is forgotten when its lane is gone.
func (c *Context) Leave() {
	if c.users == 0 {
		panic("bug: a context was left more often than entered")
	}
	c.users--
	c.pool.forget(c)
}

// Await has w told as soon as the context has a lane, and opens one.
func (c *Context) Await(w Waiter) {
	c.waiters[w] = struct{}{}
	c.open()
}

// Abandon takes w out of those that wait. It may be called for one that does not.
func (c *Context) Abandon(w Waiter) { delete(c.waiters, w) }

// wanted reports whether anybody waits for the context's lane.
func (c *Context) wanted() bool { return len(c.waiters) > 0 || len(c.resend) > 0 }

// probed reports whether a lane is to show that the upstream still knows the user, of clients that are there.
func (c *Context) probed() bool { return c.probing && c.users > 0 }

// open asks the budget for a lane, unless one has been asked for.
func (c *Context) open() {
	if c.opening || c.link != nil {
		return
	}
	c.opening = true
	p := c.pool
	c.request = p.budget.Acquire(limits.Lane, func() { p.loop.Post(c.granted) })
	if c.request == nil {
		c.granted()
	}
}

// granted goes on with a slot of the budget in hand.
func (c *Context) granted() {
	c.request = nil
	p := c.pool
	if !c.wanted() && !c.probed() {
		probing := c.probing
		c.giveUp()
		if probing {
			p.Verify(c.User)
		}
		return
	}
	d := p.backoff.remaining(p.loop.Now())
	if p.held {
		d = max(d, backoffFirst)
	}
	if d > 0 {
		c.retry = p.loop.AfterFunc(d, c.granted)
		return
	}
	c.tried = c.cred.password
	p.dial(c, limits.Lane, c.dialed)
}

// dialed receives the connection, or the reason why there is none.
func (c *Context) dialed(est *established, err error) {
	if err == nil && c.pool.held {
		go c.pool.turnAway(est.nc, c.granted) // which waits for the end of that
		return
	}
	var k *Link
	if err == nil {
		k, err = c.pool.newLink(est, c, limits.Lane)
	}
	switch {
	case err == nil:
		c.serve(k)
	case isUnreachable(err):
		c.granted() // waits for the backoff
	case c.cred.password != c.tried:
		c.granted() // a client has shown a better one meanwhile
	default:
		vanished := c.probing && bytes.HasPrefix(ErrorLine(err), []byte("-WRONGPASS"))
		c.giveUp()
		if vanished && c.pool.vanished != nil {
			c.pool.vanished(c.User)
		}
		c.failWaiters(err)
	}
}

// giveUp returns the slot: nobody waits any more, or the upstream does not want us in this context.
func (c *Context) giveUp() {
	c.opening, c.probing, c.tried, c.retry = false, false, "", nil
	c.pool.budget.Release(limits.Lane)
	c.pool.forget(c)
}

// serve makes a connection the context's lane. What the last lane left behind goes first, then everybody who
// waited.
func (c *Context) serve(k *Link) {
	c.opening, c.probing, c.tried, c.link = false, false, "", k
	k.heard = c.Tracking
	c.resubmit(k)
	waiters := c.waiters
	c.waiters = map[Waiter]struct{}{}
	for w := range waiters {
		w.LaneReady()
	}
	c.pool.opened()
	c.pool.pressed = true
}

func (c *Context) failWaiters(err error) {
	waiters := c.waiters
	c.waiters = map[Waiter]struct{}{}
	for w := range waiters {
		w.LaneFailed(err)
	}
	c.failResend(err)
}

// resubmit sends what a lane that broke left behind.
func (c *Context) resubmit(k *Link) {
	c.expire.Stop()
	c.expire = nil
	pending := c.resend
	c.resend = nil
	for _, r := range pending {
		k.push(r.entry)
		k.send.add(r.raw)
	}
}

// expireResend bounds the time that requests wait to be sent again.
func (c *Context) expireResend() {
	if c.expire == nil && !c.pool.held {
		c.expire = c.pool.loop.AfterFunc(c.pool.upstreamTimeout, c.resendExpired)
	}
}

func (c *Context) resendExpired() {
	c.expire = nil
	err := c.pool.LastError()
	if err == nil {
		err = &UnreachableError{c.pool.primary.String(), errHungUp}
	}
	c.failResend(err)
}

// failResend answers the requests that wait to be sent again with an error.
func (c *Context) failResend(err error) {
	c.expire.Stop()
	c.expire = nil
	pending := c.resend
	c.resend = nil
	line := ErrorLine(err)
	for _, r := range pending {
		switch {
		case r.sp != nil && r.sp.Collect:
			r.sp.Done(line)
			continue
		case r.flags&Mute != 0:
			r.c.Reply(nil, 1)
		default:
			r.c.Reply(line, 1)
		}
		if r.sp != nil {
			r.sp.Done(line)
		}
	}
}
