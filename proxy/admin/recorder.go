package admin

import (
	"context"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
)

const (
	// recordEvery is how often the recorder looks.
	recordEvery = time.Second
	// keptMoments bounds what SHOW LATENCY can look back on: a minute, and what is on both sides of it.
	keptMoments = 62
	// keptPoints bounds what the page's charts show: five minutes.
	keptPoints = 300
)

// moment is how the counters stood at a time.
type moment struct {
	at      time.Time
	stats   proxy.Stats
	latency multiplex.Latency
}

// takeMoment looks at the counters.
func takeMoment(ctx context.Context, p Proxy) (moment, error) {
	latency, err := p.Latency(ctx)
	return moment{time.Now(), p.Stats(), latency}, err
}

// point is what the page's charts show of a second.
type point struct {
	at                time.Time
	clients, queued   int
	upstream, pins    int
	refused, commands float64 // a second
	p50, p99          time.Duration
}

// recorder remembers how things stood lately, so that there are rates, and percentiles of the last minute, at the first look. It
// looks at counters only, once a second.
type recorder struct {
	// Static after construction.
	began time.Time

	// mu guards the following fields.
	mu      sync.Mutex
	moments []moment // the earliest first
	points  []point
}

// run ends with the context.
func (r *recorder) run(ctx context.Context, c *Console) {
	tick := time.NewTicker(recordEvery)
	defer tick.Stop()
	for {
		if b := c.backends.Load(); b != nil {
			bounded, cancel := context.WithTimeout(ctx, consoleTimeout)
			if m, err := takeMoment(bounded, b.Proxy); err == nil {
				r.add(m)
			}
			cancel()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (r *recorder) add(m moment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.moments); n > 0 {
		r.points = append(dropFirst(r.points, keptPoints), pointBetween(&r.moments[n-1], &m))
	}
	r.moments = append(dropFirst(r.moments, keptMoments), m)
}

// dropFirst makes room for one more where there are most.
func dropFirst[T any](kept []T, most int) []T {
	if len(kept) < most {
		return kept
	}
	return kept[:copy(kept, kept[1:])]
}

func pointBetween(before, now *moment) point {
	took, in := now.latency.Since(&before.latency), now.at.Sub(before.at)
	s := &now.stats
	return point{
		at: now.at, clients: s.Clients, queued: s.Queued, upstream: s.Upstream, pins: s.Pins,
		refused:  perSecond(more(before.stats.Refused, s.Refused), in),
		commands: perSecond(more(before.stats.Commands, s.Commands), in),
		p50:      took.Quantile(0.5), p99: took.Quantile(0.99),
	}
}

// before returns how the counters stood at a time: what is known of the moment next to it. If nothing was known yet, that is
// the start.
func (r *recorder) before(at time.Time) moment {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := moment{at: r.began}
	for i := range r.moments {
		if r.moments[i].at.After(at) {
			break
		}
		found = r.moments[i]
	}
	return found
}

// history returns the points, the earliest first.
func (r *recorder) history() []point {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]point(nil), r.points...)
}
