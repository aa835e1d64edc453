package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// runTimeout is how much longer than planned one redis-benchmark may take before its target counts as stuck.
const runTimeout = 60 * time.Second

// redisBenchmarkArgs is the command line for one measurement.
func redisBenchmarkArgs(j job, requests int) []string {
	host, port, _ := net.SplitHostPort(j.target.addr)
	args := []string{"-h", host, "-p", port, "-c", strconv.Itoa(j.Clients), "-P", strconv.Itoa(j.Pipeline),
		"-n", strconv.Itoa(requests), "--csv"}
	return append(args, j.words()[0][0]...)
}

// maxRequests bounds one measurement, whatever the probe says.
const maxRequests = 100_000_000

// requestsFor returns how many requests take about that long.
func requestsFor(perSecond float64, d time.Duration) int {
	return int(min(math.Ceil(perSecond*d.Seconds()), maxRequests))
}

// runRedisBenchmark runs one measurement and returns the requests a second.
func (s *session) runRedisBenchmark(ctx context.Context, args []string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.duration+runTimeout)
	defer cancel()
	argv := s.pinned(loadCPU, s.redisBenchmark, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return 0, fmt.Errorf("redis-benchmark %s did not finish in %s", strings.Join(args, " "), s.duration+runTimeout)
	}
	if err != nil {
		return 0, fmt.Errorf("redis-benchmark %s: %w\n%s%s", strings.Join(args, " "), err, &stdout, &stderr)
	}
	if i := bytes.Index(stdout.Bytes(), []byte("Error from server")); i >= 0 {
		line, _, _ := strings.Cut(stdout.String()[i:], "\n")
		return 0, fmt.Errorf("redis-benchmark %s: %s", strings.Join(args, " "), line)
	}
	return parseRedisBenchmark(stdout.Bytes())
}

// parseRedisBenchmark finds the requests a second in the output of redis-benchmark --csv. Since Redis 6.2 a
// header names the columns; before, there were two, the test and the figure. Lines that are not CSV are
// warnings.
func parseRedisBenchmark(out []byte) (float64, error) {
	column := 1
	for line := range strings.Lines(string(out)) {
		// A carriage return ends each of the progress reports that some versions leave in front.
		line = strings.TrimSpace(line[strings.LastIndexByte(strings.TrimSpace(line), '\r')+1:])
		if !strings.HasPrefix(line, `"`) {
			continue
		}
		fields, err := csv.NewReader(strings.NewReader(line)).Read()
		if err != nil {
			return 0, fmt.Errorf("redis-benchmark printed %q: %w", line, err)
		}
		if fields[0] == "test" {
			if column = slices.Index(fields, "rps"); column < 0 {
				return 0, fmt.Errorf("redis-benchmark printed %q: no column rps", line)
			}
			continue
		}
		if column >= len(fields) {
			return 0, fmt.Errorf("redis-benchmark printed %q: too few columns", line)
		}
		rps, err := strconv.ParseFloat(fields[column], 64)
		if err != nil || rps <= 0 {
			return 0, fmt.Errorf("redis-benchmark printed %q: %q is no throughput", line, fields[column])
		}
		return rps, nil
	}
	return 0, fmt.Errorf("redis-benchmark printed no result: %q", out)
}
