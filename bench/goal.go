package main

import (
	"errors"
	"fmt"
)

// goal is what the project promises of a figure.
type goal struct {
	promise string
	sense   sense
	bound   float64
	format  func(float64) string
	measure func(*report) (spread, error)
}

type sense string

const (
	atMost  sense = "at most"
	atLeast sense = "at least"
)

func (s sense) holds(measured, bound float64) bool {
	if s == atMost {
		return measured <= bound
	}
	return measured >= bound
}

// metric is one figure of a sample.
type metric func(sample) float64

func throughput(s sample) float64    { return s.RequestsPerSecond }
func proxyCPU(s sample) float64      { return s.ProxyCPU }
func redisCPU(s sample) float64      { return s.RedisCPU }
func upstreamCount(s sample) float64 { return float64(s.Upstreams) }
func p50(s sample) float64           { return asUS(s.Latency.P50) }
func p99(s sample) float64           { return asUS(s.Latency.P99) }

// valueMemory is by how many values of that size the proxy grew at its peak.
func valueMemory(size int) metric {
	return func(s sample) float64 { return float64(s.ProxyPeak-s.ProxyBase) / float64(size) }
}

// goals are judged in this order at the end of a run.
var goals = []goal{
	{"50 clients: CPU a GET, of twemproxy's", atMost, 0.85, asFineRatio, comparison{"50 clients", proxyCPU, twemproxy}.measure},
	{"50 clients: CPU a GET, of what Redis spends when asked directly", atMost, 1.10, asFineRatio, ofRedisItself("50 clients")},
	{"1,000 clients: CPU a GET, of twemproxy's", atMost, 0.75, asFineRatio, comparison{"1,000 clients", proxyCPU, twemproxy}.measure},
	{"50 clients, pipeline of 16: CPU a GET, of twemproxy's", atMost, 0.25, asFineRatio,
		comparison{"50 clients, pipeline of 16", proxyCPU, twemproxy}.measure},
	{"50 clients: throughput, of direct", atLeast, 0.95, asFineRatio, comparison{"50 clients", throughput, direct}.measure},
	{"1,000 clients: throughput, of direct", atLeast, 1.05, asFineRatio, comparison{"1,000 clients", throughput, direct}.measure},
	{"8,000 clients: throughput, of direct", atLeast, 1.0, asFineRatio, comparison{"8,000 clients", throughput, direct}.measure},
	{"50 clients, pipeline of 16: throughput, of direct", atLeast, 0.75, asFineRatio,
		comparison{"50 clients, pipeline of 16", throughput, direct}.measure},
	{"1,000 clients: Redis CPU a command, of direct", atMost, 0.33, asFineRatio, comparison{"1,000 clients", redisCPU, direct}.measure},
	{"8,000 clients: Redis CPU a command, of direct", atMost, 0.20, asFineRatio, comparison{"8,000 clients", redisCPU, direct}.measure},
	{"half of the peak: p50 over direct, us", atMost, 60, asOneDigit, addition("50 % of peak", p50)},
	{"half of the peak: p99 over direct, us", atMost, 200, asOneDigit, addition("50 % of peak", p99)},
	{"memory of an idle client", atMost, 600, asBytes, idleMemory},
	{"allocations a command on the data path", atMost, 0, asFineRatio, allocations},
	{"GET of 64 MB: memory of the proxy, of the value", atMost, 2, asFineRatio, largeMemory("GET of 64 MB")},
	{"SET of 64 MB: memory of the proxy, of the value", atMost, 2, asFineRatio, largeMemory("SET of 64 MB")},
	{"GET of 64 MB: throughput, of direct", atLeast, 0.6, asFineRatio, comparison{"GET of 64 MB", throughput, direct}.measure},
	{"SET of 64 MB: throughput, of direct", atLeast, 0.6, asFineRatio, comparison{"SET of 64 MB", throughput, direct}.measure},
	{"connects and first replies a second, of Redis itself", atLeast, 2, asFineRatio, comparison{"2,000 clients come", throughput, direct}.measure},
	{"start to first served command, ms", atMost, 50, asOneDigit, startTime},
	{"50 clients: CPU a command with limits, of without", atMost, 1.03, asFineRatio, withLimitsOf("50 clients")},
	{"1,000 clients: CPU a command with limits, of without", atMost, 1.03, asFineRatio, withLimitsOf("1,000 clients")},
	{"50 clients, pipeline of 16: CPU a command with limits, of without", atMost, 1.03, asFineRatio,
		withLimitsOf("50 clients, pipeline of 16")},
	{"storm: p99 of clients that are in, of calm", atMost, 2, asFineRatio, stormRatio},
	{"fair: longest wait of a client behind a flood from elsewhere, ms", atMost, 50, asOneDigit, fairWait},
}

// comparison is a figure of redbouncer divided by the same figure of another contender, round by round.
type comparison struct {
	load   string
	metric metric
	to     string
}

func (c comparison) measure(r *report) (spread, error) {
	result, err := r.load(c.load)
	if err != nil {
		return spread{}, err
	}
	return result.compare(c.metric, redbouncer, c.to)
}

// ofRedisItself is the CPU of the proxy, of what Redis uses when it is asked directly.
func ofRedisItself(load string) func(*report) (spread, error) {
	return func(r *report) (spread, error) {
		result, err := r.load(load)
		if err != nil {
			return spread{}, err
		}
		return result.against(proxyCPU, redisCPU, [2]string{redbouncer, direct})
	}
}

// addition is what redbouncer adds to direct.
func addition(load string, m metric) func(*report) (spread, error) {
	return func(r *report) (spread, error) {
		result, err := r.load(load)
		if err != nil {
			return spread{}, err
		}
		return result.added(m, redbouncer)
	}
}

// largeMemory is the memory of redbouncer at its peak, beyond what it had, in values.
func largeMemory(load string) func(*report) (spread, error) {
	return func(r *report) (spread, error) {
		result, err := r.load(load)
		if err != nil {
			return spread{}, err
		}
		figures := result.figures(valueMemory(result.Value), redbouncer)
		if got, err := spreadOf(figures); err != nil || got.Max != 0 {
			return got, err
		}
		return spread{}, errNotMeasured
	}
}

// withLimitsOf is what a load costs with a rule of each kind, of what it costs without.
func withLimitsOf(load string) func(*report) (spread, error) {
	return func(r *report) (spread, error) {
		result, err := r.load(load)
		if err != nil {
			return spread{}, err
		}
		return result.compare(proxyCPU, withLimits, redbouncer)
	}
}

func stormRatio(r *report) (spread, error) {
	for _, x := range r.Storms {
		if x.Name == redbouncer {
			return spreadOf([]float64{float64(x.Storm.P99) / float64(x.Calm.P99)})
		}
	}
	return spread{}, errors.New("the scenario storm has no figure")
}

func idleMemory(r *report) (spread, error) {
	for _, result := range r.Idle {
		if last, ok := result.last(); ok && result.Name == redbouncer {
			return spreadOf([]float64{result.perClient(last)})
		}
	}
	return spread{}, errors.New("the scenario idle has no figure")
}

func startTime(r *report) (spread, error) {
	for _, x := range r.Starts {
		if x.Name == redbouncer {
			return spreadOf(x.milliseconds())
		}
	}
	return spread{}, errors.New("the scenario start has no figure")
}

// allocations is rounded to hundredths: less is what the program does beside the data path, once in a while.
func allocations(r *report) (spread, error) {
	for _, x := range r.Starts {
		if x.Name == redbouncer && x.Allocations != nil {
			return spreadOf([]float64{float64(int(*x.Allocations*100+0.5)) / 100})
		}
	}
	return spread{}, errors.New("the scenario start has no figure")
}

// verdict is what became of a goal.
type verdict struct {
	Promise string  `json:"goal"`
	Target  string  `json:"target"`
	Got     *spread `json:"measured,omitempty"`
	// Outcome is "met", "NOT met" or "not measured: " with the reason.
	Outcome string `json:"outcome"`
	// Measured is Got as text.
	Measured string `json:"measured_text"`
}

// judge adds a verdict for every goal. The median decides.
func (r *report) judge() {
	for _, g := range goals {
		v := verdict{Promise: g.promise, Target: fmt.Sprintf("%s %s", g.sense, g.format(g.bound)), Measured: "-"}
		got, err := g.measure(r)
		switch {
		case err != nil:
			v.Outcome = "not measured: " + err.Error()
		case g.sense.holds(got.Median, g.bound):
			v.Outcome = "met"
		default:
			v.Outcome = "NOT met"
		}
		if err == nil {
			v.Got = &got
			v.Measured = withRange(got, g.format)
		}
		r.Verdicts = append(r.Verdicts, v)
	}
}
