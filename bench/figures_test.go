package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// What is done with the figures: medians, ratios within a round, verdicts.

func TestTheMedianIsTheMiddle(t *testing.T) {
	for _, c := range []struct {
		figures []float64
		want    spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{9, 1, 2}, spread{2, 1, 9}},
		{[]float64{4, 1, 2, 9}, spread{3, 1, 9}},
	} {
		before := slices.Clone(c.figures)
		got, err := spreadOf(c.figures)
		if err != nil || got != c.want {
			t.Errorf("%v: got %v, %v; want %v", c.figures, got, err, c.want)
		}
		if !slices.Equal(c.figures, before) {
			t.Errorf("%v: the rounds were reordered to %v", before, c.figures)
		}
	}
	if got, err := spreadOf(nil); err == nil {
		t.Errorf("no figures: got %v, want an error", got)
	}
}

func TestRatiosAreTakenWithinARound(t *testing.T) {
	got, err := ratios([]float64{10, 40, 90}, []float64{20, 40, 30})
	if want := []float64{0.5, 1, 3}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
	if _, err := ratios([]float64{1, 2}, []float64{1}); err == nil {
		t.Error("a round that only one target has: want an error")
	}
	if _, err := ratios(nil, nil); err == nil {
		t.Error("no rounds: want an error")
	}
	for _, c := range [][2][]float64{{{1, 0}, {1, 1}}, {{1, 1}, {0, 1}}} {
		if _, err := ratios(c[0], c[1]); !errors.Is(err, errNotMeasured) {
			t.Errorf("%v: got %v, want %v", c, err, errNotMeasured)
		}
	}
}

// steady returns a report in which every load gave the same samples in every round.
func steady(samples map[string]sample) *report {
	r := &report{}
	for _, sc := range scenarios {
		for _, l := range sc.loads {
			result := loadResult{Scenario: sc.name, load: l}
			for _, c := range contenders {
				if s, ok := samples[c.name]; ok {
					result.Targets = append(result.Targets, targetResult{c.name, []sample{s, s, s}})
				}
			}
			r.Loads = append(r.Loads, result)
		}
	}
	return r
}

// others adds what is no load: an idle client's bytes, the ratio of a storm, the longest wait.
func (r *report) others(idle int64, storm, wait, start time.Duration, allocations float64) *report {
	r.Idle = []idleResult{{Name: redbouncer, Before: 1 << 20, Steps: []idleStep{{Clients: 10, After: 1<<20 + 10*idle}}}}
	r.Storms = []stormResult{{Name: redbouncer, Calm: latencies{P99: 1000}, Storm: latencies{P99: 1000 * storm}}}
	r.Fair = &fairResult{Single: latencies{Max: wait}}
	r.Starts = []startResult{{Name: redbouncer, Starts: []time.Duration{start}, Allocations: &allocations}}
	return r
}

func outcomes(r *report) []string {
	r.judge()
	var all []string
	for _, v := range r.Verdicts {
		all = append(all, v.Outcome)
	}
	return all
}

// figuresFor are samples of which each bound of a goal is off by that much: 0 is at the bound, -1 is worse.
func figuresFor(load string, off float64) map[string]sample {
	x := map[string]sample{
		direct:     {RequestsPerSecond: 100, RedisCPU: 10, Latency: latencies{P50: 100 * time.Microsecond, P99: time.Millisecond}},
		redbouncer: {RequestsPerSecond: 95 + off, RedisCPU: 3.3 - off, ProxyCPU: 8.5 - off, ProxyPeak: 1, ProxyBase: 1},
		twemproxy:  {RequestsPerSecond: 90, RedisCPU: 3, ProxyCPU: 10},
	}
	ours := x[redbouncer]
	ours.Latency = latencies{P50: 160*time.Microsecond - time.Duration(off), P99: 1200*time.Microsecond - time.Duration(off)}
	switch load {
	case "50 clients":
		y := x[direct]
		y.RedisCPU = 8.5 / 1.1
		x[direct] = y
	case "1,000 clients":
		ours.RequestsPerSecond, ours.ProxyCPU = 105+off, 7.5-off
	case "8,000 clients":
		ours.RequestsPerSecond, ours.RedisCPU = 100+off, 2-off
	case "50 clients, pipeline of 16":
		ours.RequestsPerSecond, ours.ProxyCPU = 75+off, 2.5-off
	case "GET of 64 MB", "SET of 64 MB":
		ours.RequestsPerSecond, ours.ProxyPeak = 60+off, int64(128<<20-off*1e6)+1
	case "2,000 clients come":
		ours.RequestsPerSecond = 200 + off
	}
	limits := ours
	limits.ProxyCPU *= 1.03 - off/10
	x[redbouncer], x[withLimits] = ours, limits
	return x
}

func reportOf(off float64) *report {
	r := &report{}
	for _, sc := range scenarios {
		for _, l := range sc.loads {
			one := steady(figuresFor(l.Name, off))
			result, _ := one.load(l.Name)
			r.Loads = append(r.Loads, result)
		}
	}
	return r
}

func TestABoundIsMetAtTheBound(t *testing.T) {
	r := reportOf(0).others(600, 2, 50*time.Millisecond, 50*time.Millisecond, 0.001)
	for i, got := range outcomes(r) {
		if got != "met" {
			t.Errorf("%s: %s, %s of %s", r.Verdicts[i].Promise, got, r.Verdicts[i].Measured, r.Verdicts[i].Target)
		}
	}
}

func TestABoundIsMissedPastTheBound(t *testing.T) {
	r := reportOf(-1).others(601, 3, 51*time.Millisecond, 51*time.Millisecond, 0.02)
	for i, got := range outcomes(r) {
		if got != "NOT met" {
			t.Errorf("%s: %s, %s of %s", r.Verdicts[i].Promise, got, r.Verdicts[i].Measured, r.Verdicts[i].Target)
		}
	}
}

func TestWhatWasNotMeasuredIsNeitherMetNorMissed(t *testing.T) {
	got := outcomes(&report{})
	if len(got) != len(goals) || len(goals) == 0 {
		t.Fatalf("%d verdicts for %d goals", len(got), len(goals))
	}
	for i, outcome := range got {
		if !strings.HasPrefix(outcome, "not measured: ") {
			t.Errorf("%s: %s", goals[i].promise, outcome)
		}
	}
	withoutPeer := outcomes(steady(map[string]sample{direct: {RequestsPerSecond: 1}, redbouncer: {RequestsPerSecond: 1}}))
	if want := "not measured: twemproxy did not take part"; withoutPeer[0] != want {
		t.Errorf("got %q, want %q", withoutPeer[0], want)
	}
}

func TestEveryGoalRefersToALoadAndAContenderThatExist(t *testing.T) {
	everyone := map[string]sample{}
	for _, c := range contenders {
		everyone[c.name] = sample{RequestsPerSecond: 1, ProxyCPU: 1, RedisCPU: 1, ProxyPeak: 1}
	}
	r := steady(everyone).others(1, 1, 1, 1, 1)
	for i, outcome := range outcomes(r) {
		if strings.HasPrefix(outcome, "not measured") {
			t.Errorf("%s: %s", goals[i].promise, outcome)
		}
	}
}

func TestAMeasurementTakesAboutTheTimeThatWasAskedFor(t *testing.T) {
	if got := requestsFor(100_000, 1500*time.Millisecond); got != 150_000 {
		t.Errorf("got %d requests, want 150000", got)
	}
	if got := requestsFor(1e12, time.Second); got != maxRequests {
		t.Errorf("got %d requests, want the bound %d", got, maxRequests)
	}
}

func TestNumbersAreShownWithCommas(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.4: "999", 1000: "1,000", 1234567.8: "1,234,568", -4096: "-4,096"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: got %s, want %s", v, got, want)
		}
	}
}
