package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// session is one run of this program.
type session struct {
	settings
	// Static after prepare.
	dir            string // temporary, removed at the end
	redisServer    string
	redisBenchmark string
	taskset        string // empty without --pin
	contenders     []contender
	prefix         string // of all keys
	// Written by the scenarios.
	report   *report
	peak     float64 // commands a second that 50 clients reach directly; 0: not found yet
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
	chosen, err := set.chooseScenarios()
	if err != nil {
		return err
	}
	s := &session{settings: set, report: &report{}, progress: newProgress(stderr)}
	s.prefix = fmt.Sprintf("redbouncer-bench:%d:", os.Getpid())
	if set.dryRun || set.target != "" {
		s.printPlan(stdout, chosen)
	}
	if set.dryRun {
		return nil
	}
	if s.dir, err = os.MkdirTemp("", "redbouncer-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	defer s.progress.done()
	s.report.describe(args)
	if err := s.prepare(ctx); err != nil {
		return err
	}
	s.progress.done()
	s.report.printHeader(stdout)
	for i, sc := range chosen {
		s.progress.part(i, len(chosen))
		if err := sc.run(ctx, s, sc); err != nil {
			return fmt.Errorf("scenario %s: %w", sc.name, err)
		}
		s.progress.done()
		sc.print(stdout, s.report, sc)
	}
	s.report.Took = time.Since(s.progress.begin).Round(time.Second)
	s.report.judge()
	s.report.printVerdicts(stdout, len(set.scenarios) == 0 && set.target == "")
	return s.report.write(s.out, stdout)
}

// prepare finds every program that the run needs, before the first minute is spent.
func (s *session) prepare(ctx context.Context) error {
	var err error
	if s.client == benchmarkTool {
		if s.redisBenchmark, err = (program{benchmarkTool, "redis-tools"}).find(); err != nil {
			return err
		}
	}
	s.report.Settings = fmt.Sprintf("%d rounds of %s, client %s, pinned to CPUs: %t", s.rounds, s.duration, s.client, s.pin)
	if s.target != "" {
		r, err := s.remoteRig(ctx)
		if err != nil {
			return err
		}
		for _, t := range r.targets {
			s.report.Versions = append(s.report.Versions, fmt.Sprintf("%s: %s", t.name, t.addr))
		}
		return nil
	}
	if s.redisServer, err = findRedisServer(); err != nil {
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
	s.report.Versions = append(s.report.Versions, versionOf(ctx, s.redisServer, "--version"))
	for _, c := range s.contenders {
		if c.versionFlag != "" {
			s.report.Versions = append(s.report.Versions, versionOf(ctx, c.binary, c.versionFlag))
		}
	}
	return nil
}
