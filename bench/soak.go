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
//   - beside them, 200 visitors a second who come, do something else each, and leave in every way that there is;
//   - memory, descriptors and p99 of each second; what drifts from quarter to quarter shows.

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
	Files  int           `json:"descriptors,omitempty"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
}

// end is the mean over the last tenth of a quarter, the first of which is 1.
func (r soakResult) end(quarter int, of func(soakSecond) float64) float64 {
	to := max(len(r.Seconds)*quarter/4, 1)
	n := min(max(len(r.Seconds)/40, 1), to)
	sum := 0.0
	for _, x := range r.Seconds[to-n : to] {
		sum += of(x)
	}
	return sum / float64(n)
}

func planSoak(s *session) string {
	return fmt.Sprintf("%s, 9 GET : 1 SET, and visitors, for %s", soakLoad.Name, s.soak)
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
	defer churn(ctx, j.target)()
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
		if second.Files, err = openFiles(server.pid()); err != nil && !errors.Is(err, errNotMeasured) {
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
	fmt.Fprintf(w, "\nsoak: %s, %s commands/s, and visitors; at the end of each quarter of %d s\n\n",
		soakLoad.Name, thousands(r.Soaks[0].Rate), len(r.Soaks[0].Seconds))
	soakGrid(r).print(w)
}

func soakGrid(r *report) grid {
	g := grid{{"", "", "1st quarter", "2nd", "3rd", "4th"}}
	for _, x := range r.Soaks {
		memory, files, p99 := []string{x.Name, "memory"}, []string{"", "descriptors"}, []string{"", "p99 us"}
		for quarter := 1; quarter <= 4; quarter++ {
			memory = append(memory, asMegabytes(x.end(quarter, func(x soakSecond) float64 { return float64(x.Memory) })))
			files = append(files, asWhole(x.end(quarter, func(x soakSecond) float64 { return float64(x.Files) })))
			p99 = append(p99, asWhole(x.end(quarter, func(x soakSecond) float64 { return asUS(x.P99) })))
		}
		g = append(g, memory, files, p99)
	}
	return g
}
