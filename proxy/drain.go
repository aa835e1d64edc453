package proxy

import (
	"errors"
	"net"
	"time"
)

// Before the proxy ends, or when the operator says so, clients are sent away: each when nothing is in flight, and few at a
// time, as those who go come back elsewhere. A client at work is best closed right behind an answer: it has not asked the
// next question yet, and finds the connection closed before it does.

const (
	// drainStep is how often clients are sent away.
	drainStep = 10 * time.Millisecond
	// drainPace and drainMost bound the time in which all may go that could: so much for each, and so much together.
	drainPace, drainMost = 2 * time.Millisecond, 10 * time.Second
	// stopPace and stopMost are the same for a proxy that ends, which has less time.
	stopPace, stopMost = time.Millisecond / 5, 5 * time.Second
)

// Drain closes the listeners, and then each client as it falls idle, in small steps. Who is subscribed or blocked stays, as
// does who is in a transaction, until its end. Resume opens the listeners again.
func (s *Server) Drain() error {
	serving := s.phase.Load() == phaseServing
	switch {
	case s.successor.Load() != nil:
		return errors.New("the proxy is handing over to another process")
	case !serving && s.phase.Load() != phaseStopping:
		return errors.New("the proxy is starting: try again in a moment")
	case !s.op.drain(serving):
		return errors.New("the proxy is draining already, or stopping")
	}
	spread := min(time.Duration(s.gate.Stats().Open)*drainPace, drainMost)
	s.cfg.Log.Info("draining: the listeners are closed, and clients as they fall idle", "clients", s.gate.Stats().Open,
		"within", spread.String())
	s.sendAway(spread, false)
	return nil
}

// sendAway closes the listeners, and has clients go within a time. For good means that the proxy is to end.
func (s *Server) sendAway(spread time.Duration, forGood bool) {
	s.workers[0].loop.Post(func() {
		for _, stop := range s.stopAccept {
			stop()
		}
		s.stopAccept = nil
		s.listening.Lock()
		s.listeners = nil
		s.listening.Unlock()
		for _, w := range s.workers {
			w.loop.Post(func() { w.sendAway(spread, forGood) })
		}
	})
}

// undrain opens the listeners again, and lets those stay who are left.
func (s *Server) undrain() error {
	opened := make(chan error, 1)
	if !s.workers[0].loop.Post(func() { opened <- s.reopen() }) {
		return errors.New("the proxy is stopping")
	}
	err := <-opened
	if err == nil {
		s.op.endDrain()
		s.onAll(func(w *worker) {
			if !w.closing { // the end may have come first
				w.draining, w.goodbyes = false, 0
			}
		})
		s.cfg.Log.Info("resumed: clients are accepted again")
	}
	return err
}

// reopen opens the listeners at the addresses that they had, on the first worker's loop. Once the proxy is to end, it does not:
// what closes them for good comes to this loop behind the change of phase.
func (s *Server) reopen() error {
	if s.phase.Load() != phaseServing {
		return errors.New("the proxy is stopping")
	}
	if err := s.listenAgain(); err != nil {
		return err
	}
	s.setKeepAlive(time.Duration(s.keepAlive.Load()))
	return s.accept()
}

// listenAgain opens the listeners.
func (s *Server) listenAgain() error {
	var fresh []net.Listener
	s.listening.Lock() // whoever changes tcp-backlog does so before, or to those that are opened here
	defer s.listening.Unlock()
	for i := range s.addrs {
		ln, err := s.openAgain(i)
		if err != nil {
			for _, ln := range fresh {
				_ = ln.Close()
			}
			return err
		}
		fresh = append(fresh, ln)
	}
	s.listeners = fresh
	return nil
}

// openAgain opens a listener that has been closed: from the socket if that has been kept, else at its address.
func (s *Server) openAgain(i int) (net.Listener, error) {
	if f := s.sockets[i]; f != nil {
		return net.FileListener(f)
	}
	addr := s.addrs[i].String()
	if s.addrs[i].Network() == "unix" {
		addr = s.cfg.Listen[i]
	}
	return listen(addr, s.current.Load().TCPBacklog)
}

// sendAway has the worker's clients go within a time; those who wait for a place, at once.
func (w *worker) sendAway(spread time.Duration, forGood bool) {
	steps := max(int(spread/drainStep), 1)
	w.step = (w.count + steps - 1) / steps
	begins := !w.draining
	w.draining, w.closing = true, forGood
	for d := range w.waiting {
		d.decided()
	}
	if forGood {
		for s := range w.all {
			if s.state == awaitingPlace {
				s.settle()
			}
		}
	}
	if begins {
		w.sendSome()
	}
}

// sendSome closes some who are idle. As many more may go in the next step as have not gone in this one, but no more than
// one step's: those at work, that is, right behind an answer.
func (w *worker) sendSome() {
	if !w.draining || w.stopping {
		return
	}
	w.loop.AfterFunc(drainStep, w.sendSome)
	w.goodbyes = max(w.step, 1)
	for s := range w.all {
		if w.goodbyes == 0 {
			return
		}
		if s.state == flowing && s.inFlight == 0 {
			s.settle()
		}
	}
}

// sayGoodbye reports whether the session, which has nothing in flight, is to go now.
func (s *session) sayGoodbye() bool {
	asks := s.last != nil && s.last.how == console // the operator
	stays := asks || len(s.in) > 0 || s.wait != nil || s.acks != nil || s.relaying || s.isSubscribed() || s.inOrder()
	if stays {
		return false
	}
	s.w.goodbyes--
	return true
}
