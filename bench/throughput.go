package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

// Rules of the scenario table:
//
//   - one rig for the whole scenario: every target stands before the same Redis;
//   - the number of requests of a measurement comes from a short run before the first round, which also warms
//     the target up, so that fast and slow targets are measured for the same time;
//   - before each measurement, a GET through the target must return the value: nobody's error replies are
//     counted as throughput.

const (
	// tableMaxClients is what every server is told to admit in the scenario table.
	tableMaxClients = 12000
	// probeRequests is the size of the run that finds out the speed, for each command of a pipeline. It takes
	// some tenths of a second.
	probeRequests = 20000
	// maxRequests bounds one measurement, whatever the probe says.
	maxRequests = 100_000_000
)

// sample is what one measurement of one target gave. A CPU time of zero was not measured.
type sample struct {
	RequestsPerSecond float64 `json:"requests_per_second"`
	ProxyCPU          float64 `json:"proxy_cpu_us_per_command,omitempty"`
	RedisCPU          float64 `json:"redis_cpu_us_per_command,omitempty"`
}

// measureLoads is the scenario table.
func measureLoads(ctx context.Context, s *session) error {
	if err := raiseOpenFiles(mostClients(loads) + spareFiles); err != nil {
		return err
	}
	r, err := s.newRig(ctx, s.contenders, tableMaxClients)
	if err != nil {
		return err
	}
	defer r.close()
	key, err := s.setKey(ctx, r)
	if err != nil {
		return err
	}
	for _, l := range loads {
		result, err := s.measureLoad(ctx, r, l, key)
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

// setKey has redis-benchmark set the one key that it will get, and returns its name, which is
// redis-benchmark's affair.
func (s *session) setKey(ctx context.Context, r *rig) (string, error) {
	one := load{Clients: 1, Pipeline: 1}
	if _, err := s.runRedisBenchmark(ctx, redisBenchmarkArgs(r.redisAddr, "set", one, 100)); err != nil {
		return "", err
	}
	return ask(ctx, r.redisAddr, "RANDOMKEY")
}

// measureLoad measures every target of the rig in every round.
func (s *session) measureLoad(ctx context.Context, r *rig, l load, key string) (loadResult, error) {
	result := loadResult{load: l}
	requests := make([]int, len(r.targets))
	for i, t := range r.targets {
		s.progress.say("%s: finding the speed of %s", l.Name, t.name)
		probe, err := s.measure(ctx, r, t, l, measurement{key, probeRequests * l.Pipeline})
		if err != nil {
			return result, fmt.Errorf("%s: %w", t.name, err)
		}
		requests[i] = requestsFor(probe.RequestsPerSecond, s.duration)
		result.Targets = append(result.Targets, targetResult{Name: t.name})
	}
	for round := range s.rounds {
		for i, t := range r.targets {
			s.progress.say("%s: round %d of %d: %s", l.Name, round+1, s.rounds, t.name)
			got, err := s.measure(ctx, r, t, l, measurement{key, requests[i]})
			if err != nil {
				return result, fmt.Errorf("%s: %w", t.name, err)
			}
			result.Targets[i].Rounds = append(result.Targets[i].Rounds, got)
		}
	}
	return result, nil
}

// requestsFor returns how many requests take about that long.
func requestsFor(perSecond float64, d time.Duration) int {
	return int(min(math.Ceil(perSecond*d.Seconds()), maxRequests))
}

// measurement is how one run of redis-benchmark differs from the next.
type measurement struct {
	key      string
	requests int
}

// measure runs redis-benchmark once and reads the clocks of the processes around it.
func (s *session) measure(ctx context.Context, r *rig, t target, l load, m measurement) (sample, error) {
	value, err := ask(ctx, t.addr, "GET", m.key)
	if err != nil {
		return sample{}, r.explain(t, fmt.Errorf("GET %s before the measurement: %w", m.key, err))
	}
	if len(value) != valueSize {
		return sample{}, fmt.Errorf("GET %s before the measurement: %d bytes, want %d", m.key, len(value), valueSize)
	}
	proxy, redis := startMeter(t.proxy), startMeter(r.redis)
	rps, err := s.runRedisBenchmark(ctx, redisBenchmarkArgs(t.addr, "get", l, m.requests))
	if err != nil {
		return sample{}, r.explain(t, err)
	}
	got := sample{RequestsPerSecond: rps}
	if got.ProxyCPU, err = proxy.perCommand(m.requests); err != nil {
		return sample{}, err
	}
	got.RedisCPU, err = redis.perCommand(m.requests)
	return got, err
}

// meter is a process's CPU clock at the start of a measurement.
type meter struct {
	process *process // nil: nothing to measure
	before  time.Duration
	err     error
}

func startMeter(p *process) meter {
	if p == nil {
		return meter{}
	}
	before, err := cpuTime(p.pid())
	return meter{p, before, err}
}

// perCommand returns the microseconds of CPU a command since the start, or zero if they cannot be measured.
func (m meter) perCommand(commands int) (float64, error) {
	if m.process == nil || errors.Is(m.err, errNotMeasured) {
		return 0, nil
	}
	after, err := cpuTime(m.process.pid())
	if err := errors.Join(m.err, err); err != nil {
		return 0, fmt.Errorf("CPU time of %s: %w", m.process.name, err)
	}
	return float64(after-m.before) / float64(time.Microsecond) / float64(commands), nil
}
