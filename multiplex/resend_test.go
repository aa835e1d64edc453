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

// When a lane breaks, what only reads is sent again, once; what may have changed something is never sent twice, and its
// client is told that nobody knows what became of it.

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

// What a lane that drains leaves behind goes on the one that has taken over, if that does not break for the same reason.
func TestReadsOfALaneThatDrainsSurviveTheSilenceOfBoth(t *testing.T) {
	for range 4 { // in whatever order they break
		s := newStage(t, settings{})
		s.play(`
			a: open
			up1: handshake
			a: linked
		`)
		read := func(name, key string) {
			c := s.client(name)
			s.do(func() { c.submit(resp.AppendCommand(nil, "GET", key), multiplex.Safe|multiplex.Prompt) })
		}
		read("a", "one")
		s.play("up1> GET one")
		s.do(func() { s.client("a").ctx.Link().Drain() })
		read("b", "two")
		s.play(`
			up2: handshake
			up2> GET two
		`)
		time.Sleep(20 * time.Millisecond)
		s.do(func() { s.pool.SetResponseTimeout(15 * time.Millisecond) })
		s.play(`
			up1> (end)
			up2> (end)
			up3: handshake
		`)
		s.do(func() { s.pool.SetResponseTimeout(0) })
		c, err := s.redis.conn(3)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // in whatever order they are sent again
			words, err := c.command()
			if err != nil || len(words) != 2 || words[0] != "GET" {
				t.Fatalf("got %q, %v", words, err)
			}
		}
	}
}
