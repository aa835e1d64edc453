package limits

import (
	"sync"
	"time"
)

// Gate admits clients, up to a number in all, and keeps count of those it refuses.
type Gate struct {
	// Static after construction.
	interval time.Duration

	// mu guards the following fields.
	mu      sync.Mutex
	max     int
	open    int
	total   uint64
	refused uint64
	told    map[Refusal]*refusals
}

// Reason is why clients are refused.
type Reason string

// Refusal is what refusals have in common that are logged once an interval.
type Refusal struct {
	Source string
	Reason Reason
}

// refusals is what the log has been told of one source, for one reason.
type refusals struct {
	since      time.Time // when it was told last
	suppressed int
}

// maxTold bounds the sources whose refusals are logged apart; those beyond it share one entry.
const maxTold = 1024

// OtherSources stands for the sources beyond those that are logged apart.
const OtherSources = "other sources"

// NewGate returns a gate for at most maxclients clients. Each source's refusals are reported once an interval.
func NewGate(maxclients int, interval time.Duration) *Gate {
	return &Gate{max: maxclients, interval: interval, told: map[Refusal]*refusals{}}
}

// SetMax changes how many clients may be in. Those that are in stay, however many they are.
func (g *Gate) SetMax(maxclients int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.max = maxclients
}

// Admit lets a client in, or reports false. For each client that it lets in, Leave is called once.
func (g *Gate) Admit() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open >= g.max {
		g.refused++
		return false
	}
	g.open++
	g.total++
	return true
}

// Expel turns a client away that was let in, for another reason than the number of clients: it counts as refused. It
// takes the place of Leave.
func (g *Gate) Expel() {
	g.Leave()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	g.refused++
}

// Leave says that a client that was let in has gone.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open == 0 {
		panic("bug: a client has left that never came")
	}
	g.open--
}

// GateStats are a gate's counters.
type GateStats struct {
	Max     int    // maxclients in force
	Open    int    // clients that are in
	Total   uint64 // clients let in since the start
	Refused uint64 // clients refused since the start
}

// Stats returns the counters.
func (g *Gate) Stats() GateStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return GateStats{Max: g.max, Open: g.open, Total: g.total, Refused: g.refused}
}

// Tell counts a refusal, and reports whether it is to be logged now: it is the source's first in this interval, for
// this reason.
func (g *Gate) Tell(source Refusal, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.told[source]
	if r == nil && len(g.told) >= maxTold {
		source.Source = OtherSources
		r = g.told[source]
	}
	if r == nil {
		g.told[source] = &refusals{since: now}
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
	for source, r := range g.told {
		if now.Sub(r.since) < g.interval {
			continue
		}
		if r.suppressed == 0 {
			delete(g.told, source)
			continue
		}
		out = append(out, Suppressed{source, r.suppressed})
		r.since, r.suppressed = now, 0
	}
	return out
}
