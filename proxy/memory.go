package proxy

import (
	"cmp"
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// maxmemory-clients bounds what all clients together have in buffers: what they have sent and has not been forwarded, and
// what they have not read. Above it, those with the most are closed, as by Redis.

// weigh brings the memory of all clients up to date with the session's, and has the largest closed if it is too much. It
// may be called at any time, and is whenever the session's buffers may have grown or shrunk.
func (s *session) weigh() {
	now := cap(s.in) + s.out.size
	if s.subs != nil {
		now += s.subs.held.size
	}
	if s.state == gone {
		now = 0
	}
	if now == s.weight {
		return
	}
	s.w.srv.clientMemory.Add(int64(now - s.weight))
	s.weight = now
	s.w.srv.easeIfNeeded()
}

// easeIfNeeded has the largest closed if clients have too much in buffers. It may be called from any goroutine.
func (s *Server) easeIfNeeded() {
	if s.tooMuch() > 0 && s.easing.CompareAndSwap(false, true) {
		s.workers[0].loop.Post(s.ease)
	}
}

// tooMuch is by how much the clients' memory exceeds what it may be.
func (s *Server) tooMuch() int64 {
	most := s.maxMemory.Load()
	if most == 0 {
		return 0
	}
	return s.clientMemory.Load() - most
}

// weight is what a session has in buffers.
type weight struct {
	id    int64
	bytes int
}

// ease closes the clients with the largest buffers until the others have no more than they may. It runs on the first
// worker's loop, once at a time.
func (s *Server) ease() {
	w := s.workers[0]
	gather(w, func(x *session, all []weight) []weight {
		if x.weight == 0 || x.noEvict {
			return all
		}
		return append(all, weight{x.id, x.weight})
	}, func(a, b weight) int { return cmp.Compare(b.bytes, a.bytes) }, func(all []weight) {
		tooMuch := s.tooMuch()
		chosen := map[int64]bool{}
		for _, x := range all {
			if tooMuch <= 0 {
				break
			}
			tooMuch -= int64(x.bytes)
			chosen[x.id] = true
		}
		gather(w, func(x *session, closed []int64) []int64 {
			if !chosen[x.id] {
				return closed
			}
			x.w.log.Warn("client closed: maxmemory-clients is exceeded, and it has the largest buffers", "client", x.remote,
				"source", x.ticket.Identities().Source(), "bytes", x.weight)
			s.counters.evicted.Add(1)
			x.close()
			return append(closed, x.id)
		}, cmp.Compare[int64], func(closed []int64) {
			s.easing.Store(false)
			if len(closed) > 0 { // otherwise all that have much are not to be evicted
				s.easeIfNeeded() // others may have grown meanwhile
			}
		})
	})
}

// evict closes clients that are idle so that others may come. It runs on the first worker's loop.
func (s *Server) evict(e *limits.Eviction) {
	w := s.workers[0]
	gather(w, func(x *session, all []limits.Candidate) []limits.Candidate {
		return append(all, limits.Candidate{Ticket: x.ticket, Idle: x.w.clock() - x.active, Evictable: x.evictable()})
	}, func(a, b limits.Candidate) int { return cmp.Compare(b.Idle, a.Idle) }, func(all []limits.Candidate) {
		var chosen []*limits.Ticket
		for _, c := range e.Choose(all) {
			chosen = append(chosen, c.Ticket)
		}
		gather(w, func(x *session, closed []int64) []int64 {
			if !slices.Contains(chosen, x.ticket) || !x.evictable() {
				return closed
			}
			x.w.log.Info("client closed: idle, to make room for another", "client", x.remote,
				"source", x.ticket.Identities().Source(), "idle", (x.w.clock() - x.active).String())
			x.close()
			return append(closed, x.id)
		}, cmp.Compare[int64], func(closed []int64) {
			s.counters.evicted.Add(uint64(len(closed)))
			e.Done(len(closed), time.Now())
		})
	})
}
