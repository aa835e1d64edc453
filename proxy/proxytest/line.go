package proxytest

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"
)

// Line is a bad line to a server: it can be slow, hand bytes on in pieces, and break in the middle of something.
type Line struct {
	// Static after construction.
	t    testing.TB
	to   string
	ln   net.Listener
	ends sync.WaitGroup

	// mu guards the following fields.
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	delay  time.Duration
	pieces bool
	closed bool
	cut    int // bytes until everything is cut; less than 0: it is not
}

// NewLine returns a line to a server, which ends when the test does.
func NewLine(t testing.TB, to string) *Line {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{t: t, to: to, ln: ln, conns: map[net.Conn]struct{}{}, cut: -1}
	l.ends.Go(l.accept)
	t.Cleanup(func() {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		_ = ln.Close()
		l.Cut()
		l.ends.Wait()
	})
	return l
}

// Addr is where the line begins.
func (l *Line) Addr() string { return l.ln.Addr().String() }

// Worsen has everything take so much longer, and be handed on in small pieces or not. The zero values are a good line.
func (l *Line) Worsen(delay time.Duration, pieces bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.delay, l.pieces = delay, pieces
}

// CutAfter breaks all connections when so many bytes more have been handed on, wherever in a reply that is.
func (l *Line) CutAfter(bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = bytes
}

// Cut breaks all connections.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = -1
	for c := range l.conns {
		_ = c.Close()
	}
}

// accept ends when the listener is closed.
func (l *Line) accept() {
	for {
		near, err := l.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		far, err := net.Dial("tcp", l.to)
		if err != nil || !l.hold(near, far) {
			_ = near.Close()
			if err == nil {
				_ = far.Close()
			}
			continue
		}
		l.ends.Go(func() { l.carry(near, far) })
		l.ends.Go(func() { l.carry(far, near) })
	}
}

// hold notes a connection, to be cut. It reports false when there are to be no more.
func (l *Line) hold(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

// carry hands on what comes until either end is closed.
func (l *Line) carry(from, to net.Conn) {
	defer func() {
		_, _ = from.Close(), to.Close()
		l.mu.Lock()
		delete(l.conns, from)
		l.mu.Unlock()
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		for sent := 0; sent < n; {
			m, delay := l.next(n - sent)
			if m == 0 {
				l.Cut()
				return
			}
			time.Sleep(delay)
			if _, err := to.Write(b[sent : sent+m]); err != nil {
				return
			}
			sent += m
		}
		if err != nil {
			return
		}
	}
}

// next returns how many of n bytes are handed on next, and after what time. Zero is the place where everything is cut.
func (l *Line) next(n int) (m int, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m = n
	if l.pieces {
		m = min(n, 1+n/7)
	}
	if l.cut >= 0 {
		m = min(m, l.cut)
		l.cut -= m
	}
	return m, l.delay
}
