package proxy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who a client is to Redis, what it may do, and what it is told of itself.

// What a user may not do is refused in words that name him, and Redis logs it as his.
func TestARefusalNamesTheClientsOwnUser(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	for _, user := range []string{"ann", "ben"} {
		direct.Do("ACL", "SETUSER", user, "on", ">pw", "~"+user+":*", "&"+user+":*", "+@all", "-config", "-client|kill", "-multi")
	}
	ben := proxytest.Dial(t, p.Addr())
	expect(t, ben, "AUTH ben pw", "+OK\r\n")
	for _, script := range []string{
		"AUTH ann pw; CONFIG GET save; GET ben:k; SET ann:k 1; PUBLISH ben:c x; CLIENT KILL ID 1; MULTI; GET ann:k; ACL WHOAMI; SUBSCRIBE ben:c; EVAL 'return 1' 1 ben:k",
		"AUTH ann pw; CONFIG GET save; AUTH ben pw; GET ann:k; CONFIG GET save; AUTH ann wrong; ACL WHOAMI; RESET; ACL WHOAMI; GET ann:k",
		"HELLO 3 AUTH ann pw; BLPOP ben:k 0; WATCH ben:k; CONFIG GET save; GET ben:k; FLUSHALL; XREAD BLOCK 1 STREAMS ben:s 0",
	} {
		want := oneByOne(t, s.Addr(), script)
		for range 2 {
			if got := wholeAnswer(t, p.Addr(), script, false); got != want {
				t.Errorf("%s\ngot  %s\nwant %s", script, quote(got), quote(want))
			}
		}
		expect(t, ben, "ACL WHOAMI", "$3\r\nben\r\n")
	}
	for _, user := range []string{"ann", "ben"} {
		direct.Do("ACL", "LOG", "RESET")
		c := proxytest.Dial(t, p.Addr())
		expect(t, c, "AUTH "+user+" pw", "+OK\r\n")
		c.Do("CONFIG", "GET", "save")
		if got := string(direct.Do("ACL", "LOG", "1")); !strings.Contains(got, "$8\r\nusername\r\n$3\r\n"+user+"\r\n") {
			t.Errorf("ACL LOG of what %s did: %q", user, got)
		}
	}
}

// Whether Redis asks first who it is, or whether there is such a command, is its own affair: versions differ.
func TestWhoHasNotAuthenticatedIsRefusedInRedissOrder(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--requirepass", "secret")
	commands := []string{
		"GET", "GET k", "NOSUCH", "NOSUCH a b", "CLIENT", "CLIENT NOSUCH", "CLIENT ID", "CLIENT SETNAME x", "CLIENT SETNAME", "CLIENT REPLY OFF",
		"CLIENT REPLY", "CLIENT KILL ID 1", "CLIENT LIST", "CLIENT PAUSE 1", "CLIENT TRACKING ON", "CONFIG", "CONFIG GET save", "CONFIG SET timeout 5",
		"HELLO", "HELLO 3", "HELLO 3 SETNAME x", "HELLO 9", "HELLO x", "AUTH", "AUTH a b c", "AUTH wrong", "RESET", "RESET x", "PING", "PING a b",
		"ECHO", "MULTI", "MULTI x", "EXEC", "DISCARD", "WATCH", "WATCH k", "UNWATCH", "SELECT", "SELECT 1", "SUBSCRIBE", "SUBSCRIBE a", "UNSUBSCRIBE",
		"BLPOP", "BLPOP k 0", "WAIT 0 0", "WAIT", "EVAL", "EVAL x 0", "SCRIPT KILL", "SCRIPT LOAD", "FLUSHALL", "MONITOR x", "READONLY", "INFO", "ASKING",
		"XREAD BLOCK 0 STREAMS s $", "FUNCTION LIST", "COMMAND COUNT",
	}
	for _, cmd := range commands {
		want, got := oneByOne(t, s.Addr(), cmd), wholeAnswer(t, p.Addr(), cmd, false)
		if got != want {
			t.Errorf("%s\ngot  %s\nwant %s", cmd, quote(got), quote(want))
		}
	}
	all := strings.Join(commands, "; ")
	if want, got := oneByOne(t, s.Addr(), all), wholeAnswer(t, p.Addr(), all, true); got != want {
		t.Errorf("all of them\ngot  %s\nwant %s", quote(got), quote(want))
	}
	all += "; AUTH secret; GET k; NOSUCH"
	if want, got := oneByOne(t, s.Addr(), all), wholeAnswer(t, p.Addr(), all, false); got != want {
		t.Errorf("and then with the password\ngot  %s\nwant %s", quote(got), quote(want))
	}
	allGone(t, p)
}

// One id and one address: a library kills and redirects by what it has been told.
func TestAClientIsTheSameInAllThatItIsToldOfItself(t *testing.T) {
	onLoops(t, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		other := proxytest.Dial(t, p.Addr())
		seen := map[string]bool{idOf(other): true}
		for range 4 {
			c := proxytest.Dial(t, p.Addr())
			id := idOf(c)
			if seen[id] {
				t.Errorf("two clients have the id %s", id)
			}
			seen[id] = true
			check := func() {
				t.Helper()
				for _, hello := range []string{"HELLO", "HELLO 3", "HELLO 3 SETNAME me", "HELLO 2"} {
					if got := string(c.Do(strings.Fields(hello)...)); !strings.Contains(got, "$2\r\nid\r\n:"+id+"\r\n") {
						t.Errorf("%s: %q, but CLIENT ID says %s", hello, got, id)
					}
				}
				lines, _ := clientLines(t, c.Do("CLIENT", "INFO"))
				if lines[0]["id"] != id || lines[0]["addr"] != c.LocalAddr() {
					t.Errorf("CLIENT INFO: %v", lines[0])
				}
				lines, _ = clientLines(t, other.Do("CLIENT", "LIST", "ID", id))
				if len(lines) != 1 || lines[0]["addr"] != c.LocalAddr() || lines[0]["laddr"] != p.Addr() {
					t.Errorf("CLIENT LIST: %v, of %s", lines, c.LocalAddr())
				}
				if now := idOf(c); now != id {
					t.Errorf("CLIENT ID says %s, and said %s", now, id)
				}
			}
			check()
			c.Do("SELECT", "3")
			c.Do("WATCH", "k")
			check()
			c.Do("RESET")
			check()
		}
	})
}

// Redis evicts the clients that use the most memory: a connection that many share would be the first to go.
func TestRedisMayEvictNoneOfTheConnections(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	for _, doing := range []string{"PING", "SELECT 3", "HELLO 3", "SUBSCRIBE ch", "BLPOP k 0", "WATCH k", "AUTH a b", "CLIENT NO-EVICT OFF", "WATCH k; CLIENT NO-EVICT OFF"} {
		inOneWrite(t, proxytest.Dial(t, p.Addr()), doing+"; PING")
	}
	kinds := map[string]int{}
	eventually(t, "all kinds of connections", func() string {
		clear(kinds)
		lines, _ := clientLines(t, direct.Do("CLIENT", "LIST"))
		for _, line := range lines {
			if _, kind, ok := strings.Cut(strings.TrimPrefix(line["name"], "redbouncer:"), ":"); ok {
				kinds[kind]++
				if !strings.Contains(line["flags"], "e") {
					return "this one may be evicted: " + line["name"] + " " + line["flags"]
				}
			}
		}
		if kinds["lane"] < 3 || kinds["pin"] < 3 || kinds["control"] < 1 {
			return "there are too few"
		}
		return ""
	})
	// What the client has asked for is shown all the same.
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "CLIENT NO-EVICT ON", "+OK\r\n")
	if lines, _ := clientLines(t, c.Do("CLIENT", "INFO")); lines[0]["flags"] != "e" {
		t.Errorf("flags %s", lines[0]["flags"])
	}
}

func TestAPasswordIsCheckedEachTimeAndNeverOnASharedConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	expect(t, direct, "ACL SETUSER ann on >old ~* &* +@all", "+OK\r\n")
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, a, "AUTH ann old", "+OK\r\n")
	expect(t, a, "ACL WHOAMI", "$3\r\nann\r\n")
	lanes := lanesOf(direct)
	expect(t, direct, "ACL SETUSER ann resetpass >new", "+OK\r\n")
	const wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"
	for range 3 {
		expect(t, b, "AUTH ann old", wrong)
		expect(t, b, "ACL WHOAMI", "$7\r\ndefault\r\n")
		expect(t, a, "AUTH ann old", wrong)
		expect(t, a, "ACL WHOAMI", "$3\r\nann\r\n")
	}
	expect(t, b, "AUTH ann new", "+OK\r\n")
	expect(t, b, "ACL WHOAMI", "$3\r\nann\r\n")
	lanesLive(t, direct, lanes)
}

// handshakes are the first writes of client libraries, as they have been seen on the wire.
var handshakes = []struct {
	library string
	writes  [][]string
}{
	{"redis-py 8.1", [][]string{
		{"HELLO 3"}, {"CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type external-ip"}, {"CLIENT SETINFO LIB-NAME redis-py"},
		{"CLIENT SETINFO LIB-VER 8.1.0"}, {"SELECT 2"}, {"GET k"},
	}},
	{"redis-py 4.3", [][]string{{"SELECT 2"}, {"CLIENT SETNAME me"}, {"GET k"}}},
	{"node-redis 6.3", [][]string{{
		"HELLO 3", "SELECT 2", "CLIENT SETINFO LIB-VER 6.3.1", "CLIENT SETINFO LIB-NAME node-redis",
		"CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type external-ip",
	}, {"GET k"}}},
	{"ioredis 6.0", [][]string{{
		"hello 3", "select 2", "client SETINFO LIB-VER 6.0.0", "client SETINFO LIB-NAME ioredis",
	}, {"get k"}, {"quit"}}},
	{"go-redis 9.23", [][]string{
		{"hello 3"}, {"select 2"}, {"client maint_notifications on moving-endpoint-type internal-ip"},
		{"client setinfo LIB-NAME go-redis(,go1.26)", "client setinfo LIB-VER 9.23.0"}, {"get k"},
	}},
	{"with a user", [][]string{{"HELLO 3 AUTH ann pw SETNAME me", "SELECT 2", "CLIENT SETINFO LIB-VER 1"}, {"GET k", "CLIENT GETNAME", "ACL WHOAMI"}}},
	{"with a wrong password", [][]string{{"HELLO 3 AUTH ann wrong", "SELECT 2", "CLIENT SETNAME me"}, {"GET k"}}},
}

func TestTheHandshakesOfLibrariesAreAnsweredAsByRedis(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all")
	for _, h := range handshakes {
		t.Run(h.library, func(t *testing.T) {
			said := func(addr string) string {
				c := proxytest.Dial(t, addr)
				defer c.Close()
				var b strings.Builder
				for _, write := range h.writes {
					inOneWrite(t, c, strings.Join(write, "; "))
					for range write {
						b.Write(c.ReadReply())
					}
				}
				return helloID.ReplaceAllString(b.String(), "(id)")
			}
			// A Redis that knows of maintenance would announce it on connections that are not the client's.
			want := regexp.MustCompile(`(?i)\+OK(\r\n-ERR unknown subcommand 'maint)`).ReplaceAllString(said(s.Addr()), "+OK$1")
			for range 2 {
				if got := said(p.Addr()); got != want {
					t.Errorf("got  %s\nwant %s", quote(got), quote(want))
				}
			}
		})
	}
	// What ioredis asks next, to know whether it is ready.
	c := proxytest.Dial(t, p.Addr())
	for _, field := range []string{"\r\nloading:0\r\n", "\r\nredis_version:"} {
		if got := string(c.Do("info")); !strings.Contains(got, field) {
			t.Errorf("INFO lacks %q", field)
		}
	}
}
