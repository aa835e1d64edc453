package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// How many rounds, and how long. Many short measurements beat a few long ones: what disturbs them most, where
// the kernel puts three processes on two CPUs, lasts for a whole measurement. With a bare proxy on a quiet
// machine, the median of 5 ratios to twemproxy's CPU lay between 0.69 and 1.02, of 15 at 0.91 and 0.92.
const (
	defaultRounds   = 11
	defaultDuration = 1500 * time.Millisecond
)

// settings are what the flags say.
type settings struct {
	// rounds is how often every target is measured at every load. At least 1.
	rounds int
	// duration is how long one measurement should take; the number of requests follows from it.
	duration time.Duration
	// idleClients is how many clients the scenario idle connects.
	idleClients int
	// storm is how long the scenario storm measures, in calm and in the storm each.
	storm time.Duration
	// settle is how long they are left alone before memory is read.
	settle time.Duration
	// proxy is the program to measure as redbouncer. Empty: it is built from this module.
	proxy string
	// peers names the contenders to measure beside it.
	peers []string
	// pin keeps the load on one CPU and everything that serves it on another.
	pin bool
	// json is the file that receives every sample. Empty: none.
	json string
	// scenarios names what to run. Empty: everything.
	scenarios []string
}

// session is one run of this program.
type session struct {
	settings
	// Static after prepare.
	dir            string // temporary, removed at the end
	redisServer    string
	redisBenchmark string
	taskset        string // empty without --pin
	contenders     []contender
	// Written by the scenarios.
	report   *report
	progress *progress
}

func main() { os.Exit(status()) }

// status runs the program and returns its exit status.
func status() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it started has been ended")
		return 130
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
}

// run does everything between the arguments and the exit status. Whatever it started or created is gone when
// it returns.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	set, err := parseSettings(args, stderr)
	if err != nil {
		return err
	}
	chosen, err := chooseScenarios(set.scenarios)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "redbouncer-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	s := &session{settings: set, dir: dir, report: &report{}, progress: newProgress(stderr)}
	defer s.progress.done()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.progress.done()
	s.report.printHeader(stdout)
	for _, sc := range chosen {
		if err := sc.run(ctx, s); err != nil {
			return fmt.Errorf("scenario %s: %w", sc.name, err)
		}
		s.progress.done()
		sc.print(stdout, s.report)
	}
	s.report.judge()
	s.report.printVerdicts(stdout)
	if s.json != "" {
		return s.report.writeJSON(s.json)
	}
	return nil
}

// parseSettings reads the flags and checks what a flag alone can get wrong.
func parseSettings(args []string, stderr io.Writer) (settings, error) {
	var set settings
	var peers string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&set.rounds, "rounds", defaultRounds, "measure every target `N` times at every load")
	flags.DurationVar(&set.duration, "duration", defaultDuration, "aim at this `time` for one measurement")
	flags.IntVar(&set.idleClients, "idle-clients", 10000, "connect `N` clients in the scenario idle")
	flags.DurationVar(&set.settle, "settle", 5*time.Second, "leave idle clients alone for this `time` before memory is read")
	flags.DurationVar(&set.storm, "storm", 20*time.Second, "measure for this `time` in calm and in the storm each")
	flags.StringVar(&set.proxy, "proxy", "", "measure the program at `path`; without it, redbouncer is built from this module")
	flags.StringVar(&peers, "peers", strings.Join(peerNames(), ","), "measure these `names` beside it, or none")
	flags.BoolVar(&set.pin, "pin", false, "keep the load on CPU 0 and the servers on CPU 1: steadier, less lifelike")
	flags.StringVar(&set.json, "json", "", "write every sample to `file`")
	flags.Usage = func() { printUsage(stderr, flags) }
	if err := flags.Parse(args); err != nil {
		return set, err
	}
	set.scenarios = flags.Args()
	if peers != "" && peers != "none" {
		set.peers = strings.Split(peers, ",")
	}
	return set, set.validate()
}

func (set settings) validate() error {
	switch {
	case set.rounds < 1 || set.rounds > 1000:
		return fmt.Errorf("--rounds %d: want 1 to 1000", set.rounds)
	case set.duration < 100*time.Millisecond || set.duration > time.Minute:
		return fmt.Errorf("--duration %s: want 100ms to 1m", set.duration)
	case set.pin && runtime.NumCPU() < 2:
		return errors.New("--pin: want at least 2 CPUs")
	case set.idleClients < 1 || set.idleClients > 50000:
		return fmt.Errorf("--idle-clients %d: want 1 to 50000", set.idleClients)
	}
	if set.storm < 100*time.Millisecond || set.storm > 5*time.Minute {
		return fmt.Errorf("--storm %s: want 100ms to 5m", set.storm)
	}
	if set.settle < 0 || set.settle > 10*time.Minute {
		return fmt.Errorf("--settle %s: want 0s to 10m", set.settle)
	}
	for _, name := range set.peers {
		if c, ok := contenderNamed(name); !ok || !c.named() {
			return fmt.Errorf("--peers: %q is not known; want none, or some of %s", name, strings.Join(peerNames(), ","))
		}
	}
	return nil
}

func printUsage(w io.Writer, flags *flag.FlagSet) {
	fmt.Fprint(w, "usage: go run ./bench [flags] [scenario ...]\n\nscenarios (default: all):\n")
	for _, sc := range scenarios {
		fmt.Fprintf(w, "  %-8s %s\n", sc.name, sc.about)
	}
	fmt.Fprint(w, "\nflags:\n")
	flags.PrintDefaults()
	fmt.Fprintf(w, "\nenvironment:\n  %s  the redis-server or valkey-server to start (default: redis-server)\n", redisServerEnv)
}

// prepare finds every program that the run needs, before the first minute is spent.
func (s *session) prepare(ctx context.Context) error {
	var err error
	if s.redisServer, err = findRedisServer(); err != nil {
		return err
	}
	if s.redisBenchmark, err = (program{"redis-benchmark", "redis-tools"}).find(); err != nil {
		return err
	}
	if s.pin {
		if s.taskset, err = (program{"taskset", "util-linux"}).find(); err != nil {
			return fmt.Errorf("--pin: %w", err)
		}
	}
	if s.contenders, err = s.enlist(ctx); err != nil {
		return err
	}
	s.report.Machine = describeMachine()
	s.report.Settings = fmt.Sprintf("%d rounds of %s, %d idle clients, pinned to CPUs: %t", s.rounds, s.duration, s.idleClients, s.pin)
	s.report.Versions = append(s.report.Versions, versionOf(ctx, s.redisServer, "--version"))
	for _, c := range s.contenders {
		if c.versionFlag != "" {
			s.report.Versions = append(s.report.Versions, versionOf(ctx, c.binary, c.versionFlag))
		}
	}
	return nil
}

// describeMachine says what a reader must know before comparing figures with another run's.
func describeMachine() string {
	text := fmt.Sprintf("%d CPUs, %s/%s, %s", runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return text
	}
	var lastMinute float64
	if _, err := fmt.Sscan(string(load), &lastMinute); err != nil {
		return text
	}
	text += fmt.Sprintf(", load average before the start %.2f", lastMinute)
	if lastMinute > float64(runtime.NumCPU())/2 {
		text += " (busy: trust the ranges, not the medians)"
	}
	return text
}
