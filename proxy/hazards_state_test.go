package proxy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// State that a client has on a connection, and what becomes of it: it is nobody else's, and where it is lost, the client
// is told so by the end of its connection.

// If there is no connection for a transaction, what is in it must not run as if it stood alone.
func TestTheBodyOfATransactionThatGetsNoConnectionDoesNotRun(t *testing.T) {
	for _, patience := range []time.Duration{0, 30 * time.Millisecond} {
		s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout, c.Loops = 3, patience, 1 })
		holder := proxytest.Dial(t, p.Addr())
		expect(t, holder, "WATCH k", "+OK\r\n")
		for _, script := range []string{
			"MULTI; SET run 1; SELECT 0; EXEC; SET run 2", "MULTI; SET run 1", "WATCH x; MULTI; SET run 1; EXEC; SET run 2",
			"WATCH x; GET k; SET run 1", "GET k; multi; SET run 1; HELLO 2; EXEC",
		} {
			c := proxytest.Dial(t, p.Addr())
			inOneWrite(t, c, script)
			got, closed := isClosed(c)
			if !closed || !strings.HasSuffix(got, "-ERR max number of clients reached\r\n") {
				t.Errorf("%s: %q, closed: %v", script, got, closed)
			}
		}
		expect(t, proxytest.Dial(t, s.Addr()), "EXISTS run", ":0\r\n")
		expect(t, holder, "UNWATCH", "+OK\r\n")
	}
}

var pinID = regexp.MustCompile(`(?m)^id=(\d+) .*:pin `)

// What WATCH knows is on a connection. If that is lost, the transaction must not go through on another.
func TestWATCHDoesNotOutliveItsConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, idle := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, idle, "PING", "+PONG\r\n")
	for _, begun := range []string{"WATCH k", "WATCH k; GET k", "WATCH k; MULTI", "WATCH k; MULTI; SET run 1", "MULTI; SET run 1"} {
		c := proxytest.Dial(t, p.Addr())
		for cmd := range strings.SplitSeq(begun, "; ") {
			c.Do(strings.Fields(cmd)...)
		}
		for _, m := range pinID.FindAllStringSubmatch(string(direct.Do("CLIENT", "LIST")), -1) {
			expect(t, direct, "CLIENT KILL ID "+m[1], ":1\r\n")
		}
		_ = c.TryWrite([]byte(proxytest.Command("MULTI") + proxytest.Command("SET", "run", "1") + proxytest.Command("EXEC")))
		ended(t, begun, c)
		expect(t, direct, "EXISTS run", ":0\r\n")
		expect(t, idle, "PING", "+PONG\r\n")
	}
	idle.Close()
	allGone(t, p)
}

// Whoever hangs up while it waits gets nothing: what comes stays for others, and what it has sent behind is not run.
func TestNothingIsPoppedForAClientThatHasGone(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	for _, wait := range []string{"BLPOP list 0", "BRPOP other list 0", "BLMOVE list taken LEFT LEFT 0", "BLMPOP 0 1 list LEFT", "BRPOPLPUSH list taken 0"} {
		for _, end := range []func(*proxytest.Conn){(*proxytest.Conn).Close, (*proxytest.Conn).Reset, func(c *proxytest.Conn) {
			if err := c.CloseWrite(); err != nil {
				t.Error(err)
			}
			ended(t, wait, c)
		}} {
			for _, behind := range []string{"", "; SET run 1", "; MULTI; SET run 1; EXEC; LPOP list"} {
				c := proxytest.Dial(t, p.Addr())
				inOneWrite(t, c, wait+behind)
				eventually(t, wait+" is waiting", func() string {
					if proxy.Gauges(p.Server)[0] == 0 {
						return "it is not"
					}
					return ""
				})
				end(c)
				allGone(t, p)
				eventually(t, "Redis knows", func() string {
					if got := string(direct.Do("INFO", "clients")); !strings.Contains(got, "blocked_clients:0") {
						return got
					}
					return ""
				})
				expect(t, direct, "RPUSH list x", ":1\r\n")
				expect(t, direct, "LLEN list", ":1\r\n")
				expect(t, direct, "EXISTS run taken", ":0\r\n")
				expect(t, direct, "DEL list", ":1\r\n")
			}
		}
	}
}

// FLUSHALL without ASYNC keeps its connection busy on Redis 7.4 and later: that is not one which others share.
func TestAFlushOccupiesNoSharedConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--enable-debug-command", "yes")
	direct := proxytest.Dial(t, s.Addr())
	calm := newBystander(t, p.Addr())
	c := proxytest.Dial(t, p.Addr())
	expect(t, direct, "SELECT 1", "+OK\r\n")
	expect(t, c, "SELECT 1", "+OK\r\n")
	for _, flush := range []string{"FLUSHDB", "FLUSHDB SYNC", "flushdb async", "MULTI; FLUSHDB; EXEC"} {
		expect(t, direct, "DEBUG POPULATE 20000", "+OK\r\n")
		inOneWrite(t, c, flush+"; DBSIZE")
		for range strings.Count(flush, ";") + 1 {
			if got := string(c.ReadReply()); got[0] == '-' {
				t.Errorf("%s: %q", flush, got)
			}
		}
		expectNext(t, c, ":0\r\n")
	}
	calm.stop(t)
	for _, name := range []string{"flushall", "flushdb", "sflush"} {
		for _, known := range proxy.Knows(p.Server, name) {
			if !known.Pinned {
				t.Errorf("%s goes on a lane", name)
			}
		}
	}
	expect(t, c, "FLUSHALL", "+OK\r\n")
	c.Close()
	allGone(t, p)
}

// What is known to leave state, and whatever is not known at all, has a connection of its own.
func TestStateThatTheProxyDoesNotFollowIsNeverOnASharedConnection(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.AllowDangerous = []string{"all"} })
	for _, name := range []string{
		"asking", "client|caching", "client|capa", "client|import-source", "client|nosuch", "himport|prepare", "himport|set", "himport|nosuch", "himport",
		"script|debug", "monitor", "sync", "psync", "replconf", "nosuchcommand", "nosuch.command", "debug", "watch", "blpop", "hello", "auth", "reset",
		"function|load", "function|list", "function|restore", "client|pause", "client|tracking", "subscribe", "post", "host:",
	} {
		for _, known := range proxy.Knows(p.Server, name) {
			if !known.Pinned {
				t.Errorf("%s goes on a lane", name)
			}
		}
	}
	for _, script := range []string{"CLIENT NOSUCH", "NOSUCHCOMMAND a b", "ASKING", "HIMPORT SET a b"} {
		c := proxytest.Dial(t, p.Addr())
		inOneWrite(t, c, script+"; GET k; QUIT")
		if got := string(c.ReadAll()); !regexp.MustCompile(`^(-ERR .*|\+OK)\r\n\$-1\r\n\+OK\r\n$`).MatchString(got) {
			t.Errorf("%s: %q", script, got)
		}
	}
	allGone(t, p)
}

// CLIENT NO-TOUCH is for who asks for it: others' reads count.
func TestReadsWithoutATouchAreOnlyThoseOfWhoAskedForIt(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lfu", "--lfu-log-factor", "0")
	shy, plain, direct := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, s.Addr())
	if got := string(shy.Do("CLIENT", "NO-TOUCH", "ON")); strings.HasPrefix(got, "-ERR unknown subcommand") {
		t.Skip("this server does not know CLIENT NO-TOUCH")
	}
	expect(t, direct, "CLIENT NO-TOUCH ON", "+OK\r\n")
	expect(t, plain, "SET k v", "+OK\r\n")
	freq := func() string { return string(direct.Do("OBJECT", "FREQ", "k")) }
	before := freq()
	for range 5 {
		expect(t, shy, "GET k", "$1\r\nv\r\n")
	}
	if got := freq(); got != before {
		t.Errorf("after reads without a touch, the frequency is %q, it was %q", got, before)
	}
	for i := range 5 {
		was := freq()
		expect(t, plain, "GET k", "$1\r\nv\r\n")
		if freq() == was {
			t.Errorf("read %d of another does not count", i)
		}
		expect(t, shy, "GET k", "$1\r\nv\r\n")
	}
	was := freq()
	expect(t, shy, "RESET", "+RESET\r\n")
	expect(t, shy, "GET k", "$1\r\nv\r\n")
	if freq() == was {
		t.Error("a read after RESET does not count")
	}
}

// CLIENT CAPA cannot be taken back, and IMPORT-SOURCE changes what has expired: neither may stay on a connection that
// somebody else gets.
func TestWhatValkeyClientsSayOfThemselvesGoesWithThem(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	if got := string(direct.Do("CLIENT", "CAPA", "redirect")); got != "+OK\r\n" {
		t.Skipf("this server does not know CLIENT CAPA: %q", got)
	}
	direct.Close()
	direct = proxytest.Dial(t, s.Addr())
	if got := string(direct.Do("CONFIG", "SET", "import-mode", "yes")); got != "+OK\r\n" {
		t.Logf("no import mode: %q", got)
	}
	marked := func() (n int) {
		lines, _ := clientLines(t, direct.Do("CLIENT", "LIST"))
		for _, line := range lines {
			if line["capa"] != "" || strings.Contains(line["flags"], "I") {
				n++
				if !strings.HasSuffix(line["name"], ":pin") {
					t.Errorf("such a connection is %v", line)
				}
			}
		}
		return n
	}
	for _, say := range []string{"CLIENT CAPA redirect", "CLIENT IMPORT-SOURCE ON"} {
		c, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		expect(t, c, say, "+OK\r\n")
		expect(t, c, "GET k", "$-1\r\n")
		expect(t, other, "GET k", "$-1\r\n")
		expect(t, other, "BLPOP none 0.01", "*-1\r\n")
		if n := marked(); n != 1 {
			t.Errorf("%s: %d connections are marked", say, n)
		}
		c.Close()
		other.Close()
		allGone(t, p)
		eventually(t, say+" has gone with its client", func() string {
			if n := marked(); n > 0 {
				return fmt.Sprint(n, " connections are marked")
			}
			return ""
		})
	}
}

// A script that Redis has lost is reported as Redis does: libraries then send it whole.
func TestAScriptThatIsNotThereAnyMoreIsReportedToEveryClient(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	const sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db" // of "return 1"
	two, three, third := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	three.Do("HELLO", "3")
	third.Do("SELECT", "3")
	noScript := string(direct.Do("EVALSHA", sha, "0"))
	if !strings.HasPrefix(noScript, "-NOSCRIPT ") {
		t.Fatal(noScript)
	}
	clients := []*proxytest.Conn{two, three, third}
	for i, flush := range []string{"SCRIPT FLUSH", "SCRIPT FLUSH ASYNC", "script flush sync"} {
		for _, c := range clients {
			expect(t, c, "EVALSHA "+sha+" 0", noScript)
		}
		clients[i].Do("SCRIPT", "LOAD", "return 1")
		for _, c := range clients {
			expect(t, c, "EVALSHA "+sha+" 0", ":1\r\n")
		}
		inOneWrite(t, clients[i], "MULTI; EVALSHA "+sha+" 0; EXEC")
		for _, want := range []string{"+OK\r\n", "+QUEUED\r\n", "*1\r\n:1\r\n"} {
			expectNext(t, clients[i], want)
		}
		expect(t, clients[2-i], flush, "+OK\r\n")
	}
	expect(t, two, "EVALSHA "+sha+" 0", noScript)
}

// A cursor is not a connection's: a scan goes on behind the proxy wherever its next command goes, and finds everything.
func TestAScanGoesOnWhereverItsNextCommandGoes(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	for i := range 500 {
		direct.Do("SET", fmt.Sprint("key:", i), "v")
	}
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	b.Do("HELLO", "3")
	found := map[string]bool{}
	cursor, i := "0", 0
	for {
		c := []*proxytest.Conn{a, b}[i%2]
		lines := strings.Split(string(c.Do("SCAN", cursor, "COUNT", "20")), "\r\n")
		cursor = lines[2]
		for _, line := range lines {
			if strings.HasPrefix(line, "key:") {
				found[line] = true
			}
		}
		if i++; i%5 == 0 {
			direct.Do("CLIENT", "KILL", "TYPE", "normal")
		}
		if cursor == "0" {
			break
		}
	}
	if len(found) != 500 || i < 10 {
		t.Errorf("%d keys in %d steps", len(found), i)
	}
}

// Notifications of changes to keys name the database in their channel: it is that of the client who made the change.
func TestNotificationsOfChangesToKeysNameTheRightDatabase(t *testing.T) {
	_, p := redisAndProxy(t, nil, "--notify-keyspace-events", "KEA")
	proxytest.Converse(t, p.Addr(), nil, `
		sub> PSUBSCRIBE __keyspace@*__:k
		sub< *3\r\n$10\r\npsubscribe\r\n$16\r\n__keyspace@*__:k\r\n:1
		three> SUBSCRIBE __keyevent@3__:set
		three< *3\r\n$9\r\nsubscribe\r\n$18\r\n__keyevent@3__:set\r\n:1
		a> SELECT 3
		a< +OK
		b> SET k v
		b< +OK
		sub< *4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@*__:k\r\n$16\r\n__keyspace@0__:k\r\n$3\r\nset
		a> SET k v
		a< +OK
		sub< *4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@*__:k\r\n$16\r\n__keyspace@3__:k\r\n$3\r\nset
		three< *3\r\n$7\r\nmessage\r\n$18\r\n__keyevent@3__:set\r\n$1\r\nk
		b> DEL k
		b< :1
		sub< *4\r\n$8\r\npmessage\r\n$16\r\n__keyspace@*__:k\r\n$16\r\n__keyspace@0__:k\r\n$3\r\ndel
	`)
}

// Memory that one client's command was sent from is used for the next command, of whomever. It must have one use only: here, a
// command of just the size of a segment is the front of a large buffer, and both sorts are kept.
func TestAValueIsStoredAsItWasSentWhateverOthersSendMeanwhile(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 1 })
	first, large, many := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	for _, c := range []*proxytest.Conn{first, large, many} {
		expect(t, c, "PING", "+PONG\r\n")
	}
	unknown := proxytest.Command("NOSUCH", strings.Repeat("x", 3<<19)) // goes on a pin, and leaves its buffer to its client
	around := len(proxytest.Command("SET", "k", strings.Repeat("y", 60000))) - 60000
	segment := proxytest.Command("SET", "k", strings.Repeat("y", 64<<10-around))
	sets := func(n, size int) string {
		return strings.Repeat(proxytest.Command("SET", "k", strings.Repeat("z", size)), n)
	}

	first.Write(unknown[:len(unknown)-1000])
	time.Sleep(100 * time.Millisecond)
	first.Write(unknown[len(unknown)-1000:] + segment)
	if got := string(first.ReadReply()); !strings.HasPrefix(got, "-ERR unknown command") {
		t.Fatalf("%.60q", got)
	}
	expectNext(t, first, "+OK\r\n")
	first.Write(sets(100, 2000)) // more than one segment
	for range 100 {
		expectNext(t, first, "+OK\r\n")
	}

	value := strings.Repeat("v", 1200<<10)
	set := proxytest.Command("SET", "large", value)
	large.Write(set[:len(set)/2])
	time.Sleep(100 * time.Millisecond)
	s.Freeze()
	many.Write(sets(900, 1000))
	time.Sleep(100 * time.Millisecond)
	large.Write(set[len(set)/2:])
	time.Sleep(100 * time.Millisecond)
	s.Thaw()
	expectNext(t, large, "+OK\r\n")
	if got := s.Client().Get(t.Context(), "large").Val(); got != value {
		t.Errorf("%d bytes are stored that are not those that were sent", len(got))
	}
}
