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
	if r := s.takenBack(); r != nil {
		now += cap(r.raw)
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

// evict closes clients that are idle so that others may come. All clients are looked at, which takes a while if there are
// many, so that it rests after each time. It runs on the first worker's loop.
func (s *Server) evict() {
	w := s.workers[0]
	began := time.Now()
	if s.evicting || began.Before(s.evictNext) {
		return
	}
	evictions := s.gate.Evictions()
	if len(evictions) == 0 {
		return
	}
	s.evicting = true
	gather(w, func(x *session, all []limits.Candidate) []limits.Candidate {
		return append(all, limits.Candidate{Ticket: x.ticket, Idle: x.w.clock() - x.active, Evictable: x.evictable()})
	}, func(a, b limits.Candidate) int { return cmp.Compare(b.Idle, a.Idle) }, func(all []limits.Candidate) {
		chosen := map[*limits.Ticket]*limits.Eviction{}
		for _, e := range evictions {
			for _, c := range e.Choose(all) {
				chosen[c.Ticket] = e
			}
			all = slices.DeleteFunc(all, func(c limits.Candidate) bool { return chosen[c.Ticket] != nil })
		}
		s.closeIdlest(chosen, func(closed map[*limits.Eviction]int) {
			for _, e := range evictions {
				e.Done(closed[e])
			}
			now := time.Now()
			s.evicting, s.evictNext = false, now.Add(max(evictRest, evictShare*now.Sub(began)))
		})
	})
}

const (
	// evictRest is the least time from one look for idle clients to the next, and evictShare how many times as long as it
	// took it rests.
	evictRest  = 5 * time.Millisecond
	evictShare = 4
)

// closeIdlest closes those of the chosen that are still idle. Then gets how many, by what they were chosen for.
func (s *Server) closeIdlest(chosen map[*limits.Ticket]*limits.Eviction, then func(map[*limits.Eviction]int)) {
	type closed struct {
		id int64
		by *limits.Eviction
	}
	gather(s.workers[0], func(x *session, all []closed) []closed {
		e := chosen[x.ticket]
		if e == nil || !x.evictable() {
			return all
		}
		x.w.log.Info("client closed: idle, to make room for another", "client", x.remote,
			"source", x.ticket.Identities().Source(), "idle", (x.w.clock() - x.active).String())
		x.close()
		return append(all, closed{x.id, e})
	}, func(a, b closed) int { return cmp.Compare(a.id, b.id) }, func(all []closed) {
		s.counters.evicted.Add(uint64(len(all)))
		counts := map[*limits.Eviction]int{}
		for _, c := range all {
			counts[c.by]++
		}
		then(counts)
	})
}
