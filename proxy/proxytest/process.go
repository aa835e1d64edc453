package proxytest

import (
	"bytes"
	"errors"
	"os/exec"
	"runtime"
	"strings"
	"sync"
)

// process is a running program whose end can be waited for.
type process struct {
	cmd    *exec.Cmd
	output *lockedBuffer
	ready  chan error    // receives the outcome of the start
	done   chan struct{} // closed when it has ended
	err    error         // how it ended, valid after done
}

func startProcess(bin string, args []string) (*process, error) {
	p := &process{
		cmd: exec.Command(bin, args...), output: &lockedBuffer{},
		ready: make(chan error, 1), done: make(chan struct{}),
	}
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	endWithParent(p.cmd)
	go p.hold()
	return p, <-p.ready
}

// hold starts the process and waits for its end, all on one thread. Linux ends a child that asked for it when
// the thread that started it ends, not the process: a thread that the Go runtime later gives to an event loop
// and destroys with it would take the server down in the middle of a test.
func (p *process) hold() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	err := p.cmd.Start()
	p.ready <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	if p.err == nil {
		p.err = errors.New("exit status 0")
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// lockedBuffer keeps the last output of a process. The process's copier writes while a test may read.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.buf.Len() > 1<<20 {
		b.buf.Reset()
	}
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.buf.String())
}
