package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// What the operator does to all clients at once: pause them, and let them go on. What a loop does for it is in hold.go.

// suspension is where the proxy stands in that.
//
//	none ──► pausing ──► held ──► resuming ──► none
//	             └────────┴──► none, when pause-timeout has passed
type suspension uint8

const (
	notSuspended suspension = iota
	pausing                 // clients are held back, and something is in flight
	held                    // nothing is
	resuming                // the upstream is waited for
)

var suspensions = [...]string{notSuspended: "serving", pausing: "pausing", held: "paused", resuming: "resuming"}

// operation is what the operator has ordered.
type operation struct {
	// mu guards the following fields. It is not held while loops are waited for.
	mu    sync.Mutex
	state suspension
	until time.Time // when the pause ends by itself
	timer *time.Timer
	over  context.Context // is done when it has ended
	end   context.CancelFunc

	draining bool
}

const (
	// pauseLook is how often PAUSE looks whether all is answered.
	pauseLook = 5 * time.Millisecond
	// closingTime bounds how long it then waits for the upstream to close its side of the connections.
	closingTime = 2 * time.Second
)

// Pause holds the commands of all clients back until Resume, but for no longer than length (zero: pause-timeout). It returns
// when nothing is in flight any more, and the upstream may be restarted. That has half of the time to happen: otherwise
// everybody goes on, as an operator who is told of an error does not go on, and would have clients wait for nothing. The note
// says what a restart would end all the same; or is empty.
func (s *Server) Pause(ctx context.Context, length time.Duration) (note string, err error) {
	if length == 0 {
		length = s.current.Load().PauseTimeout
	}
	begun := time.Now()
	if extended, err := s.beginPause(begun, length); err != nil || extended {
		return "", err
	}
	left, err := s.quiesce(ctx, begun.Add(length/2))
	if err != nil {
		s.endPause()
		return "", err
	}
	_ = s.visit(ctx, (*worker).rest)
	s.restControl(ctx)
	s.awaitClosing(ctx)
	if !s.op.become(pausing, held) {
		return "", errors.New("the pause has ended before everything was answered")
	}
	s.cfg.Log.Info("paused: clients are held back", "until", s.op.ends().Format(time.RFC3339), "took",
		time.Since(begun).Round(time.Millisecond).String(), "clients_with_state", left.stateful)
	if left.stateful > 0 {
		note = fmt.Sprintf("%d clients have upstream connections with state, and would be closed with them: PROXY SHOW PINS lists them",
			left.stateful)
	}
	return note, nil
}

// beginPause has all loops hold commands back. It reports true if they do so already, and will now for another length.
func (s *Server) beginPause(now time.Time, length time.Duration) (extended bool, err error) {
	op := &s.op
	op.mu.Lock()
	defer op.mu.Unlock()
	switch {
	case s.phase.Load() != phaseServing || s.successor.Load() != nil:
		return false, errors.New("the proxy is not serving")
	case op.state == held:
		op.until = now.Add(length)
		op.timer.Reset(length)
		return true, nil
	case op.state != notSuspended:
		return false, fmt.Errorf("the proxy is %s already", suspensions[op.state])
	}
	op.state, op.until = pausing, now.Add(length)
	op.over, op.end = context.WithCancel(context.Background())
	op.timer = time.AfterFunc(length, s.pauseRunsOut)
	s.onAll((*worker).hold)
	return false, nil
}

// quiesce waits until nothing is in flight but what cannot be waited for.
func (s *Server) quiesce(ctx context.Context, deadline time.Time) (unfinished, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	over := s.op.ended()
	var sum unfinished
	for {
		all, err := collectAll(ctx, s, func(w *worker) []unfinished { return []unfinished{w.unfinished()} })
		if err == nil {
			sum = unfinished{}
		}
		for _, u := range all {
			sum.add(u)
		}
		if err == nil && sum.busy+sum.blocked == 0 {
			return sum, nil
		}
		select {
		case <-time.After(pauseLook):
		case <-over.Done():
			return sum, errors.New("the pause has ended before everything was answered")
		case <-ctx.Done():
			return sum, fmt.Errorf("not paused, clients go on: %d commands are still in flight, %d of them in transactions, and %d "+
				"that block: PROXY SHOW PINS and PROXY SHOW LANES list them", sum.busy+sum.blocked, sum.transactions, sum.blocked)
		}
	}
}

// restControl closes the control connection, and waits for that.
func (s *Server) restControl(ctx context.Context) {
	closed := make(chan struct{})
	if s.control.Rest(func() { close(closed) }) {
		select {
		case <-closed:
		case <-ctx.Done():
		}
	}
}

// awaitClosing waits for the lanes to be closed, as far as that is soon.
func (s *Server) awaitClosing(ctx context.Context) {
	end := time.Now().Add(closingTime)
	for s.budget.Open(limits.Lane) > 0 && time.Now().Before(end) && ctx.Err() == nil {
		time.Sleep(pauseLook)
	}
}

// Resume ends a pause, or a drain: see resume and undrain.
func (s *Server) Resume(ctx context.Context) error {
	switch {
	case s.op.is(held):
		return s.resume(ctx)
	case s.op.isDraining() && s.phase.Load() == phaseServing:
		return s.undrain()
	}
	return errors.New("the proxy is neither paused nor draining")
}

// resume ends a pause, once the upstream answers: until then clients go on waiting, for as long as the pause lasts. Those who
// are subscribed are subscribed again before anybody can publish.
func (s *Server) resume(ctx context.Context) error {
	if !s.op.become(held, resuming) {
		return errors.New("the proxy is not paused")
	}
	ctx, cancel := context.WithDeadline(ctx, s.op.ends())
	defer cancel()
	defer context.AfterFunc(s.op.ended(), cancel)()
	err := s.awaitUpstream(ctx)
	if err == nil {
		s.awaitSubscribers(ctx)
	}
	switch {
	case err == nil && s.endPause():
		s.cfg.Log.Info("resumed: clients go on")
		return nil
	case s.op.become(resuming, held):
		return fmt.Errorf("still paused: %w", err)
	}
	return errors.New("the pause has ended by itself: clients have gone on")
}

// awaitUpstream waits until the upstream answers, and has loaded its data.
func (s *Server) awaitUpstream(ctx context.Context) error {
	for {
		err := s.askUpstream(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(backAgain):
		case <-ctx.Done():
			return err
		}
	}
}

// backAgain is how soon an upstream that does not answer is asked again.
const backAgain = 20 * time.Millisecond

// askUpstream returns nil if the upstream answers, and is not loading its data.
func (s *Server) askUpstream(ctx context.Context) error {
	reply, err := s.askControl(ctx, func(done func([]byte, error)) bool {
		return s.control.Do(s.cfg.Upstream.Actor(), resp.AppendCommand(nil, "PING"), done)
	})
	if err == nil && bytes.HasPrefix(reply, []byte("-LOADING")) {
		return errors.New("the upstream is loading its data")
	}
	return err
}

// awaitSubscribers has those who are subscribed be subscribed again, and waits for that. If it takes long, they will be later.
func (s *Server) awaitSubscribers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closingTime)
	defer cancel()
	for ctx.Err() == nil {
		missing, _ := collectAll(ctx, s, func(w *worker) (missing []string) {
			for user, h := range w.hubs {
				h.resume()
				if !h.subscribed() {
					missing = append(missing, user)
				}
			}
			return missing
		})
		if len(missing) == 0 {
			return
		}
		time.Sleep(pauseLook)
	}
}

// pauseRunsOut ends the pause because it has lasted as long as it may.
func (s *Server) pauseRunsOut() {
	op := &s.op
	op.mu.Lock()
	// Whoever has given it more time may have come before this, and after the timer had gone off.
	ended := !time.Now().Before(op.until) && s.endPauseLocked()
	op.mu.Unlock()
	if ended {
		s.cfg.Log.Warn("the pause has ended by itself: clients go on", "pause-timeout", s.current.Load().PauseTimeout.String())
	}
}

// endPause has everybody go on. It reports false if somebody else has ended the pause.
func (s *Server) endPause() bool {
	s.op.mu.Lock()
	defer s.op.mu.Unlock()
	return s.endPauseLocked()
}

// endPauseLocked is endPause for who holds op.mu.
func (s *Server) endPauseLocked() bool {
	op := &s.op
	if op.state == notSuspended {
		return false
	}
	op.state = notSuspended
	op.timer.Stop()
	op.end()
	s.onAll((*worker).release)
	return true
}

// become goes from one state to another. It reports false if it is in neither.
func (op *operation) become(from, to suspension) bool {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.state != from {
		return false
	}
	op.state = to
	return true
}

// ended returns what is done when the pause that there is now has ended; nil: none has begun.
func (op *operation) ended() context.Context {
	op.mu.Lock()
	defer op.mu.Unlock()
	return op.over
}

// ends returns when the pause ends by itself.
func (op *operation) ends() time.Time {
	op.mu.Lock()
	defer op.mu.Unlock()
	return op.until
}

// left returns how long the pause may last; 0: there is none.
func (op *operation) left() time.Duration {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.state == notSuspended {
		return 0
	}
	return time.Until(op.until)
}

// pauseState is the word for the state.
func (op *operation) pauseState() string {
	op.mu.Lock()
	defer op.mu.Unlock()
	return suspensions[op.state]
}

// is reports whether it is in a state.
func (op *operation) is(state suspension) bool {
	op.mu.Lock()
	defer op.mu.Unlock()
	return op.state == state
}

// drain notes that the proxy drains. It reports false if it does already, or may not.
func (op *operation) drain(may bool) bool {
	op.mu.Lock()
	defer op.mu.Unlock()
	if op.draining || !may {
		return false
	}
	op.draining = true
	return true
}

func (op *operation) endDrain() {
	op.mu.Lock()
	defer op.mu.Unlock()
	op.draining = false
}

func (op *operation) isDraining() bool {
	op.mu.Lock()
	defer op.mu.Unlock()
	return op.draining
}

// Reconnect has every upstream connection replaced by a new one: those that clients share when they have answered what is in
// flight, those that are lent when they are given back. No client notices, but that who is subscribed may miss what is
// published in the moment between one connection and the next.
func (s *Server) Reconnect(ctx context.Context) error {
	s.control.Renew()
	s.cfg.Log.Info("upstream connections are replaced as they fall idle")
	return s.visit(ctx, func(w *worker) {
		w.pool.Renew()
		for _, h := range w.hubs {
			h.renew()
		}
	})
}
