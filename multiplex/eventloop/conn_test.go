package eventloop_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// What a Handler is promised: no call while reading is paused, none after Close, and the ends told apart: of the
// peer's bytes, of a peer that is not being read, of the connection.

func TestNothingIsDeliveredWhileReadingIsPaused(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		p, c := r.pair(func(p *peer) { p.onData = func([]byte) { p.conn.PauseRead() } })
		_, other := r.pair(echoes)
		want := ""
		for _, word := range []string{"one", "two", "three"} {
			c.send(word)
			want += word
			p.received(want)
			// What comes now has to wait. The loop serves another connection meanwhile.
			c.send(word + ".")
			for range 20 {
				other.send("x")
				other.expect("x")
			}
			p.received(want)
			r.do(func() {
				if !p.conn.Paused() {
					t.Error("it is not paused")
				}
				p.conn.ResumeRead()
			})
			want += word + "."
			p.received(want)
			r.do(p.conn.ResumeRead)
		}
		p.has("Data")
	})
}

func TestAPauseFromOutsideHoldsWhatIsBeingRead(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		p, c := r.pair(nil)
		_, other := r.pair(echoes)
		for range 50 {
			r.do(func() { p.got = nil; p.conn.PauseRead() })
			c.send("word")
			for range 5 {
				other.send("x")
				other.expect("x")
			}
			r.do(func() {
				if len(p.got) > 0 {
					t.Errorf("%q is delivered to one that is paused", p.got)
				}
				p.conn.ResumeRead()
			})
			p.received("word")
		}
	})
}

func TestAPauseInTheMiddleOfAReadHoldsTheRest(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		var buf [4]byte
		p, c := r.pair(func(p *peer) {
			p.conn.ReadInto(buf[:])
			p.onData = func([]byte) { p.conn.PauseRead() }
		})
		c.send("12345678ab")
		_ = c.CloseWrite()
		p.received("1234")
		r.do(p.conn.ResumeRead)
		p.received("12345678")
		r.do(p.conn.ResumeRead)
		p.received("12345678ab")
		r.do(p.conn.ResumeRead)
		r.until("the end", func() bool { return p.notes[len(p.notes)-1] == "EOF" })
	})
}

func TestThePeersEndComesAfterItsBytes(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		p, c := r.pair(func(p *peer) { p.onData = func([]byte) { p.conn.PauseRead() } })
		c.send("first")
		p.received("first")
		c.send("last")
		_ = c.Close()
		if r.polled {
			p.has("Data", "HungUp")
		}
		r.do(p.conn.ResumeRead)
		p.received("firstlast")
		r.do(p.conn.ResumeRead)
		r.until("the end", func() bool { return p.notes[len(p.notes)-1] == "EOF" })
	})
}

func TestAPeerThatClosesItsSideCanStillBeWrittenTo(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		p, c := r.pair(nil)
		c.send("question")
		_ = c.CloseWrite()
		p.has("Data", "EOF")
		r.do(func() {
			if n, err := p.conn.Write([]byte("answer")); n != 6 || err != nil {
				t.Error(n, err)
			}
		})
		c.expect("answer")
		r.do(p.conn.Close)
		c.expectEnd("")
		p.has("Data", "EOF")
	})
}

func TestCloseWriteEndsOurSideOnly(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		p, c := r.pair(func(p *peer) {
			_, _ = p.conn.Write([]byte("that is all"))
			p.conn.CloseWrite()
		})
		c.expectEnd("that is all")
		c.send("but not from me")
		p.received("but not from me")
		_ = c.Close()
		p.has("Data", "EOF")
		_, other := r.pair(echoes)
		for range 10 {
			other.send("x")
			other.expect("x")
		}
		p.has("Data", "EOF") // both sides are closed, in good order: nothing has failed
	})
}

func TestAResetIsAFailure(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		p, c := r.pair(nil)
		c.send("x")
		p.received("x")
		c.reset()
		p.has("Data", "Failed")
		r.do(func() {
			if !p.conn.Closed() {
				t.Error("a connection that failed is not closed")
			}
		})
	})
}

func TestWritingToAPeerThatIsGoneFails(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		p, c := r.pair(nil)
		_ = c.Close()
		p.has("EOF")
		var err error
		r.until("an error", func() bool {
			if !p.conn.Closed() {
				_, err = p.conn.Write([]byte("hello?"))
			}
			return err != nil || p.conn.Closed()
		})
	})
}

func TestNothingIsCalledAfterClose(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		var buf [1]byte
		p, c := r.pair(func(p *peer) {
			p.conn.ReadInto(buf[:]) // there is more to deliver when it closes
			p.onData = func([]byte) { p.conn.Close() }
		})
		c.send("abc")
		_ = c.CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Log(err) // a reset is fine: it has not read all
		}
		p.has("Data")
		r.do(func() {
			if string(p.got) != "a" {
				t.Errorf("it got %q", p.got)
			}
			p.conn.Close()
			p.conn.PauseRead()
			p.conn.ResumeRead()
			p.conn.CloseWrite()
			if n, err := p.conn.Write([]byte("x")); n != 0 || err == nil {
				t.Errorf("writing after Close: %d, %v", n, err)
			}
			if p.conn.LocalAddr() != "" || !p.conn.Closed() {
				t.Error("it is still there")
			}
		})
	})
}

func TestAConnectionMayBeClosedWhileItIsPaused(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		for range 20 {
			p, c := r.pair(nil)
			r.do(p.conn.PauseRead)
			c.send("never read")
			r.do(p.conn.Close)
			if b, err := io.ReadAll(c); len(b) > 0 {
				t.Errorf("%q, %v", b, err)
			}
			p.has()
		}
	})
}

func TestWhatWasWrittenIsDeliveredAfterClose(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		want := strings.Repeat("x", 100<<10)
		_, c := r.pair(func(p *peer) {
			if n, err := p.conn.Write([]byte(want)); n != len(want) || err != nil {
				t.Errorf("it takes %d of %d bytes, %v", n, len(want), err)
			}
			p.conn.Close()
		})
		c.expectEnd(want)
	})
}

func TestWritableIsCalledWheneverThereIsRoomAgain(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		want := pattern(8 << 20) // more than all buffers hold
		left := want
		p, c := r.pair(func(p *peer) {
			p.onWritable = func() {
				n, err := p.conn.Write(left)
				if err != nil {
					t.Error(err)
				}
				if left = left[n:]; len(left) == 0 {
					p.conn.Close()
				}
			}
			p.onWritable()
			if len(left) == 0 {
				t.Error("it takes everything")
			}
		})
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes, %v", len(got), len(want), err)
		}
		r.do(func() {
			for _, note := range p.notes {
				if note != "Writable" {
					t.Errorf("%v", p.notes)
				}
			}
		})
	})
}

func TestReadIntoLandsInTheBufferItself(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		want := pattern(1 << 20)
		value := make([]byte, len(want))
		have := 0
		p, c := r.pair(func(p *peer) {
			p.conn.ReadInto(value)
			p.onData = func(b []byte) {
				if have < len(value) && &b[0] != &value[have] {
					t.Error("it was read somewhere else")
				}
				have += len(b)
				p.conn.ReadInto(value[min(have, len(value)):]) // without room at the end: that ends it
			}
		})
		group(t).Go(func() { sendPieces(t, c, append(want, "more"...), 300_000) })
		p.received(string(want) + "more")
		if !bytes.Equal(value, want) {
			t.Error("the buffer holds something else")
		}
	})
}

func TestASetHandlerGetsWhatComesNext(t *testing.T) {
	bothWays(t, func(_ *testing.T, r *rig) {
		second := &peer{r: r}
		first, c := r.pair(func(p *peer) {
			second.conn = p.conn
			p.onData = func([]byte) { p.conn.SetHandler(second) }
		})
		c.send("one")
		first.received("one")
		c.send("two")
		second.received("two")
		_ = c.Close()
		second.has("Data", "EOF")
		first.has("Data")
	})
}

func TestAHandlerMayCloseAnother(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		for range 20 {
			a, ca := r.pair(nil)
			b, cb := r.pair(nil)
			r.do(func() {
				a.onData = func([]byte) { b.conn.Close() }
				b.onData = func([]byte) { a.conn.Close() }
				_, _ = ca.Write([]byte("x"))
				_, _ = cb.Write([]byte("x"))
			})
			r.until("one to close the other", func() bool { return a.conn.Closed() != b.conn.Closed() })
			r.do(func() {
				if len(a.got)+len(b.got) != 1 {
					t.Errorf("%q and %q", a.got, b.got)
				}
			})
		}
	})
}

var _ eventloop.Handler = (*peer)(nil)
