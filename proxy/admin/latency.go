package admin

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redbouncer/redbouncer/multiplex"
)

// window is a time of which SHOW LATENCY tells.
type window struct {
	name   string
	length time.Duration // 0: since the start
}

var windows = []window{{"10s", 10 * time.Second}, {"1m", time.Minute}, {"start", 0}}

// showLatency tells how long commands take. Lately is as the recorder remembers it.
func showLatency(ctx context.Context, r *request) (any, error) {
	t := &table{columns: []string{"window", "commands", "commands_per_s", "measured", "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"}}
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	now, err := takeMoment(ctx, r.Proxy)
	if err != nil {
		return nil, err
	}
	for _, w := range windows {
		before := moment{at: r.console.recorder.began}
		if w.length > 0 {
			before = r.console.recorder.before(now.at.Add(-w.length))
		}
		took := now.latency.Since(&before.latency)
		commands, measured, mean := more(before.stats.Commands, now.stats.Commands), took.Count(), 0.0
		if measured > 0 {
			mean = float64(took.Micros) / float64(measured)
		}
		row := []any{w.name, commands, perSecond(commands, now.at.Sub(before.at)), measured, mean}
		for _, part := range []float64{0.5, 0.9, 0.99, 0.999, 1} {
			row = append(row, took.Quantile(part).Microseconds())
		}
		t.rows = append(t.rows, row)
	}
	return t, nil
}

// perSecond is a rate, of which a time that is too short says nothing.
func perSecond(n uint64, in time.Duration) float64 {
	if in < time.Millisecond {
		return 0
	}
	return float64(n) / in.Seconds()
}

// more is by how much a counter has grown. At the end of the proxy a loop's share is missing for a moment.
func more(before, now uint64) uint64 { return now - min(before, now) }

// The classes of the metric are from 32 us to 4 s, each twice as wide as the one before: every eighth bound of the latency's own.
const (
	leastBound = 32 * time.Microsecond
	mostBound  = 5 * time.Second
)

// histogram is the metric of a latency.
func histogram(l *multiplex.Latency) prometheus.Metric {
	below, buckets, bound := uint64(0), map[float64]uint64{}, leastBound
	for class, n := range &l.Counts {
		below += n
		if multiplex.LatencyBound(class) == bound && bound <= mostBound {
			buckets[bound.Seconds()] = below
			bound *= 2
		}
	}
	return prometheus.MustNewConstHistogram(descLatency, below, time.Duration(l.Micros*1000).Seconds(), buckets)
}
