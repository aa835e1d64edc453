package proxy

import "github.com/redbouncer/redbouncer/multiplex/eventloop"

// outbox holds what a client has not taken yet. A client that keeps up has an empty one, which owns nothing.
type outbox struct {
	pieces [][]byte
	size   int
}

// outboxPiece is the capacity of a piece, in bytes, where what it holds is not larger.
const outboxPiece = 16 << 10

// add appends a copy of b.
func (o *outbox) add(b []byte) {
	o.size += len(b)
	if n := len(o.pieces); n > 0 {
		tail := &o.pieces[n-1]
		k := min(cap(*tail)-len(*tail), len(b))
		*tail = append(*tail, b[:k]...)
		b = b[k:]
	}
	if len(b) > 0 {
		o.pieces = append(o.pieces, append(make([]byte, 0, max(outboxPiece, len(b))), b...))
	}
}

// flush writes as much as the connection takes.
func (o *outbox) flush(c *eventloop.Conn) error {
	for len(o.pieces) > 0 {
		n, err := c.Write(o.pieces[0])
		o.size -= n
		if err != nil {
			return err
		}
		if n < len(o.pieces[0]) {
			o.pieces[0] = o.pieces[0][n:]
			return nil
		}
		o.pieces[0] = nil
		o.pieces = o.pieces[1:]
	}
	o.pieces = nil
	return nil
}
