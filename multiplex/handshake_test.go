package multiplex_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// A link is nobody's before it is in the state that its context names, and Redis has said so. HELLO goes alone:
// behind other replies, a failed AUTH is answered with nothing at all by Redis 7.2 and later.

func TestHelloGoesAloneAndTheRestInOneWrite(t *testing.T) {
	bothWays(t, settings{login: "me:secret@"}, func(s *stage) {
		s.keys["a"] = multiplex.Key{DB: 3, RESP: 3, NoTouch: true, ReadOnly: true}
		s.play(`
			a? GET k
			up1> HELLO 3 AUTH me secret
			up1: silent
			up1< %1\r\n$5\r\nproto\r\n:3\r\n
			up1> CLIENT SETNAME *
			up1> CLIENT NO-EVICT ON
			up1> ECHO redbouncer
			up1> PING
			up1> SELECT 3
			up1> CLIENT NO-TOUCH ON
			up1> READONLY
			up1: silent
			up1< +OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n+OK\r\n+OK\r\n+OK\r\n
			up1> GET k
			up1< _\r\n
			a< _\r\n
		`)
		s.do(func() {
			k := s.client("a").ctx.Link()
			if got, want := string(k.Hello()), "%1\r\n$5\r\nproto\r\n:3\r\n"; got != want {
				s.t.Errorf("Hello is %q, want %q", got, want)
			}
			if k.Name() != s.nonce || !strings.HasPrefix(s.nonce, "redbouncer:") || !strings.HasSuffix(s.nonce, ":lane") {
				s.t.Errorf("its name is %q, and the upstream knows it as %q", k.Name(), s.nonce)
			}
			if !k.CanEcho() {
				s.t.Error("it is said not to be able to use ECHO")
			}
			if !s.pool.Introduced() {
				s.t.Error("the pool does not know the upstream")
			}
		})
	})
}

func TestTheFirstContextIsInTheDatabaseOfTheURL(t *testing.T) {
	bothWays(t, settings{path: "/5", login: ":secret@"}, func(s *stage) {
		s.do(s.pool.Warm) // nobody need wait for the first lane
		s.play(`
			up1> HELLO 2 AUTH default secret
			up1< *0\r\n
			up1> CLIENT SETNAME *
			up1> CLIENT NO-EVICT ON
			up1> ECHO redbouncer
			up1> PING
			up1> SELECT 5
			up1< +OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n+OK\r\n
			a: linked
			a? PING
			up1> PING
			up1< +PONG\r\n
			a< +PONG\r\n
		`)
	})
}

func TestAUsersLinksHaveThePasswordThatWasAcceptedLast(t *testing.T) {
	bothWays(t, settings{login: "me:secret@"}, func(s *stage) {
		s.keys["a"] = multiplex.Key{User: "alice", RESP: 2}
		s.keys["b"] = multiplex.Key{User: "alice", RESP: 2, DB: 1}
		s.do(func() { s.pool.SetPassword("alice", "") })
		s.play(`
			a: open
			up1> HELLO 2 AUTH alice *
		`)
		s.do(func() { s.pool.SetPassword("alice", "new") })
		s.play(`
			b: open
			up2> HELLO 2 AUTH alice new
		`)
	})
}

func TestWhatAUserMayNotDoIsDoneWithout(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(`
			a? GET k
			up1> HELLO 2
			up1< *0\r\n
			up1> CLIENT SETNAME *
			up1> CLIENT NO-EVICT ON
			up1> ECHO redbouncer
			up1> PING
			up1< -NOPERM no\r\n-ERR unknown subcommand\r\n-NOPERM no\r\n-NOPERM no\r\n
			up1> GET k
			up1< +v\r\n
			a< +v\r\n
		`)
		s.do(func() {
			if s.client("a").ctx.Link().CanEcho() {
				s.t.Error("it is said to be able to use ECHO")
			}
		})
	})
}

const (
	full   = `-ERR max number of clients reached\r\n`
	noAuth = `-NOAUTH HELLO must be called with the client already authenticated\r\n`
)

func TestARefusalThatNobodyAskedForIsNoReply(t *testing.T) {
	converse(t, settings{}, `
		a> SET k v
		up1< `+full+`
		up1: close
		up2< `+full+`
		up2: close
		up3: handshake
		up3> SET k v
		up3< +OK\r\n
		a< +OK\r\n
		a: idle
	`)
}

func TestWhatConcernsTheConnectionIsTriedAgain(t *testing.T) {
	for name, refusal := range map[string]string{
		"the upstream is full":               full,
		"the cluster is":                     `-ERR max number of clients + cluster connections reached\r\n`,
		"protected mode":                     `-DENIED Redis is running in protected mode\r\n`,
		"it loads":                           `-LOADING Redis is loading the dataset in memory\r\n`,
		"its master is down":                 `-MASTERDOWN Link with MASTER is down\r\n`,
		"it is busy":                         `-BUSY Redis is busy running a script\r\n`,
		"it is something else":               `HTTP/1.1 400 Bad Request\r\n`,
		"it says nothing":                    ``,
		"it says less than a reply":          `%7\r\n$6\r\nserv`,
		"it says more than it was asked for": `*0\r\n+OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n+AND\r\n`,
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, settings{}, func(s *stage) {
				s.play(`
					a? GET k
					up1> HELLO 2
					up1< ` + refusal + `
					up1: close
				`)
				s.until("a reason", func() bool { return s.pool.LastError() != nil })
				s.play(`
					up2: handshake
					up2> GET k
					up2< +v\r\n
					a< +v\r\n
				`)
				s.do(func() {
					if err := s.pool.LastError(); err != nil {
						s.t.Errorf("the upstream is back, and %v", err)
					}
				})
			})
		})
	}
}

func TestAttemptsAreSpacedOut(t *testing.T) {
	s := newStage(t, settings{})
	var first time.Time
	s.play("a? GET k")
	for n := 1; n <= 4; n++ {
		c, err := s.redis.conn(n)
		if err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			first = time.Now()
		}
		if _, err := c.command(); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Write([]byte("-ERR max number of clients reached\r\n"))
		_ = c.Close()
	}
	// At least a half of 20, 40 and 80 ms.
	if d := time.Since(first); d < 65*time.Millisecond {
		t.Errorf("four attempts within %v", d)
	}
	s.do(func() {
		if st := s.pool.Stats(); st.Waiting != 1 || s.budget.Open(limits.Lane) != 1 {
			t.Errorf("%+v", st)
		}
	})
	s.play("up5: handshake\nup5> GET k\nup5< +v\\r\\n\na< +v\\r\\n")
}

func TestWhatConcernsTheContextIsTheClientsAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		key    multiplex.Key
		script string
		line   string
	}{
		"a wrong password": {
			multiplex.Key{User: "alice", RESP: 2}, `up1> HELLO 2 AUTH alice wrong`,
			`-WRONGPASS invalid username-password pair or user is disabled.`,
		},
		"a protocol that it does not speak": {
			multiplex.Key{RESP: 3}, `up1> HELLO 3`, `-NOPROTO unsupported protocol version`,
		},
		"a database that it does not have": {multiplex.Key{RESP: 2, DB: 99}, `
			up1: handshake
			up1> SELECT 99
		`, `-ERR DB index is out of range`},
		"READONLY without a cluster": {multiplex.Key{RESP: 2, ReadOnly: true}, `
			up1: handshake
			up1> READONLY
		`, `-ERR This instance has cluster support disabled`},
		"a user that has to be, with RESP3":               {multiplex.Key{RESP: 3}, `up1> HELLO 3`, `-NOAUTH HELLO must be called with`},
		"a user that has to be, with another database":    {multiplex.Key{RESP: 2, DB: 1}, `up1> HELLO 2`, `-NOAUTH HELLO must be called with`},
		"an error of RESP3's own kind":                    {multiplex.Key{RESP: 3}, `up1> HELLO 3`, `!9\r\nERR x y z`},
		"a connection that may do nothing, not even this": {multiplex.Key{RESP: 2}, `up1> HELLO 2`, `-NOPERM no`},
	} {
		t.Run(name, func(t *testing.T) {
			bothWays(t, settings{}, func(s *stage) {
				s.do(func() { s.pool.SetPassword("alice", "wrong") })
				s.keys["a"] = tt.key
				s.play("a? GET k\n" + tt.script + "\nup1< " + tt.line + "\\r\\n\nup1> (end)")
				if n := s.budget.Open(limits.Lane); n != 1 {
					s.t.Error("the slot was given back before the upstream has closed the connection")
				}
				s.play("up1: close\na: failed")
				line, _ := unescape(tt.line + `\r\n`)
				if got := replyLine(s.client("a").err); got != line {
					s.t.Errorf("the client is told %q, want %q", got, line)
				}
				s.until("the slot to be free", func() bool { return s.budget.Open(limits.Lane) == 0 })
				s.do(func() {
					if err := s.pool.LastError(); err != nil {
						s.t.Errorf("the upstream is said to be gone: %v", err)
					}
				})
			})
		})
	}
}

// replyLine returns the line that the upstream refused with.
func replyLine(err error) string {
	var reply *multiplex.ReplyError
	if errors.As(err, &reply) {
		return string(reply.Line)
	}
	return ""
}

func TestClientsThatHaveNotAuthenticatedShareALaneThatHasNot(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.keys["alice"] = multiplex.Key{User: "alice", RESP: 2}
		s.do(func() { s.pool.SetPassword("alice", "x") })
		s.play(`
			a? GET k
			up1> HELLO 2
			up1< ` + noAuth + `
			# Nothing else would be answered differently.
			up1> GET k
			up1< -NOAUTH Authentication required.\r\n
			a< -NOAUTH Authentication required.\r\n
			alice? GET k
			up2: handshake
			up2> GET k
			up2< +v\r\n
			alice< +v\r\n
		`)
		line, _ := unescape(noAuth)
		s.do(func() {
			a, alice := s.client("a").ctx, s.client("alice").ctx
			if !a.Unauthenticated() || alice.Unauthenticated() {
				s.t.Errorf("unauthenticated: %t, and alice: %t", a.Unauthenticated(), alice.Unauthenticated())
			}
			if got := string(a.Link().Hello()); got != line {
				s.t.Errorf("Hello is %q", got)
			}
			if a.Link().CanEcho() {
				s.t.Error("it is said to be able to use ECHO")
			}
		})
		s.play("up1: close\na: unlinked")
		s.do(func() {
			if !s.client("a").ctx.Unauthenticated() {
				s.t.Error("without a lane, it has been forgotten that clients have to authenticate")
			}
		})
	})
}

func TestWhoeverDoesNotWaitAnyLongerIsNotTold(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(`
			a? GET one
			b? GET two
			up1> HELLO 2
			a: leave
			up1< *0\r\n
			up1> CLIENT SETNAME *
			up1> CLIENT NO-EVICT ON
			up1> ECHO redbouncer
			up1> PING
			up1< +OK\r\n+OK\r\n$10\r\nredbouncer\r\n+PONG\r\n
			up1> GET two
			up1< +2\r\n
			b< +2\r\n
		`)
	})
}

func TestALaneThatNobodyWaitsForIsNotDialedAgain(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(`
			a? GET k
			up1> HELLO 2
			a: leave
			up1: close
		`)
		s.until("the slot to be free", func() bool { return s.budget.Open(limits.Lane) == 0 })
		if n := s.redis.accepted(); n != 1 {
			s.t.Errorf("%d connections", n)
		}
	})
}
