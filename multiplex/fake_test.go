package multiplex_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// helloReply is what a Redis of these tests says of itself.
const helloReply = "*4\r\n$6\r\nserver\r\n$5\r\nredis\r\n$2\r\nid\r\n:7\r\n"

// fake is a Redis that accepts connections and leaves them to the test.
type fake struct {
	t    testing.TB
	ln   net.Listener
	addr string

	// mu guards the following fields.
	mu    sync.Mutex
	conns []*fakeConn
}

func newFake(t testing.TB) *fake {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, ln: ln, addr: ln.Addr().String()}
	var accepting sync.WaitGroup
	accepting.Go(f.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		accepting.Wait()
		f.hangUp()
	})
	return f
}

// hangUp closes all connections.
func (f *fake) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

// accept ends when the listener is closed.
func (f *fake) accept() {
	for {
		nc, err := f.ln.Accept()
		if err != nil {
			return
		}
		c := &fakeConn{TCPConn: nc.(*net.TCPConn), r: bufio.NewReader(nc)}
		_ = nc.SetDeadline(time.Now().Add(patience))
		f.mu.Lock()
		f.conns = append(f.conns, c)
		f.mu.Unlock()
	}
}

// accepted returns how many connections there have been.
func (f *fake) accepted() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.conns)
}

// conn returns the n-th connection, from 1, once it has been accepted.
func (f *fake) conn(n int) (*fakeConn, error) {
	for deadline := time.Now().Add(patience); f.accepted() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("there were only %d connections", f.accepted())
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[n-1], nil
}

// fakeConn is a connection as Redis sees it.
type fakeConn struct {
	*net.TCPConn
	r *bufio.Reader
}

// command reads one command, which has to be an array of bulk strings.
func (c *fakeConn) command() ([]string, error) {
	n, err := c.number('*')
	if err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		size, err := c.number('$')
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return nil, err
		}
		words[i] = string(b[:size])
	}
	return words, nil
}

func (c *fakeConn) number(kind byte) (int, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("got  %q %w", line, err)
	}
	if line[0] != kind {
		return 0, fmt.Errorf("got  %q", line)
	}
	return strconv.Atoi(strings.TrimSuffix(line[1:], "\r\n"))
}

// expectEnd reads the end.
func (c *fakeConn) expectEnd() error {
	if b, err := io.ReadAll(c.r); err != nil || len(b) > 0 {
		return fmt.Errorf("got  %q %w", b, err)
	}
	return nil
}
