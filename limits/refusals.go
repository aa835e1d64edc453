package limits

import "time"

// Refusal is what refusals have in common that are logged once an interval.
type Refusal struct {
	Source string
	Reason Reason
	// Observed: it has not been refused, because the rule only observes.
	Observed bool
}

// refusals is what the log has been told of one source, for one reason.
type refusals struct {
	since      time.Time // when it was told last
	suppressed int
}

// refusalLog keeps a log from being flooded by refusals.
type refusalLog struct {
	interval time.Duration
	told     map[Refusal]*refusals
}

// maxTold bounds the sources whose refusals are logged apart; those beyond it share one entry.
const maxTold = 1024

// OtherSources stands for the sources beyond those that are told apart.
const OtherSources = "other sources"

// Tell counts a refusal, and reports whether it is to be logged now: it is the source's first in this interval, for
// this reason.
func (g *Gate) Tell(source Refusal, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := g.refusals.told
	r := told[source]
	if r == nil && len(told) >= maxTold {
		source.Source = OtherSources
		r = told[source]
	}
	if r == nil {
		told[source] = &refusals{since: now}
		return true
	}
	r.suppressed++
	return false
}

// Suppressed is how many refusals were not logged one by one.
type Suppressed struct {
	Refusal
	Count int
}

// Expire ends the intervals that are over. It returns the sources that have refusals the log was not told of.
func (g *Gate) Expire(now time.Time) []Suppressed {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []Suppressed
	for source, r := range g.refusals.told {
		if now.Sub(r.since) < g.refusals.interval {
			continue
		}
		if r.suppressed == 0 {
			delete(g.refusals.told, source)
			continue
		}
		out = append(out, Suppressed{source, r.suppressed})
		r.since, r.suppressed = now, 0
	}
	return out
}
