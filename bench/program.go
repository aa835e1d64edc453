package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// program is something that must be installed, and the Debian package that has it.
type program struct {
	name   string
	debian string
}

// redisServerEnv names the Redis to start, as in the project's tests.
const redisServerEnv = "REDBOUNCER_TEST_SERVER"

// find looks on PATH, then where Debian puts daemons: a user's PATH there does not have it.
func (p program) find() (string, error) {
	path, err := exec.LookPath(p.name)
	if err == nil {
		return path, nil
	}
	if path, sbinErr := exec.LookPath(filepath.Join("/usr/sbin", p.name)); sbinErr == nil {
		return path, nil
	}
	return "", fmt.Errorf("%s is not installed (Debian package %s): %w", p.name, p.debian, err)
}

func findRedisServer() (string, error) {
	name := os.Getenv(redisServerEnv)
	if name == "" {
		return program{"redis-server", "redis-server"}.find()
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", redisServerEnv, err)
	}
	return path, nil
}

// versionOf returns the first line that a program says about its version.
func versionOf(ctx context.Context, binary string, flag string) string {
	out, err := exec.CommandContext(ctx, binary, flag).CombinedOutput()
	if err != nil {
		return filepath.Base(binary) + ": version unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// The CPUs of --pin.
const (
	loadCPU   = 0 // redis-benchmark
	serverCPU = 1 // Redis and the contenders
)

// pinned returns the command line that runs a program, on one CPU only if --pin is set.
//
// Three processes on two CPUs settle in one of several ways, and stay so for a whole measurement: the same
// proxy then costs 6.5 us or 10 us a command. Over many rounds that averages out; with --pin it does not
// happen. taskset replaces itself by the program, so the process is still the one that was started.
func (s *session) pinned(cpu int, binary string, args ...string) []string {
	argv := append([]string{binary}, args...)
	if s.taskset == "" {
		return argv
	}
	return append([]string{s.taskset, "--cpu-list", strconv.Itoa(cpu)}, argv...)
}
