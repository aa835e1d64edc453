package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// The program replaces itself, on SIGUSR2 and on PROXY UPGRADE: it starts what is at its own path by now, with the same arguments
// and the same environment, and hands over the listeners, and the clients one by one. The new one reads its settings anew.
// If it does not come as far as to serve, the old one goes on as if nothing had been.

// upgrader does that. It is an admin.Upgrader.
type upgrader struct {
	// Static after construction, and start.
	log       *slog.Logger
	path      string // of the program
	args      []string
	embedded  bool
	signals   chan os.Signal
	proxy     *proxy.Server
	operators *admin.Server
	reloads   *reloader
	ctx       context.Context // ends with stop
	cancel    context.CancelFunc
	running   sync.WaitGroup

	busy sync.Mutex // held by Upgrade
}

// newUpgrader returns an upgrader that keeps the signal in mind from now on, and does nothing before start. It is to be stopped.
func newUpgrader(log *slog.Logger) *upgrader {
	u := &upgrader{log: log, path: programPath(), args: os.Args, signals: make(chan os.Signal, 1)}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	if len(upgradeSignals) > 0 {
		signal.Notify(u.signals, upgradeSignals...)
	}
	return u
}

// programPath is where the program was started from: links are kept, as what they lead to may be another program later.
func programPath() string {
	self, err := os.Executable()
	named, err2 := exec.LookPath(os.Args[0])
	if err2 != nil {
		return self
	}
	if named, err2 = filepath.Abs(named); err2 != nil {
		return self
	}
	a, err2 := os.Stat(named)
	b, err3 := os.Stat(self)
	if err == nil && (err2 != nil || err3 != nil || !os.SameFile(a, b)) {
		return self
	}
	return named
}

// start has signals obeyed.
func (u *upgrader) start(server *proxy.Server, operators *admin.Server, reloads *reloader, embedded bool) {
	u.proxy, u.operators, u.reloads, u.embedded = server, operators, reloads, embedded
	u.running.Go(u.onSignal)
}

// stop ends it, and waits.
func (u *upgrader) stop() {
	u.cancel()
	u.running.Wait()
	signal.Stop(u.signals)
}

// onSignal ends with stop.
func (u *upgrader) onSignal() {
	for {
		select {
		case sig := <-u.signals:
			_, _ = u.Upgrade(u.ctx, sig.String()) // the log has been told
		case <-u.ctx.Done():
			return
		}
	}
}

// Upgrade implements admin.Upgrader.
func (u *upgrader) Upgrade(ctx context.Context, by string) (pid int, err error) {
	if !u.busy.TryLock() {
		return 0, errors.New("an upgrade is under way")
	}
	defer u.busy.Unlock()
	u.log.Info("upgrading: another process is to take over", "by", by, "program", u.path)
	pid, err = u.upgrade(ctx)
	if err != nil {
		u.log.Error("not upgraded, this program goes on", "by", by, "program", u.path, "error", err)
		return 0, err
	}
	u.log.Info("upgraded: another process serves", "by", by, "pid", pid)
	return pid, nil
}

func (u *upgrader) upgrade(ctx context.Context) (pid int, err error) {
	switch {
	case u.embedded:
		return 0, errors.New("the upstream is embedded in this process, and would end with it")
	case os.Getpid() == 1:
		return 0, errors.New("this process is the first of its container, which ends with it: start it under an init (docker run --init), " +
			"or replace the container")
	}
	if err := u.proxy.MayHandOver(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, u.proxy.UpgradeTimeout())
	defer cancel()
	next, err := u.startNext()
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, next.line.Close)
	defer stop()
	err = u.offer(ctx, next)
	if err == nil {
		err = u.proxy.HandOver(ctx, next.line)
	}
	if err != nil {
		return 0, next.giveUp(ctx, err)
	}
	stop()
	u.leave(next)
	return next.cmd.Process.Pid, nil
}

// leave has nothing done here any more that the next program does.
func (u *upgrader) leave(next *nextProgram) {
	notifyReplaced(u.log, next.cmd.Process.Pid)
	u.reloads.stop()
	ignoreHangups()
	u.operators.HandOver()
}

// nextProgram is the one that is to take over.
type nextProgram struct {
	cmd   *exec.Cmd
	line  *handover.Line
	ended chan struct{} // closed when it has
	err   error         // how; valid after ended
}

// startNext starts it.
func (u *upgrader) startNext() (*nextProgram, error) {
	line, end, err := handover.Pair()
	if err != nil {
		return nil, err
	}
	defer end.Close()
	cmd := exec.Command(u.path)
	cmd.Args = u.args
	cmd.Env = append(os.Environ(), handoverVariable+"=3")
	cmd.ExtraFiles = []*os.File{end}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		line.Close()
		return nil, fmt.Errorf("it cannot be started: %w", err)
	}
	n := &nextProgram{cmd: cmd, line: line, ended: make(chan struct{})}
	go n.wait()
	return n, nil
}

// wait ends with the program.
func (n *nextProgram) wait() {
	n.err = n.cmd.Wait()
	close(n.ended)
}

// offer hands the listeners over, and waits until the next program says that it is ready.
func (u *upgrader) offer(ctx context.Context, next *nextProgram) error {
	listeners, sockets, err := u.listeners()
	defer closeAll(sockets)
	if err != nil {
		return err
	}
	offer := handover.Offer{Version: handover.Version, Listeners: listeners}
	var fds []int
	for _, f := range sockets {
		fds = append(fds, int(f.Fd()))
	}
	if deadline, ok := ctx.Deadline(); ok {
		next.line.SetDeadline(deadline)
	}
	if err := next.line.Send(handover.OfferKind, &offer, fds...); err != nil {
		return err
	}
	_, err = next.line.Expect(handover.ReadyKind, &handover.Ready{})
	return err
}

// listeners returns all listening sockets, which the caller closes, and what they are.
func (u *upgrader) listeners() ([]handover.Listener, []*os.File, error) {
	listeners, sockets, err := u.proxy.Listeners()
	if err != nil {
		return nil, sockets, err
	}
	more, others, err := u.operators.Listeners()
	return append(listeners, more...), append(sockets, others...), err
}

func closeAll(sockets []*os.File) {
	for _, f := range sockets {
		_ = f.Close()
	}
}

// endTimeout is how long a program that has hung up, or has been killed, may take to end.
const endTimeout = 2 * time.Second

// giveUp ends the next program, and says why there is none.
func (n *nextProgram) giveUp(ctx context.Context, err error) error {
	n.line.Close()
	var refused *handover.RefusedError
	late := ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded)
	if !late {
		select { // it may be about to end by itself, and then says how
		case <-n.ended:
		case <-time.After(endTimeout):
		}
	}
	ended := n.hasEnded()
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.ended
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("the new program says: %w", err)
	case late:
		return errors.New("the new program was not ready within upgrade-timeout")
	case ended && n.err != nil:
		return fmt.Errorf("the new program has ended: %w; its standard error, which is this one's, may say why", n.err)
	case ended:
		return errors.New("the new program has ended, and did not take over: is it one that can?")
	}
	return err
}

func (n *nextProgram) hasEnded() bool {
	select {
	case <-n.ended:
		return true
	default:
		return false
	}
}
