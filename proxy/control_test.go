package proxy_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Commands that interrupt others never wait for those whom they are to interrupt, and act as the client's own user.

const notBusy = "-NOTBUSY No scripts in execution right now.\r\n"

// weaklings are users who may do everything but SCRIPT KILL.
func weaklings(t *testing.T, s *proxytest.Server, names ...string) {
	t.Helper()
	direct := proxytest.Dial(t, s.Addr())
	for _, name := range names {
		if got := direct.Do("ACL", "SETUSER", name, "on", ">pw", "~*", "&*", "+@all", "-script|kill"); string(got) != "+OK\r\n" {
			t.Fatalf("%s", got)
		}
	}
	direct.Close()
}

// expect sends a command and compares the reply.
func expect(t *testing.T, c *proxytest.Conn, command, want string) {
	t.Helper()
	if got := string(c.Do(strings.Fields(command)...)); got != want {
		t.Errorf("%s: got %q, want %q", command, got, want)
	}
}

func TestCommandsThatInterruptOthersNeedNoConnectionThatOthersHold(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = 4 })
	var blocked []*proxytest.Conn
	for range 4 {
		c := proxytest.Dial(t, p.Addr())
		c.Send("BLPOP", "nothing", "0")
		blocked = append(blocked, c)
	}
	eventually(t, "all pins are lent, and more are asked for", func() string {
		if st := p.Stats(); st.Pins != 2 || st.Waiting != 2 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	c := proxytest.Dial(t, p.Addr())
	for range 3 {
		expect(t, c, "SCRIPT KILL", notBusy)
		expect(t, c, "FUNCTION KILL", notBusy)
		expect(t, c, "CLIENT UNPAUSE", "+OK\r\n")
		expect(t, c, "CLIENT PAUSE 0", "+OK\r\n")
		expect(t, c, "CLIENT PAUSE x", "-ERR timeout is not an integer or out of range\r\n")
	}
	for _, b := range blocked {
		b.Close()
	}
	c.Close()
	allGone(t, p)
}

func TestAScriptWithoutEndIsKilledThoughItOccupiesTheLane(t *testing.T) {
	for _, tc := range []struct{ name, before string }{
		{"RESP2", "PING"},
		{"RESP3", "HELLO 3"},
		{"another database", "SELECT 3"},
		{"another user", "AUTH strong pw"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = 4 }, "--lua-time-limit", "50")
			direct := proxytest.Dial(t, s.Addr())
			direct.Do("ACL", "SETUSER", "strong", "on", ">pw", "~*", "&*", "+@all")
			c, looping := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
			c.Do(strings.Fields(tc.before)...)
			looping.Send("EVAL", "while true do end", "0")
			eventually(t, "the script runs", func() string {
				if got := string(direct.Do("PING")); !strings.HasPrefix(got, "-BUSY") {
					return got
				}
				return ""
			})
			expect(t, c, "SCRIPT KILL", "+OK\r\n")
			if got := string(looping.ReadReply()); !strings.Contains(got, "Script killed by user with SCRIPT KILL") {
				t.Errorf("the one that looped: %q", got)
			}
			expect(t, c, "SCRIPT KILL", notBusy)
			expect(t, looping, "PING", "+PONG\r\n")
		})
	}
}

func TestEachActsAsHimselfOnTheControlConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	weaklings(t, s, "weak", "feeble")
	direct := proxytest.Dial(t, s.Addr())
	noPerm := map[string]string{} // in this version's words: Redis 7.2 and later name the user
	for _, user := range []string{"weak", "feeble"} {
		direct.Do("AUTH", user, "pw")
		noPerm[user] = string(direct.Do("SCRIPT", "KILL"))
		if !strings.HasPrefix(noPerm[user], "-NOPERM") {
			t.Fatalf("%s: %q", user, noPerm[user])
		}
	}
	anyone, weak, feeble := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, weak, "AUTH weak pw", "+OK\r\n")
	expect(t, feeble, "AUTH feeble pw", "+OK\r\n")
	for range 3 {
		expect(t, anyone, "SCRIPT KILL", notBusy)
		expect(t, weak, "SCRIPT KILL", noPerm["weak"])
		expect(t, feeble, "AUTH feeble pw", "+OK\r\n")
		expect(t, anyone, "SCRIPT KILL", notBusy)
		expect(t, feeble, "SCRIPT KILL", noPerm["feeble"])
		expect(t, weak, "AUTH weak wrong", string(direct.Do("AUTH", "weak", "wrong")))
		expect(t, weak, "SCRIPT KILL", noPerm["weak"])
		expect(t, weak, "CLIENT UNPAUSE", "+OK\r\n")
	}
	// One who has become another on a connection of his own is that other.
	tracking := proxytest.Dial(t, p.Addr())
	expect(t, tracking, "CLIENT TRACKING ON", "+OK\r\n")
	expect(t, tracking, "SCRIPT KILL", notBusy)
	expect(t, tracking, "AUTH weak pw", "+OK\r\n")
	expect(t, tracking, "SCRIPT KILL", noPerm["weak"])
}

func TestAClientWithoutAuthenticationInterruptsNobody(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--requirepass", "pw", "--databases", "4")
	direct := proxytest.Dial(t, s.Addr())
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	for range 3 {
		expect(t, b, "AUTH pw", "+OK\r\n")
		expect(t, b, "SCRIPT KILL", notBusy)
		expect(t, a, "SCRIPT KILL", string(direct.Do("SCRIPT", "KILL")))
		expect(t, a, "CLIENT PAUSE 1000", string(direct.Do("CLIENT", "PAUSE", "1000")))
		expect(t, b, "SET k v", "+OK\r\n")
	}
}

func TestFunctionStatsHasTheShapeOfTheClientsProtocol(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	two, three := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	three.Do("HELLO", "3")
	want2 := string(direct.Do("FUNCTION", "STATS"))
	direct.Do("HELLO", "3")
	want3 := string(direct.Do("FUNCTION", "STATS"))
	if want2[0] != '*' || want3[0] != '%' {
		t.Fatalf("%q, %q", want2, want3)
	}
	for range 3 {
		expect(t, two, "FUNCTION STATS", want2)
		expect(t, three, "FUNCTION STATS", want3)
	}
}

func TestInterruptingLeavesTheStateOfTheClientAlone(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), nil, `
		a> WATCH k
		a< +OK
		a> SCRIPT KILL
		a< -NOTBUSY No scripts in execution right now.
		b> SET k changed
		b< +OK
		a> MULTI
		a< +OK
		a> SCRIPT KILL
		a< +QUEUED
		a> EXEC
		a< *-1
		a> MULTI
		a< +OK
		a> CLIENT UNPAUSE
		a< +QUEUED
		a> EXEC
		a< *1\r\n+OK
		a+ SET k 1
		a+ SCRIPT KILL
		a+ GET k
		a+ CLIENT REPLY SKIP
		a+ SCRIPT KILL
		a> PING
		a< +OK
		a< -NOTBUSY No scripts in execution right now.
		a< $1\r\n1
		a< +PONG
		a: close
		b: close
	`)
	allGone(t, p)
}

func TestWithOneOrTwoConnectionsInterruptingTakesTurns(t *testing.T) {
	for size := 1; size <= 2; size++ {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = size })
			a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
			for range 3 {
				expect(t, a, "SCRIPT KILL", notBusy)
				expect(t, b, "SET k v", "+OK\r\n")
				expect(t, a, "GET k", "$1\r\nv\r\n")
			}
			a.Close()
			b.Close()
			allGone(t, p)
		})
	}
}

func TestWhenRedisComesBackInterruptingWorksAgain(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SCRIPT KILL", notBusy)
	s.Kill()
	s.Restart()
	expect(t, c, "SCRIPT KILL", notBusy)
}
