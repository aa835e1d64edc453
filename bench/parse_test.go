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
	got, err := parseVmRSS([]byte("Name:\tx\nVmHWM:\t    9000 kB\nVmRSS:\t    8700 kB\n"))
	if err != nil || got != 8700<<10 {
		t.Errorf("got %v, %v; want %d", got, err, 8700<<10)
	}
	for _, text := range []string{"", "Name:\tx\n", "VmRSS:\tmuch\n"} {
		if got, err := parseVmRSS([]byte(text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
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
		got, err := readReply(bufio.NewReader(strings.NewReader(wire)))
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", wire, got, err, want)
		}
	}
	for _, wire := range []string{
		"", "\r\n", "+PON", "-ERR max number of clients reached\r\n", "$-1\r\n", "$5\r\nab", "$x\r\n", "*1\r\n$1\r\na\r\n",
	} {
		if got, err := readReply(bufio.NewReader(strings.NewReader(wire))); err == nil {
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
