package admin

import (
	"net"
	"sync"
	"sync/atomic"
)

// boundedListener closes connections beyond maxConns at once: nobody is to use up the files that clients need.
type boundedListener struct {
	net.Listener

	// Atomic.
	open atomic.Int64
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= maxConns {
			return &boundedConn{Conn: nc, left: sync.OnceFunc(func() { l.open.Add(-1) })}, nil
		}
		l.open.Add(-1)
		_ = nc.Close()
	}
}

// boundedConn counts until it is closed.
type boundedConn struct {
	net.Conn
	left func() // may be called several times
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.left()
	return c.Conn.Close()
}
