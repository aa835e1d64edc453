package main

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// latencies are percentiles of how long the answers took.
type latencies struct {
	Commands int           `json:"commands"`
	P50      time.Duration `json:"p50_ns"`
	P75      time.Duration `json:"p75_ns"`
	P90      time.Duration `json:"p90_ns"`
	P95      time.Duration `json:"p95_ns"`
	P99      time.Duration `json:"p99_ns"`
	P999     time.Duration `json:"p999_ns"`
	Max      time.Duration `json:"max_ns"`
}

// histogram counts latencies with three digits, from a nanosecond to a minute. What takes longer counts as a minute.
type histogram struct{ h *hdrhistogram.Histogram }

const longest = time.Minute

func newHistogram() histogram {
	return histogram{hdrhistogram.New(1, int64(longest), 3)}
}

// add counts n answers that took so long.
func (h histogram) add(took time.Duration, n int) {
	_ = h.h.RecordValues(int64(min(max(took, 1), longest)), int64(n)) // the only error is a value out of range
}

func (h histogram) reset() { h.h.Reset() }

// percentiles returns what there is to tell of it.
func (h histogram) percentiles() latencies {
	at := func(percent float64) time.Duration { return time.Duration(h.h.ValueAtQuantile(percent)) }
	if h.h.TotalCount() == 0 {
		return latencies{}
	}
	return latencies{
		Commands: int(h.h.TotalCount()),
		P50:      at(50), P75: at(75), P90: at(90), P95: at(95), P99: at(99), P999: at(99.9), Max: time.Duration(h.h.Max()),
	}
}

// percentiles returns those of a list.
func percentiles(all []time.Duration) latencies {
	h := newHistogram()
	for _, took := range all {
		h.add(took, 1)
	}
	return h.percentiles()
}
