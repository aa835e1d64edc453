package main

import "fmt"

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

func throughput(s sample) float64 { return s.RequestsPerSecond }
func proxyCPU(s sample) float64   { return s.ProxyCPU }
func redisCPU(s sample) float64   { return s.RedisCPU }

// goals are judged in this order at the end of a run.
var goals = []goal{
	{"50 clients: CPU a command, of twemproxy's", atMost, 0.9, asFineRatio,
		comparison{"50 clients", proxyCPU, twemproxy}.measure},
	{"1,000 clients: CPU a command, of twemproxy's", atMost, 0.9, asFineRatio,
		comparison{"1,000 clients", proxyCPU, twemproxy}.measure},
	{"1,000 clients: throughput, of direct", atLeast, 0.95, asFineRatio,
		comparison{"1,000 clients", throughput, direct}.measure},
	{"1,000 clients: Redis CPU a command, of direct", atMost, 0.4, asFineRatio,
		comparison{"1,000 clients", redisCPU, direct}.measure},
	{"50 clients, pipeline of 16: throughput, of direct", atLeast, 0.65, asFineRatio,
		comparison{"50 clients, pipeline of 16", throughput, direct}.measure},
	{"50 clients: CPU a command with limits, of without", atMost, 1.03, asFineRatio, withLimitsOf("50 clients")},
	{"1,000 clients: CPU a command with limits, of without", atMost, 1.03, asFineRatio, withLimitsOf("1,000 clients")},
	{"50 clients, pipeline of 16: CPU a command with limits, of without", atMost, 1.03, asFineRatio,
		withLimitsOf("50 clients, pipeline of 16")},
	{"storm: p99 of clients that are in, of calm", atMost, 2, asFineRatio, stormRatio},
	{"fair: longest wait of a client behind a flood from elsewhere, ms", atMost, 50, asMicroseconds, fairWait},
	{"memory of an idle client", atMost, 1024, asBytes, idleMemory},
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
	return spread{}, fmt.Errorf("the scenario storm has no figure")
}

func idleMemory(r *report) (spread, error) {
	for _, result := range r.Idle {
		if result.Name == redbouncer {
			return spreadOf([]float64{result.perClient()})
		}
	}
	return spread{}, fmt.Errorf("the scenario idle has no figure")
}

// verdict is what became of a goal.
type verdict struct {
	Promise string  `json:"goal"`
	Target  string  `json:"target"`
	Got     *spread `json:"measured,omitempty"`
	// Outcome is "met", "NOT met" or "not measured: " with the reason.
	Outcome string `json:"outcome"`

	measured string // Got as text
}

// judge adds a verdict for every goal. The median decides.
func (r *report) judge() {
	for _, g := range goals {
		v := verdict{Promise: g.promise, Target: fmt.Sprintf("%s %s", g.sense, g.format(g.bound)), measured: "-"}
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
			v.measured = withRange(got, g.format)
		}
		r.Verdicts = append(r.Verdicts, v)
	}
}
