package multiplex

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// What a link sends again must be what was submitted, to the byte: a value that is sent from its middle is a
// command. So whatever is added, written in part, answered or taken back, in whatever order, exactly the bytes come
// out that went in.

// sizes are of requests, on both sides of every size that is treated in its own way.
var sizes = []int{
	1, 20, 100, 1000, ownSegment - 1, ownSegment, ownSegment + 1, segmentSize - 1, segmentSize, segmentSize + 1,
	3 * segmentSize,
}

// queueModel is what a sendQueue should hold, kept in the plainest way.
type queueModel struct {
	q        sendQueue
	rnd      *rand.Rand
	requests [][]byte // that have not been answered
	answered int      // bytes
	sent     int      // bytes
	stream   []byte   // all that has been added
	wire     []byte   // what has been written since the last check
	serial   byte
}

func newQueueModel(seed uint64) *queueModel {
	return &queueModel{q: sendQueue{spare: &spares{}}, rnd: rand.New(rand.NewPCG(seed, 0))}
}

// request returns a request that no other looks like, of some size.
func (m *queueModel) request() []byte {
	n := sizes[m.rnd.IntN(len(sizes))]
	var b []byte
	switch m.rnd.IntN(4) {
	case 0:
		b = m.q.spare.takeLarge(largeBuffer, largeBuffer)[:n] // the front of a buffer that is kept for the next
	case 1:
		b = make([]byte, n, n+m.rnd.IntN(100))
	default:
		b = make([]byte, 1+m.rnd.IntN(200))
	}
	for i := range b {
		m.serial++
		b[i] = m.serial
	}
	return b
}

func (m *queueModel) add() {
	raw := m.request()
	m.requests = append(m.requests, bytes.Clone(raw))
	m.stream = append(m.stream, raw...)
	if m.rnd.IntN(2) == 0 {
		m.q.addOwned(raw, len(raw))
		return
	}
	m.q.add(raw)
	clear(raw) // the caller's again
}

// write takes a part of b, as a socket does.
func (m *queueModel) write(b []byte) (int, error) {
	n := len(b)
	if m.rnd.IntN(3) == 0 {
		n = m.rnd.IntN(n + 1)
	}
	m.wire = append(m.wire, b[:n]...)
	m.sent += n
	return n, nil
}

// check compares the queue with the model.
func (m *queueModel) check(t *testing.T) {
	t.Helper()
	if !bytes.Equal(m.wire, m.stream[m.sent-len(m.wire):m.sent]) {
		t.Fatal("it has written something else than it was given")
	}
	m.wire = m.wire[:0]
	left := len(m.stream) - m.sent
	if got := m.q.backlog(); got != left {
		t.Fatalf("its backlog is %d, want %d", got, left)
	}
	if got := m.q.pending(); got != (left > 0) {
		t.Fatalf("pending is %t with %d bytes left", got, left)
	}
	if len(m.requests) > 0 {
		size := len(m.requests[0])
		if got, want := m.q.isSent(size), m.answered+size <= m.sent; got != want {
			t.Fatalf("the oldest request is sent: %t, want %t", got, want)
		}
	}
	if n := len(m.q.spare.segments); n > spareSegments {
		t.Fatalf("%d segments are kept for later", n)
	}
	m.checkMemory(t)
}

// checkMemory sees to it that no memory has two uses: one client's bytes would reach another.
func (m *queueModel) checkMemory(t *testing.T) {
	t.Helper()
	used := map[*byte]string{}
	use := func(b []byte, what string) {
		if cap(b) == 0 {
			return
		}
		at := &b[:1][0]
		if other, ok := used[at]; ok {
			t.Fatalf("the same memory is %s and %s", other, what)
		}
		used[at] = what
	}
	for _, s := range m.q.segs {
		use(s.b[:0], "in use")
	}
	for _, b := range m.q.spare.segments {
		use(b, "a spare segment")
	}
	use(m.q.spare.large, "the large buffer that is kept")
}

// answer answers the oldest request, once it has been sent.
func (m *queueModel) answer() {
	if len(m.requests) == 0 || m.answered+len(m.requests[0]) > m.sent {
		return
	}
	m.q.answer(len(m.requests[0]))
	m.answered += len(m.requests[0])
	m.requests = m.requests[1:]
}

// takeAll takes back what has not been answered.
func (m *queueModel) takeAll(t *testing.T) {
	t.Helper()
	for i, want := range m.requests {
		if got := m.q.take(len(want)); !bytes.Equal(got, want) {
			t.Fatalf("request %d of those left comes back changed: %.20x, want %.20x", i, got, want)
		}
	}
}

func TestRequestsComeBackFromASendQueueAsTheyWentIn(t *testing.T) {
	for seed := range uint64(100) {
		m := newQueueModel(seed)
		for range m.rnd.IntN(80) {
			switch m.rnd.IntN(5) {
			case 0, 1:
				m.add()
			case 2:
				if err := m.q.flush(m.write); err != nil {
					t.Fatal(err)
				}
			default:
				m.answer()
			}
			m.check(t)
		}
		m.takeAll(t)
	}
}

func TestALargeRequestBehindAnAnsweredSmallOneIsCountedAsItself(t *testing.T) {
	q := sendQueue{spare: &spares{}}
	all := func(b []byte) (int, error) { return len(b), nil }
	small, large := []byte("GET"), bytes.Repeat([]byte{'x'}, 3*segmentSize)
	for range 3 {
		q.add(small)
		_ = q.flush(all)
		q.answer(len(small))
		q.addOwned(bytes.Clone(large), len(large))
		_ = q.flush(all)
		q.answer(len(large))
	}
	q.add(small)
	if got := q.take(len(small)); !bytes.Equal(got, small) {
		t.Errorf("%.20q is sent again, want %q", got, small)
	}
	if len(q.segs) > 1 {
		t.Errorf("%d segments are held for one request", len(q.segs))
	}
}

func TestASendQueueThatNobodyAnswersKeepsOnlyWhatIsNotSent(t *testing.T) {
	for seed := range uint64(10) {
		m := newQueueModel(seed)
		for range 100 {
			if m.rnd.IntN(3) > 0 {
				m.add()
			}
			if err := m.q.flush(m.write); err != nil {
				t.Fatal(err)
			}
			m.q.answerSent()
			m.requests = nil
			m.check(t)
			held := 0
			for _, s := range m.q.segs {
				held += cap(s.b)
			}
			left := len(m.stream) - m.sent
			if most := 2*left + 4*segmentSize; held > most { // a segment is given up as a whole
				t.Fatalf("it holds %d bytes, and has %d to send", held, left)
			}
		}
	}
}

func TestASendQueueGoesOnWhereAWriteFailed(t *testing.T) {
	q := sendQueue{spare: &spares{}}
	q.add([]byte("one"))
	q.addOwned([]byte("two"), 3)
	broken := errors.New("broken")
	if err := q.flush(func([]byte) (int, error) { return 2, broken }); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	var wire []byte
	_ = q.flush(func(b []byte) (int, error) { wire = append(wire, b...); return len(b), nil })
	if string(wire) != "etwo" {
		t.Errorf("%q", wire)
	}
}

func TestSubmittingAndAnsweringDoesNotAllocate(t *testing.T) {
	q := sendQueue{spare: &spares{}}
	var f fifo
	raw := []byte("*2\r\n$3\r\nGET\r\n$1\r\nk\r\n")
	all := func(b []byte) (int, error) { return len(b), nil }
	if n := testing.AllocsPerRun(1000, func() {
		for range 100 {
			q.add(raw)
			f.push(entry{size: uint32(len(raw))})
		}
		_ = q.flush(all)
		for range 100 {
			q.answer(int(f.front().size))
			f.pop()
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func TestAFifoGivesBackWhatItGotInOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 1))
	var f fifo
	var want []uint32
	next := uint32(0)
	for round := range 200 {
		for range rnd.IntN(3000) {
			next++
			f.push(entry{size: next})
			want = append(want, next)
		}
		for i, k := 0, rnd.IntN(3000); i < k && len(want) > 0; i++ {
			if got := f.front().size; got != want[0] {
				t.Fatalf("round %d: %d is in front, want %d", round, got, want[0])
			}
			if got := f.pop().size; got != want[0] {
				t.Fatalf("round %d: %d, want %d", round, got, want[0])
			}
			want = want[1:]
		}
		if f.len() != len(want) {
			t.Fatalf("round %d: %d entries, want %d", round, f.len(), len(want))
		}
		for i := 0; i < len(want); i += 1 + rnd.IntN(500) {
			if f.at(i).size != want[i] {
				t.Fatalf("round %d: at %d it has %d, want %d", round, i, f.at(i).size, want[i])
			}
		}
	}
	if room := cap(f.q); room > 64<<10 {
		t.Errorf("%d entries at most take room for %d", 3000, room)
	}
}

func TestALargeBufferIsUsedAgainOnceItsRequestHasBeenAnswered(t *testing.T) {
	q := sendQueue{spare: &spares{}}
	buf := q.spare.takeLarge(largeBuffer, 4*largeBuffer)[:largeBuffer]
	rest := copy(buf[largeBuffer-4:], "rest")
	q.addOwned(buf, largeBuffer-rest)
	if b := q.spare.takeLarge(largeBuffer, largeBuffer); &b[:1][0] == &buf[0] {
		t.Error("it is given away while its request has not been answered")
	}
	if err := q.flush(func(b []byte) (int, error) { return len(b), nil }); err != nil {
		t.Fatal(err)
	}
	q.answer(largeBuffer - rest)
	if b := q.spare.takeLarge(largeBuffer, 2*largeBuffer); &b[:1][0] == &buf[0] {
		t.Error("it is given for more than it has room for")
	}
	if b := q.spare.takeLarge(10, 100); cap(b) > 100 {
		t.Error("it is given for much less than it has room for")
	}
	if b := q.spare.takeLarge(10, largeBuffer); &b[:1][0] != &buf[0] || len(b) != 0 {
		t.Error("it is not used again")
	}
	q.spare.putLarge(buf)
	q.spare.tick()
	if q.spare.tick(); q.spare.large != nil {
		t.Error("it is kept though nobody needs it")
	}
}
