package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopGrace is how long a process may take to end by itself before it is killed.
const stopGrace = 5 * time.Second

// process is a child that runs until stop. It is ended by its own handle, never by name.
type process struct {
	// Static after start.
	name   string
	cmd    *exec.Cmd
	output *tail
	exited chan struct{} // closed by reap
	// Written by reap before exited is closed.
	err error
}

// start runs a command line in the background. The caller must stop the process.
func start(name string, argv []string) (*process, error) { return startWatched(name, argv, nil) }

// startWatched has watch called with each line that the process prints, unless it is nil.
func startWatched(name string, argv []string, watch func(line string)) (*process, error) {
	p := &process{name: name, output: &tail{watch: watch}, exited: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = withoutOwnSettings(os.Environ())
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.WaitDelay = time.Second // a grandchild that keeps the pipe open must not keep us
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go p.reap()
	return p, nil
}

// withoutOwnSettings removes the settings that the proxy reads from its environment: what is measured is what
// the command line says.
func withoutOwnSettings(env []string) []string {
	var kept []string
	for _, entry := range env {
		if !strings.HasPrefix(entry, "REDBOUNCER_") {
			kept = append(kept, entry)
		}
	}
	return kept
}

// reap waits for the end of the process; stop waits for reap.
func (p *process) reap() {
	p.err = p.cmd.Wait()
	close(p.exited)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// running returns nil while the process runs, and then why it does not.
func (p *process) running() error {
	select {
	case <-p.exited:
		return p.ended()
	default:
		return nil
	}
}

// ended describes the end of a process that should still run.
func (p *process) ended() error {
	reason := "it exited without an error"
	if p.err != nil {
		reason = p.err.Error()
	}
	return fmt.Errorf("%s has ended: %s; its last words:\n%s", p.name, reason, p.output)
}

// stop ends the process and waits until it is gone.
func (p *process) stop() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-p.exited
		return
	}
	select {
	case <-p.exited:
	case <-time.After(stopGrace):
		_ = p.cmd.Process.Kill() // the only error is that it has ended meanwhile
		<-p.exited
	}
}

// tailSize is how much of a process's output is kept for an error message, in bytes.
const tailSize = 4096

// tail is a writer that keeps the last bytes written to it.
type tail struct {
	watch func(line string) // nil: nobody watches

	// mu guards the following fields.
	mu   sync.Mutex
	kept []byte
	line []byte // that has not ended
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.watch != nil {
		t.line = append(t.line, b...)
		for end := bytes.IndexByte(t.line, '\n'); end >= 0; end = bytes.IndexByte(t.line, '\n') {
			t.watch(string(t.line[:end]))
			t.line = t.line[end+1:]
		}
	}
	t.kept = append(t.kept, b...)
	if extra := len(t.kept) - tailSize; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) == 0 {
		return "(nothing)"
	}
	return strings.TrimRight(string(t.kept), "\n")
}
