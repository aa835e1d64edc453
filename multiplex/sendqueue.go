package multiplex

const (
	segmentSize = 64 << 10
	// ownSegment is the length from which a request gets a segment of its own.
	ownSegment = 32 << 10
	// spareSegments bounds the segments that a pool keeps for later.
	spareSegments = 8
)

// segment is a run of whole requests.
type segment struct {
	b        []byte
	sent     int // how much of b has been written
	answered int // how much of b has been answered
}

// sendQueue holds the requests of a link from the moment they are submitted until they are answered, so that
// those that only read can be sent again if the link breaks. A request lies in one segment as a whole. A segment
// that has been answered is there only if it is the last one, to be used again.
type sendQueue struct {
	segs  []segment
	next  int // the first segment that has bytes to send
	spare *[][]byte
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
		q.addOwned(append([]byte(nil), raw...))
		return
	}
	q.dropSpent()
	q.segs = append(q.segs, segment{b: append(q.buffer(), raw...)})
}

// addOwned appends a request without copying it. The caller must not touch it afterwards.
func (q *sendQueue) addOwned(raw []byte) {
	q.dropSpent()
	q.segs = append(q.segs, segment{b: raw[:len(raw):len(raw)]})
}

// dropSpent gives up a last segment that has been answered and has no room for what comes.
func (q *sendQueue) dropSpent() {
	if len(q.segs) == 1 && q.segs[0].answered == len(q.segs[0].b) {
		q.drop()
	}
}

func (q *sendQueue) buffer() []byte {
	if n := len(*q.spare); n > 0 {
		b := (*q.spare)[n-1]
		*q.spare = (*q.spare)[:n-1]
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
	if s := &q.segs[0]; len(q.segs) == 1 && cap(s.b) == segmentSize {
		s.b, s.sent, s.answered = s.b[:0], 0, 0
		return
	}
	q.drop()
}

// drop gives up the front segment.
func (q *sendQueue) drop() {
	if b := q.segs[0].b; cap(b) == segmentSize && len(*q.spare) < spareSegments {
		*q.spare = append(*q.spare, b[:0])
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
