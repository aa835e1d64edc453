package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Rules of the scenario soak:
//
//   - 200 clients at half of the direct peak, for as long as --soak says, one target after the other;
//   - memory and p99 of each second; the first and the last quarter are compared: what drifts shows.

// soakLoad is what they ask.
var soakLoad = load{Name: "200 clients at half of the peak", Clients: 200, Pipeline: 1, Value: 64, Writes: readMost, Share: 50}

// soakResult is what became of one target.
type soakResult struct {
	Name    string       `json:"name"`
	Rate    float64      `json:"commands_per_second"`
	Seconds []soakSecond `json:"seconds"`
}

type soakSecond struct {
	Memory int64         `json:"rss,omitempty"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// quarter is the mean of the first or the last quarter.
func (r soakResult) quarter(last bool, of func(soakSecond) float64) float64 {
	n := max(len(r.Seconds)/4, 1)
	part := r.Seconds[:n]
	if last {
		part = r.Seconds[len(r.Seconds)-n:]
	}
	sum := 0.0
	for _, x := range part {
		sum += of(x)
	}
	return sum / float64(n)
}

func planSoak(s *session) string {
	return fmt.Sprintf("%s, 9 GET : 1 SET, for %s", soakLoad.Name, s.soak)
}

func measureSoak(ctx context.Context, s *session, sc scenario) error {
	if err := raiseOpenFiles(2*soakLoad.Clients + spareFiles); err != nil {
		return err
	}
	r, err := s.newRig(ctx, s.contenders, rigMaxClients)
	if err != nil {
		return err
	}
	defer r.close()
	if err := s.prepareKeys(ctx, r, soakLoad); err != nil {
		return err
	}
	sc.drive = newClient
	rate, err := s.rateOf(ctx, r, sc, soakLoad)
	if err != nil {
		return err
	}
	for _, t := range r.targets {
		if t.ours {
			continue
		}
		j := s.job(soakLoad, t)
		j.rate = rate
		result, err := s.soakOne(ctx, r, j)
		if err != nil {
			return r.explain(t, fmt.Errorf("%s: %w", t.name, err))
		}
		s.report.Soaks = append(s.report.Soaks, result)
	}
	return nil
}

func (s *session) soakOne(ctx context.Context, r *rig, j job) (soakResult, error) {
	result := soakResult{Name: j.target.name, Rate: j.rate}
	d := newClient(s, j)
	defer d.stop()
	if err := d.start(ctx); err != nil {
		return result, err
	}
	for begin := time.Now(); time.Since(begin) < s.soak; {
		s.progress.say("soak: %s: %s of %s", j.target.name, time.Since(begin).Round(time.Second), s.soak)
		got, err := d.run(ctx, min(time.Second, s.soak))
		if err != nil {
			return result, err
		}
		second := soakSecond{P99: got.took.P99, Max: got.took.Max}
		server := j.target.proxy
		if server == nil {
			server = r.redis
		}
		if second.Memory, err = residentMemory(server.pid()); err != nil && !errors.Is(err, errNotMeasured) {
			return result, err
		}
		result.Seconds = append(result.Seconds, second)
	}
	return result, nil
}

func printSoak(w io.Writer, r *report, _ scenario) {
	if len(r.Soaks) == 0 {
		return
	}
	fmt.Fprintf(w, "\nsoak: %s, %s commands/s; means of the first and the last quarter of %d s\n\n",
		soakLoad.Name, thousands(r.Soaks[0].Rate), len(r.Soaks[0].Seconds))
	soakGrid(r).print(w)
}

func soakGrid(r *report) grid {
	g := grid{{"", "memory, first", "last", "p99 us, first", "last", "longest us"}}
	memory := func(x soakSecond) float64 { return float64(x.Memory) }
	p99 := func(x soakSecond) float64 { return asUS(x.P99) }
	for _, x := range r.Soaks {
		longest := time.Duration(0)
		for _, second := range x.Seconds {
			longest = max(longest, second.Max)
		}
		g = append(g, []string{x.Name, asMegabytes(x.quarter(false, memory)), asMegabytes(x.quarter(true, memory)),
			asWhole(x.quarter(false, p99)), asWhole(x.quarter(true, p99)), asWhole(asUS(longest))})
	}
	return g
}
