package limits

import (
	"cmp"
	"slices"
	"time"
)

// Suspect is a source that a leak rule has named.
type Suspect struct {
	Source     string
	Identities Identities // of a client that stands for most
	Rule       LeakRule
	Since      time.Time // when this rule named it
	Reason     string    // one sentence with the figures
	Advice     string    // what to look for, and what to do
	Size       int       // the pool size that would do; zero but for the rule pool-too-large
	Report     SourceReport
}

// Notice is what there is to tell of a suspect.
type Notice struct {
	What string // Named, Still or Cleared
	Suspect
}

// What there is to tell. A suspect that another, more telling rule names is named again, without being cleared.
const (
	Named   = "named"
	Still   = "still"
	Cleared = "cleared"
)

const (
	namedAfter   = 2  // windows that a rule holds in a row
	clearedAfter = 12 // windows that it does not: longer than it takes to name another rule, and what comes and goes is told once
)

// trial is what is being held against a source.
type trial struct {
	held [leakRules]int // for how many windows each rule has held, in a row

	// While it is a suspect.
	suspect *Suspect
	by      int       // its rule, in leakTests
	missed  int       // for how many windows the rule has not held, in a row
	told    time.Time // when it was told of last

	// When it began to grow, and how far it got.
	from     level
	fromTime time.Time
	most     int32 // quiet ones
}

// judge looks for suspects among the sources. It is called once a window, with looking and mu held.
func (l *Ledger) judge(now time.Time) (notices []Notice) {
	for _, isProcess := range [...]bool{true, false} {
		for _, p := range l.books[bySource].pages {
			if p.ids[ByPID] != "" != isProcess {
				continue
			}
			c := l.leakCase(p)
			if what := c.judge(now); what != "" {
				c.past.told = now
				notices = append(notices, Notice{what, c.suspected()})
				if what == Cleared {
					c.past.suspect = nil
				}
			}
		}
	}
	slices.SortFunc(notices, func(a, b Notice) int { return cmp.Compare(a.Source, b.Source) })
	return notices
}

func (l *Ledger) leakCase(p *page) leakCase {
	return leakCase{page: p, rules: &l.rules, clock: &l.clock, among: l.books[bySource].pages}
}

// judge returns what there is to tell of a source, or "".
func (c leakCase) judge(now time.Time) string {
	t := &c.past.trial
	best := -1
	for i := range leakTests {
		if leakTests[i].holds(c) {
			t.held[i]++
		} else {
			t.held[i] = 0
		}
		if best < 0 && t.held[i] >= namedAfter {
			best = i
		}
	}
	if t.suspect == nil {
		if best < 0 || c.isRest(leakTests[best].rule) {
			return ""
		}
		c.name(best, now)
		return Named
	}
	if best >= 0 && best < t.by {
		c.name(best, now)
		return Named
	}
	if c.lasts() {
		t.missed = 0
		c.tell()
	} else {
		t.missed++
	}
	switch {
	case t.missed >= clearedAfter && best >= 0:
		c.name(best, now)
		return Named
	case t.missed >= clearedAfter, c.rules.off(t.suspect.Rule):
		return Cleared
	case now.Sub(t.told) >= c.rules.Again:
		return Still
	}
	return ""
}

// isRest reports whether this is what is left of a process that is named already: connections so short that the process was
// found for most, and for these not.
func (c leakCase) isRest(rule LeakRule) bool {
	if rule != Churn || c.ids[ByPID] != "" {
		return false
	}
	short := c.flow(c.clock, minute).short
	for _, p := range c.among {
		if s := p.past.suspect; s != nil && s.Rule == rule && p.ids[ByPID] != "" && p.ids[ByAddr] == c.ids[ByAddr] &&
			p.ids[ByName] == c.ids[ByName] && p.flow(c.clock, minute).short > short {
			return true
		}
	}
	return false
}

// name makes the source a suspect, or changes the rule that it is one by.
func (c leakCase) name(by int, now time.Time) {
	t := &c.past.trial
	t.suspect = &Suspect{Source: c.value, Rule: leakTests[by].rule, Since: now}
	t.by, t.missed = by, 0
	if t.suspect.Rule == Growing {
		n := windowsIn(c.rules.Growing.Over)
		if !c.growsOver(n) {
			n = keptWindows - 1
		}
		t.from, t.most = *c.level(n), c.level(0).quiet
		t.fromTime = c.clock.ended[(c.clock.now-n)%len(c.clock.ended)]
	}
	c.tell()
}

// tell brings what is said of the suspect up to date. When its rule does not hold any more, that stays what it was when
// it did.
func (c leakCase) tell() {
	s := c.past.suspect
	s.Reason, s.Advice = leakTests[c.past.by].tell(c)
	if s.Rule == PoolTooLarge {
		s.Size = c.sizeThatWouldDo()
	}
}

// lasts reports whether what the suspect was named for goes on. A leak that has paused is a leak as long as half of what
// has leaked is there.
func (c leakCase) lasts() bool {
	t := &c.past.trial
	if t.held[t.by] > 0 {
		return true
	}
	if t.suspect.Rule != Growing {
		return false
	}
	t.most = max(t.most, c.level(0).quiet)
	return 2*(c.level(0).quiet-t.from.quiet) >= t.most-t.from.quiet
}

// suspected returns the suspect, with a report.
func (c leakCase) suspected() Suspect {
	s := *c.past.suspect
	s.Identities, s.Report = c.ids, c.report(c.clock)
	s.Report.Open += c.sight.lent
	return s
}

// off reports whether a rule has been switched off.
func (r *SuspectRules) off(rule LeakRule) bool {
	for _, row := range r.rows() {
		if row.name == string(rule) {
			return *row.off
		}
	}
	panic("bug: unknown leak rule " + string(rule))
}

// Suspects returns the suspects, those first that have been it for longest.
func (l *Ledger) Suspects() []Suspect {
	l.looking.Lock()
	defer l.looking.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	var suspects []Suspect
	for _, p := range l.books[bySource].pages {
		if p.past.suspect != nil {
			suspects = append(suspects, l.leakCase(p).suspected())
		}
	}
	slices.SortFunc(suspects, func(a, b Suspect) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Source, b.Source))
	})
	return suspects
}
