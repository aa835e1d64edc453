package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// What the page shows comes as server-sent events: what is looked up is looked up once for all who watch, and not at all if nobody
// does.

const (
	// maxStreams bounds those who watch.
	maxStreams = 16
	// streamEvery is how often there is something new; and every so many times, the sources too.
	streamEvery   = time.Second
	sourcesEvery  = 2
	recheckEvery  = 5 * time.Second  // who watches may do so no more
	streamTimeout = 10 * time.Second // how long somebody may leave an event unread
)

// stream tells those who watch how things stand.
type stream struct {
	// Static after construction.
	api  *api
	over chan struct{} // closed when another program has the listener

	// mu guards the following fields.
	mu       sync.Mutex
	watchers map[chan []byte]struct{}
}

// run ends with the context.
func (s *stream) run(ctx context.Context) {
	tick := time.NewTicker(streamEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.api.access.guesses.Sweep(time.Now())
		if s.watched() {
			s.tell(s.events(ctx, n%sourcesEvery == 0))
		}
	}
}

func (s *stream) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.watchers) > 0
}

// tell hands events to those who watch. Who has not read the last ones yet does without these: the next will do.
func (s *stream) tell(events []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		select {
		case w <- events:
		default:
		}
	}
}

// events returns what is new; if it cannot be found out, why.
func (s *stream) events(ctx context.Context, withSources bool) []byte {
	who := Who{rights: statsRights} // everybody who watches may look
	now, err := s.api.now(ctx, who)
	if err != nil {
		return event("trouble", object{{"error", oneLine(err.Error())}})
	}
	var out []byte
	if withSources {
		if sources, err := s.api.sources(ctx, who); err == nil {
			out = event("sources", sources)
		}
	}
	return append(append(out, event("now", now)...), event("second", s.api.history().last())...)
}

// event is one event of a stream.
func event(name string, data any) []byte {
	b, err := json.Marshal(data)
	if err != nil {
		panic("bug: no JSON for an event: " + err.Error())
	}
	return bytes.Join([][]byte{[]byte("event: " + name + "\ndata: "), b, []byte("\n\n")}, nil)
}

// watch adds somebody who watches; nil: there are enough.
func (s *stream) watch() chan []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) >= maxStreams {
		return nil
	}
	w := make(chan []byte, 1)
	s.watchers[w] = struct{}{}
	return w
}

func (s *stream) leave(w chan []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
}

// serve answers GET /api/events, until who watches has gone, may do so no more, or is to ask another program, or the server stops.
func (s *stream) serve(w http.ResponseWriter, r *http.Request, who Who) {
	told := s.watch()
	if told == nil {
		w.Header().Set("Retry-After", "10")
		s.api.fail(w, http.StatusServiceUnavailable, "too many watch already: close a page")
		return
	}
	defer s.leave(told)
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	send := func(b []byte) bool {
		_ = control.SetWriteDeadline(time.Now().Add(streamTimeout))
		_, err := w.Write(b)
		return err == nil && control.Flush() == nil
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // a reverse proxy is not to collect it
	first := append([]byte("retry: 2000\n\n"), event("you", you(who))...)
	first = append(first, event("history", s.api.history())...)
	if !send(append(first, s.events(r.Context(), true)...)) {
		return
	}
	recheck := time.NewTicker(recheckEvery)
	defer recheck.Stop()
	for {
		select {
		case events := <-told:
			if !send(events) {
				return
			}
		case <-recheck.C:
			if now, denied := s.api.access.who(r); denied != nil || now.rights != who.rights {
				return // it asks again, and is told why not
			}
		case <-s.over:
			return // it asks again, and is answered by the other
		case <-s.api.ctx.Done():
			return
		case <-r.Context().Done():
			return
		}
	}
}
