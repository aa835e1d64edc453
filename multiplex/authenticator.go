package multiplex

import (
	"bufio"
	"errors"
	"net"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Authenticator has the upstream check credentials, on a connection that carries nothing else, one check at a
// time: a failed AUTH behind other replies is answered with nothing at all by Redis 7.2 and later, and one
// reply too few on a shared connection would give every later client somebody else's data. Nothing is cached:
// each check is the upstream's answer at that moment.
type Authenticator struct {
	// Static after construction.
	up      *Upstream
	budget  *limits.Budget
	timeout time.Duration
	jobs    chan check
	stop    chan struct{}
	done    chan struct{}

	// Owned by Run.
	nc    net.Conn
	r     *bufio.Reader
	fresh bool // nothing has been sent since the handshake
}

// check is one AUTH or HELLO.
type check struct {
	raw  []byte
	due  time.Time
	done func(reply []byte, err error)
}

// maxChecks bounds the checks that wait.
const maxChecks = 1 << 16

// checkIdle is how long the connection is kept when there is nothing to check.
const checkIdle = 10 * time.Second

// NewAuthenticator returns an Authenticator that does nothing until Run is called. Timeout bounds how long one
// check waits for the upstream.
func NewAuthenticator(up *Upstream, budget *limits.Budget, timeout time.Duration) *Authenticator {
	return &Authenticator{
		up: up, budget: budget, timeout: timeout,
		jobs: make(chan check, maxChecks), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// Check sends a command, which is AUTH or HELLO and may change nothing but who the connection is and which
// protocol it speaks, and calls done with the reply, from another goroutine. The caller must not change raw. It
// reports false if too many checks wait.
func (a *Authenticator) Check(raw []byte, done func(reply []byte, err error)) bool {
	select {
	case a.jobs <- check{raw, time.Now().Add(a.timeout), done}:
		return true
	default:
		return false
	}
}

// Run checks until Stop is called.
func (a *Authenticator) Run() {
	defer close(a.done)
	defer a.hangUp()
	idle := time.NewTimer(checkIdle)
	defer idle.Stop()
	for {
		select {
		case <-a.stop:
			return
		case <-idle.C:
			a.hangUp()
		case job := <-a.jobs:
			job.done(a.check(job.raw, job.due))
			// Without a slot of its own, the connection makes room for the clients' again.
			if a.budget.Size() < 3 && len(a.jobs) == 0 {
				a.hangUp()
			}
			idle.Reset(checkIdle)
		}
	}
}

// Stop ends Run and waits for it. Checks that wait are dropped.
func (a *Authenticator) Stop() {
	close(a.stop)
	<-a.done
}

func (a *Authenticator) check(raw []byte, deadline time.Time) ([]byte, error) {
	if time.Now().After(deadline) {
		return nil, errNoRoom // it has waited behind others for as long as it may
	}
	for {
		if a.nc == nil {
			if err := a.connect(deadline); err != nil {
				return nil, err
			}
		}
		fresh := a.fresh
		a.fresh = false
		_ = a.nc.SetDeadline(time.Now().Add(handshakeTimeout))
		_, err := a.nc.Write(raw)
		var reply []byte
		if err == nil {
			reply, err = readReply(a.r)
		}
		if err == nil && a.r.Buffered() == 0 {
			return reply, nil
		}
		a.hangUp()
		if fresh { // otherwise it had been closed while it was idle: try anew
			return nil, &UnreachableError{a.up.addr, errors.Join(errors.New("it closed the connection on AUTH"), err)}
		}
	}
}

// connect opens the connection, and tries again until the deadline.
func (a *Authenticator) connect(deadline time.Time) error {
	granted := make(chan struct{})
	if r := a.budget.Acquire(limits.Control, func() { close(granted) }); r != nil {
		t := time.NewTimer(time.Until(deadline))
		defer t.Stop()
		select {
		case <-granted:
		case <-t.C:
			if a.budget.Cancel(r) {
				return errNoRoom
			}
			<-granted
		case <-a.stop:
			if !a.budget.Cancel(r) {
				<-granted
				a.budget.Release(limits.Control)
			}
			return errNoRoom
		}
	}
	var pause backoff
	cred := a.up.credential()
	for {
		est, err := a.up.dial(Key{DB: a.up.db, RESP: 2}, cred, limits.Control)
		if err == nil {
			a.nc, a.r, a.fresh = est.nc, bufio.NewReader(est.nc), true
			return nil
		}
		pause.failed(time.Now(), err)
		if !isUnreachable(err) || pause.until.After(deadline) {
			a.budget.Release(limits.Control)
			return err
		}
		select {
		case <-time.After(time.Until(pause.until)):
		case <-a.stop:
			a.budget.Release(limits.Control)
			return err
		}
	}
}

var errNoRoom = errors.New("max number of clients reached")

// hangUp closes the connection, waits for the upstream to do the same, and gives it back.
func (a *Authenticator) hangUp() {
	if a.nc == nil {
		return
	}
	hangUp(a.nc)
	a.nc = nil
	a.budget.Release(limits.Control)
}
