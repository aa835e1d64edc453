//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The whole program with little load. The test binary stands in for the proxy: run as one, it relays bytes.

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := relay(os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// relay understands the command line of redbouncerArgs. It ends by a signal.
func relay(args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	listen, upstream := flags.String("listen", "", ""), flags.String("upstream", "", "")
	flags.String("log-level", "", "")
	flags.String("admin-listen", "", "")
	flags.String("http-listen", "", "")
	flags.Int("maxclients", 0, "")
	flags.Func("limit", "", func(string) error { return nil })
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	for {
		client, err := l.Accept()
		if err != nil {
			return err
		}
		redis, err := net.Dial("tcp", strings.TrimPrefix(*upstream, "redis://"))
		if err != nil {
			return err
		}
		go relayOneWay(redis, client)
		go relayOneWay(client, redis)
	}
}

// relayOneWay ends when either side does.
func relayOneWay(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
	from.Close()
}

// small returns arguments for a run of a moment, and a place for temporary files that must be empty afterwards.
func small(t *testing.T, more ...string) (args []string, temp string) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers")
	}
	if _, err := findRedisServer(); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	temp = t.TempDir()
	t.Setenv("TMPDIR", temp)
	return append([]string{"--proxy", self, "--rounds", "1", "--duration", "50ms", "--settle", "10ms",
		"--idle-clients", "50,100", "--storm", "100ms", "--soak", "100ms"}, more...), temp
}

// nothingIsLeft fails the test if a child process or a temporary file is.
func nothingIsLeft(t *testing.T, temp string) {
	t.Helper()
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("a child process is left (%d, %v)", pid, err)
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}

func TestARunPrintsItsTablesWritesItsReportAndLeavesNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "results")
	args, temp := small(t, "transactions", "--out", out, "--peers", "none", "idle")
	var stdout, stderr bytes.Buffer
	if err := run(context.Background(), args, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	nothingIsLeft(t, temp)
	wanted := []string{"idle: clients that have spoken once", "goal", "memory of an idle client", "goals were not measured"}
	for _, l := range transactionLoads {
		wanted = append(wanted, "\ntransactions: "+l.Name)
	}
	for _, want := range wanted {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the output has no %q:\n%s", want, &stdout)
		}
	}
	var got report
	text, err := os.ReadFile(filepath.Join(out, "report.json"))
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil || len(got.Loads) != len(transactionLoads) || len(got.Idle) < 2 || len(got.Verdicts) != len(goals) {
		t.Errorf("the JSON is incomplete: %v\n%s", err, text)
	}
	for _, l := range got.Loads {
		for _, target := range l.Targets {
			if len(target.Rounds) != 1 || target.Rounds[0].RequestsPerSecond <= 0 {
				t.Errorf("%s: %s has no figures: %+v", l.Name, target.Name, target)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(out, "report.html"))
	if err != nil || !bytes.Contains(page, []byte("Memory against idle clients")) {
		t.Errorf("the page is incomplete: %v", err)
	}
}

func TestAnInterruptedRunLeavesNothing(t *testing.T) {
	args, temp := small(t, "--duration", "10s", "throughput")
	ctx, cancel := context.WithTimeout(context.Background(), 1500*time.Millisecond)
	defer cancel()
	err := run(ctx, args, io.Discard, io.Discard)
	if err == nil || ctx.Err() == nil {
		t.Errorf("the run was over before it was interrupted: %v", err)
	}
	nothingIsLeft(t, temp)
}

func TestAProxyThatEndsIsQuoted(t *testing.T) {
	args, temp := small(t, "--peers", "none", "idle")
	script := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho no such setting >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	args[1] = script
	err := run(context.Background(), args, io.Discard, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "redbouncer has ended: exit status 3") ||
		!strings.Contains(err.Error(), "no such setting") {
		t.Errorf("got %v", err)
	}
	nothingIsLeft(t, temp)
}

func TestASettingThatCannotBeUsedIsNamed(t *testing.T) {
	for args, want := range map[string]string{
		"--rounds 0":                         "--rounds 0",
		"--duration 1ms":                     "--duration 1ms",
		"--idle-clients -1":                  "--idle-clients -1",
		"--idle-clients 9,3":                 "--idle-clients 9,3",
		"--settle 1h":                        "--settle 1h",
		"--client telnet":                    "--client telnet",
		"--peers redbouncer":                 `"redbouncer" is not known`,
		"nosuch --peers none":                `scenario "nosuch" is not known; want some of throughput, latency`,
		"--direct 127.0.0.1:1":               "--target, which is missing",
		"--target 192.0.2.1:6379":            "--allow-remote",
		"--target rediss://127.0.0.1":        "without TLS",
		"--target 127.0.0.1:1 storm":         "scenario storm needs servers of its own",
		"--target 127.0.0.1:1 --max-rate -7": "--max-rate -7",
	} {
		err := run(context.Background(), strings.Fields(args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}
