package peer

import (
	"bytes"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// maxProcFile bounds what is read of a file in /proc: a command line may be megabytes long, and a host with many
// containers has as many mounts.
const maxProcFile = 64 << 10

// ByPID returns the process with this number. It reports false when there is none, or it cannot be seen.
func ByPID(pid int) (Process, bool) {
	if _, ok := startOf(pid); !ok {
		return Process{}, false
	}
	exe, err := os.Readlink(procPath(pid, "exe"))
	if exe = path.Base(strings.TrimSuffix(exe, " (deleted)")); err != nil {
		exe = strings.TrimSuffix(readProc(pid, "comm"), "\n") // another user's, or the kernel's own
	}
	p := Process{PID: pid, Executable: clean(exe, maxExecutable)}
	p.Command = command(p.Executable, readProc(pid, "cmdline"))
	if p.Container = container(readProc(pid, "cgroup"), ""); p.Container == "" {
		p.Container = container("", readProc(pid, "mountinfo"))
	}
	return p, true
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// readProc returns the beginning of a file of a process, nothing if it cannot be read.
func readProc(pid int, name string) string {
	f, err := os.Open(procPath(pid, name))
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	b, _ := io.ReadAll(io.LimitReader(f, maxProcFile)) // fails when the process is gone
	return string(b)
}

// startOf returns when a process was started, in ticks since the system was. A process is another one if it has the
// number of an earlier one and not its start.
func startOf(pid int) (uint64, bool) {
	if pid <= 0 {
		return 0, false
	}
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return 0, false
	}
	// The second field is a name in parentheses, which may have spaces and parentheses of its own.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	const start = 22 - 3 // the 22nd field, counted from the third
	if len(fields) <= start {
		return 0, false
	}
	n, err := strconv.ParseUint(string(fields[start]), 10, 64)
	return n, err == nil
}
