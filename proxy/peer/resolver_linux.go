package peer

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// maxLookups bounds those that have not been answered.
	maxLookups = 4096
	// scanRest is the least time from one search of all processes to the next, and idleRest the most, which it comes
	// to when one after the other finds nothing: whoever connects then is not to be found.
	scanRest = 100 * time.Millisecond
	idleRest = 2 * time.Second
)

// Resolver finds the processes that own the other ends of TCP connections on this host. A lookup goes through three
// steps, each for all that wait at once, and is answered at the first that finds it:
//
//  1. Asked: the kernel tells the inode of the client's socket. If the client has hung up, that is the answer.
//  2. Guessed: the processes that were found last have it as their newest descriptor, or among their highest. A
//     leaker, and a client that connects for each request, is found so in some 10 us.
//  3. Searched: every process's descriptors are read, some 1 us each, the newest processes first. Lookups that come
//     meanwhile join in. What is not found then is not found.
//
// Each step rests a multiple of what it took: asking and guessing twice, so that in a storm many are asked for at once,
// for less, and searches nine times. They use a third and a tenth of one processor at most, be there ever so many clients.
type Resolver struct {
	// Static after construction.
	wakeup chan struct{} // holds one
	ended  chan struct{}

	// mu guards the following fields.
	mu      sync.Mutex
	queue   []*lookup
	open    int // lookups not answered, those in the queue among them
	started bool
	stopped bool

	// Owned by Run.
	diag      *diag     // nil: the kernel's tables are read instead
	asked     []*lookup // wait to be asked for
	wanted    map[uint32]*lookup
	newcomers int // came into wanted since the last look at the processes of before
	recent    []*owner
	scans     int // searches of all processes
	hits      int // sockets found
	timer     *time.Timer
	asks      pace
	near      pace
	full      pace
}

// lookup is a question for a process.
type lookup struct {
	ends  ends
	done  func(*Process)
	inode uint32
	scan  int     // the first search that covers all processes for it
	next  *lookup // the same question, asked again
}

// pace keeps work within a share of the time: it rests a multiple of what it took, and at least a while.
type pace struct {
	times int
	least time.Duration
	next  time.Time
}

func (p *pace) due() bool { return !time.Now().Before(p.next) }

func (p *pace) ran(began time.Time) {
	now := time.Now()
	p.next = now.Add(max(p.least, time.Duration(p.times)*now.Sub(began)))
}

// NewResolver returns a Resolver, which Run starts.
func NewResolver() *Resolver {
	r := &Resolver{
		wakeup: make(chan struct{}, 1),
		ended:  make(chan struct{}),
		wanted: map[uint32]*lookup{},
		timer:  time.NewTimer(0),
		asks:   pace{times: 2},
		near:   pace{times: 4},
		full:   pace{times: 9, least: scanRest},
	}
	r.diag, _ = openDiag() // without it, the tables
	return r
}

// Run answers lookups until Stop is called. It is started once.
func (r *Resolver) Run() {
	r.mu.Lock()
	r.started = true
	r.mu.Unlock()
	defer close(r.ended)
	for r.wait() {
		if r.gather(); r.asks.due() {
			r.take()
		}
		if r.newcomers > 0 && r.near.due() {
			r.searchRecent()
		}
		if len(r.wanted) > 0 && r.full.due() {
			r.searchAll()
		}
	}
}

// Stop ends the Resolver and returns when it has ended; what has not been answered then never is. It may be called
// more than once, but not by a lookup's done.
func (r *Resolver) Stop() {
	r.mu.Lock()
	started, first := r.started, !r.stopped
	r.stopped = true
	r.mu.Unlock()
	r.wake()
	if started {
		<-r.ended
	}
	if first && r.diag != nil {
		r.diag.close()
	}
}

// Lookup asks for the process that owns the other end of the connection with these addresses. It never blocks. It
// reports false when there will be no answer: the other end is on another host, or too many lookups wait. Otherwise
// done is called on the Resolver's goroutine, which it must not hold up, with nil if nobody was found. Clients of one process
// get the same Process, which is not to be changed.
func (r *Resolver) Lookup(local, remote netip.AddrPort, done func(*Process)) bool {
	local, remote = unmap(local), unmap(remote)
	if !onThisHost(local.Addr(), remote.Addr()) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped || r.open >= maxLookups {
		return false
	}
	r.open++
	r.queue = append(r.queue, &lookup{ends: ends{own: remote, other: local}, done: done})
	if len(r.queue) == 1 {
		r.wake()
	}
	return true
}

func (r *Resolver) wake() {
	select {
	case r.wakeup <- struct{}{}:
	default: // it is on its way already
	}
}

// wait returns when there is something to do, and reports false when that is to stop.
func (r *Resolver) wait() bool {
	var due <-chan time.Time
	if at, ok := r.nextAt(); ok {
		r.timer.Reset(time.Until(at))
		due = r.timer.C
	}
	select {
	case <-r.wakeup:
	case <-due:
	}
	return !r.isStopped()
}

// nextAt returns when the next step is due for those that wait for one.
func (r *Resolver) nextAt() (at time.Time, ok bool) {
	consider := func(p *pace) {
		if !ok || p.next.Before(at) {
			at, ok = p.next, true
		}
	}
	if len(r.asked) > 0 {
		consider(&r.asks)
	}
	if len(r.wanted) > 0 {
		consider(&r.full)
		if r.newcomers > 0 {
			consider(&r.near)
		}
	}
	return at, ok
}

func (r *Resolver) isStopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// gather notes who has come since.
func (r *Resolver) gather() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, r.queue...)
	r.queue = nil
}

// take asks for those that have come since, and tries a guess.
func (r *Resolver) take() {
	r.gather()
	if len(r.asked) == 0 {
		return
	}
	began := time.Now()
	slices.Reverse(r.asked)
	for r.diag != nil && len(r.asked) > 0 {
		few := min(len(r.asked), askAtOnce)
		rest := r.asked[few:]
		r.asked = r.asked[:few:few]
		r.askKernel()
		r.asked = append(r.asked, rest...)
		if r.newcomers > 0 {
			r.guess()
		}
	}
	if len(r.asked) > 0 {
		r.askTables()
		if r.newcomers > 0 {
			r.guess()
		}
	}
	r.asks.ran(began)
}

// askAtOnce is how many are asked for before their processes are guessed at, the newest first: where connections live for a
// millisecond, those are the ones that may still be there.
const askAtOnce = 8

// askKernel asks for one after the other. If the kernel stops answering, the rest is left to the tables.
func (r *Resolver) askKernel() {
	for i, l := range r.asked {
		inode, err := r.diag.inode(l.ends)
		if err != nil {
			r.diag.close()
			r.diag = nil
			r.asked = r.asked[i:]
			return
		}
		r.want(l, inode)
	}
	r.asked = nil
}

func (r *Resolver) askTables() {
	inodes := make(map[ends]uint32, len(r.asked))
	for _, l := range r.asked {
		inodes[l.ends] = 0
	}
	readTables(inodes)
	for _, l := range r.asked {
		r.want(l, inodes[l.ends])
	}
	r.asked = nil
}

// want notes that the owner of an inode is wanted.
func (r *Resolver) want(l *lookup, inode uint32) {
	if inode == 0 {
		r.answer(l, nil)
		return
	}
	l.inode, l.scan, l.next = inode, r.scans+1, r.wanted[inode]
	r.wanted[inode] = l
	r.newcomers++
}

// answer gives the answer to a lookup, and to those that ask the same.
func (r *Resolver) answer(l *lookup, p *Process) {
	for ; l != nil; l = l.next {
		r.mu.Lock()
		r.open--
		r.mu.Unlock()
		l.done(p)
	}
}
