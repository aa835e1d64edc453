package doctor

import (
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// book has limits.Ledger, which names leaks among the clients of a proxy, look at the clients of any server. What the ledger
// is told there of each connection is worked out from CLIENT LIST here:
//
//   - The two minutes before the first look are played back from the ages of the connections that are left. Those that have
//     gone are missing in it, so that a pool whose connections are replaced looks as if it grew: a source that is said to
//     grow has to do so while it is watched as well.
//   - Connections that come and go between two looks are not seen at all; see survey.brief.
//   - Idle times are in whole seconds. What was used within the same one counts as used at once, so that a pool is called
//     too large rather too seldom.
type book struct {
	ledger *limits.Ledger
	open   map[int64]*entry
	turned time.Time // when the ledger's last window ended

	// Since the first look, by source.
	began  time.Time
	opened map[string]int
	closed map[string]int
	brief  map[string]int // of those closed: with few commands, and gone at once
	rules  limits.SuspectRules
}

// entry is a connection as it was seen last.
type entry struct {
	client
	ids  limits.Identities
	seen time.Time
}

// briefAge is how old a connection is at most that was closed at once. The leak rule churn allows for more, and takes longer.
const briefAge = 5 * time.Second

// maxSources is how many sources are told apart by what they open and close.
const maxSources = 4096

// replayed is how many windows are played back: as many as the ledger remembers.
const replayed = 24

// newBook plays back what led to the first look.
func newBook(first []client, now time.Time) *book {
	b := &book{
		ledger: limits.NewLedger(limits.SuspectRules{}), open: map[int64]*entry{}, began: now, turned: now,
		opened: map[string]int{}, closed: map[string]int{}, brief: map[string]int{},
	}
	b.rules = b.ledger.Rules()
	for ago := (replayed - 1) * limits.LedgerWindow; ago >= 0; ago -= limits.LedgerWindow {
		at := now.Add(-ago)
		for i := range first {
			c := &first[i]
			if c.isPeer() || c.age < ago || b.open[c.id] != nil {
				continue
			}
			e := &entry{client: *c, ids: c.identities(), seen: now}
			b.open[c.id] = e
			b.ledger.Opened(&e.ids, at)
		}
		b.observe(at, ago)
	}
	return b
}

// see takes a further look, and ends the ledger's window when it is time.
func (b *book) see(clients []client, now time.Time) {
	here := make(map[int64]bool, len(clients))
	for i := range clients {
		c := &clients[i]
		if c.isPeer() {
			continue
		}
		here[c.id] = true
		e := b.open[c.id]
		if e == nil {
			e = &entry{ids: c.identities()}
			b.open[c.id] = e
			b.ledger.Opened(&e.ids, now)
			b.opened[e.ids.Source()]++
		} else if ids := c.identities(); ids != e.ids {
			b.move(e, ids, now)
		}
		e.client, e.seen = *c, now
	}
	for id, e := range b.open {
		if !here[id] {
			b.leave(e, now)
			delete(b.open, id)
		}
	}
	if now.Sub(b.turned) < limits.LedgerWindow {
		return
	}
	b.turned = now
	b.observe(now, 0)
	if len(b.opened) > maxSources { // who names each connection differently is not to fill our memory
		clear(b.opened)
		clear(b.closed)
		clear(b.brief)
	}
}

// move follows a connection that has said who it is, or something else than before.
func (b *book) move(e *entry, ids limits.Identities, now time.Time) {
	from := e.ids
	b.ledger.Changed(&from, &ids, now)
	if b.opened[from.Source()] > 0 && e.age < now.Sub(b.began) {
		b.opened[from.Source()]--
		b.opened[ids.Source()]++
	}
	e.ids = ids
}

func (b *book) leave(e *entry, now time.Time) {
	f := e.facts(0)
	u := limits.Usage{Commands: f.Commands, Age: e.age + now.Sub(e.seen), Last: f.Last}
	b.ledger.Closed(&e.ids, u, now)
	source := e.ids.Source()
	b.closed[source]++
	if u.Commands <= uint64(b.rules.Churn.Commands) && u.Age <= briefAge {
		b.brief[source]++
	}
}

// observe has the ledger look at the connections as they were so long ago.
func (b *book) observe(at time.Time, ago time.Duration) {
	b.ledger.ObserveEach(at, func(see func(*limits.ClientFacts)) {
		for _, e := range b.open {
			f := e.facts(ago)
			see(&f)
		}
	})
}

// facts are what the ledger sees of a connection, so long before it was seen last. How it was used before its last command
// nobody knows: evenly and, so that no pool is called too large for want of knowledge, at that moment.
func (e *entry) facts(ago time.Duration) limits.ClientFacts {
	f := limits.ClientFacts{
		ID: e.id, Identities: &e.ids, Remote: e.addr, Age: e.age - ago, Last: e.last, Subscribed: e.isSubscribed(),
	}
	busy, idle := e.age-e.idle, e.idle
	if f.Subscribed && e.last == "ping" { // a sign of life, which says nothing of whether anybody listens
		busy, idle, f.Last = 0, e.age, "subscribe"
	}
	settled := f.Age >= busy // nothing has been sent since
	if settled {
		f.Idle, f.InUse = max(idle-ago, 0), e.isBlocked() || e.inTransaction()
	}
	switch {
	case e.neverSpoke():
	case e.commands == 0 || f.Subscribed: // one in each window in which it was used
		f.Commands = 1 + uint64(min(f.Age, busy)/limits.LedgerWindow)
	case settled:
		f.Commands = e.commands
	default:
		f.Commands = max(1, uint64(float64(e.commands)*f.Age.Seconds()/busy.Seconds()))
	}
	return f
}

// suspects are the sources that a leak rule holds for, with what was played back set right by what was watched.
func (b *book) suspects() (confirmed []limits.Suspect) {
	for _, s := range b.ledger.Suspects() {
		if s.Rule != limits.Growing || b.grew(s.Source) {
			confirmed = append(confirmed, s)
		}
	}
	return confirmed
}

// grew reports whether a source has opened more than it has closed while it was watched.
func (b *book) grew(source string) bool {
	return b.opened[source] > 0 && b.opened[source] >= 2*b.closed[source]
}

// topBrief is the source with the most connections that have gone at once, as far as they were seen.
func (b *book) topBrief() (source string, n int) {
	for s, m := range b.brief {
		if m > n || m == n && s < source {
			source, n = s, m
		}
	}
	return source, n
}
