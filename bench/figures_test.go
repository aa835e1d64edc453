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
	for _, l := range loads {
		result := loadResult{load: l}
		for _, c := range contenders {
			if s, ok := samples[c.name]; ok {
				result.Targets = append(result.Targets, targetResult{c.name, []sample{s, s, s}})
			}
		}
		r.Loads = append(r.Loads, result)
	}
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

func TestABoundIsMetAtTheBound(t *testing.T) {
	r := steady(map[string]sample{
		direct:     {RequestsPerSecond: 100, RedisCPU: 10},
		redbouncer: {RequestsPerSecond: 95, RedisCPU: 4, ProxyCPU: 9},
		withLimits: {RequestsPerSecond: 95, RedisCPU: 4, ProxyCPU: 9.27},
		twemproxy:  {RequestsPerSecond: 90, RedisCPU: 3, ProxyCPU: 10},
	})
	r.Idle = []idleResult{{Name: redbouncer, Clients: 10, Before: 1 << 20, After: 1<<20 + 10*1024}}
	r.Storms = []stormResult{{Name: redbouncer, Calm: latencies{P99: 1000}, Storm: latencies{P99: 2000}}}
	r.Fair = &fairResult{Single: latencies{Max: 50 * time.Millisecond}}
	for i, got := range outcomes(r) {
		if got != "met" {
			t.Errorf("%s: %s", r.Verdicts[i].Promise, got)
		}
	}
}

func TestABoundIsMissedPastTheBound(t *testing.T) {
	r := steady(map[string]sample{
		direct:     {RequestsPerSecond: 100, RedisCPU: 10},
		redbouncer: {RequestsPerSecond: 64, RedisCPU: 4.1, ProxyCPU: 9.1},
		withLimits: {RequestsPerSecond: 95, RedisCPU: 4, ProxyCPU: 9.4},
		twemproxy:  {RequestsPerSecond: 90, RedisCPU: 3, ProxyCPU: 10},
	})
	r.Idle = []idleResult{{Name: redbouncer, Clients: 10, Before: 1 << 20, After: 1<<20 + 10*1025}}
	r.Storms = []stormResult{{Name: redbouncer, Calm: latencies{P99: 1000}, Storm: latencies{P99: 2001}}}
	r.Fair = &fairResult{Single: latencies{Max: 51 * time.Millisecond}}
	for i, got := range outcomes(r) {
		if got != "NOT met" {
			t.Errorf("%s: %s", r.Verdicts[i].Promise, got)
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
		everyone[c.name] = sample{1, 1, 1}
	}
	r := steady(everyone)
	r.Idle = []idleResult{{Name: redbouncer, Clients: 1}}
	r.Storms = []stormResult{{Name: redbouncer, Calm: latencies{P99: 1}}}
	r.Fair = &fairResult{}
	for i, outcome := range outcomes(r) {
		if strings.HasPrefix(outcome, "not measured") {
			t.Errorf("%s: %s", goals[i].promise, outcome)
		}
	}
}

func TestAMeasurementTakesAboutTheTimeThatWasAskedFor(t *testing.T) {
	s := settings{duration: defaultDuration}
	if got := requestsFor(100_000, s.duration); got != 150_000 {
		t.Errorf("got %d requests, want 150000", got)
	}
	if got := requestsFor(1e12, s.duration); got != maxRequests {
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
