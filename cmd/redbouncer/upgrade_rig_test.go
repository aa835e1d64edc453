package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// replaceable is a program in processes of its own that follow each other. Its log goes to a file, as the processes share it.
type replaceable struct {
	t     *testing.T
	path  string // of the program
	log   string // the file
	read  int    // how much of it has been looked at
	pid   int    // of the process that serves
	addr  string
	admin string
	pages string // where metrics are
}

// startReplaceable starts the program from a file of its own, in front of s. It is killed at the end of the test.
func startReplaceable(t *testing.T, s interface{ URL() string }, args ...string) *replaceable {
	t.Helper()
	dir := t.TempDir()
	r := &replaceable{t: t, path: filepath.Join(dir, "redbouncer"), log: filepath.Join(dir, "log")}
	r.install()
	if !slices.Contains(args, "--listen") && !slices.Contains(args, "--config") { // a flag goes before the file
		args = append(args, "--listen", "127.0.0.1:0")
	}
	cmd := exec.Command(r.path, append([]string{
		"serve", "--upstream", s.URL(), "--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
		"--log-format", "json",
	}, args...)...)
	r.startAs(cmd)
	return r
}

// startAs starts the first process.
func (r *replaceable) startAs(cmd *exec.Cmd) {
	r.t.Helper()
	cmd.Env = append(os.Environ(), append(cmd.Env, actAsProgram+"=1")...)
	out, err := os.Create(r.log)
	must(r.t, err)
	cmd.Stderr = out
	must(r.t, cmd.Start())
	_ = out.Close()
	r.pid = cmd.Process.Pid
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	r.t.Cleanup(func() {
		_ = syscall.Kill(r.pid, syscall.SIGKILL)
		_ = cmd.Process.Kill()
		<-ended
		if r.t.Failed() {
			text, _ := os.ReadFile(r.log)
			r.t.Logf("the log:\n%s", text)
		}
	})
	r.admin, _ = r.logged("console is served")["admin-listen"].(string)
	r.pages, _ = r.logged("metrics and probes are served")["http-listen"].(string)
	r.addr, _ = r.logged("listening")["listen"].(string)
	r.logged("redbouncer is ready")
}

// install puts the program at its path, as a package manager does: another file of that name.
func (r *replaceable) install() {
	r.t.Helper()
	self, err := os.Executable()
	must(r.t, err)
	in, err := os.Open(self)
	must(r.t, err)
	defer in.Close()
	out, err := os.OpenFile(r.path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	must(r.t, err)
	_, err = io.Copy(out, in)
	must(r.t, err)
	must(r.t, out.Close())
	must(r.t, os.Rename(r.path+".new", r.path))
}

// logged waits for the next event whose message contains msg.
func (r *replaceable) logged(msg string) map[string]any {
	r.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(r.log)
		must(r.t, err)
		for {
			line, _, whole := bytes.Cut(text[r.read:], []byte("\n"))
			if !whole {
				break
			}
			r.read += len(line) + 1
			var event map[string]any
			if json.Unmarshal(line, &event) != nil {
				continue // a program that is none may say what it likes
			}
			if said, _ := event["msg"].(string); strings.Contains(said, msg) {
				return event
			}
		}
	}
	r.t.Fatalf("the log does not say %q", msg)
	return nil
}

// signal sends the process that serves a signal.
func (r *replaceable) signal(sig syscall.Signal) {
	r.t.Helper()
	must(r.t, syscall.Kill(r.pid, sig))
}

// upgrade has the program replace itself, and waits until the next process serves. It returns the id of the one before.
func (r *replaceable) upgrade() (before int) {
	r.t.Helper()
	before = r.pid
	r.signal(syscall.SIGUSR2)
	r.pid = int(r.logged("upgraded: another process serves")["pid"].(float64))
	if r.pid == before {
		r.t.Fatalf("process %d has been replaced by itself", before)
	}
	return before
}

// gone waits until a process has ended.
func (r *replaceable) gone(pid int) {
	r.t.Helper()
	eventually(r.t, fmt.Sprintf("process %d has not ended", pid), func() bool { return syscall.Kill(pid, 0) != nil })
}

// ask has an operator say something, and returns the answer.
func (r *replaceable) ask(words ...string) string {
	r.t.Helper()
	c := proxytest.Dial(r.t, r.admin)
	defer c.Close()
	return string(c.Do(words...))
}
