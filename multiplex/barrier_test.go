package multiplex_test

import (
	"bytes"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Replies are matched to requests by order alone. So what nobody asked for breaks the link, before anybody can take it
// for the answer to his own command.

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
