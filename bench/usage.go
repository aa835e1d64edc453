package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// What a process uses is read from /proc, so it is measured on Linux only. Elsewhere it is errNotMeasured, and
// the tables say n/a.
var errNotMeasured = errors.New("not measured on this operating system")

// clockTick is the unit of /proc/PID/stat. Linux has reported in 100ths of a second to every program since
// 2.4, whatever the kernel's own tick is.
const clockTick = 10 * time.Millisecond

// cpuTime is the CPU time that a process has used so far, all its threads, user and system.
//
// It adds up the scheduler's nanoseconds of every thread. The ticks of /proc/PID/stat would do over seconds,
// but a tick is 0.4 % of the usual measurement. They are the fallback for kernels without scheduler
// statistics. A thread that ends takes its nanoseconds with it; none of the contenders ends threads in
// service.
func cpuTime(pid int) (time.Duration, error) {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0, err
	}
	var total time.Duration
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread ended between the two calls
		}
		used, err := parseSchedstat(text)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		total += used
	}
	if total > 0 {
		return total, nil
	}
	return cpuTicks(pid)
}

// parseSchedstat returns the time on CPU, the first of the three fields.
func parseSchedstat(text []byte) (time.Duration, error) {
	fields := strings.Fields(string(text))
	if len(fields) != 3 {
		return 0, fmt.Errorf("%q has not three fields", text)
	}
	ns, err := strconv.ParseInt(fields[0], 10, 64)
	return time.Duration(ns), err
}

func cpuTicks(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, errNotMeasured
	}
	return parseStat(text)
}

// parseStat returns utime + stime of a /proc/PID/stat.
func parseStat(text []byte) (time.Duration, error) {
	// The second field is the program's name in parentheses and may hold anything, so count from its end.
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	const utime, stime = 14 - 3, 15 - 3 // numbered from 1 in proc(5), and the third is the first here
	if end < 0 || len(fields) <= stime {
		return 0, fmt.Errorf("%q has too few fields", text)
	}
	user, err := strconv.ParseInt(fields[utime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("utime: %w", err)
	}
	system, err := strconv.ParseInt(fields[stime], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stime: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
}

// callCount is how often a process has called read and write, and their kin with several buffers. The kernel counts
// neither recv and send nor epoll_wait here. Counting all (strace, perf trace) slows down what is measured.
func callCount(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)) // a kernel without task accounting has none
	return parseIO(text)
}

// parseIO adds up syscr and syscw of a /proc/PID/io.
func parseIO(text []byte) (calls int64) {
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "syscr" || name == "syscw" {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64) // 0 where it is none
			calls += n
		}
	}
	return calls
}

// residentMemory is the resident set of a process, in bytes.
func residentMemory(pid int) (int64, error) { return memoryLine(pid, "VmRSS") }

// openFiles is how many descriptors a process has open.
func openFiles(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, errNotMeasured
	}
	return len(entries), nil
}

// peakMemory is the largest that the resident set has been since forgetPeak.
func peakMemory(pid int) (int64, error) { return memoryLine(pid, "VmHWM") }

// forgetPeak has the kernel count the peak anew. Where it cannot, there is no peak to read either.
func forgetPeak(p *process) {
	if p != nil {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid()), []byte("5"), 0)
	}
}

func memoryLine(pid int, name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, errNotMeasured
	}
	return parseMemory(text, name)
}

// parseMemory finds a line such as "VmRSS:   1234 kB" in a /proc/PID/status.
func parseMemory(text []byte, name string) (int64, error) {
	for line := range strings.Lines(string(text)) {
		value, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		value = strings.TrimSuffix(strings.TrimSpace(value), " kB")
		kb, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		return kb << 10, nil
	}
	return 0, fmt.Errorf("no line says %s", name)
}
