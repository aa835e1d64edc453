package multiplex_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// A pin is one client's, with whatever state is on it. The next client gets it only if it is provably clean: nothing
// in flight, nothing to be written, no byte of a further reply.

func TestAPinIsLentToTheNextOfTheSameContext(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.keys["other"] = multiplex.Key{DB: 3, RESP: 2}
		s.play(`
			a: pin
			up1: handshake
			a: pinned
			a> BLPOP q 0
			up1> BLPOP q 0
			up1< *-1\r\n
			a< *-1\r\n
			a: release
			b: pin
			b: pinned
			b> WATCH k
			up1> WATCH k
			up1< +OK\r\n
			b< +OK\r\n
			b: release

			# But not of another.
			other: pin
			up2: handshake
			up2> SELECT 3
			up2< +OK\r\n
			other: pinned
		`)
		if !strings.HasSuffix(s.nonce, ":pin") {
			s.t.Errorf("the upstream knows it as %q", s.nonce)
		}
		if st, want := stats(s), (multiplex.PoolStats{Pins: 1, Idle: 1}); st != want {
			s.t.Errorf("%+v, want %+v", st, want)
		}
	})
}

func stats(s *stage) (st multiplex.PoolStats) {
	s.do(func() { st = s.pool.Stats() })
	return st
}

// pinned is a client with a pin.
const pinned = `
	a: pin
	up1: handshake
	a: pinned
`

func TestAPinThatIsNotProvablyCleanIsClosed(t *testing.T) {
	closed := `
		up1> (end)
		up1: close
		b: pin
		up2: handshake
		b: pinned
	`
	t.Run("a command in flight", func(t *testing.T) {
		converse(t, settings{}, pinned+`
			a> BLPOP q 0
			up1> BLPOP q 0
			a: release
		`+closed)
	})
	t.Run("half a reply", func(t *testing.T) {
		converse(t, settings{}, pinned+`
			a> GET k
			up1> GET k
			up1< $3\r\nv
			a< $3\r\nv
			a: release
		`+closed)
	})
	t.Run("half a push", func(t *testing.T) {
		converse(t, settings{}, pinned+`
			up1< >2\r\n+inval
			a< >2\r\n+inval
			a: release
		`+closed)
	})
	t.Run("something to be written", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			s.play(pinned)
			a := s.client("a")
			s.do(func() {
				a.pin.Frames(func([]byte, byte) {})
				a.pin.Send([]byte("PING\r\n"))
				s.pool.ReleasePin(a.pin)
				a.pin = nil
			})
			s.play(closed) // and nothing has been written
		})
	})
	t.Run("the client says so", func(t *testing.T) {
		converse(t, settings{}, pinned+"a: discard"+closed)
	})
}

func TestAnIdlePinThatSpeaksOrEndsIsClosed(t *testing.T) {
	for name, script := range map[string]string{
		"a reply":     `up1< +EXTRA\r\n`,
		"a push":      `up1< >1\r\n+x\r\n`,
		"half a push": `up1< >`,
		"nonsense":    `up1< nonsense\r\n`,
		"its end":     `up1: close`,
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, settings{}, func(s *stage) {
				s.play(pinned + "a: release\n" + script)
				s.until("the pin to go", func() bool { return s.pool.Stats().Idle == 0 || s.pool.Lost() > 0 })
				s.play(`
					b: pin
					up2: handshake
					b: pinned
					b> PING
					up2> PING
					up2< +PONG\r\n
					b< +PONG\r\n
				`)
			})
		})
	}
}

func TestAPinThatBreaksIsLostWhateverIsInFlight(t *testing.T) {
	for name, script := range map[string]string{
		"nothing in flight":      `up1: close`,
		"a read in flight":       "a? GET k\nup1> GET k\nup1: close",
		"an answer too many":     `up1< +EXTRA\r\n`,
		"what is no answer":      `up1< nonsense\r\n`,
		"a reset":                `up1: reset`,
		"the end of what blocks": "a> BLPOP q 0\nup1> BLPOP q 0\nup1: close",
	} {
		t.Run(name, func(t *testing.T) { converse(t, settings{}, pinned+script+"\na: lost") })
	}
}

func TestPushesOnAPinAreItsOwners(t *testing.T) {
	converse(t, settings{}, pinned+`
		a> GET k
		up1> GET k
		up1< >2\r\n+invalidate\r\n*1\r\n+k\r\n+v\r\n>2\r\n+invalidate\r\n_\r\n
		a< >2\r\n+invalidate\r\n*1\r\n+k\r\n+v\r\n>2\r\n+invalidate\r\n_\r\n
		a: idle
	`)
}

func TestPinsAreLentInTheOrderInWhichTheyWereAskedFor(t *testing.T) {
	bothWays(t, settings{size: 3}, func(s *stage) { // one pin
		s.play(pinned)
		s.keys["other"] = multiplex.Key{DB: 3, RESP: 2}
		for _, name := range []string{"b", "other", "d"} {
			s.play(name + ": pin")
			s.do(func() {
				if !s.client(name).request.Queued() {
					s.t.Errorf("%s is not queued", name)
				}
			})
		}
		s.play(`
			# The next is of the same context: it gets the connection as it is.
			a: release
			b: pinned
			# The next is not: the upstream closes the connection before another is opened. Nobody overtakes.
			b: release
			up1> (end)
			up1: close
			up2: handshake
			up2> SELECT 3
			up2< +OK\r\n
			other: pinned
			other: release
			up2> (end)
			up2: close
			up3: handshake
			d: pinned
		`)
		if n := s.budget.Waiting(limits.Pin); n != 0 {
			s.t.Errorf("%d still wait", n)
		}
	})
}

func TestAnIdlePinGoesFirstWhenSomebodyWaitsForALane(t *testing.T) {
	bothWays(t, settings{size: 2}, func(s *stage) {
		s.keys["other"] = multiplex.Key{DB: 3, RESP: 2}
		s.play(pinned + `
			a: release
			b? GET k
			up2: handshake
			up2> GET k
			other? GET k
			up1> (end)
			up1: close
			up3: handshake
			up3> SELECT 3
			up3< +OK\r\n
			up3> GET k
			up3< +3\r\n
			other< +3\r\n
			up2< +2\r\n
			b< +2\r\n
		`)
	})
}

func TestARequestForAPinCanBeCancelled(t *testing.T) {
	t.Run("while it waits for the budget", func(t *testing.T) {
		bothWays(t, settings{size: 3}, func(s *stage) {
			s.play(pinned + "b: pin\nc: pin\nb: cancel\nb: cancel")
			if n := s.budget.Waiting(limits.Pin); n != 1 {
				s.t.Errorf("%d wait, want 1", n)
			}
			s.play(`
				a: release
				c: pinned
			`)
		})
	})
	t.Run("while it is dialed", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			s.play("a: pin\nup1> HELLO 2\na: cancel\n" + `
				up1< *0\r\n
				up1> CLIENT SETNAME *
				up1> CLIENT NO-EVICT ON
				up1> ECHO redbouncer
				up1> PING
				up1< +OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n
			`)
			s.until("it to be kept for others", func() bool { return s.pool.Stats().Idle == 1 })
			s.play("b: pin\nb: pinned")
		})
	})
	t.Run("while it is dialed in vain", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			s.play("a: pin\nup1> HELLO 2\na: cancel\nup1: close")
			s.until("the slot to be free", func() bool { return s.budget.Open(limits.Pin) == 0 })
		})
	})
	t.Run("between two attempts", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			s.play("a: pin\nup1: close")
			s.until("a reason", func() bool { return s.pool.LastError() != nil })
			s.play("a: cancel")
			s.until("the slot to be free", func() bool { return s.budget.Open(limits.Pin) == 0 })
		})
	})
	t.Run("when a grant is on its way", func(t *testing.T) {
		bothWays(t, settings{size: 1}, func(s *stage) {
			s.do(func() {
				if s.budget.Acquire(limits.Pin, func() {}) != nil {
					s.t.Error("no pin in an empty budget")
				}
			})
			s.play("a: pin")
			s.do(func() {
				s.budget.Release(limits.Pin) // posts the grant
				s.client("a").request.Cancel()
			})
			s.do(func() {
				if n := s.budget.Open(limits.Pin); n != 0 {
					s.t.Errorf("%d are open", n)
				}
			})
		})
	})
}

func TestAPinWaitsForAnUpstreamThatIsGone(t *testing.T) {
	converse(t, settings{}, `
		a: pin
		up1< `+full+`
		up1: close
		up2> HELLO 2
		up2: close
		up3: handshake
		a: pinned
	`)
}

func TestAPinThatTheUpstreamRefusesIsTheClientsAnswer(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.keys["a"] = multiplex.Key{DB: 99, RESP: 2}
		s.play(`
			a: pin
			up1: handshake
			up1> SELECT 99
			up1< -ERR DB index is out of range\r\n
			up1> (end)
			up1: close
			a: failed
		`)
		if got, want := replyLine(s.client("a").err), "-ERR DB index is out of range\r\n"; got != want {
			s.t.Errorf("it is told %q, want %q", got, want)
		}
		if n := s.budget.Open(limits.Pin); n != 0 {
			s.t.Errorf("%d are open", n)
		}
	})
}

func TestFramesAreHandedOverWholeUntilRepliesAreCountedAgain(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(pinned)
		a := s.client("a")
		var frames []string
		s.do(func() {
			a.pin.Frames(func(frame []byte, top byte) {
				frames = append(frames, string(frame))
				if top != frame[0] {
					s.t.Errorf("the top of %q is %q", frame, top)
				}
				if string(frame) == "+UNSUBSCRIBED\r\n" {
					a.pin.Frames(nil)
				}
			})
			a.pin.Send([]byte("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n"))
			if a.pin.Backlog() == 0 {
				s.t.Error("nothing waits to be written")
			}
		})
		s.play(`
			up1> SUBSCRIBE c
			up1< *3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>1\r\n+pu
			up1< sh\r\n+UNSUBSCR
			up1< IBED\r\n>1\r\n+la
			up1< te\r\n
			a< >1\r\n+late\r\n
			a> GET k
			up1> GET k
			up1< $1\r\nv\r\n
			a< $1\r\nv\r\n
			a: idle
			a: release
			b: pin
			b: pinned
		`)
		want := []string{"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", ">1\r\n+push\r\n", "+UNSUBSCRIBED\r\n"}
		if !reflect.DeepEqual(frames, want) {
			s.t.Errorf("%q, want %q", frames, want)
		}
	})
}

func TestRawPassesOnWhateverComes(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(pinned + "a> MONITOR\nup1> MONITOR")
		a := s.client("a")
		s.do(func() { a.pin.Raw(func(b []byte) { a.got = append(a.got, b...) }) })
		big := strings.Repeat("x", 300<<10)
		s.do(func() { a.pin.Send([]byte("*1\r\n$307200\r\n" + big + "\r\n")) })
		s.play(`
			up1> ` + big + `
			up1< +OK\r\nanything $ at all
			a< +OK\r\nanything $ at all
		`)
		s.do(func() {
			if n := a.pin.Backlog(); n != 0 {
				s.t.Errorf("%d bytes wait to be written", n)
			}
		})
		s.play("up1: close\na: lost")
	})
}

func TestAHalfClosedPinStillDeliversItsReplies(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(pinned)
		a := s.client("a")
		s.do(func() {
			a.submit([]byte("*1\r\n$4\r\nPING\r\n"), 0)
			a.pin.HalfClose()
		})
		s.play(`
			up1> PING
			up1> (end)
			up1< +PONG\r\n
			a< +PONG\r\n
			up1: close
			a: lost
		`)
	})
}

func TestTickLeavesPinsAloneThatWereUsedJustNow(t *testing.T) {
	converse(t, settings{}, pinned+"a: release")
	bothWays(t, settings{}, func(s *stage) {
		s.play(pinned + "a: release")
		s.do(s.pool.Tick)
		s.play("b: pin\nb: pinned")
	})
}
