package main

import (
	"bufio"
	"slices"
	"strings"
	"testing"
	"time"
)

// Figures come from other programs' text. A parser that finds nothing must say so: a table of zeros would look
// like a measurement.

func TestTheThroughputIsReadFromEveryVersionOfRedisBenchmark(t *testing.T) {
	outputs := map[string]string{
		"since 6.2": `"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"` + "\n" +
			`"GET","60277.27","0.548","0.096","0.495","1.135","1.743","4.295"` + "\n",
		"before 6.2":       `"GET","60277.27"` + "\n",
		"behind a warning": "WARNING: Could not fetch server CONFIG\n" + `"GET","60277.27"` + "\n",
		"behind progress":  "GET: rps=0.0 (overall: 0.0)\rGET: rps=65948.2\r" + `"GET","60277.27"` + "\r\n",
		"columns moved":    `"test","p50_latency_ms","rps"` + "\n" + `"GET","0.495","60277.27"` + "\n",
	}
	if len(outputs) == 0 {
		t.Fatal("nothing was tested")
	}
	for name, out := range outputs {
		got, err := parseRedisBenchmark([]byte(out))
		if err != nil || got != 60277.27 {
			t.Errorf("%s: got %v, %v; want 60277.27", name, got, err)
		}
	}
}

func TestAnOutputWithoutAResultIsAnError(t *testing.T) {
	header := `"test","rps","avg_latency_ms"` + "\n"
	for _, out := range []string{
		"",
		"Could not connect to Redis at 127.0.0.1:1: Connection refused\n",
		header,
		header + `"GET"` + "\n",
		header + `"GET","","0.5"` + "\n",
		header + `"GET","0.00","0.5"` + "\n",
		`"test","qps"` + "\n" + `"GET","60277.27"` + "\n",
	} {
		if got, err := parseRedisBenchmark([]byte(out)); err == nil {
			t.Errorf("%q: got %v, want an error", out, got)
		}
	}
}

func TestTheThreadsTimeIsTheFirstFieldOfSchedstat(t *testing.T) {
	got, err := parseSchedstat([]byte("324304 39699 1\n"))
	if err != nil || got != 324304*time.Nanosecond {
		t.Errorf("got %v, %v", got, err)
	}
	for _, text := range []string{"", "1 2", "x 2 3"} {
		if got, err := parseSchedstat([]byte(text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestAProgramsNameDoesNotShiftTheFieldsOfStat(t *testing.T) {
	const rest = " S 1 2 3 4 5 6 7 8 9 10 123 45 0 0 20 0 1 0\n"
	for _, name := range []string{"(redis-server)", "(a b)", "(a) S (b)"} {
		got, err := parseStat([]byte("77 " + name + rest))
		if err != nil || got != 1680*time.Millisecond {
			t.Errorf("%s: got %v, %v; want 1.68s", name, got, err)
		}
	}
	for _, text := range []string{"", "77 (redis-server) S 1", "no parentheses" + rest} {
		if got, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestResidentMemoryIsFoundOrMissed(t *testing.T) {
	got, err := parseMemory([]byte("Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    8700 kB\n"), "VmRSS")
	if err != nil || got != 8700<<10 {
		t.Errorf("got %v, %v; want %d", got, err, 8700<<10)
	}
	for _, text := range []string{"", "Name:\tx\n", "VmRSS:\tmuch\n"} {
		if got, err := parseMemory([]byte(text), "VmRSS"); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

func TestReadsAndWritesAreAddedUp(t *testing.T) {
	if got := parseIO([]byte("rchar: 9\nsyscr: 40\nsyscw: 2\nread_bytes: 1\n")); got != 42 {
		t.Errorf("got %d, want 42", got)
	}
}

func TestAMetricIsFoundOrMissed(t *testing.T) {
	const text = "# HELP go_memstats_mallocs_total Total.\ngo_memstats_mallocs_total 1.2e+06\n"
	if got, err := parseMetric(text, mallocsMetric); err != nil || got != 1.2e6 {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := parseMetric(text, "go_memstats"); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}

func TestUpstreamConnectionsAreCountedByTheAddressThatTheyCalled(t *testing.T) {
	const list = "id=3 addr=127.0.0.1:50001 laddr=127.0.0.3:6379 fd=8 name=redbouncer:h:lane age=1\n" +
		"id=4 addr=127.0.0.1:50002 laddr=127.0.0.4:6379 fd=9 name= age=0\n" +
		"id=5 addr=127.0.0.1:50001 laddr=127.0.0.1:6379 fd=9 name= age=0 cmd=client|list\n"
	const asker = "127.0.0.1:50001 laddr=127.0.0.1:6379"
	for redis, want := range map[string]int{"127.0.0.3:6379": 1, "127.0.0.4:6379": 1, "127.0.0.1:6379": 0, "": 1} {
		if got := countUpstreams(list, target{redis: redis}, asker); got != want {
			t.Errorf("%q: got %d, want %d", redis, got, want)
		}
	}
}

func TestTheLogNamesALeakOnce(t *testing.T) {
	l := &leakLog{begin: time.Now().Add(-time.Minute), named: map[string]leakResult{}}
	for _, line := range []string{
		`time=x level=WARN msg="something else" name=bench-churn`,
		`time=x level=WARN msg="connection leak suspected" source="a (b)" rule=churn reason="60 connections" name=bench-churn user=default`,
		`time=x level=WARN msg="connection leak suspected" source="a" rule=never-spoke reason="20 of 40" name=bench-healthy`,
		`time=x level=WARN msg="connection leak suspected" source="a (b)" rule=growing reason="x" name=bench-churn user=default`,
	} {
		l.line(line)
	}
	got := l.results()
	if l.count() != 2 || got[0].Rule != "never-spoke" || got[1].NamedAfter != 0 || got[2].Rule != "churn" || got[2].NamedAfter < time.Minute {
		t.Errorf("got %+v", got)
	}
	l.line(`level=WARN msg="connection leak suspected" rule=growing name=bench-healthy user=default`)
	if got := l.results(); len(got) != len(leakKinds)+1 || l.count() != 2 {
		t.Errorf("a healthy client that was named is not told of: %+v", got)
	}
}

func TestRepliesAreRead(t *testing.T) {
	for wire, want := range map[string]string{
		"+PONG\r\n":          "PONG",
		":7\r\n":             "7",
		"$5\r\na\r\nb!\r\n":  "a\r\nb!",
		"$0\r\n\r\n":         "",
		"+PONG\r\n+more\r\n": "PONG",
	} {
		got, err := readReply(bufio.NewReader(strings.NewReader(wire)), 1<<20)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", wire, got, err, want)
		}
	}
	for _, wire := range []string{
		"", "\r\n", "+PON", "-ERR max number of clients reached\r\n", "$-1\r\n", "$5\r\nab", "$x\r\n", "*1\r\n$1\r\na\r\n",
	} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(wire)), 1<<20); err == nil {
			t.Errorf("%q: got %q, want an error", wire, got)
		}
	}
}

func TestTheProxyGetsNoSettingsBesidesItsCommandLine(t *testing.T) {
	got := withoutOwnSettings([]string{"PATH=/bin", "REDBOUNCER_LOOPS=4", "HOME=/"})
	if want := []string{"PATH=/bin", "HOME=/"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAMissingProgramNamesItsPackage(t *testing.T) {
	_, err := program{"no-such-program", "no-such-package"}.find()
	if err == nil || !strings.Contains(err.Error(), "Debian package no-such-package") {
		t.Errorf("got %v", err)
	}
}
