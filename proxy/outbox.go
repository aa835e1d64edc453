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

// outboxPiece is the capacity of a piece, in bytes, where what it holds is not larger.
const outboxPiece = 16 << 10

// add appends a copy of b.
func (o *outbox) add(b []byte) {
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
	if len(b) > 0 {
		*o.pieces = append(*o.pieces, append(make([]byte, 0, max(outboxPiece, len(b))), b...))
	}
}

// flush writes as much as the connection takes.
func (o *outbox) flush(c *eventloop.Conn) error {
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
		pieces[0] = nil
		*o.pieces = pieces[1:]
	}
	o.pieces, o.over = nil, 0
	return nil
}
