package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Rules of the scenarios that are loads:
//
//   - one rig for the whole scenario: every target stands before the same Redis;
//   - targets take turns, in every round the same; what they are compared by is divided within a round;
//   - a client is connected and greeted, and its target warm, before the clocks are read: what is measured is service,
//     not arriving;
//   - an error reply, or a connection that is closed, ends the run: nobody's refusals are counted as throughput.

const (
	// rigMaxClients is what every server is told to admit.
	rigMaxClients = 9000
	// warmUp is how long a target is loaded at most before the clocks are read.
	warmUp = 150 * time.Millisecond
	// leaveTime is how long the servers are given to notice that a client has gone.
	leaveTime = 30 * time.Microsecond
)

// driver is one way to load one target. It is started once, run once or twice, and stopped.
type driver interface {
	start(context.Context) error
	run(context.Context, time.Duration) (tally, error)
	stop()
}

// job is one load for one target.
type job struct {
	load
	target target
	// rate is how many commands a second, at a fixed rate. 0: as fast as they are answered.
	rate float64
	// prefix begins the name of every key.
	prefix string
	warmUp time.Duration
}

// job is a load as fast as it is answered.
func (s *session) job(l load, t target) job {
	return job{load: l, target: t, prefix: s.prefix, warmUp: s.warmUp()}
}

// warmUp is how long a target is loaded before the clocks are read.
func (set settings) warmUp() time.Duration { return min(warmUp, set.duration/2) }

// tally is what a driver did.
type tally struct {
	commands int
	elapsed  time.Duration
	took     latencies
	// late is by how much later than due the client itself was. Zero: no fixed rate.
	late latencies
}

// sample is what one measurement of one target gave. A figure of zero was not measured.
type sample struct {
	RequestsPerSecond float64 `json:"requests_per_second"`
	// Microseconds of CPU a command.
	ProxyCPU float64 `json:"proxy_cpu_us_per_command,omitempty"`
	RedisCPU float64 `json:"redis_cpu_us_per_command,omitempty"`
	// Calls of read and write a command.
	ProxyCalls float64 `json:"proxy_reads_and_writes_per_command,omitempty"`
	RedisCalls float64 `json:"redis_reads_and_writes_per_command,omitempty"`
	// ProxyPeak is the most memory that the proxy had resident, in bytes, and ProxyBase what it had before any client.
	ProxyPeak int64 `json:"proxy_rss_peak,omitempty"`
	ProxyBase int64 `json:"proxy_rss_before,omitempty"`
	// Upstreams is how many connections to Redis there were.
	Upstreams int        `json:"upstream_connections,omitempty"`
	Latency   latencies  `json:"latency"`
	Late      *latencies `json:"load_generator_late,omitempty"`
}

// measureLoads runs the loads of a scenario.
func measureLoads(ctx context.Context, s *session, sc scenario) error {
	loads := s.bounded(sc.loads)
	if err := raiseOpenFiles(2*mostClients(loads) + spareFiles); err != nil {
		return err
	}
	r, err := s.rigFor(ctx, rigMaxClients)
	if err != nil {
		return err
	}
	defer r.close()
	defer s.clean(r)
	for _, l := range loads {
		result, err := s.measureLoad(ctx, r, sc, l)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Name, err)
		}
		s.report.Loads = append(s.report.Loads, result)
	}
	return nil
}

func mostClients(loads []load) int {
	most := 0
	for _, l := range loads {
		most = max(most, l.Clients)
	}
	return most
}

// measureLoad measures every target of the rig in every round.
func (s *session) measureLoad(ctx context.Context, r *rig, sc scenario, l load) (loadResult, error) {
	result := loadResult{Scenario: sc.name, load: l}
	if err := s.prepareKeys(ctx, r, l); err != nil {
		return result, err
	}
	rate, err := s.rateOf(ctx, r, sc, l)
	if err != nil {
		return result, err
	}
	result.Rate = rate
	var targets []target
	for _, t := range r.targets {
		if why := t.cannot(l); why != "" {
			result.LeftOut = append(result.LeftOut, why)
			continue
		}
		targets = append(targets, t)
		result.Targets = append(result.Targets, targetResult{Name: t.name})
	}
	rounds := s.roundsOf(sc)
	for round := range rounds {
		for i, t := range targets {
			s.progress.say("%s: %s: round %d of %d: %s", sc.name, l.Name, round+1, rounds, t.name)
			j := s.job(l, t)
			j.rate = rate
			got, err := s.measure(ctx, r, sc.drive(s, j), j)
			if err != nil {
				return result, fmt.Errorf("%s: %w", t.name, r.explain(t, err))
			}
			result.Targets[i].Rounds = append(result.Targets[i].Rounds, got)
		}
	}
	return result, nil
}

// measure runs a driver once and reads the clocks of the processes around it.
func (s *session) measure(ctx context.Context, r *rig, d driver, j job) (sample, error) {
	t := j.target
	defer func() { time.Sleep(time.Duration(j.Clients) * leaveTime) }()
	defer d.stop()
	forgetPeak(t.proxy)
	if err := d.start(ctx); err != nil {
		return sample{}, err
	}
	proxy, redis := startMeter(t.proxy), startMeter(r.redis)
	got, err := d.run(ctx, s.duration)
	proxyUsed, proxyErr := proxy.read()
	redisUsed, redisErr := redis.read()
	if err := errors.Join(err, proxyErr, redisErr); err != nil {
		return sample{}, err
	}
	if got.commands == 0 {
		return sample{}, fmt.Errorf("nothing was answered within %s", s.duration)
	}
	x := sample{
		RequestsPerSecond: float64(got.commands) / got.elapsed.Seconds(),
		ProxyCPU:          perCommand(proxyUsed.cpu, got.commands), RedisCPU: perCommand(redisUsed.cpu, got.commands),
		RedisCalls: float64(redisUsed.calls) / float64(got.commands),
		ProxyBase:  t.base, Latency: got.took,
	}
	if !t.usesRecv {
		x.ProxyCalls = float64(proxyUsed.calls) / float64(got.commands)
	}
	if got.late.Commands > 0 {
		x.Late = &got.late
	}
	if t.proxy != nil {
		if x.ProxyPeak, err = peakMemory(t.proxy.pid()); err != nil && !errors.Is(err, errNotMeasured) {
			return x, err
		}
	}
	x.Upstreams, err = r.upstreams(ctx, t)
	return x, err
}

func perCommand(used time.Duration, commands int) float64 {
	return float64(used) / float64(time.Microsecond) / float64(commands)
}

// meter is a process's clocks at the start of a measurement.
type meter struct {
	process *process // nil: nothing to measure
	before  usage
	err     error
}

// usage is what a process has used.
type usage struct {
	cpu   time.Duration
	calls int64 // of read and write
}

func startMeter(p *process) meter {
	if p == nil {
		return meter{}
	}
	before, err := usageOf(p.pid())
	return meter{p, before, err}
}

func usageOf(pid int) (usage, error) {
	cpu, err := cpuTime(pid)
	return usage{cpu, callCount(pid)}, err
}

// read returns what was used since the start, or zero if that cannot be measured.
func (m meter) read() (usage, error) {
	if m.process == nil || errors.Is(m.err, errNotMeasured) {
		return usage{}, nil
	}
	after, err := usageOf(m.process.pid())
	if err := errors.Join(m.err, err); err != nil {
		return usage{}, fmt.Errorf("CPU time of %s: %w", m.process.name, err)
	}
	return usage{after.cpu - m.before.cpu, after.calls - m.before.calls}, nil
}
