package limits

import (
	"slices"
	"time"
)

// ClientFacts is what a client looks like at the end of a window.
type ClientFacts struct {
	ID         int64
	Identities *Identities // not changed while Observe runs
	Remote     string
	Command    string        // the command line of its process, shortened
	Age        time.Duration // since it connected
	Idle       time.Duration // since its last command, or since it connected
	Commands   uint64        // those of its library's handshake included, and a subscriber's signs of life not
	InUse      bool          // in flight, blocked, or in a transaction
	Subscribed bool
	Last       string // its last command
}

// Connection is one of the oldest connections of a source.
type Connection struct {
	Remote string
	Age    time.Duration
	Idle   time.Duration
}

// The classes of age that connections are counted in: younger than a minute, ten minutes, an hour, a day, and the rest.
var ageBounds = [...]time.Duration{time.Minute, 10 * time.Minute, time.Hour, 24 * time.Hour}

// AgeClasses is how many classes of age there are.
const AgeClasses = len(ageBounds) + 1

const keptOldest = 3

// sight is what one look has seen of the clients of a page.
type sight struct {
	window     int // whose end it was
	level          // of these, pool, quiet and silent are of use to sources only
	inUse      int
	atOnce     int // in use within so short a time that it was at once
	idle       int
	neverSpoke int
	subscribed int
	ages       [AgeClasses]int32
	sent       uint64 // commands, all clients
	sentBefore uint64 // those of clients older than a window
	oldest     [keptOldest]Connection
	ranked     int     // how many of oldest are filled
	typical    typical // until the look is over: whose last command most have in common
	votes      int
	restVotes  bool // of those that are not used, since there are some
	lent       int  // counted here, and open on the page of the source without a name
	mark       int  // the source's place in Ledger.sources, plus one
}

// lookAtOnce is how many pages are reported before those who connect have their turn.
const lookAtOnce = 128

// typical is a client that stands for most.
type typical struct {
	ids           *Identities
	command, last string
}

// Observe looks at all clients. It is called once a LedgerWindow, and returns what there is to tell. The facts are not
// kept, but for the strings of a few.
func (l *Ledger) Observe(now time.Time, clients []ClientFacts) []Notice {
	return l.ObserveEach(now, func(see func(*ClientFacts)) {
		for i := range clients {
			see(&clients[i])
		}
	})
}

// ObserveEach is Observe for clients that are not in one place: walk calls see for each, one at a time, from any goroutine.
func (l *Ledger) ObserveEach(now time.Time, walk func(see func(*ClientFacts))) []Notice {
	l.looking.Lock()
	defer l.looking.Unlock()
	l.uses, l.sources = l.uses[:0], l.sources[:0]
	lk := look{Ledger: l, window: l.clock.now + 1}
	walk(func(f *ClientFacts) {
		l.mu.Lock() // for each: those who connect have their turn in between
		lk.at(f)
		l.mu.Unlock()
	})
	l.findUsesAtOnce()

	l.mu.Lock()
	l.clock.tick(now)
	l.mu.Unlock()
	for k := range l.books {
		l.mu.Lock()
		l.books[k].turn(&l.clock, now)
		l.mu.Unlock()
	}
	clear(l.sources)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.judge(now)
}

// look is the look at all clients at the end of a window.
type look struct {
	*Ledger
	window int
	buf    [128]byte
	recent [bySource + 1]*page // the page of the client before: neighbours have much in common
}

// at looks at one client.
func (lk *look) at(f *ClientFacts) {
	for k := range IdentityKinds {
		value := f.Identities[k]
		if value == "" {
			continue
		}
		p := lk.recent[k]
		if p == nil || p.value != value {
			p = lk.find(k, lk.books[k].pages[value])
		}
		p.sight.see(f, &lk.rules)
		p.sight.vote(f)
	}
	source := appendSource(lk.buf[:0], f.Identities)
	if len(source) == 0 {
		return
	}
	p := lk.recent[bySource]
	if p == nil || p.value != string(source) {
		p = lk.find(bySource, lk.books[bySource].pages[string(source)])
		lk.introduce(p, source, f.Identities)
	}
	if by := p.goesBy; f.Commands == 0 && by != nil && by.open > 0 {
		p = lk.find(bySource, by)
		p.sight.lent++
		p.sight.see(f, &lk.rules)
		return
	}
	p.sight.see(f, &lk.rules)
	p.sight.vote(f)
	lk.use(p, f)
}

// introduce has the connections of a process that have said nothing yet, and so no name, looked at as those of a source of
// that process with a name: they are likely to be of one pool, of which most are spare.
func (lk *look) introduce(p *page, source []byte, ids *Identities) {
	if ids[ByPID] == "" || ids[ByName] == "" {
		return
	}
	bare := source[:len(source)-len(" ")-len(ids[ByName])]
	if q := lk.books[bySource].pages[string(bare)]; q != nil && (q.goesBy == nil || q.goesBy.open == 0) {
		q.goesBy = p
	}
}

// find begins the look at a page: that of the others, if there is none. The page of a client that was closed between
// being listed and being looked at may be gone.
func (lk *look) find(k IdentityKind, p *page) *page {
	if p == nil {
		p = lk.books[k].others
	}
	if p.sight.window != lk.window {
		p.sight = sight{window: lk.window}
	}
	lk.recent[k] = p
	return p
}

// appendSource is Source, without an allocation a client.
func appendSource(b []byte, ids *Identities) []byte {
	if ids[ByPID] != "" {
		b = append(b, ids[ByProcess]...)
		b = append(b, '[')
		b = append(b, ids[ByPID]...)
		b = append(b, ']')
	} else {
		b = append(b, ids[ByAddr]...)
	}
	if ids[ByName] != "" {
		b = append(b, ' ')
		b = append(b, ids[ByName]...)
	}
	return b
}

// see counts a client.
func (s *sight) see(f *ClientFacts, rules *SuspectRules) {
	s.open++
	resting := !f.InUse && !f.Subscribed
	if f.InUse {
		s.inUse++
	}
	if f.Subscribed {
		s.subscribed++
	} else {
		s.pool++
	}
	if resting && f.Idle > rules.IdleHoard.Idle {
		s.idle++
	}
	if !f.InUse && f.Idle >= quietAfter {
		s.quiet++
	}
	if f.Commands == 0 {
		s.neverSpoke++
		if f.Age > rules.NeverSpoke.After {
			s.silent++
		}
	}
	class := 0
	for class < len(ageBounds) && f.Age >= ageBounds[class] {
		class++
	}
	s.ages[class]++
	s.sent += f.Commands
	if f.Age > LedgerWindow {
		s.sentBefore += f.Commands
	}
	s.rank(f)
}

// rank keeps the oldest connections, the oldest first.
func (s *sight) rank(f *ClientFacts) {
	at := s.ranked
	for at > 0 && f.Age > s.oldest[at-1].Age {
		at--
	}
	if at < keptOldest {
		copy(s.oldest[at+1:], s.oldest[at:])
		s.oldest[at] = Connection{f.Remote, f.Age, f.Idle}
		s.ranked = min(s.ranked+1, keptOldest)
	}
}

// vote finds the last command that more than half of the clients have in common, if there is one, and a client that
// stands for them (Boyer and Moore's majority vote). Those that are not used vote alone, if there are any: what was
// leaked is among them.
func (s *sight) vote(f *ClientFacts) {
	rests := !f.InUse && f.Idle >= quietAfter
	switch {
	case s.restVotes && !rests:
	case s.votes == 0, rests && !s.restVotes:
		s.typical, s.votes, s.restVotes = typical{f.Identities, f.Command, f.Last}, 1, rests
	case s.typical.last == f.Last:
		s.votes++
	default:
		s.votes--
	}
}

const (
	useBits   = 32
	together  = 25 * time.Millisecond // as far apart as the threads of a burst come on a busy machine
	handshake = time.Second
)

// use notes when a connection was used, if that was in this window. What it says right after it was opened is its
// library's handshake, and says nothing of how many connections are needed.
func (lk *look) use(p *page, f *ClientFacts) {
	if f.Commands == 0 || f.Idle >= LedgerWindow || f.Age-f.Idle < handshake {
		return
	}
	if p.sight.mark == 0 {
		lk.sources = append(lk.sources, p)
		p.sight.mark = len(lk.sources)
	}
	key := uint64(p.sight.mark)<<useBits | uint64(max(f.Idle, 0)/time.Microsecond)
	lk.uses = append(lk.uses, key)
}

// findUsesAtOnce finds the bursts that come and go between two looks. Connections whose last commands were sent that
// close together were, to all appearances, needed at once. A pool that is used in turn, quickly, looks the same: then the
// number is too high, and the pool is not called too large where it may be.
func (l *Ledger) findUsesAtOnce() {
	slices.Sort(l.uses)
	first := 0
	for i, use := range l.uses {
		for l.uses[first]>>useBits != use>>useBits || use-l.uses[first] > uint64(together/time.Microsecond) {
			first++
		}
		s := &l.sources[use>>useBits-1].sight
		s.atOnce = max(s.atOnce, i-first+1)
	}
}
