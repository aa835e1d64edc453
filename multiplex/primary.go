package multiplex

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Primary knows where the upstream is: always at one address, or wherever its sentinels say. Whoever opens a connection
// asks it. It may be used from any goroutine.
//
// A term is a time during which nothing has been heard that makes connections doubtful. It ends in one of two ways:
//
//   - The upstream is elsewhere now: what is left at the old place is worth nothing, and connections there break.
//   - The upstream has answered as no primary does: its lanes answer what is in flight and take nothing new, and their
//     successors go to whoever is the primary by then. That may be the same server, or the same name with another
//     address.
type Primary struct {
	// Static after construction.
	up      *Upstream
	log     *slog.Logger
	changed func()
	watch   *watch // nil: no sentinels
	began   time.Time

	// mu guards the following fields.
	mu       sync.Mutex
	at       place
	leave    context.CancelCauseFunc // ends at.over
	epoch    int64                   // of the failover that brought the primary to this place
	disputed time.Time               // since when sentinels, and only those that know of no later failover, name another; zero: they do not
	failing  bool                    // the last connection there could not be opened
	doubted  time.Time               // when the term was last ended by doubt
	holding  context.Context         // done when a failover that has begun is over; nil: there was none at this place
	release  context.CancelFunc      // ends holding

	// Atomic.
	term      atomic.Uint64 // the current one
	since     atomic.Uint64 // the first one at this place
	failovers atomic.Uint64
	held      atomic.Bool  // a failover has begun, and is not over
	toil      atomic.Int64 // when the upstream was last seen at something long, since began; 0: never
}

// PrimaryConfig is what a Primary is made of. Upstream is required.
type PrimaryConfig struct {
	Upstream *Upstream
	// Changed is called, from any goroutine, when a term has ended: each Pool is to Follow.
	Changed func()
	// LogInterval is how often the log tells of the same sentinel that it cannot be used. Default 10 s.
	LogInterval time.Duration
	Log         *slog.Logger
}

// place is where the upstream is, or was.
type place struct {
	addr string
	term uint64
	over context.Context // done as soon as the upstream is elsewhere
}

var (
	errMoved     = errors.New("the primary is another server now")
	errNoPrimary = errors.New("it is no primary")
	errFailover  = errors.New("a failover is under way")
)

// NewPrimary returns a Primary. With sentinels, Follow has to run.
func NewPrimary(cfg PrimaryConfig) *Primary {
	p := &Primary{up: cfg.Upstream, log: cfg.Log, changed: cfg.Changed, began: time.Now()}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.changed == nil {
		p.changed = func() {}
	}
	p.at.over, p.leave = context.WithCancelCause(context.Background())
	if w := p.up.watched; w != nil {
		p.watch = newWatch(p, w, cfg.LogInterval)
	} else {
		p.at.addr = p.up.addr
	}
	return p
}

// PrimaryReport is what an operator is shown of where the upstream is.
type PrimaryReport struct {
	Addr      string // in use; empty: no sentinel has told one
	Watched   bool   // it has sentinels
	Sentinels int    // that are known
	Heard     int    // of these, that are being listened to
	Failovers uint64 // how often the primary has become another server
}

// Report returns where the upstream is.
func (p *Primary) Report() PrimaryReport {
	at, _ := p.place()
	r := PrimaryReport{Addr: at.addr, Failovers: p.failovers.Load()}
	if p.watch != nil {
		r.Watched = true
		r.Sentinels, r.Heard = p.watch.count()
	}
	return r
}

// String returns the address that is in use, or whom to ask for it.
func (p *Primary) String() string {
	if at, _ := p.place(); at.addr != "" {
		return at.addr
	}
	return p.up.addr
}

// Find asks the sentinels for the first time. It returns an error if they answer and what they say cannot change by
// waiting: they know no such master, or refuse the proxy. If none answers, whoever needs a connection goes on asking.
func (p *Primary) Find() error {
	if p.watch == nil {
		return nil
	}
	return p.watch.find()
}

// Follow listens to the sentinels until ctx is done. Without sentinels, it returns at once.
func (p *Primary) Follow(ctx context.Context) {
	if p.watch != nil {
		p.watch.run(ctx)
	}
}

// dial opens a connection to whoever is the primary now, and brings it into the state that key names.
func (p *Primary) dial(key Key, cred *credential, kind limits.Kind) (*established, error) {
	at, err := p.where()
	if err != nil {
		return nil, &UnreachableError{p.up.addr, err}
	}
	ctx, cancel := context.WithTimeout(at.over, handshakeTimeout)
	defer cancel()
	here := *p.up
	here.addr = at.addr
	est, err := here.dial(ctx, key, cred, kind)
	if err == nil && p.watch != nil && !est.isPrimary() {
		hangUp(est.nc)
		err = &UnreachableError{at.addr, errNoPrimary}
	}
	p.tried(at, err)
	if err != nil {
		return nil, err
	}
	est.at = at
	return est, nil
}

// isPrimary reports whether the server at the other end is a primary, or does not say what it is before somebody
// authenticates.
func (e *established) isPrimary() bool {
	role := helloField(e.hello, "role")
	return role == nil || bytes.Equal(role, []byte("master"))
}

// tried takes note of how a connection to a place went.
func (p *Primary) tried(at place, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.addr == p.at.addr {
		p.failing = isUnreachable(err)
	}
}

// where returns where the upstream is. Sentinels are asked each time; if none of them answers, the primary is taken to be
// where it was.
func (p *Primary) where() (place, error) {
	if p.watch == nil {
		at, _ := p.place()
		return at, nil
	}
	at, held := p.place()
	if held != nil {
		<-held.Done()
	}
	err := p.watch.ask(at.over)
	if now, _ := p.place(); now.addr != "" {
		return now, nil
	}
	return place{}, err
}

// place returns the place in use, and what to wait for, if it is not nil, before anything is sent there.
func (p *Primary) place() (at place, held context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.holding
}

func (p *Primary) isFailing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failing
}

// answer is what a sentinel says: where the primary is, since which failover.
type answer struct {
	addr  string
	epoch int64
}

// disputeTime is how long sentinels that know of no later failover have to name another primary, and none the one in use,
// until they are believed: then they are new, or an operator has told them anew.
const disputeTime = 10 * time.Second

// heard takes note of what a sentinel says, and reports whether that is, or has become, where the primary is taken to be. A
// sentinel that was cut off may have missed a failover: the one with the later failover is right.
func (p *Primary) heard(a answer, from string) bool {
	p.mu.Lock()
	before := p.at.addr
	now := time.Now()
	switch {
	case a.addr == before:
		p.epoch, p.disputed = max(p.epoch, a.epoch), time.Time{}
		p.mu.Unlock()
		return true
	case before == "" || a.epoch > p.epoch:
	case p.disputed.IsZero():
		p.disputed = now
		p.mu.Unlock()
		return false
	case now.Sub(p.disputed) < disputeTime:
		p.mu.Unlock()
		return false
	}
	leave := p.leave
	p.epoch, p.disputed, p.failing = a.epoch, time.Time{}, false
	p.at = place{addr: a.addr, term: p.term.Add(1)}
	p.at.over, p.leave = context.WithCancelCause(context.Background())
	p.holding = nil
	p.held.Store(false)
	p.since.Store(p.at.term)
	if before != "" {
		p.failovers.Add(1)
	}
	p.mu.Unlock()

	leave(errMoved)
	if before == "" {
		p.log.Info("primary found", "primary", a.addr, "sentinel", from, "epoch", a.epoch)
	} else {
		p.log.Warn("failover: the primary is another server now", "from", before, "to", a.addr, "sentinel", from, "epoch", a.epoch)
	}
	p.changed()
	return true
}

// holdTime bounds how long commands are held for a failover that has begun. Sentinels see that the new primary has taken
// over when they ask it, once a second.
const holdTime = 3 * time.Second

// hold ends a term because a replica is about to be made the primary, and has whoever wants a connection wait until it is
// known to be. Whatever the old primary still took in the meantime would be lost, acknowledged or not: an operator who has
// the sentinels fail over leaves it running, and it goes on taking writes for a second or more.
func (p *Primary) hold() {
	p.mu.Lock()
	if p.at.addr == "" || p.holding != nil && p.holding.Err() == nil {
		p.mu.Unlock()
		return
	}
	p.held.Store(true)
	holding, release := context.WithTimeout(p.at.over, holdTime)
	p.holding, p.release = holding, release
	context.AfterFunc(holding, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.holding == holding { // another may have begun
			p.held.Store(false)
		}
	})
	p.at.term = p.term.Add(1)
	addr := p.at.addr
	p.mu.Unlock()
	p.log.Info("a failover has begun: commands wait for the new primary", "primary", addr)
	p.changed()
}

// resume ends hold: the failover has been given up.
func (p *Primary) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.holding != nil {
		p.release()
	}
}

// doubtInterval is the shortest time between two ends of a term by doubt: a client can make a server say anything.
const doubtInterval = time.Second

// doubt ends a term because the upstream has answered as no primary does.
func (p *Primary) doubt(term uint64, said string) {
	p.mu.Lock()
	now := time.Now()
	if term != p.at.term || now.Sub(p.doubted) < doubtInterval {
		p.mu.Unlock()
		return
	}
	p.doubted = now
	p.at.term = p.term.Add(1)
	addr := p.at.addr
	p.mu.Unlock()
	p.log.Info("looking for the primary again, because of what the upstream says", "upstream", addr, "said", said)
	p.changed()
}

// notPrimary are the beginnings of the errors that no primary gives that is to be had.
var notPrimary = [][]byte{
	[]byte("-READONLY "), []byte("-LOADING "), []byte("-MASTERDOWN "),
	[]byte("-UNBLOCKED force "), // and not by CLIENT UNBLOCK
}

// listen looks at the beginning of an error that the upstream answered. The error goes to the client all the same.
func (k *Link) listen(line []byte) {
	for _, prefix := range notPrimary {
		if bytes.HasPrefix(line, prefix) {
			word, _, _ := bytes.Cut(prefix[1:], []byte(" "))
			k.pool.primary.doubt(k.at.term, string(word))
			return
		}
	}
}

// Follow gives up the connections of earlier terms: those at a place where the primary is not any more break; at this
// place, lanes take nothing new, and pins are not lent again.
func (p *Pool) Follow() {
	since, term := p.primary.since.Load(), p.primary.term.Load()
	var elsewhere []*Link
	for k := range p.links {
		switch {
		case k.state > draining || k.at.term >= term:
		case k.at.term < since:
			elsewhere = append(elsewhere, k)
		case k.kind == limits.Lane:
			k.Drain()
		}
	}
	breakAll(elsewhere, errMoved)
	for i := len(p.idle) - 1; i >= 0; i-- {
		if k := p.idle[i]; k.outdated() {
			k.retire() // takes it out of idle
		}
	}
}

// outdated reports whether the term has ended in which the connection was opened.
func (k *Link) outdated() bool { return k.at.term < k.pool.primary.term.Load() }
