package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// The old program's side of a hand-over; the new one's is in heritage.go. How a client is handed over is in mover.go, and what
// is written of it in pack.go.

// UpgradeTimeout is how long a program that is to take over may take until it is ready.
func (s *Server) UpgradeTimeout() time.Duration { return s.current.Load().UpgradeTimeout }

// MayHandOver returns why the server cannot be handed over to another program now; nil: it can.
func (s *Server) MayHandOver() error {
	switch state := s.State(); {
	case state != suspensions[notSuspended]:
		return fmt.Errorf("the proxy is %s", state)
	case s.heritage != nil && s.heritage.alive():
		return fmt.Errorf("the program before this one, process %d, still has %d clients that could not be handed over: they "+
			"have until its handover-timeout has passed; SIGTERM ends it before", s.heritage.pid, s.heritage.clients())
	}
	return nil
}

// Listeners returns the listening sockets, which the caller closes, and what they are.
func (s *Server) Listeners() ([]handover.Listener, []*os.File, error) {
	s.listening.Lock()
	defer s.listening.Unlock()
	var (
		listeners []handover.Listener
		sockets   []*os.File
	)
	for i, ln := range s.listeners {
		f, err := handover.Socket(ln)
		if err != nil {
			return nil, sockets, err
		}
		listeners = append(listeners, handover.Listener{Setting: "listen", Addr: s.cfg.Listen[i], Kept: s.sockets[i] != nil})
		sockets = append(sockets, f)
	}
	return listeners, sockets, nil
}

// HandOver has another program, which has the listeners and is ready, serve in the place of this one. When it returns nil, it
// does: then clients are handed over as they have nothing under way, the others are served for handover-timeout, and Run
// ends. After an error, this program goes on as before. The line is the server's then, and only then.
func (s *Server) HandOver(ctx context.Context, line *handover.Line) error {
	s.handingOver.Lock()
	defer s.handingOver.Unlock()
	if err := s.MayHandOver(); err != nil {
		return err
	}
	_, sockets, err := s.Listeners()
	defer closeAll(sockets)
	if err != nil {
		return err
	}
	to := newSuccessor(line)
	s.closeDoors()
	err = s.introduce(ctx, to)
	if err != nil {
		s.onAll(func(w *worker) { w.mover = nil }).Wait()
		s.budget.SetSize(s.current.Load().PoolSize)
		return errors.Join(err, s.openDoors(sockets))
	}
	s.gate.HandOver()
	s.successor.Store(to)
	s.cfg.Log.Info("handing over: another process serves, and clients follow as they have nothing under way",
		"clients", s.gate.Stats().Open, "handover-timeout", s.current.Load().HandoverTimeout.String())
	go to.send()
	go to.listen()
	go s.leaveTo(to)
	s.onAll(func(w *worker) { w.mover.begin() })
	return nil
}

func closeAll(sockets []*os.File) {
	for _, f := range sockets {
		_ = f.Close()
	}
}

// closeDoors accepts nobody any more. Who comes waits in the queue of the socket, which the other program has too.
func (s *Server) closeDoors() {
	closed := make(chan struct{})
	if s.workers[0].loop.Post(func() {
		defer close(closed)
		for _, ln := range s.listenersNow() {
			if unix, ok := ln.(*net.UnixListener); ok {
				unix.SetUnlinkOnClose(false) // the path is the other program's
			}
		}
		for _, stop := range s.stopAccept {
			stop()
		}
		s.stopAccept = nil
	}) {
		<-closed
	}
}

// openDoors accepts clients at the sockets again.
func (s *Server) openDoors(sockets []*os.File) error {
	opened := make(chan error, 1)
	if !s.workers[0].loop.Post(func() { opened <- s.acceptAt(sockets) }) {
		return errors.New("the proxy is stopping")
	}
	return <-opened
}

func (s *Server) acceptAt(sockets []*os.File) error {
	var fresh []net.Listener
	for i, f := range sockets {
		ln, err := net.FileListener(f)
		if err != nil {
			return err
		}
		if unix, ok := ln.(*net.UnixListener); ok {
			unix.SetUnlinkOnClose(s.sockets[i] == nil)
		}
		fresh = append(fresh, ln)
	}
	s.listening.Lock()
	s.listeners = fresh
	s.listening.Unlock()
	return s.accept()
}

// introduce tells the successor which clients there are, and waits until it serves.
func (s *Server) introduce(ctx context.Context, to *successor) error {
	paused, err := collectAll(ctx, s, func(w *worker) []bool { return []bool{w.pause != nil} })
	for _, is := range paused {
		if is {
			return errors.New("a client has set CLIENT PAUSE: wait for its end")
		}
	}
	if err != nil {
		return err
	}
	places, err := collectAll(ctx, s, func(w *worker) []*handover.Place { return w.take(to) })
	if err != nil {
		return err
	}
	s.budget.SetSize(s.lastShare())
	if deadline, ok := ctx.Deadline(); ok {
		to.line.SetDeadline(deadline)
		defer to.line.SetDeadline(time.Time{})
	}
	for _, p := range places {
		if err := to.line.Send(handover.PlaceKind, p); err != nil {
			return errHungUp(err)
		}
	}
	begin := handover.Begin{LastID: s.ids.Load() + idGap, Upstream: s.budget.Size()}
	s.writeRunTime(&begin)
	if err := to.line.Send(handover.BeginKind, &begin); err != nil {
		return errHungUp(err)
	}
	_, err = to.line.Expect(handover.ServingKind, &handover.Serving{})
	return errHungUp(err)
}

// errHungUp says what an error of the line means.
func errHungUp(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the new program does not say that it serves: %w", err)
}

// idGap is how many clients may still come in the old program: those whose handshake is under way, or who wait.
const idGap = 1 << 16

// lastShare is how many upstream connections this program is to have when another one takes over: enough for the clients
// that stay, of whom most hold one each that they have already.
func (s *Server) lastShare() int {
	size := s.current.Load().PoolSize
	return min(limits.LeastSize(len(s.workers))+1, max(size/2, 1))
}

const (
	// shareEvery is how often the successor is told how many upstream connections it may have.
	shareEvery = 5 * time.Millisecond
)

// leaveTo ends Run when all clients have been handed over or have gone, or handover-timeout has passed. It ends then, or when
// Run does.
func (s *Server) leaveTo(to *successor) {
	defer close(s.moved)
	end := time.NewTimer(s.current.Load().HandoverTimeout)
	defer end.Stop()
	ticker := time.NewTicker(shareEvery)
	defer ticker.Stop()
	told := 0
	for {
		select {
		case <-ticker.C:
			if now := s.budget.Size(); now != told {
				to.tell(handover.UpstreamKind, &handover.Upstream{Size: now})
				told = now
			}
			if s.deserted() {
				return
			}
		case <-end.C:
			s.cfg.Log.Warn("handover-timeout has passed: clients that could not be handed over are closed", "clients", s.gate.Stats().Open)
			return
		case <-to.broken:
			s.cfg.Log.Error("the process that has taken over has ended: clients that are left are closed", "clients", s.gate.Stats().Open)
			return
		case <-s.workers[0].done:
			return
		}
	}
}

// deserted reports whether there are no clients any more.
func (s *Server) deserted() bool {
	left, _ := collectAll(context.Background(), s, func(w *worker) []int {
		return []int{w.count + len(w.waiting) + w.prefaces}
	})
	sum := 0
	for _, n := range left {
		sum += n
	}
	return sum == 0 && s.handshakes.idle()
}

// endHandOver hangs up when all has been said.
func (s *Server) endHandOver() {
	to := s.successor.Load()
	if to == nil {
		return
	}
	to.close()
	<-to.sent
	to.line.Close()
	s.cfg.Log.Info("handed over", "clients_moved", to.clients())
}

// sharePool keeps to pool-size together with the program before or behind this one, as far as that can be told: one connection
// this one always has.
func (s *Server) sharePool() {
	if s.successor.Load() != nil {
		return
	}
	s.budget.SetSize(max(s.current.Load().PoolSize-int(s.elsewhere.Load()), 1))
}

// writeRunTime notes what operators have set while the program ran.
func (s *Server) writeRunTime(begin *handover.Begin) {
	begin.Parameters = map[string]int64{}
	for _, p := range parameters {
		if s.setSince(p.name) {
			begin.Parameters[p.name] = p.get(s)
		}
	}
	if s.rulesChanged() {
		begin.Rules, begin.RulesSet = s.rulesInForce(), true
	}
}
