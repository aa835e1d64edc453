package multiplex_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// Redis closes the connections of a user that is deleted. So when one ends, the pool finds out, at once, whether the
// user's clients may still have one.

// users has client a be ann, client b too, in another database, and client c nobody in particular.
func users(s *stage) {
	s.do(func() { s.pool.SetPassword("ann", "1") })
	s.keys["a"] = multiplex.Key{User: "ann", RESP: 2}
	s.keys["b"] = multiplex.Key{User: "ann", RESP: 2, DB: 4}
}

// expectVanished waits until as many users have vanished, and compares them.
func expectVanished(s *stage, want ...string) {
	s.t.Helper()
	s.until("a user to vanish", func() bool { return len(s.vanished) >= len(want) })
	s.do(func() {
		if !slices.Equal(s.vanished, want) {
			s.t.Errorf("%q have vanished, want %q", s.vanished, want)
		}
	})
}

// refusal is what Redis says of a user it does not know.
const refusal = `
	up2> HELLO 2 AUTH ann 1
	up2< -WRONGPASS invalid username-password pair or user is disabled.\r\n
	up2> (end)
	up2: close
`

func TestWhenALinkOfAUserEndsTheUserIsVerified(t *testing.T) {
	t.Run("and has vanished", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			users(s)
			s.play("a? GET k\nup1: handshake\nup1> GET k\nup1< +v\\r\\n\na< +v\\r\\n\nup1: close\n" + refusal)
			expectVanished(s, "ann")
			s.until("the slot to be given back", func() bool { return s.budget.Open(limits.Lane) == 0 })
		})
	})
	t.Run("and is still known", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			users(s)
			s.play("a: open\nup1: handshake\na: linked\nup1: close\nup2: handshake\na: linked")
			expectVanished(s)
		})
	})
	t.Run("as soon as the upstream is back", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			users(s)
			s.play("a: open\nup1: handshake\na: linked\nup1: close\n" +
				"up2> HELLO 2 AUTH ann 1\nup2< -LOADING Redis is loading\\r\\n\nup2: close\n" +
				strings.ReplaceAll(refusal, "up2", "up3"))
			expectVanished(s, "ann")
		})
	})
	t.Run("for clients that have no lane", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			users(s)
			s.client("b")
			s.play("a: pin\nup1: handshake\na: pinned\na: leave\nup1: close\na: lost\n" + refusal)
			expectVanished(s, "ann")
		})
	})
	t.Run("by the password that was shown last", func(t *testing.T) {
		bothWays(t, settings{}, func(s *stage) {
			users(s)
			s.play("a: open\nup1: handshake\na: linked\nup1: close\nup2> HELLO 2 AUTH ann 1")
			s.do(func() { s.pool.SetPassword("ann", "2") })
			s.play("up2< -WRONGPASS no\\r\\n\nup2> (end)\nup2: close\nup3: handshake\na: linked")
			expectVanished(s)
		})
	})
}

func TestNobodyIsVerifiedForNobody(t *testing.T) {
	for name, script := range map[string]string{
		"no user":    "c: open\nup1: handshake\nc: linked\nup1: close\nc: unlinked",
		"no clients": "a: open\nup1: handshake\na: linked\na: leave\nup1: close\na: unlinked",
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, settings{}, func(s *stage) {
				users(s)
				s.play(script)
				s.until("all slots to be given back", func() bool { return s.budget.Open(limits.Lane) == 0 })
				if n := s.redis.accepted(); n != 1 {
					t.Errorf("%d connections", n)
				}
			})
		})
	}
}

func TestVerifyingEndsWhenTheClientsHaveGone(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		users(s)
		s.play("a: open\nup1: handshake\na: linked\nup1: close\nup2> HELLO 2 AUTH ann 1\na: leave\nup2< " + full + "\nup2: close")
		s.until("the slot to be given back", func() bool { return s.budget.Open(limits.Lane) == 0 })
		expectVanished(s)
	})
}
