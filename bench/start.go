package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Rules of the scenario start:
//
//   - from the start of the process until a command that needs Redis has been answered, asked every millisecond;
//   - allocations are the difference of what the program counts itself (go_memstats_mallocs_total), over a load of 50
//     clients, less those of as long without one, divided by the commands.

const mallocsMetric = "go_memstats_mallocs_total"

// startResult is how long the starts of one contender took.
type startResult struct {
	Name   string          `json:"name"`
	Starts []time.Duration `json:"starts_ns"`
	// Allocations is how many a command, of redbouncer. Nil: not measured.
	Allocations *float64 `json:"allocations_per_command,omitempty"`
}

func (r startResult) milliseconds() (all []float64) {
	for _, d := range r.Starts {
		all = append(all, float64(d)/float64(time.Millisecond))
	}
	return all
}

func planStart(s *session) string {
	return fmt.Sprintf("%d starts of each; then 50 clients, GET, as fast as answered", s.rounds)
}

func measureStart(ctx context.Context, s *session, sc scenario) error {
	for _, c := range s.contenders {
		if c.ours {
			continue
		}
		result := startResult{Name: c.name}
		for n := range s.rounds {
			s.progress.say("%s: %s, %d of %d", sc.name, c.name, n+1, s.rounds)
			took, err := s.timeStart(ctx, c)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			result.Starts = append(result.Starts, took)
		}
		if c.name == redbouncer {
			s.progress.say("%s: counting the allocations of %s", sc.name, c.name)
			got, err := s.countAllocations(ctx, c)
			switch {
			case err == nil:
				result.Allocations = &got
			case !errors.Is(err, errNotMeasured):
				return err
			}
		}
		s.report.Starts = append(s.report.Starts, result)
	}
	return nil
}

// timeStart starts a contender in front of a Redis that runs, or a Redis.
func (s *session) timeStart(ctx context.Context, c contender) (time.Duration, error) {
	begin := time.Now()
	r, err := s.newRig(ctx, nil, rigMaxClients)
	if err != nil {
		return 0, err
	}
	defer r.close()
	if c.args == nil {
		return time.Since(begin), nil
	}
	at, err := s.placeBefore(r, c)
	if err != nil {
		return 0, err
	}
	begin = time.Now()
	if err := s.add(ctx, r, c, at); err != nil {
		return 0, err
	}
	_, err = r.targets[0].ask(ctx, "STRLEN", s.prefix+"key")
	return time.Since(begin), err
}

func (s *session) placeBefore(r *rig, c contender) (place, error) {
	ports, err := freePorts(2)
	if err != nil {
		return place{}, err
	}
	return place{
		listen: loopback(ports[0]), extraPort: ports[1], redis: r.redisAddr,
		config: filepath.Join(s.dir, c.name+".conf"), maxClients: rigMaxClients,
	}, nil
}

// countAllocations asks redbouncer for its own count, before and after a load.
func (s *session) countAllocations(ctx context.Context, c contender) (float64, error) {
	r, err := s.newRig(ctx, nil, rigMaxClients)
	if err != nil {
		return 0, err
	}
	defer r.close()
	at, err := s.placeBefore(r, c)
	if err != nil {
		return 0, err
	}
	c.args = metricsArgs
	if err := s.add(ctx, r, c, at); err != nil {
		return 0, err
	}
	d := newLoopDriver(s, s.job(throughputLoads[0], r.targets[0]))
	defer d.stop()
	if err := d.start(ctx); err != nil {
		return 0, err
	}
	url := "http://" + loopback(at.extraPort) + "/metrics"
	var got tally
	before, err := mallocsDuring(ctx, url, func() error { time.Sleep(s.duration); return nil })
	if err != nil {
		return 0, err
	}
	during, err := mallocsDuring(ctx, url, func() (err error) {
		got, err = d.run(ctx, s.duration)
		return err
	})
	return max(during-before, 0) / float64(max(got.commands, 1)), err
}

// mallocsDuring is how many there were between two scrapes, one of which is included.
func mallocsDuring(ctx context.Context, url string, f func() error) (float64, error) {
	before, err := scrape(ctx, url, mallocsMetric)
	if err != nil {
		return 0, err
	}
	if err := f(); err != nil {
		return 0, err
	}
	after, err := scrape(ctx, url, mallocsMetric)
	return after - before, err
}

// metricsArgs are those of redbouncer with its metrics served at the second port.
func metricsArgs(at place) []string {
	args := redbouncerArgs(at)
	for i := range args {
		if args[i] == "--http-listen" {
			args[i+1] = loopback(at.extraPort)
		}
	}
	return args
}

// scrape reads one metric of a program.
func scrape(ctx context.Context, url, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNotMeasured, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 8<<20))
	if err != nil {
		return 0, err
	}
	return parseMetric(string(text), name)
}

func parseMetric(text, name string) (float64, error) {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s: %w", name, errNotMeasured)
}

func printStart(w io.Writer, r *report, _ scenario) {
	if len(r.Starts) == 0 {
		return
	}
	fmt.Fprintf(w, "\nstart: from the start to the first served command, in ms; median of %d (lowest to highest)\n\n", len(r.Starts[0].Starts))
	startGrid(r).print(w)
}

func startGrid(r *report) grid {
	g := grid{{"", "ms", "allocations a command"}}
	for _, x := range r.Starts {
		allocations := notMeasured
		if x.Allocations != nil {
			allocations = fmt.Sprintf("%.3f", *x.Allocations)
		}
		got, _ := spreadOf(x.milliseconds()) // there is one a round
		g = append(g, []string{x.Name, withRange(got, asOneDigit), allocations})
	}
	return g
}
