package multiplex

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Control is the one connection for what must not queue behind data, and what data must not queue behind: the
// upstream checks credentials on it and says what it would take, and commands that interrupt others overtake them
// there. It has one thing to do at a time, and nothing is sent before the reply to what was sent before is in:
//
//   - a failed AUTH behind other replies is answered with nothing at all by Redis 7.2 and later, and one reply too
//     few on a shared connection would give every later client somebody else's data;
//   - SCRIPT KILL behind the script that it is to end, or CLIENT UNPAUSE behind a command that the pause holds up,
//     would wait for ever.
//
// Nothing is cached: each check is the upstream's answer at that moment.
type Control struct {
	// Static after construction.
	up      *Upstream
	primary *Primary
	budget  *limits.Budget
	jobs    chan *job
	stop    chan struct{}
	done    chan struct{}

	// Atomic.
	timeout atomic.Int64 // a time.Duration
	stale   atomic.Bool  // the connection is to be replaced

	// Owned by Run.
	nc    net.Conn
	r     *bufio.Reader
	who   Actor // whom the connection acts as; zero: nobody knows
	fresh bool  // nothing has been sent since the handshake
	at    place // where the connection leads
}

// Actor is whom a command on the control connection is run as: a user, by the password that the upstream accepted
// last. See Context.Actor.
type Actor struct {
	cred credential
	// RESP is the version of the protocol, 2 or 3.
	RESP uint8
}

// job is a check, a command, a question whether a command would be taken, or the order to close the connection.
type job struct {
	as    *Actor // nil: a check
	raw   []byte
	due   time.Time
	probe bool // the command is not to be run
	rest  bool // there is none: the connection is to be closed
	done  func(reply []byte, err error)
}

// maxJobs bounds the jobs that wait.
const maxJobs = 1 << 16

// controlIdle is how long the connection is kept when there is nothing to do.
const controlIdle = 10 * time.Second

// ErrLost says that the connection broke under a command. Nobody knows what became of it.
var ErrLost = errors.New("upstream connection lost with a command in flight")

// NewControl returns a Control that does nothing until Run is called. Timeout bounds how long a job waits for its turn
// and for the upstream.
func NewControl(primary *Primary, budget *limits.Budget, timeout time.Duration) *Control {
	c := &Control{
		up: primary.up, primary: primary, budget: budget, jobs: make(chan *job, maxJobs), stop: make(chan struct{}), done: make(chan struct{}),
	}
	c.SetTimeout(timeout)
	return c
}

// SetTimeout changes the timeout of jobs that come from now on. It may be called from any goroutine.
func (c *Control) SetTimeout(timeout time.Duration) { c.timeout.Store(int64(timeout)) }

// due is until when a job may take that comes now.
func (c *Control) due() time.Time { return time.Now().Add(time.Duration(c.timeout.Load())) }

// Check sends a command, which is AUTH or HELLO and may change nothing but who the connection is and which
// protocol it speaks, and calls done with the reply, from another goroutine. The caller must not change raw. It
// reports false if too many jobs wait.
func (c *Control) Check(raw []byte, done func(reply []byte, err error)) bool {
	return c.submit(&job{raw: raw, due: c.due(), done: done})
}

// Do runs a command, which must leave nothing behind on the connection, and calls done with the reply, from another
// goroutine; one done returns before the next job begins. The command is sent once. The error is a *ReplyError if the
// upstream does not accept whom it is to be run as, and wraps ErrLost if the command may have been run all the same.
// The caller must not change raw. It reports false if too many jobs wait.
func (c *Control) Do(as Actor, raw []byte, done func(reply []byte, err error)) bool {
	return c.submit(&job{as: &as, raw: raw, due: c.due(), done: done})
}

// Probe finds out whether the upstream would take a command, without having it run: it is queued in a transaction that
// is discarded. Done gets, from another goroutine, the error that the upstream answers, or nil if it does not object, or
// if the user may not use transactions: then it is not asked. The command must be one that is queued in a transaction.
// The caller must not change raw. Probe reports false if too many jobs wait.
func (c *Control) Probe(as Actor, raw []byte, done func(refusal []byte, err error)) bool {
	return c.submit(&job{as: &as, raw: raw, probe: true, due: c.due(), done: done})
}

func (c *Control) submit(j *job) bool {
	select {
	case c.jobs <- j:
		return true
	default:
		return false
	}
}

// Renew has the connection replaced before it is used again. It may be called from any goroutine.
func (c *Control) Renew() { c.stale.Store(true) }

// Rest closes the connection, when the jobs before have been done, and then calls done, from another goroutine. A later job opens
// another. It reports false if too many jobs wait.
func (c *Control) Rest(done func()) bool {
	return c.submit(&job{rest: true, done: func([]byte, error) { done() }})
}

// Run works until Stop is called.
func (c *Control) Run() {
	defer close(c.done)
	defer c.hangUp()
	idle := time.NewTimer(controlIdle)
	defer idle.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-idle.C:
			c.hangUp()
		case j := <-c.jobs:
			if c.stale.Swap(false) {
				c.hangUp()
			}
			c.leaveOutdated()
			j.done(c.work(j))
			// Without a slot of its own, the connection makes room for the clients' again.
			if c.budget.Size() < 3 && len(c.jobs) == 0 {
				c.hangUp()
			}
			idle.Reset(controlIdle)
		}
	}
}

// Stop ends Run and waits for it. Jobs that wait are dropped.
func (c *Control) Stop() {
	close(c.stop)
	<-c.done
}

func (c *Control) work(j *job) ([]byte, error) {
	switch {
	case j.rest:
		c.hangUp()
		return nil, nil
	case time.Now().After(j.due):
		return nil, errNoRoom // it has waited behind others for as long as it may
	case j.as == nil:
		return c.check(j)
	}
	if err := c.become(*j.as, j.due); err != nil {
		return nil, err
	}
	if j.probe {
		return c.probe(j.raw)
	}
	reply, err := c.ask(j.raw)
	if err != nil {
		c.hangUp()
		return nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return reply, nil
}

var (
	multi   = resp.AppendCommand(nil, "MULTI")
	discard = resp.AppendCommand(nil, "DISCARD")
)

// probe asks step by step, so that the command is sent only when it is sure that it will not be run. A connection that
// stays in the transaction is of no further use.
func (c *Control) probe(raw []byte) (refusal []byte, err error) {
	var end []byte
	begin, err := c.ask(multi)
	if err == nil && isError(begin) {
		return nil, nil
	}
	if err == nil {
		refusal, err = c.ask(raw)
	}
	if err == nil {
		end, err = c.ask(discard)
	}
	if err != nil || isError(end) {
		c.hangUp()
	}
	if err != nil {
		return nil, &UnreachableError{c.primary.String(), err}
	}
	if !isError(refusal) {
		return nil, nil
	}
	return refusal, nil
}

func (c *Control) check(j *job) ([]byte, error) {
	for {
		if c.nc == nil {
			if err := c.connect(Actor{*c.up.credential(), 2}, j.due); err != nil {
				return nil, err
			}
		}
		fresh := c.fresh
		c.who = Actor{}
		reply, err := c.ask(j.raw)
		if err == nil {
			return reply, nil
		}
		c.hangUp()
		if fresh { // otherwise it had been closed while it was idle: try anew
			return nil, &UnreachableError{c.primary.String(), fmt.Errorf("it closed the connection on AUTH: %w", err)}
		}
	}
}

// become sees to it that there is a connection, that it is alive, and that it acts as somebody.
func (c *Control) become(as Actor, deadline time.Time) error {
	if c.nc != nil {
		err := c.turnInto(as)
		var refused *ReplyError
		if err == nil || !isUnreachable(err) && errors.As(err, &refused) {
			return err
		}
		c.hangUp()
	}
	return c.connect(as, deadline)
}

// turnInto has the connection act as somebody else, or finds out whether it is still there: a command is not sent
// a second time.
func (c *Control) turnInto(as Actor) error {
	switch {
	case c.who == as && c.fresh:
		return nil
	case c.who == as:
		nonce := newNonce()
		reply, err := c.ask(resp.AppendCommand(nil, "PING", nonce))
		if err == nil && !isError(reply) && !bytes.Equal(reply, resp.AppendBulk(nil, nonce)) {
			err = errOutOfStep
		}
		return err
	case !as.cred.login:
		return errOtherUser
	}
	c.who = Actor{}
	version := strconv.Itoa(int(as.RESP))
	reply, err := c.ask(resp.AppendCommand(nil, "HELLO", version, "AUTH", as.cred.user, as.cred.password))
	if err != nil {
		return err
	}
	if isError(reply) {
		return c.up.refused(reply)
	}
	c.who = as
	return nil
}

// errOtherUser says that nothing but a new connection is nobody in particular.
var errOtherUser = errors.New("the connection acts as another user")

// leaveOutdated closes the connection if its term has ended.
func (c *Control) leaveOutdated() {
	if c.nc != nil && c.at.term < c.primary.term.Load() {
		c.hangUp()
	}
}

// ask sends a command and returns the reply.
func (c *Control) ask(raw []byte) ([]byte, error) {
	c.fresh = false
	nc := c.nc
	_ = nc.SetDeadline(time.Now().Add(handshakeTimeout))
	defer context.AfterFunc(c.at.over, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })()
	if _, err := c.nc.Write(raw); err != nil {
		return nil, err
	}
	reply, err := readReply(c.r)
	if err == nil && c.r.Buffered() > 0 {
		err = errOutOfStep
	}
	return reply, err
}

// connect opens the connection, and tries again until the deadline. It is in database 0: an upstream that is busy with a
// script refuses SELECT.
func (c *Control) connect(as Actor, deadline time.Time) error {
	if err := c.acquire(deadline); err != nil {
		return err
	}
	var pause backoff
	for {
		est, err := c.primary.dial(Key{RESP: as.RESP}, &as.cred, limits.Control)
		if err == nil {
			c.nc, c.r, c.who, c.fresh, c.at = est.nc, bufio.NewReader(est.nc), as, true, est.at
			return nil
		}
		pause.failed(time.Now(), err)
		if !isUnreachable(err) || pause.until.After(deadline) {
			c.budget.Release(limits.Control)
			return err
		}
		select {
		case <-time.After(time.Until(pause.until)):
		case <-c.stop:
			c.budget.Release(limits.Control)
			return err
		}
	}
}

// acquire waits for a slot of the budget until the deadline.
func (c *Control) acquire(deadline time.Time) error {
	granted := make(chan struct{})
	r := c.budget.Acquire(limits.Control, func() { close(granted) })
	if r == nil {
		return nil
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-granted:
	case <-t.C:
		if c.budget.Cancel(r) {
			return errNoRoom
		}
		<-granted
	case <-c.stop:
		if !c.budget.Cancel(r) {
			<-granted
			c.budget.Release(limits.Control)
		}
		return errNoRoom
	}
	return nil
}

var errNoRoom = errors.New("max number of clients reached")

// hangUp closes the connection, waits for the upstream to do the same, and gives it back.
func (c *Control) hangUp() {
	if c.nc == nil {
		return
	}
	hangUp(c.nc)
	c.nc, c.who = nil, Actor{}
	c.budget.Release(limits.Control)
}
