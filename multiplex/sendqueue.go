package multiplex

const (
	segmentSize = 64 << 10
	// ownSegment is the length from which a request gets a segment of its own.
	ownSegment = 32 << 10
	// spareSegments bounds the segments that a pool keeps for later.
	spareSegments = 8
	// largeBuffer is the size from which a buffer is kept for the next large value.
	largeBuffer = 1 << 20
)

// spares are buffers that a pool keeps for later.
type spares struct {
	segments [][]byte
	large    []byte // one, for a while: values of many megabytes hardly ever come alone
	used     bool   // large was put here, or taken, since the last Tick
}

// takeLarge returns an empty buffer for n bytes; or for hoped bytes, which are more, if there is one, and it is not much too
// large.
func (s *spares) takeLarge(n, hoped int) []byte {
	b := s.large
	if cap(b) < hoped || cap(b)/4 > hoped {
		return make([]byte, 0, n)
	}
	s.large, s.used = nil, true
	return b
}

// putLarge keeps a buffer that nobody looks at any more.
func (s *spares) putLarge(b []byte) {
	if cap(b) >= max(largeBuffer, cap(s.large)) {
		s.large, s.used = b[:0], true
	}
}

// tick gives up a large buffer that has not been used since the last time.
func (s *spares) tick() {
	if !s.used {
		s.large = nil
	}
	s.used = false
}

// segment is a run of whole requests.
type segment struct {
	b        []byte
	whole    []byte // the buffer that b is the front of, if it has been given away with it; empty
	sent     int    // how much of b has been written
	answered int    // how much of b has been answered
}

// reusable reports whether b is a segment's own memory, for other requests to be copied into. Of a request that was given
// away it is not, whatever its size: that is part of whole, which is kept for something else.
func (s *segment) reusable() bool { return s.whole == nil }

// sendQueue holds the requests of a link from the moment they are submitted until they are answered, so that
// those that only read can be sent again if the link breaks. A request lies in one segment as a whole. A segment
// that has been answered is there only if it is the last one, to be used again.
type sendQueue struct {
	segs  []segment
	next  int // the first segment that has bytes to send
	spare *spares
}

// add appends a copy of a request.
func (q *sendQueue) add(raw []byte) {
	if n := len(q.segs); n > 0 {
		tail := &q.segs[n-1]
		if cap(tail.b)-len(tail.b) >= len(raw) {
			tail.b = append(tail.b, raw...)
			return
		}
	}
	if len(raw) >= ownSegment {
		own := append([]byte(nil), raw...)
		q.addOwned(own, len(own))
		return
	}
	q.dropSpent()
	q.segs = append(q.segs, segment{b: append(q.buffer(), raw...)})
}

// addOwned appends a request without copying it: the first n bytes of buf. The buffer is used for something else once it has
// been answered.
func (q *sendQueue) addOwned(buf []byte, n int) {
	q.dropSpent()
	q.segs = append(q.segs, segment{b: buf[:n:n], whole: buf[:0]})
}

// dropSpent gives up a last segment that has been answered and has no room for what comes.
func (q *sendQueue) dropSpent() {
	if len(q.segs) == 1 && q.segs[0].answered == len(q.segs[0].b) {
		q.drop()
	}
}

func (q *sendQueue) buffer() []byte {
	if n := len(q.spare.segments); n > 0 {
		b := q.spare.segments[n-1]
		q.spare.segments = q.spare.segments[:n-1]
		return b
	}
	return make([]byte, 0, segmentSize)
}

// flush writes what has not been written. It returns when all is, or no more can be without waiting.
func (q *sendQueue) flush(write func([]byte) (int, error)) error {
	for q.next < len(q.segs) {
		s := &q.segs[q.next]
		n, err := write(s.b[s.sent:])
		s.sent += n
		if err != nil {
			return err
		}
		if s.sent < len(s.b) {
			return nil
		}
		if q.next == len(q.segs)-1 {
			return nil // it may grow
		}
		q.next++
	}
	return nil
}

// pending reports whether there is something to write.
func (q *sendQueue) pending() bool {
	return q.next < len(q.segs) && (q.next < len(q.segs)-1 || q.segs[q.next].sent < len(q.segs[q.next].b))
}

// answer says that the oldest request, of n bytes, has been answered.
func (q *sendQueue) answer(n int) {
	s := &q.segs[0]
	s.answered += n
	if s.answered > len(s.b) {
		panic("bug: a request lies across two segments")
	}
	if s.answered == len(s.b) {
		q.recycle()
	}
}

// recycle empties the front segment, which has been answered, or gives it up.
func (q *sendQueue) recycle() {
	if s := &q.segs[0]; len(q.segs) == 1 && s.reusable() {
		s.b, s.sent, s.answered = s.b[:0], 0, 0
		return
	}
	q.drop()
}

// drop gives up the front segment.
func (q *sendQueue) drop() {
	switch s := &q.segs[0]; {
	case !s.reusable():
		q.spare.putLarge(s.whole)
	case len(q.spare.segments) < spareSegments:
		q.spare.segments = append(q.spare.segments, s.b[:0])
	}
	n := copy(q.segs, q.segs[1:])
	q.segs[n] = segment{}
	q.segs = q.segs[:n]
	q.next = max(q.next-1, 0)
}

// take removes the oldest request, of n bytes, and returns it. It is for a queue that is not used any more.
func (q *sendQueue) take(n int) []byte {
	s := &q.segs[0]
	b := s.b[s.answered : s.answered+n]
	s.answered += n
	if s.answered == len(s.b) {
		q.segs = q.segs[1:]
	}
	return b
}

// front returns the oldest request, of n bytes. It is not to be changed, and is there until it is answered.
func (q *sendQueue) front(n int) []byte {
	s := &q.segs[0]
	return s.b[s.answered : s.answered+n]
}

// answerSent takes what has been written as answered: nobody counts replies.
func (q *sendQueue) answerSent() {
	for len(q.segs) > 0 {
		s := &q.segs[0]
		s.answered = s.sent
		if s.sent < len(s.b) {
			return
		}
		last := len(q.segs) == 1
		q.recycle()
		if last {
			return
		}
	}
}

// backlog returns how many bytes have not been written.
func (q *sendQueue) backlog() int {
	n := 0
	for i := q.next; i < len(q.segs); i++ {
		n += len(q.segs[i].b) - q.segs[i].sent
	}
	return n
}

// isSent reports whether the oldest request, of n bytes, has been written as a whole.
func (q *sendQueue) isSent(n int) bool { return q.segs[0].sent-q.segs[0].answered >= n }
