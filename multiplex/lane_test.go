package multiplex_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A lane carries the commands of many, and hands each reply to the one whose it is. When it breaks, what only reads
// is sent again, once; what may have changed something is never sent twice, and its client is told.

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
					a.onLink(func(k *multiplex.Link) { k.SubmitOwned(a, raw, 0) })
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

func TestReadsInFlightAreSentAgainOnce(t *testing.T) {
	converse(t, settings{}, `
		a: open
		up1: handshake
		a: linked
		a? GET one
		b? GET two
		b? GET three
		up1> GET one
		up1> GET two
		up1> GET three
		up1< $3\r\none\r\n
		a< $3\r\none\r\n
		up1: close

		# Those that had been answered are done. The others do not notice.
		up2: handshake
		up2> GET two
		up2> GET three
		up2< +2\r\n+3\r\n
		b< +2\r\n+3\r\n
		b: idle

		# What has been sent again is not sent a third time.
		b? GET four
		up2> GET four
		up2: reset
		up3: handshake
		a? GET five
		up3> GET four
		up3> GET five
		up3: close
		b: lost
		up4: handshake
		up4> GET five
		up4< +5\r\n
		a< +5\r\n
	`)
}

func TestAWriteIsNeverSentTwice(t *testing.T) {
	converse(t, settings{}, `
		a> SET k 1
		up1: handshake
		up1> SET k 1
		up1: close
		a: lost
		b? GET k
		up2: handshake
		up2> GET k
		up2< +1\r\n
		b< +1\r\n
	`)
}

func TestAClientWithAWriteInFlightIsLostAndTheOthersAreNot(t *testing.T) {
	converse(t, settings{}, `
		a? GET one
		up1: handshake
		up1> GET one
		a: linked
		b? GET two
		b> INCR n
		b? GET three
		c? GET four
		d? PING
		up1> GET two
		up1> INCR n
		up1> GET three
		up1> GET four
		up1> PING
		up1: close
		b: lost
		up2: handshake
		up2> GET one
		up2> GET four
		up2> PING
		up2< +1\r\n+4\r\n+PONG\r\n
		a< +1\r\n
		c< +4\r\n
		d< +PONG\r\n
	`)
}

func TestAClientWithNothingInFlightDoesNotNotice(t *testing.T) {
	converse(t, settings{}, `
		a> SET k v
		up1: handshake
		up1> SET k v
		up1< +OK\r\n
		a< +OK\r\n
		up1: close
		a: unlinked
		a> SET k w
		up2: handshake
		up2> SET k w
		up2< +OK\r\n
		a< +OK\r\n
	`)
}

func TestAReplyThatBreaksOffIsNotSentTwice(t *testing.T) {
	converse(t, settings{}, `
		a: open
		up1: handshake
		a: linked
		a? GET one
		b? GET two
		up1> GET one
		up1> GET two
		up1< $10\r\n01234
		a< $10\r\n01234
		up1: close
		a: lost
		up2: handshake
		up2> GET two
		up2< +2\r\n
		b< +2\r\n
	`)
}

func TestACollectedReplyThatBreaksOffIsAskedForAgain(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		a := s.client("a")
		special := &multiplex.Special{Collect: true, Done: func(reply []byte) { a.Reply(append([]byte("all:"), reply...), 1) }}
		s.do(func() {
			a.onLink(func(k *multiplex.Link) {
				k.SubmitSpecial(a, resp.AppendCommand(nil, "SELECT", "0"), multiplex.Safe, special)
			})
			a.inFlight++
		})
		s.play(`
			up1: handshake
			up1> SELECT 0
			up1< +O
			up1: close
			up2: handshake
			up2> SELECT 0
			up2< +O
			up2< K\r\n
			a< all:+OK\r\n
			a: idle
		`)
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

func TestWhatNobodyAskedForBreaksTheLane(t *testing.T) {
	for name, script := range map[string]string{
		"a reply on an idle lane":      `up1< +EXTRA\r\n`,
		"a push":                       `up1< >2\r\n+invalidate\r\n_\r\n`,
		"what is no reply":             `up1< HTTP/1.1 400 Bad Request\r\n`,
		"half a reply on an idle lane": `up1< $100\r\n`,
	} {
		t.Run(name, func(t *testing.T) {
			converse(t, settings{}, `
				a? GET k
				up1: handshake
				up1> GET k
				up1< +v\r\n
				a< +v\r\n
				`+script+`
				up1> (end)
				up1: close
				b> SET k w
				up2: handshake
				up2> SET k w
				up2< +OK\r\n
				b< +OK\r\n
			`)
		})
	}
}

func TestASecondReplyReachesNobody(t *testing.T) {
	converse(t, settings{}, `
		a? GET k
		up1: handshake
		up1> GET k
		up1< +v\r\n+SECOND\r\n
		a< +v\r\n
		up1> (end)
		up1: close
		b? GET k
		up2: handshake
		up2> GET k
		up2< +v\r\n
		b< +v\r\n
	`)
}

func TestWhatIsNoReplyInFlightBreaksTheLane(t *testing.T) {
	converse(t, settings{}, `
		a: open
		up1: handshake
		a: linked
		a? GET one
		b> SET k v
		up1> GET one
		up1> SET k v
		up1< oops\r\n
		b: lost
		up1> (end)
		up1: close
		up2: handshake
		up2> GET one
		up2< +1\r\n
		a< +1\r\n
	`)
}

// A request that is still being written cannot have been answered.
func TestAReplyToWhatHasNotBeenSentReachesNobody(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play("a? PING\nup1: handshake\nup1> PING\nup1< +PONG\\r\\n\na< +PONG\\r\\n")
		c, err := s.redis.conn(1)
		if err != nil {
			s.t.Fatal(err)
		}
		_ = c.SetReadBuffer(64 << 10)
		key := string(bytes.Repeat([]byte("0123456789abcdef"), 1<<20)) // more than all buffers hold
		a := s.client("a")
		s.do(func() { a.submit(resp.AppendCommand(nil, "GET", key), multiplex.Safe) })
		s.play(`
			up1< +SECRET\r\n
			up2: handshake
		`)
		next, err := s.redis.conn(2)
		if err != nil {
			s.t.Fatal(err)
		}
		if got, err := next.command(); err != nil || len(got) != 2 || got[1] != key {
			s.t.Fatalf("it is not sent again as it was: %d words, %v", len(got), err)
		}
		s.play("up2< +v\\r\\n\na< +v\\r\\n\na: idle")
	})
}

func TestABarrierLetsPassWhatIsInStep(t *testing.T) {
	converse(t, settings{}, `
		a: open
		up1: handshake
		a: linked
		a> EVAL s
		a: barrier
		b? GET k
		up1> EVAL s
		up1> ECHO *
		up1> GET k
		up1< :1\r\n
		a< :1\r\n
		up1< $32\r\n{nonce}\r\n+v\r\n
		b< +v\r\n
		a: idle
	`)
}

func TestABarrierBreaksTheLaneBeforeAnybodyElseGetsAnything(t *testing.T) {
	for name, reply := range map[string]string{
		"two replies":                 `:1\r\n+INJECTED\r\n$32\r\n{nonce}\r\n+v\r\n`,
		"no reply":                    `$32\r\n{nonce}\r\n+v\r\n`,
		"two that look like the echo": `:1\r\n$32\r\n00000000000000000000000000000000\r\n$32\r\n{nonce}\r\n+v\r\n`,
		"a second that never ends":    `:1\r\n$1000000\r\n`,
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, settings{}, func(s *stage) {
				s.play(`
					a: open
					up1: handshake
					a: linked
					a> EVAL s
					a: barrier
					b? GET k
					c> SET k w
					up1> EVAL s
					up1> ECHO *
					up1> GET k
					up1> SET k w
				`)
				if name == "no reply" { // what a gets, then, is what it may know: bits that mean nothing
					s.play("up1< " + reply + "\na< $32\\r\\n" + s.nonce + "\\r\\n")
				} else {
					s.play("up1< " + reply + "\na< :1\\r\\n")
				}
				s.play(`
					c: lost
					up1> (end)
					up1: close
					up2: handshake
					up2> GET k
					up2< +v\r\n
					b< +v\r\n
				`)
			})
		})
	}
}

func TestABusyUpstreamIsAskedAgainWhereItStands(t *testing.T) {
	const begin = `
		a: open
		up1: handshake
		a: linked
		a> EVAL s
		a: barrier
		b? GET k
		up1> EVAL s
		up1> ECHO *
		up1> GET k
		up1< -BUSY Redis is busy\r\n-BUSY Redis is busy\r\n
		a< -BUSY Redis is busy\r\n
		up1> HELLO 2 *
		up1< -BUSY Redis is busy\r\n
	`
	t.Run("in step", func(t *testing.T) {
		converse(t, settings{}, begin+`
			up1< -ERR Syntax error in HELLO option '{nonce}'\r\n
			b< -BUSY Redis is busy\r\n
			b? GET k
			up1> GET k
			up1< +v\r\n
			b< +v\r\n
		`)
	})
	t.Run("out of step", func(t *testing.T) {
		converse(t, settings{}, begin+`
			up1< +SECRET\r\n-ERR Syntax error in HELLO option '{nonce}'\r\n
			up1> (end)
			up1: close
			up2: handshake
			up2> GET k
			up2< +v\r\n
			b< +v\r\n
		`)
	})
}

func TestWhatIsToBeSentAgainExpiresWhenTheUpstreamStaysAway(t *testing.T) {
	bothWays(t, settings{timeout: 100 * time.Millisecond}, func(s *stage) {
		s.play(`
			a? GET one
			a: mute GET two
			up1: handshake
			up1> GET one
			up1> GET two
		`)
		_ = s.redis.ln.Close()
		s.play("up1: close\na: idle")
		s.do(func() {
			a := s.client("a")
			if !strings.HasPrefix(string(a.got), "-ERR upstream is not available: ") || !bytes.HasSuffix(a.got, []byte("\r\n")) {
				s.t.Errorf("%q", a.got)
			}
			a.got = nil
			if s.pool.LastError() == nil {
				s.t.Error("nobody knows why")
			}
			if st := s.pool.Stats(); st.Resend != 0 || st.Waiting != 0 || st.InFlight != 0 {
				s.t.Errorf("%+v", st)
			}
		})
		s.until("the slot to be free", func() bool { return s.budget.Open(limits.Lane) == 0 })
	})
}

func TestNobodyWaitsForWhatIsSentAgainToAnUpstreamThatRefuses(t *testing.T) {
	converse(t, settings{}, `
		a? GET k
		up1: handshake
		up1> GET k
		up1: close
		up2> HELLO 2
		up2< -NOPERM this user has no permissions to run the 'hello' command\r\n
		up2> (end)
		up2: close
		a< -NOPERM this user has no permissions to run the 'hello' command\r\n
		a: idle
	`)
}

func TestALaneThatIsInTheWayAnswersFirstAndThenGoes(t *testing.T) {
	bothWays(t, settings{size: 1}, func(s *stage) {
		s.keys["b"] = multiplex.Key{DB: 3, RESP: 2}
		s.play(`
			a? GET one
			up1: handshake
			up1> GET one
			b? GET two
		`)
		s.until("b to wait", func() bool { return s.budget.Waiting(limits.Lane) == 1 })
		s.play(`
			# a asks for a lane again, behind b.
			a? GET three
			up1< +1\r\n
			a< +1\r\n
			up1> (end)
		`)
		// Redis has not closed yet, so that it still counts this connection.
		s.do(func() {
			if s.budget.Open(limits.Lane) != 1 || s.redis.accepted() != 1 {
				s.t.Error("the slot was given back too early")
			}
		})
		s.play(`
			up1: close
			up2: handshake
			up2> SELECT 3
			up2< +OK\r\n
			up2> GET two
			up2< +2\r\n
			b< +2\r\n
			up2> (end)
			up2: close
			up3: handshake
			up3> GET three
			up3< +3\r\n
			a< +3\r\n
			a: idle
			b: idle
		`)
	})
}

func TestAnUpstreamThatDoesNotHangUpIsNotWaitedForLong(t *testing.T) {
	s := newStage(t, settings{size: 1})
	s.keys["b"] = multiplex.Key{DB: 3, RESP: 2}
	s.play(`
		a? GET one
		up1: handshake
		up1> GET one
		up1< +1\r\n
		a< +1\r\n
		b? GET two
		up1> (end)
		up2: handshake
		up2> SELECT 3
		up2< +OK\r\n
		up2> GET two
		up2< +2\r\n
		b< +2\r\n
	`)
}

func TestALaneThatBreaksWhileItDrainsHandsItsReadsToTheNext(t *testing.T) {
	bothWays(t, settings{size: 3}, func(s *stage) {
		s.keys["b"] = multiplex.Key{DB: 1, RESP: 2}
		s.keys["c"] = multiplex.Key{DB: 2, RESP: 2}
		s.play(`
			a? GET one
			up1: handshake
			up1> GET one
			b? GET two
			up2: handshake
			up2> SELECT 1
			up2< +OK\r\n
			up2> GET two
			c? GET three
		`)
		s.until("c to wait", func() bool { return s.budget.Waiting(limits.Lane) == 1 })
		s.play(`
			# The oldest makes room: it takes nothing new.
			a? GET four
			up1: close
			up3: handshake
			up3> SELECT 2
			up3< +OK\r\n
			up3> GET three
			up2< +2\r\n
			b< +2\r\n
			up2> (end)
			up2: close
			up4: handshake
			up4> GET one
			up4> GET four
			up4< +1\r\n+4\r\n
			a< +1\r\n+4\r\n
			up3< +3\r\n
			c< +3\r\n
		`)
	})
}

// A lane on which somebody waits for what may never come, such as acknowledgements of replicas, takes nothing new. It
// is not waited for once he has gone, but for the others' replies it is.
func TestAnAbortedLaneAnswersTheOthersFirst(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(`
			a: open
			up1: handshake
			a: linked
			a? GET one
			b? GET two
			up1> GET one
			up1> GET two
			w> WAIT 1 0
			up1> WAIT 1 0
		`)
		w := s.client("w")
		var link *multiplex.Link
		s.do(func() {
			link = w.ctx.Link()
			link.Drain()
		})
		s.play("w: leave")
		s.do(link.Abort)
		s.play(`
			up1< +1\r\n
			a< +1\r\n
			up1< +2\r\n
			b< +2\r\n
			up1> (end)
			up1: close
			a: idle
			b: idle
		`)
		s.until("the slot to be free", func() bool { return s.budget.Open(limits.Lane) == 0 })
	})
}

func TestNothingIsSentAgainForClientsThatHaveGone(t *testing.T) {
	converse(t, settings{}, `
		a: open
		up1: handshake
		a: linked
		a? GET one
		b? GET two
		up1> GET one
		up1> GET two
		a: leave
		up1: close
		up2: handshake
		up2> GET two
		up2< +2\r\n
		b< +2\r\n
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
