package eventloop_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// What goes in comes out, whole and in order, however the bytes are cut up and whoever is slow.

func TestAnEchoGivesBackWhatItGot(t *testing.T) {
	for _, tt := range []struct {
		name   string
		size   int
		pieces int  // each as large as the others
		late   bool // the client does not read before the echo is stuck
	}{
		{name: "a word", size: 5, pieces: 1},
		{name: "byte by byte", size: 2000, pieces: 2000},
		{name: "a read buffer full and one byte", size: 256<<10 + 1, pieces: 1},
		{name: "more than all buffers hold", size: 6 << 20, pieces: 3, late: true},
		{name: "the same in small pieces", size: 6 << 20, pieces: 3000, late: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, r *rig) {
				p, c := r.pair(nil)
				e := &echo{conn: p.conn}
				r.do(func() { p.conn.SetHandler(e) })
				want := pattern(tt.size)
				if tt.late {
					_ = c.SetReadBuffer(256 << 10)
				}
				group(t).Go(func() { sendPieces(t, c, want, tt.size/tt.pieces) })
				if tt.late {
					r.until("the echo to be stuck", func() bool { return p.conn.Paused() })
				}
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("it gave back %d of %d bytes, %v; the same: %t", len(got), len(want), err, bytes.Equal(got, want))
				}
				r.do(func() {
					if tt.late && e.full == 0 {
						t.Error("the client took everything at once")
					}
					if !p.conn.Closed() {
						t.Error("the echo has not closed")
					}
				})
			})
		})
	}
}

// sendPieces sends b in pieces, and then nothing more.
func sendPieces(t *testing.T, c *client, b []byte, size int) {
	for len(b) > 0 {
		n, err := c.Write(b[:min(size, len(b))])
		if err != nil {
			t.Error(err)
			return
		}
		b = b[n:]
	}
	if err := c.CloseWrite(); err != nil {
		t.Error(err)
	}
}

func TestManyConnectionsDoNotMixTheirBytes(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		r.do(func() { r.prepare = echoes })
		var wg sync.WaitGroup
		for i := range 40 {
			c := r.dial()
			want := bytes.Repeat([]byte{byte(i)}, 10_000+i)
			wg.Go(func() { sendPieces(t, c, want, 1000+i) })
			wg.Go(func() {
				if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
					t.Errorf("connection %d: %d of %d bytes, %v", i, len(got), len(want), err)
				}
			})
		}
		wg.Wait()
	})
}

// onlyAConn hides what is behind a net.Conn, as TLS does.
type onlyAConn struct{ net.Conn }

func TestAConnectionThatIsNoPlainSocketIsServedByAnyLoop(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		ln := listen(t, "tcp", "127.0.0.1:0")
		defer func() { _ = ln.Close() }()
		outside, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = outside.Close() }()
		_ = outside.SetDeadline(time.Now().Add(patience))
		inside, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			r.prepare = echoes
			r.accept(eventloop.Accepted(onlyAConn{inside}))
		})
		c := &client{outside.(*net.TCPConn), t}
		c.send("hello")
		c.expect("hello")
		_ = c.CloseWrite()
		c.expectEnd("")
	})
}
