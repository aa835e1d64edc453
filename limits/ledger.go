package limits

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// Ledger is the book of who holds what since when. It counts the clients of each value of each identity, and of each
// source; once a window it looks at all clients, and names the sources that a leak rule holds for.
//
// It holds a bounded number of values of each kind. Those without clients are dropped after a while; what there is no
// room for is counted together, as OtherSources, and is never a suspect.
type Ledger struct {
	// looking is held by ObserveEach from its first client to its last, and by those who read what it has seen. It is taken
	// before mu, so that a client who connects waits for a few others to be looked at, and not for all of them.
	looking sync.Mutex
	uses    []uint64 // of Observe: when connections were used last, by source
	sources []*page  // of Observe: the sources that uses is about

	// mu guards the following fields. Observe gives it up in between.
	mu    sync.Mutex
	rules SuspectRules
	books [bySource + 1]book
	clock windowClock
}

// LedgerWindow is how often Observe is to be called.
const LedgerWindow = 5 * time.Second

const (
	keptWindows = 24               // how many windows a page remembers: two minutes
	minute      = 12               // windows
	maxPages    = 4096             // values of a kind
	forgetAfter = 10 * time.Minute // a value without clients
)

// bySource is the book of the sources, beside those of the identities.
const bySource = IdentityKinds

// Usage is what a connection was used for, when it is closed.
type Usage struct {
	Commands uint64 // those of its library's handshake included
	Age      time.Duration
	Command  string // the command line of the client's process
	Last     string // its last command
}

// book has a page for each value of a kind.
type book struct {
	pages  map[string]*page
	others *page // of those there is no room for
	judged bool  // the leak rules are about these
}

// NewLedger returns an empty ledger.
func NewLedger(rules SuspectRules) *Ledger {
	l := &Ledger{rules: rules.filled()}
	for k := range l.books {
		l.books[k] = book{pages: map[string]*page{}, others: &page{value: OtherSources}}
	}
	l.books[bySource].judged = true
	return l
}

// SetRules changes the leak rules from the next window on.
func (l *Ledger) SetRules(rules SuspectRules) {
	l.looking.Lock()
	defer l.looking.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rules = rules.filled()
}

// Rules returns the leak rules in force.
func (l *Ledger) Rules() SuspectRules {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules
}

// valuesOf returns what a client is counted as, a value a book. What is not known is "", and not counted.
func valuesOf(ids *Identities) (values [bySource + 1]string) {
	copy(values[:], ids[:])
	values[bySource] = ids.Source()
	return values
}

// Opened says that a client was let in. For each one, Closed is called once.
func (l *Ledger) Opened(ids *Identities, now time.Time) {
	values := valuesOf(ids)
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, value := range values {
		l.books[k].open(value, ids, now)
	}
}

// Changed says that another identity of a client has become known. The client moves: it was never opened under the
// values that it had before, as far as the counts go, nor is it closed there.
func (l *Ledger) Changed(from, to *Identities, now time.Time) {
	before, after := valuesOf(from), valuesOf(to)
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range l.books {
		if before[k] == after[k] {
			continue
		}
		if before[k] != "" {
			p := l.books[k].leave(before[k], now)
			p.current.opens--
		}
		l.books[k].open(after[k], to, now)
	}
}

// Closed says that a client has gone, with the identities that it had at last.
func (l *Ledger) Closed(ids *Identities, u Usage, now time.Time) {
	values := valuesOf(ids)
	l.mu.Lock()
	defer l.mu.Unlock()
	short := u.Commands <= uint64(l.rules.Churn.Commands) && u.Age <= l.rules.Churn.Age
	for k, value := range values {
		if value == "" {
			continue
		}
		p := l.books[k].leave(value, now)
		p.current.closes++
		p.current.spent += u.Commands
		if short {
			p.current.short++
		}
		if p.sight.open == 0 {
			p.ids, p.command, p.last = *ids, u.Command, u.Last // too short to be seen, and yet somebody
		}
	}
}

// Refused says that a client was not let in.
func (l *Ledger) Refused(ids *Identities, now time.Time) {
	values := valuesOf(ids)
	l.mu.Lock()
	defer l.mu.Unlock()
	for k, value := range values {
		if value == "" {
			continue
		}
		p := l.books[k].page(value, ids, now)
		p.refused++
		p.touched = now
	}
}

// page returns the page of a value. If there is no room for a new one, it is that of the others.
func (b *book) page(value string, ids *Identities, now time.Time) *page {
	p := b.pages[value]
	if p != nil {
		return p
	}
	if len(b.pages) >= maxPages {
		return b.others
	}
	p = &page{value: value, ids: *ids, touched: now}
	if b.judged {
		p.past = &past{}
	}
	b.pages[value] = p
	return p
}

func (b *book) open(value string, ids *Identities, now time.Time) {
	if value == "" {
		return
	}
	p := b.page(value, ids, now)
	p.open++
	p.current.opens++
	p.touched = now
}

// leave takes a client off its page. It may have been counted with the others, when there was no room, and its value
// have got a page since: which of the two a client is on is not remembered. Whoever leaves is taken off the page as
// long as that has clients, and then off the others; so both are empty when all have gone.
func (b *book) leave(value string, now time.Time) *page {
	p := b.pages[value]
	if p == nil || p.open == 0 {
		p = b.others
	}
	if p.open == 0 {
		panic("bug: a client has left the ledger that never came")
	}
	p.open--
	p.touched = now
	return p
}

// turn ends the window on every page of the book, and drops pages.
func (b *book) turn(c *windowClock, now time.Time) {
	var empty []*page
	for _, p := range b.pages {
		p.turn(c)
		if p.open > 0 || p.past != nil && p.past.suspect != nil {
			continue
		}
		if now.Sub(p.touched) >= forgetAfter {
			delete(b.pages, p.value)
			continue
		}
		empty = append(empty, p)
	}
	b.others.turn(c)

	// A quarter stays free, for those who come before the next window is over.
	spare := len(b.pages) - maxPages*3/4
	if spare <= 0 {
		return
	}
	slices.SortFunc(empty, func(p, q *page) int { return p.touched.Compare(q.touched) })
	for _, p := range empty[:min(spare, len(empty))] {
		delete(b.pages, p.value)
	}
}

// all returns the pages that have anything to tell.
func (b *book) all() []*page {
	pages := slices.AppendSeq(make([]*page, 0, len(b.pages)+1), maps.Values(b.pages))
	if b.others.open > 0 || b.others.refused > 0 {
		pages = append(pages, b.others)
	}
	return pages
}
