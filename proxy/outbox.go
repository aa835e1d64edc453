package proxy

import (
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// outbox holds what a client has not taken yet. A client that keeps up has an empty one, which owns nothing.
type outbox struct {
	pieces *[][]byte // nil: none
	size   int
	over   int64 // since when size has been above the soft limit, in nanoseconds; 0: it is not
}

// count is how many pieces there are.
func (o *outbox) count() int {
	if o.pieces == nil {
		return 0
	}
	return len(*o.pieces)
}

// exceeds reports whether what is kept is above a limit: above the hard one, or for too long above the soft one. Size is
// how much is kept in all.
func (o *outbox) exceeds(l OutputLimit, size int64, now time.Time) bool {
	switch {
	case l.Hard > 0 && size > l.Hard:
		return true
	case l.Soft == 0 || size <= l.Soft:
		o.over = 0
	case o.over == 0:
		o.over = now.UnixNano()
	default:
		return now.UnixNano()-o.over >= int64(l.SoftTime)
	}
	return false
}

// The capacity of a first piece and of those that follow, in bytes, where what they hold is not larger. Most who have a
// piece at all are subscribers who are sent one message in a turn.
const (
	firstPiece  = 1 << 10
	outboxPiece = 16 << 10
)

// pieces are empty first pieces that a loop keeps for later: with a message for each of a thousand subscribers, two thirds of the
// CPU time would be spent on new ones.
type pieces [][]byte

// sparePieces bounds them.
const sparePieces = 1024

func (s *pieces) take() []byte {
	n := len(*s)
	if n == 0 {
		return make([]byte, 0, firstPiece)
	}
	b := (*s)[n-1]
	*s = (*s)[:n-1]
	return b
}

func (s *pieces) put(b []byte) {
	if cap(b) == firstPiece && len(*s) < sparePieces {
		*s = append(*s, b[:0])
	}
}

// add appends a copy of b.
func (o *outbox) add(b []byte, spare *pieces) {
	o.size += len(b)
	if o.pieces == nil {
		o.pieces = &[][]byte{}
	}
	if n := len(*o.pieces); n > 0 {
		tail := &(*o.pieces)[n-1]
		k := min(cap(*tail)-len(*tail), len(b))
		*tail = append(*tail, b[:k]...)
		b = b[k:]
	}
	switch {
	case len(b) == 0:
	case len(*o.pieces) == 0 && len(b) <= firstPiece:
		*o.pieces = append(*o.pieces, append(spare.take(), b...))
	default:
		*o.pieces = append(*o.pieces, append(make([]byte, 0, max(outboxPiece, len(b))), b...))
	}
}

// flush writes as much as the connection takes.
func (o *outbox) flush(c *eventloop.Conn, spare *pieces) error {
	for o.count() > 0 {
		pieces := *o.pieces
		n, err := c.Write(pieces[0])
		o.size -= n
		if err != nil {
			return err
		}
		if n < len(pieces[0]) {
			pieces[0] = pieces[0][n:]
			return nil
		}
		spare.put(pieces[0])
		pieces[0] = nil
		if len(pieces) == 1 {
			*o.pieces = pieces[:0] // to be used again
			break
		}
		*o.pieces = pieces[1:]
	}
	o.over = 0
	return nil
}
