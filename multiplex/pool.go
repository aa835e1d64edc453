package multiplex

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// Config of a Pool. All of it is required.
type Config struct {
	Loop     *eventloop.Loop
	Upstream *Upstream
	// Primary knows where the upstream is, and is shared by the pools of all loops. Nil: the pool has one of its own.
	Primary *Primary
	// Budget is shared by the pools of all loops.
	Budget *limits.Budget
	// UpstreamTimeout bounds how long a request that is to be sent again waits for an upstream that is gone.
	UpstreamTimeout time.Duration
	// ResponseTimeout is how long the upstream may be silent on a connection where it owes an answer that takes no time. Then
	// the connection is broken. Idle lanes are asked for a sign of life more often than that. Zero: it may be for ever.
	ResponseTimeout time.Duration
	// Excused, if it is not nil, reports whether the upstream has been told not to answer: then silence does not count.
	Excused func() bool
	// Pushed receives what the upstream says unasked on the lane of a context that has Tracking. The frame may be
	// changed, and is valid during the call only.
	Pushed func(c *Context, frame []byte)
	// Untracked says that such a lane has gone: of what was read on it before, nobody will be told any more.
	Untracked func(c *Context)
	Log       *slog.Logger

	// Opened, if it is not nil, is called on the loop when there is a new lane.
	Opened func()
	// Broken, if it is not nil, is called on the loop when a connection broke, or could not be opened: the upstream may
	// have been replaced by the time that there is another.
	Broken func()
	// Vanished, if it is not nil, is called on the loop when a connection of a user broke and the upstream accepts that
	// user's password no more.
	Vanished func(user string)
}

// Pool is a loop's share of the upstream: its lanes, the pins that it has lent, and the idle ones that it keeps. It
// belongs to the loop.
type Pool struct {
	// Static after construction.
	loop           *eventloop.Loop
	up             *Upstream
	primary        *Primary
	budget         *limits.Budget
	pushed         func(*Context, []byte)
	untracked      func(*Context)
	log            *slog.Logger
	opened, broken func()
	excused        func() bool
	vanished       func(user string)

	// Owned by the loop.
	upstreamTimeout time.Duration
	responseTimeout time.Duration
	watching        *eventloop.Timer // of the next look
	contexts        map[Key]*Context
	creds           map[string]*credential
	links           map[*Link]struct{}
	pinQueue        map[*limits.Request]*PinRequest // those that wait for the budget
	idle            []*Link                         // pins that nobody holds; the last one was used last
	dirty           []*Link
	spare           spares
	backoff         backoff
	serial          uint64
	took            Latency
	met             bool // a connection has been opened in a client's first context
	unauth          bool // the upstream wants clients to authenticate that have not
	pressed         bool // somebody may be waiting for a connection that this pool could spare
	held            bool // no lane is opened

	// Atomic.
	lostLinks atomic.Uint64
	connects  atomic.Uint64
}

// credential is what connections of a user authenticate with: the password that the upstream accepted last, from
// whichever client.
type credential struct {
	user, password string
	login          bool // there is something to authenticate with, be it an empty password
}

// NewPool returns a pool without connections.
func NewPool(cfg Config) *Pool {
	p := &Pool{
		pushed: cfg.Pushed, untracked: cfg.Untracked, loop: cfg.Loop, up: cfg.Upstream, budget: cfg.Budget, upstreamTimeout: cfg.UpstreamTimeout, log: cfg.Log,
		responseTimeout: cfg.ResponseTimeout, excused: cfg.Excused,
		opened: cfg.Opened, broken: cfg.Broken,
		vanished: cfg.Vanished,
		contexts: map[Key]*Context{}, creds: map[string]*credential{}, links: map[*Link]struct{}{},
		pinQueue: map[*limits.Request]*PinRequest{},
	}
	p.creds[""] = p.up.credential()
	if p.primary = cfg.Primary; p.primary == nil {
		p.primary = NewPrimary(PrimaryConfig{Upstream: p.up, Log: p.log, Changed: func() { p.loop.Post(p.Follow) }})
	}
	if p.opened == nil {
		p.opened = func() {}
	}
	if p.broken == nil {
		p.broken = func() {}
	}
	return p
}

// Initial returns the key of a client that has said nothing yet.
func (p *Pool) Initial() Key { return Key{DB: p.up.db, RESP: 2} }

// Introduced reports whether the pool knows the upstream: it has had a connection.
func (p *Pool) Introduced() bool { return p.met }

// Context returns the context of a key. It is valid as long as a client is in it: the caller enters it at once.
func (p *Pool) Context(key Key) *Context {
	c := p.contexts[key]
	if c == nil {
		c = &Context{Key: key, pool: p, cred: p.creds[key.User], waiters: map[Waiter]struct{}{}}
		p.contexts[key] = c
	}
	return c
}

// SetPassword keeps the password that the upstream has just accepted for a user, for the connections that this
// user's clients will need.
func (p *Pool) SetPassword(user, password string) {
	if cred := p.creds[user]; cred != nil {
		cred.password = password
		return
	}
	p.creds[user] = &credential{user, password, true}
}

// Verify sees whether the upstream still knows a user, if there are clients of this user that have no lane. It is
// called when one of the user's connections has ended, as it does when the user is deleted: Redis closes all of them, and
// so those clients are to be closed that have had nothing in flight.
func (p *Pool) Verify(user string) {
	if user == "" {
		return
	}
	var c *Context
	for key, other := range p.contexts {
		switch {
		case key.User != user:
		case other.probing:
			return
		case other.users > 0 && other.link == nil:
			c = other
		}
	}
	if c != nil {
		c.probing = true
		c.open()
	}
}

// forget drops a context that nobody needs, and with a user's last context the password.
func (p *Pool) forget(c *Context) {
	if c.users > 0 || c.opening || c.link != nil || c.wanted() || p.contexts[c.Key] != c {
		return
	}
	delete(p.contexts, c.Key)
	if c.User == "" {
		return
	}
	for key := range p.contexts {
		if key.User == c.User {
			return
		}
	}
	delete(p.creds, c.User)
}

// SetUpstreamTimeout changes how long requests that are to be sent again wait, from the next one that begins to.
func (p *Pool) SetUpstreamTimeout(timeout time.Duration) { p.upstreamTimeout = timeout }

// Flush writes what has been submitted since the last time, one write a connection. Only then does it make room
// for others, so that a lane has served those who waited for it before it goes.
func (p *Pool) Flush() {
	for i := 0; i < len(p.dirty); i++ {
		p.dirty[i].flush()
		p.dirty[i] = nil
	}
	p.dirty = p.dirty[:0]
	if p.pressed {
		p.pressed = false
		p.relieve()
	}
}

// dial opens a connection in a goroutine of its own, which ends within handshakeTimeout and goodbye, and has the
// outcome handed to done on the loop. The caller holds a grant for it.
func (p *Pool) dial(c *Context, kind limits.Kind, done func(*established, error)) {
	go p.dialing(c.Key, *c.cred, kind, done)
}

func (p *Pool) dialing(key Key, cred credential, kind limits.Kind, done func(*established, error)) {
	est, err := p.primary.dial(key, &cred, kind)
	posted := p.loop.Post(func() {
		p.note(err)
		done(est, err)
	})
	if !posted && est != nil {
		_ = est.nc.Close()
	}
}

// note keeps the backoff, and tells the log when the upstream goes and comes.
func (p *Pool) note(err error) {
	if !isUnreachable(err) {
		if p.backoff.down {
			p.log.Info("upstream is back", "upstream", p.primary.String())
		}
		p.backoff = backoff{}
		return
	}
	if !p.backoff.down {
		p.log.Warn("upstream is not available", "upstream", p.primary.String(), "error", err)
	}
	p.broken()
	p.backoff.failed(p.loop.Now(), err)
}

// LastError returns why the upstream could not be reached, the last time it was tried, or is not to be had at the moment;
// nil if it was, and is.
func (p *Pool) LastError() error {
	if p.backoff.err == nil && p.primary.held.Load() {
		return &UnreachableError{p.primary.String(), errFailover}
	}
	return p.backoff.err
}

func isUnreachable(err error) bool {
	var u *UnreachableError
	return errors.As(err, &u)
}

// newLink puts a connection on the loop. If that fails, the caller still holds the grant, and the upstream counts as
// unreachable.
func (p *Pool) newLink(est *established, c *Context, kind limits.Kind) (*Link, error) {
	p.serial++
	k := &Link{
		pool: p, ctx: c, kind: kind, name: est.name, hello: est.hello, unauth: est.unauth, canEcho: est.canEcho,
		id: p.serial, used: p.loop.Now(), opened: p.loop.Now(), since: p.loop.Now(), at: est.at,
	}
	k.send.spare = &p.spare
	conn, err := p.loop.Adopt(est.nc, k, true)
	if err != nil {
		err = &UnreachableError{est.at.addr, err}
		p.note(err)
		return nil, err
	}
	k.conn = conn
	p.links[k] = struct{}{}
	p.connects.Add(1)
	if k.outdated() {
		p.loop.Post(p.Follow) // the last one may have come before this connection did
	}
	if c.User == "" {
		p.met, p.unauth = true, est.unauth
	}
	p.log.Debug("upstream connection opened", "kind", kind.String(), "user", c.User, "db", c.DB, "resp", c.RESP)
	return k, nil
}

// lost counts and logs a connection that broke.
func (p *Pool) lost(k *Link, err error) {
	p.lostLinks.Add(1)
	p.broken()
	p.log.Warn("upstream connection lost", "kind", k.kind.String(), "user", k.ctx.User, "db", k.ctx.DB,
		"in_flight", k.queue.len(), "error", err)
}

// Lane returns a lane that takes requests and is authenticated as a user for whom ok is true, or nil. It is for
// questions that any connection can answer.
func (p *Pool) Lane(ok func(user string) bool) *Link {
	for k := range p.links {
		if k.kind == limits.Lane && k.state == serving && !k.unauth && ok(k.ctx.User) {
			return k
		}
	}
	return nil
}

// relieve makes room when somebody waits for a connection: first an idle pin goes, then an idle lane, then the
// lane that has served longest takes nothing new and goes when it has answered what is in flight. Its clients ask
// for a lane again and queue up behind those who wait. So every workload runs at any bound, in turns.
func (p *Pool) relieve() {
	if !p.budget.Wanted() {
		return
	}
	if len(p.idle) > 0 {
		k := p.idle[0]
		p.idle = p.idle[1:]
		k.retire()
		return
	}
	if !p.budget.Pressed() {
		return
	}
	var idle, busy *Link
	making := false // room is being made
	for k := range p.links {
		switch {
		case k.state != serving:
			making = true
		case k.kind != limits.Lane:
		case k.queue.len() == 0 && (idle == nil || k.id < idle.id):
			idle = k
		case k.queue.len() > 0 && (busy == nil || k.id < busy.id):
			busy = k
		}
	}
	switch {
	case idle != nil:
		idle.Drain()
	case busy != nil && !making:
		busy.Drain()
	}
}

// Relieve is for the budget's nudge: it has the pool make room, soon. It may be called from any goroutine.
func (p *Pool) Relieve() { p.loop.Post(func() { p.pressed = true }) }

// Writing reports whether something is in flight on a lane that takes requests that may change data.
func (p *Pool) Writing() bool {
	for k := range p.links {
		if k.writing() {
			return true
		}
	}
	return false
}

// Bypass has every lane on which something is in flight that may change data take nothing new: the upstream has been
// told to put that off, and what came behind it would wait too.
func (p *Pool) Bypass() {
	for k := range p.links {
		if k.writing() {
			k.Drain()
		}
	}
}

// writing reports whether this is a lane with something in flight, of a client's, that may change data.
func (k *Link) writing() bool {
	if k.kind != limits.Lane || k.state != serving {
		return false
	}
	for i := range k.queue.len() {
		if e := k.queue.at(i); e.c != nil && e.flags&Safe == 0 {
			return true
		}
	}
	return false
}

// idlePinTime is how long a pin that nobody holds is kept.
const idlePinTime = 10 * time.Second

// Tick does what is due from time to time: it closes pins that have been idle for long. It is called about once
// a second.
func (p *Pool) Tick() {
	p.spare.tick()
	for len(p.idle) > 0 && p.loop.Now().Sub(p.idle[0].used) > idlePinTime {
		k := p.idle[0]
		p.idle = p.idle[1:]
		k.retire()
	}
}

// LargeBuffer returns an empty buffer, which is the caller's, and may be given to SubmitOwned. It has room for n bytes; or for
// hoped bytes, which are more, if that is to be had for nothing.
func (p *Pool) LargeBuffer(n, hoped int) []byte { return p.spare.takeLarge(n, hoped) }

// Close closes all connections. The clients are not told: they are gone.
func (p *Pool) Close() {
	for k := range p.links {
		k.close()
	}
	for _, c := range p.contexts {
		c.retry.Stop()
		c.expire.Stop()
	}
	p.idle = nil
}

// PoolStats are a pool's gauges.
type PoolStats struct {
	Lanes, Pins, Idle int // connections: shared, lent, kept for lending
	InFlight          int // requests that have not been answered
	Waiting           int // clients that wait for a lane
	Resend            int // requests that wait to be sent again
}

// Stats returns the gauges.
func (p *Pool) Stats() PoolStats {
	var s PoolStats
	for k := range p.links {
		switch {
		case k.kind == limits.Lane:
			s.Lanes++
		case k.owner != nil:
			s.Pins++
		default:
			s.Idle++
		}
		s.InFlight += k.queue.len()
	}
	for _, c := range p.contexts {
		s.Waiting += len(c.waiters)
		s.Resend += len(c.resend)
	}
	return s
}

// Lost returns how many upstream connections broke. It may be called from any goroutine.
func (p *Pool) Lost() uint64 { return p.lostLinks.Load() }

// backoff spaces out the attempts to reach an upstream that does not answer.
type backoff struct {
	down  bool
	since time.Time
	tries int
	until time.Time
	err   error
}

const (
	backoffFirst = 20 * time.Millisecond
	backoffMax   = 500 * time.Millisecond
)

// failed doubles the pause, up to backoffMax, and shifts it at random by half, so that many proxies do not return
// in step.
func (b *backoff) failed(now time.Time, err error) {
	pause := min(backoffFirst<<min(b.tries, 10), backoffMax)
	pause = pause/2 + rand.N(pause) //nolint:gosec // spreading attempts needs no secrecy
	if !b.down {
		b.since = now
	}
	b.down, b.err, b.until = true, err, now.Add(pause)
	b.tries++
}

func (b *backoff) remaining(now time.Time) time.Duration { return b.until.Sub(now) }

// Warm opens a lane for clients that have said nothing yet, so that the first of them need not wait, and the log
// says at once if the upstream cannot be reached.
func (p *Pool) Warm() {
	c := p.Context(p.Initial())
	c.Await(warmUp{c})
}

// warmUp waits for a lane on nobody's behalf.
type warmUp struct{ c *Context }

// LaneReady implements Waiter.
func (u warmUp) LaneReady() {}

// LaneFailed implements Waiter.
func (u warmUp) LaneFailed(err error) {
	u.c.pool.log.Warn("upstream refuses the proxy's own credentials or database", "error", err)
}
