package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// patience bounds every wait for something that takes no time on an idle machine.
const patience = 20 * time.Second

// process is the program in a process of its own, logging JSON.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bufio.Scanner
}

// startProgram starts the program. It is killed at the end of the test if it still runs.
func startProgram(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append(args, "--log-format", "json", "--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0")...)
	cmd.Env = append(os.Environ(), actAsProgram+"=1")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &process{t, cmd, bufio.NewScanner(stderr)}
}

// logged returns the next event whose message contains msg.
func (p *process) logged(msg string) map[string]any {
	p.t.Helper()
	for p.log.Scan() {
		var event map[string]any
		if err := json.Unmarshal(p.log.Bytes(), &event); err != nil {
			p.t.Fatalf("the log is not JSON: %s", p.log.Text())
		}
		if text, _ := event["msg"].(string); strings.Contains(text, msg) {
			return event
		}
	}
	p.t.Fatalf("the log ends without %q", msg)
	return nil
}

// wait returns the exit status, and whatever is left of the log.
func (p *process) wait() (int, string) {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	var rest strings.Builder
	for p.log.Scan() {
		fmt.Fprintln(&rest, p.log.Text())
	}
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.ExitCode(), rest.String()
}

func TestTheEmbeddedUpstreamAnswersAndSaysWhatItIs(t *testing.T) {
	p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0")
	warning := p.logged("not for production")
	if warning["level"] != "WARN" || !strings.Contains(warning["msg"].(string), "memory") {
		t.Errorf("the warning is %v", warning)
	}
	c := proxytest.Dial(t, p.logged("listening")["listen"].(string))
	for _, line := range []struct{ command, reply string }{
		{"PING", "+PONG"},
		{"SET greeting hello", "+OK"},
		{"GET greeting", "$5\r\nhello"},
		{"SET brief x PX 1", "+OK"},
		{"COMMAND DOCS", "-ERR unknown subcommand 'DOCS'. Try COMMAND HELP."}, // redis-cli aborts when it is given anything else
	} {
		if got := string(c.Do(strings.Fields(line.command)...)); got != line.reply+"\r\n" {
			t.Errorf("a> %s\na< %q, want %q", line.command, got, line.reply)
		}
	}
	// Keys expire by the clock.
	for deadline := time.Now().Add(patience); string(c.Do("GET", "brief")) != "$-1\r\n"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a key with a life of 1 ms lives on")
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, rest := p.wait(); status != exitOK || !strings.Contains(rest, `"signal":"terminated"`) {
		t.Errorf("after SIGTERM the status is %d, want 0; the log:\n%s", status, rest)
	}
}

func TestTheUpstreamIsTheOneThatWasNamed(t *testing.T) {
	upstream := miniredis.RunT(t)
	p := startProgram(t, "serve", "--upstream", "redis://"+upstream.Addr(), "--listen", "127.0.0.1:0")
	proxytest.Dial(t, p.logged("listening")["listen"].(string)).Do("SET", "k", "v")
	if v, err := upstream.Get("k"); v != "v" {
		t.Errorf("the upstream has %q, %v; want v", v, err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status, rest := p.wait(); status != exitOK {
		t.Errorf("after SIGINT the status is %d, want 0; the log:\n%s", status, rest)
	}
}

func TestAnAddressInUseEndsTheProgramAndIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	got := runProgram("serve", "--upstream", "embedded", "--listen", l.Addr().String(),
		"--admin-listen", "none", "--http-listen", "none")
	if got.status != exitFailed || !strings.Contains(got.stderr, l.Addr().String()) || !strings.Contains(got.stderr, "in use") {
		t.Errorf("status %d, stderr %q; want %d and %s", got.status, got.stderr, exitFailed, l.Addr())
	}
}

func TestNoPasswordIsEverLogged(t *testing.T) {
	p := startProgram(t, "serve", "--upstream", "redis://bob:hunter2@127.0.0.1:1/0", "--upstream-timeout", "0",
		"--listen", "127.0.0.1:0", "--log-level", "debug")
	listening := p.logged("listening")
	if strings.Contains(fmt.Sprint(listening), "hunter2") {
		t.Errorf("logged %v", listening)
	}
	c := proxytest.Dial(t, listening["listen"].(string))
	c.Send("PING")
	_, _ = c.TryReadReply() // whatever the proxy makes of an upstream that is not there
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if _, rest := p.wait(); strings.Contains(rest, "hunter2") {
		t.Errorf("logged %s", rest)
	}
}

func TestTheFirstSignalStopsAndTheSecondEndsAtOnce(t *testing.T) {
	ctx, s := stopOnSignal(slog.New(slog.DiscardHandler))
	exited := make(chan int, 1)
	s.exit = func(status int) { exited <- status }
	defer s.close()

	s.signals <- syscall.SIGTERM
	select {
	case <-ctx.Done():
	case <-time.After(patience):
		t.Fatal("the first signal did not end the context")
	}
	select {
	case status := <-exited:
		t.Fatalf("the first signal ended the process with status %d", status)
	default:
	}
	s.signals <- syscall.SIGINT
	select {
	case status := <-exited:
		if status != exitFailed {
			t.Errorf("the status is %d, want %d", status, exitFailed)
		}
	case <-time.After(patience):
		t.Fatal("the second signal did not end the process")
	}
}

func TestAStopperThatSeesNoSignalIsClosed(t *testing.T) {
	ctx, s := stopOnSignal(slog.New(slog.DiscardHandler))
	s.close()
	if ctx.Err() == nil {
		t.Error("the context goes on")
	}
}
