package limits

import (
	"cmp"
	"slices"
	"time"
)

// SourceReport is what the ledger knows of a value: of a source, an address, a user and so on.
type SourceReport struct {
	Value string

	// Connections, now and as of the last look.
	Open       int
	InUse      int // in flight, blocked, or in a transaction
	Idle       int // for longer than the rule idle-hoard says, and neither in use nor subscribed
	NeverSpoke int
	Subscribed int
	Ages       [AgeClasses]int // younger than a minute, ten minutes, an hour, a day, and the rest

	// What has come and gone.
	Opens   int     // in the last minute
	Closes  int     // in the last minute
	Slope   float64 // by how many connections a minute it has grown, over the last two minutes
	Refused uint64  // since the ledger knows it

	// What the connections are used for.
	CommandsPerMinute     float64 // in the last minute
	CommandsPerConnection float64 // of those closed in the last two minutes
	PeakInUse             int     // in use at once, in the last ten minutes, as far as it was seen

	// Who it is: one client that stands for most, of those that are not used if there are any.
	Identities Identities
	Command    string // the command line of its process
	Last       string // its last command

	Oldest []Connection // up to three, the oldest first

	// History is how many connections there were at the end of each LedgerWindow of the last two minutes, the earliest first.
	// Only sources have it.
	History []int
}

// Sources returns a report for each value of a kind that has clients or had some lately, those with the most
// connections first. What there was no room for is OtherSources.
func (l *Ledger) Sources(kind IdentityKind) []SourceReport { return l.reports(kind) }

// BySource is Sources for the sources themselves, as Identities.Source has them.
func (l *Ledger) BySource() []SourceReport { return l.reports(bySource) }

func (l *Ledger) reports(k IdentityKind) []SourceReport {
	l.looking.Lock() // pages stay as long as this is held
	defer l.looking.Unlock()
	l.mu.Lock()
	pages := l.books[k].all()
	l.mu.Unlock()
	reports := make([]SourceReport, 0, len(pages))
	for part := range slices.Chunk(pages, lookAtOnce) {
		l.mu.Lock()
		for _, p := range part {
			reports = append(reports, p.report(&l.clock))
		}
		l.mu.Unlock()
	}
	slices.SortFunc(reports, func(a, b SourceReport) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Value, b.Value))
	})
	return reports
}

// report is called with looking and mu held.
func (p *page) report(c *windowClock) SourceReport {
	s := &p.sight
	r := SourceReport{
		Value:      p.value,
		Open:       p.open,
		InUse:      s.inUse,
		Idle:       s.idle,
		NeverSpoke: s.neverSpoke,
		Subscribed: s.subscribed,
		Refused:    p.refused,
		PeakInUse:  p.peak(),
		Identities: p.ids,
		Command:    p.command,
		Last:       p.last,
	}
	for i, n := range s.ages {
		r.Ages[i] = int(n)
	}
	r.Oldest = append(r.Oldest, s.oldest[:s.ranked]...)

	if p.past != nil {
		for ago := p.windows - 1; ago >= 0; ago-- {
			r.History = append(r.History, int(p.past.levels[c.slot(ago)].open))
		}
	}

	recent, all := p.flow(c, minute), p.flow(c, keptWindows)
	r.CommandsPerMinute = perMinute(float64(recent.commands), c.elapsed(min(p.windows, minute)))
	r.Slope = perMinute(float64(all.opens-all.closes), c.elapsed(p.windows))
	recent.add(p.current)
	all.add(p.current)
	r.Opens, r.Closes = int(max(recent.opens, 0)), int(recent.closes)
	if all.closes > 0 {
		r.CommandsPerConnection = float64(all.spent) / float64(all.closes)
	}
	return r
}

func perMinute(n float64, in time.Duration) float64 {
	if in <= 0 {
		return 0
	}
	return n / in.Minutes()
}
