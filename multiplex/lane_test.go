package multiplex_test

import (
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A lane carries the commands of many, and hands each reply to the one whose it is, whatever its size and however it
// comes.

func TestRepliesGoToWhoseTheyAre(t *testing.T) {
	converse(t, settings{}, `
		a? GET one
		up1: handshake
		up1> GET one
		b? GET two
		a> SET three 3
		up1> GET two
		up1> SET three 3
		up1< $3\r\none\r\n$3\r\ntwo\r\n+OK\r\n
		a< $3\r\none\r\n+OK\r\n
		b< $3\r\ntwo\r\n

		# Replies that come in pieces, of any kind.
		b? LRANGE l 0 -1
		a? GET k
		up1> LRANGE l 0 -1
		up1> GET k
		up1< *2\r\n$1
		b< *2\r\n$1
		up1< \r\na\r\n
		b< \r\na\r\n
		up1< $1\r\nb\r\n$-1\r
		b< $1\r\nb\r\n
		a< $-1\r
		up1< \n
		a< \n
		a: idle
		b: idle
	`)
}

func TestARequestOfAnySizeArrivesAsItWas(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play("a? PING\nup1: handshake\nup1> PING\nup1< +PONG\\r\\n\na< +PONG\\r\\n")
		c, err := s.redis.conn(1)
		if err != nil {
			s.t.Fatal(err)
		}
		a := s.client("a")
		for i, size := range []int{100, 40 << 10, 5, 64 << 10, 200 << 10, 64<<10 - 30, 1, 3 << 20, 10} {
			want := strings.Repeat(string(rune('a'+i)), size)
			raw := resp.AppendCommand(nil, "SET", "k", want)
			s.do(func() {
				if i%2 == 0 {
					a.onLink(func(k *multiplex.Link) { k.SubmitOwned(a, raw, len(raw), 0) })
					a.inFlight++
				} else {
					a.submit(raw, 0)
				}
			})
			if got, err := c.command(); err != nil || len(got) != 3 || got[2] != want {
				s.t.Fatalf("a value of %d bytes does not arrive: %v", size, err)
			}
			s.play("up1< +OK\\r\\n\na< +OK\\r\\n")
		}
	})
}

func TestASpecialSeesTheBeginningOfItsReply(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		a := s.client("a")
		var head []byte
		s.do(func() {
			a.onLink(func(k *multiplex.Link) {
				k.SubmitSpecial(a, resp.AppendCommand(nil, "EXEC"), 0, &multiplex.Special{Done: func(b []byte) {
					head = b
					if len(a.got) == 0 || a.inFlight != 0 {
						s.t.Error("Done is called before the client has its reply")
					}
				}})
			})
			a.inFlight++
		})
		s.play(`
			up1: handshake
			up1> EXEC
			up1< -EXECABORT Trans
			up1< action discarded because of previous errors.\r\n
			a< -EXECABORT Transaction discarded because of previous errors.\r\n
		`)
		if want := "-EXECABORT Transaction discarded because of previous errors.\r\n"[:32]; string(head) != want {
			s.t.Errorf("%q, want %q", head, want)
		}
	})
}

func TestAMutedReplyIsDroppedAndCounted(t *testing.T) {
	converse(t, settings{}, `
		a: mute GET one
		a? GET two
		up1: handshake
		up1> GET one
		up1> GET two
		up1< $3\r\n
		up1< one\r\n+2\r\n
		a< +2\r\n
		a: idle

		# It is sent again like any other.
		a: mute GET three
		up1> GET three
		up1: close
		up2: handshake
		up2> GET three
		up2< +3\r\n
		a: idle
	`)
}

func TestStatsCountWhatThereIs(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		expect := func(want multiplex.PoolStats) {
			s.t.Helper()
			s.until("other stats", func() bool { return s.pool.Stats() == want })
		}
		expect(multiplex.PoolStats{})
		s.play("a? GET one\na? GET two")
		expect(multiplex.PoolStats{Waiting: 1})
		s.play("up1: handshake\nup1> GET one\nup1> GET two")
		expect(multiplex.PoolStats{Lanes: 1, InFlight: 2})
		s.play("up1: close")
		expect(multiplex.PoolStats{Resend: 2})
		s.play("up2: handshake\nup2> GET one\nup2> GET two\nup2< +1\\r\\n+2\\r\\n\na< +1\\r\\n+2\\r\\n")
		expect(multiplex.PoolStats{Lanes: 1})
		if got := s.pool.Lost(); got != 1 {
			s.t.Errorf("%d links are lost, want 1", got)
		}
		s.do(s.pool.Close)
		expect(multiplex.PoolStats{})
		s.play("up2> (end)")
	})
}

func TestLeavingAContextMoreOftenThanEnteringItPanics(t *testing.T) {
	s := newStage(t, settings{})
	s.do(func() {
		defer func() {
			if got, want := recover(), "bug: a context was left more often than entered"; got != want {
				t.Errorf("%v, want %q", got, want)
			}
		}()
		s.pool.Context(s.pool.Initial()).Leave()
	})
}
