package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Replies find their clients by their order alone. These are the ways in which Redis answers a request not at all, more
// than once, or with something between.

// lanesOf returns the ids of the connections that clients share.
func lanesOf(direct *proxytest.Conn) []string {
	var ids []string
	for _, m := range laneID.FindAllStringSubmatch(string(direct.Do("CLIENT", "LIST")), -1) {
		ids = append(ids, m[1])
	}
	return ids
}

// lanesLive fails the test if one of the lanes that there were has gone.
func lanesLive(t *testing.T, direct *proxytest.Conn, before []string) {
	t.Helper()
	now := lanesOf(direct)
	for _, id := range before {
		if !slices.Contains(now, id) {
			t.Errorf("lane %s has gone: %v", id, now)
		}
	}
}

// inOneWrite sends commands that are separated by semicolons in one write.
func inOneWrite(t *testing.T, c *proxytest.Conn, script string) {
	t.Helper()
	var raw []byte
	for cmd := range strings.SplitSeq(script, "; ") {
		words, err := proxytest.Words(cmd)
		if err != nil {
			t.Fatal(err)
		}
		raw = proxytest.AppendCommand(raw, words...)
	}
	c.Write(string(raw))
}

// oneByOne returns what commands that are separated by semicolons are answered, each sent when the one before has been.
// (Behind other replies, some versions of Redis answer a failed AUTH with nothing.) The last is a QUIT.
func oneByOne(t *testing.T, addr, script string) string {
	t.Helper()
	c := proxytest.Dial(t, addr)
	defer c.Close()
	var b strings.Builder
	for cmd := range strings.SplitSeq(script+"; QUIT", "; ") {
		inOneWrite(t, c, cmd)
		b.Write(c.ReadReply())
		if strings.HasPrefix(cmd, "QUIT") {
			break
		}
	}
	return helloID.ReplaceAllString(b.String(), "(id)")
}

// A lane that waited for such a reply would hand each client what its neighbour asked for.
func TestACommandThatIsNotAnsweredNeverReachesASharedConnection(t *testing.T) {
	for _, allowed := range []bool{false, true} {
		t.Run(fmt.Sprintf("allowed: %v", allowed), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				if allowed {
					c.AllowDangerous = []string{"replconf", "psync", "sync"}
				}
			})
			direct, other := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
			expect(t, other, "SET k of-another", "+OK\r\n")
			lanes := lanesOf(direct)
			for _, silent := range []string{
				"REPLCONF ACK 0", "replconf getack *", "REPLCONF ACK 1; PING", "MULTI; REPLCONF ACK 1; EXEC",
				"WATCH k; REPLCONF ACK 1", "CLIENT REPLY SKIP; PING", "CLIENT REPLY OFF; PING; MULTI; GET k; EXEC",
			} {
				c := proxytest.Dial(t, p.Addr())
				inOneWrite(t, c, "GET mine; "+silent)
				expectNext(t, c, "$-1\r\n")
				if !allowed && strings.HasPrefix(silent, "REPLCONF") {
					expectNext(t, c, "-ERR REPLCONF is not allowed through redbouncer: list it in allow-dangerous, or send it to Redis itself\r\n")
				}
				for range 3 {
					expect(t, other, "GET k", "$10\r\nof-another\r\n")
				}
				c.Close()
			}
			for _, empty := range []string{"*0\r\n", "*-1\r\n", "\r\n", "  \n", "*0\r\n\r\n*-5\r\n"} {
				c := proxytest.Dial(t, p.Addr())
				c.Write("PING\r\n" + empty + "GET k\r\n")
				expectNext(t, c, "+PONG\r\n")
				expectNext(t, c, "$10\r\nof-another\r\n")
				c.Close()
			}
			lanesLive(t, direct, lanes)
			other.Close()
			allGone(t, p)
		})
	}
}

// Behind other replies, Redis 7.2 and later may answer a failed AUTH with nothing. Here each is answered, as alone.
func TestAFailedAUTHBehindOtherRepliesIsAnswered(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--requirepass", "secret")
	attempts := []string{
		"AUTH wrong", "AUTH default wrong", "AUTH nobody x", "HELLO 3 AUTH default wrong", "HELLO 2 AUTH nobody x SETNAME y",
		"AUTH", "AUTH a b c", "HELLO 9 AUTH default secret", "HELLO 3 AUTH default", "AUTH secret", "HELLO 3 AUTH default wrong",
	}
	alone := proxytest.Dial(t, s.Addr())
	want := ""
	for _, cmd := range attempts {
		want += string(alone.Do(strings.Fields(cmd)...)) + string(alone.Do("ECHO", "x"))
	}
	for range 3 {
		c := proxytest.Dial(t, p.Addr())
		inOneWrite(t, c, strings.Join(attempts, "; ECHO x; ")+"; ECHO x; QUIT")
		if got := strings.TrimSuffix(string(c.ReadAll()), "+OK\r\n"); got != want {
			t.Errorf("in one write: %s\none by one, directly: %s", quote(got), quote(want))
		}
	}
	// In a transaction, Redis's reply to EXEC may lack an element for ever: nobody else is to notice.
	calm := newBystanderAs(t, p.Addr(), "secret")
	for _, attempt := range []string{"AUTH wrong", "HELLO 3 AUTH default wrong"} {
		c := proxytest.Dial(t, p.Addr())
		inOneWrite(t, c, "AUTH secret; MULTI; PING; "+attempt+"; PING; EXEC; PING")
		expectNext(t, c, "+OK\r\n")
		expectNext(t, c, "+OK\r\n")
		expectNext(t, c, "+QUEUED\r\n")
		c.Reset()
	}
	calm.stop(t)
	allGone(t, p)
}

// newBystanderAs is newBystander for a Redis that has a password.
func newBystanderAs(t *testing.T, addr, password string) *bystander {
	t.Helper()
	c, err := proxytest.TryDial(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.TryWrite([]byte(proxytest.Command("AUTH", password))); err != nil {
		t.Fatal(err)
	}
	if b, err := c.TryReadReply(); string(b) != "+OK\r\n" {
		t.Fatalf("%q, %v", b, err)
	}
	b := &bystander{conn: c, end: make(chan struct{})}
	b.done.Go(b.live)
	return b
}

// A script, or a command about scripts, that has Redis answer twice: its sender gets no reply of another's, and nobody
// gets one of his; also where the user may not use the command that tells whether replies are in step.
func TestASecondReplyToAScriptReachesNobody(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-echo")
	shebang := `#!lua flags="a\r\n+INJECTED"` + "\nreturn 1"
	attacks := [][]string{
		{"EVAL", shebang, "0"}, {"EVAL_RO", shebang, "0"}, {"SCRIPT", "LOAD", shebang}, {"script", "load", shebang},
		{"EVAL", `#!lua name='a\r\n+INJECTED'` + "\nreturn 1", "0"}, {"EVAL", `#!"a\r\n+INJECTED"` + "\nreturn 1", "0"},
		{"EVAL", "error('a\\r\\n+INJECTED')", "0"}, {"EVAL", "return redis.error_reply('a\\r\\n+INJECTED')", "0"},
		{"EVAL", "return redis.status_reply('a\\r\\n+INJECTED')", "0"}, {"EVAL", "return {err='a\\r\\n+INJECTED'}", "0"},
		{"EVAL", "return redis.call('a\\r\\n+INJECTED')", "0"},
		{"FUNCTION", "LOAD", `#!"a\r\n+INJECTED" name=x` + "\n"}, {"FUNCTION", "LOAD", `#!lua name=x "a\r\n+INJECTED"` + "\n"},
		{"FUNCTION", "LIST", "a\r\n+INJECTED"}, {"FUNCTION", "RESTORE", "a\r\n+INJECTED", "a\r\n+INJECTED"},
		{"HELLO", "3", "a\r\n+INJECTED"}, {"CLIENT", "a\r\n+INJECTED"}, {"a\r\n+INJECTED", "a\r\n+INJECTED"},
	}
	for _, login := range []string{"PING", "AUTH mute pw"} {
		victims := make([]*proxytest.Conn, 2)
		for i := range victims {
			victims[i] = proxytest.Dial(t, p.Addr())
			victims[i].Do(strings.Fields(login)...)
			victims[i].Do("SET", fmt.Sprint("v", i), fmt.Sprint("value-", i))
		}
		for _, attack := range attacks {
			raw := proxytest.Command(attack...)
			multi, exec := proxytest.Command("MULTI"), proxytest.Command("EXEC")
			for _, form := range []string{raw, raw + raw, multi + raw + exec, multi + "PING\r\n" + raw + raw + exec} {
				c := proxytest.Dial(t, p.Addr())
				c.Do(strings.Fields(login)...)
				for i, v := range victims {
					v.Send("GET", fmt.Sprint("v", i))
				}
				c.Write(form + "GET v0\r\n")
				for i, v := range victims {
					v.Send("GET", fmt.Sprint("v", i))
					expectNext(t, v, fmt.Sprintf("$7\r\nvalue-%d\r\n", i))
					expectNext(t, v, fmt.Sprintf("$7\r\nvalue-%d\r\n", i))
				}
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if said := string(c.ReadAll()); strings.Contains(said, "value-1") {
					t.Errorf("%q is answered %q", form, said)
				}
			}
		}
	}
}

// On Redis 7.0 and earlier, what a client publishes to itself comes before the reply, even within the reply to EXEC.
func TestAMessageToOneselfIsNeverTakenForAReply(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	other := proxytest.Dial(t, p.Addr())
	other.Do("HELLO", "3")
	for _, script := range []string{
		"PUBLISH ch m; PING", "MULTI; PUBLISH ch m; PING; EXEC", "WATCH k; MULTI; PUBLISH ch m; PING; EXEC",
		"EVAL \"return redis.call('publish','ch','m')\" 0; PING", "MULTI; SUBSCRIBE ch2; PUBLISH ch2 m; PING; EXEC",
		"CLIENT REPLY SKIP; PUBLISH ch m; PING", "MULTI; SET k v; PUBLISH ch m; GET k; EXEC; PING",
	} {
		c := proxytest.Dial(t, p.Addr())
		c.Do("HELLO", "3")
		c.Do("SUBSCRIBE", "ch")
		inOneWrite(t, c, script)
		// The message comes exactly once, and replies are there up to the last.
		message := ">3\r\n$7\r\nmessage\r\n$2\r\nch"
		if strings.Contains(script, "SUBSCRIBE ch2") {
			// Refused, as the shape of the reply is not known: the client is closed.
			c.ReadAll()
			expect(t, other, "ECHO x", "$1\r\nx\r\n")
			continue
		}
		heard, ponged := 0, false
		for heard == 0 || !ponged {
			b := string(c.ReadReply())
			heard += strings.Count(b, message)
			ponged = ponged || strings.Contains(b, "+PONG")
			expect(t, other, "ECHO x", "$1\r\nx\r\n")
		}
		inOneWrite(t, c, "ECHO end")
		expectNext(t, c, "$3\r\nend\r\n")
		if heard != 1 {
			t.Errorf("%s: heard %d times", script, heard)
		}
		c.Close()
	}
	other.Close()
	allGone(t, p)
}

// Redis drops the connection that POST or Host: comes on. Here that is the client's own, in whatever form and state.
func TestTheWordsThatEndAConnectionEndOnlyTheirSendersInEveryForm(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.AllowDangerous = []string{"all"} })
	direct, other := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, other, "PING", "+PONG\r\n")
	lanes := lanesOf(direct)
	for _, before := range []string{
		"", "MULTI", "WATCH k", "WATCH k; MULTI", "SUBSCRIBE ch", "HELLO 3; SUBSCRIBE ch", "CLIENT REPLY OFF", "CLIENT TRACKING ON BCAST",
		"MONITOR", "SELECT 3", "MULTI; SUBSCRIBE ch", "REPLCONF listening-port 1",
	} {
		for _, word := range []string{
			"POST\r\n", "post / HTTP/1.1\r\n", "hOsT: x\r\n", "Host:\r\n", "\"POST\" x\r\n", "'host:'\n",
			proxytest.Command("POST"), proxytest.Command("host:", "a", "b"), "*1\r\n$04\r\npOsT\r\n",
		} {
			c := proxytest.Dial(t, p.Addr())
			if before != "" {
				inOneWrite(t, c, before)
			}
			c.Write(word + proxytest.Command("SET", "run", "1"))
			if said, closed := isClosed(c); !closed {
				t.Errorf("%s, then %q: not closed after %q", before, word, said)
			}
			c.Close()
			expect(t, other, "EXISTS run", ":0\r\n")
		}
	}
	lanesLive(t, direct, lanes)
	other.Close()
	allGone(t, p)
}

// Neither protocol can be made of the other: a client is on a connection of its version, whatever others do.
func TestClientsOfBothProtocolVersionsGetTheirOwnKindOfReplies(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 1 })
	fill := proxytest.Dial(t, s.Addr())
	fill.Do("ZADD", "z", "1.5", "a", "2", "b")
	fill.Do("HSET", "h", "f", "v")
	fill.Do("XADD", "x", "1-1", "f", "v")
	commands := []string{
		"ZRANGE z 0 -1 WITHSCORES", "HGETALL h", "ZSCORE z a", "HRANDFIELD h -1 WITHVALUES", "XREAD STREAMS x 0", "GET none",
		"BLPOP none 0.001", "SMEMBERS none", "CONFIG GET maxmemory", "EVAL return{1,false} 0", "HELLO 4",
	}
	two, three := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	directTwo, directThree := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, s.Addr())
	three.Do("HELLO", "3")
	directThree.Do("HELLO", "3")
	for range 3 {
		for _, c := range []*proxytest.Conn{two, three} {
			inOneWrite(t, c, strings.Join(commands, "; "))
		}
		for _, cmd := range commands {
			words := strings.Fields(cmd)
			want2, want3 := string(directTwo.Do(words...)), string(directThree.Do(words...))
			expectNext(t, two, want2)
			expectNext(t, three, want3)
		}
	}
}

// replyModes are all ways of three settings of CLIENT REPLY with commands between them.
func replyModes() []string {
	var all []string
	modes := []string{"ON", "OFF", "SKIP"}
	between := []string{"GET k", "MULTI; GET k; EXEC", "SELECT 1", "EVAL 'return 1' 0", "WATCH k; UNWATCH", "NOSUCH", "HELLO 2; PING"}
	i := 0
	for _, a := range modes {
		for _, b := range modes {
			for _, c := range modes {
				i++
				x, y, z := between[i%len(between)], between[(i/2)%len(between)], between[(3*i)%len(between)]
				all = append(all, fmt.Sprintf("CLIENT REPLY %s; %s; CLIENT REPLY %s; %s; CLIENT REPLY %s; %s; PING; CLIENT REPLY ON; PING", a, x, b, y, c, z))
			}
		}
	}
	return append(all,
		"CLIENT REPLY SKIP; MULTI; GET k; EXEC; PING", "CLIENT REPLY SKIP; CLIENT REPLY SKIP; PING; PING",
		"CLIENT REPLY SKIP; CLIENT REPLY NONSENSE; PING", "CLIENT REPLY OFF; CLIENT REPLY NONSENSE; CLIENT REPLY; CLIENT REPLY ON; PING",
		"CLIENT REPLY OFF; RESET; PING", "CLIENT REPLY SKIP; RESET; PING", "client reply skip; wait 0 1; PING",
		"CLIENT REPLY SKIP; FLUSHALL; PING", "CLIENT REPLY SKIP; WATCH k; GET k; UNWATCH; PING", "CLIENT REPLY SKIP; CLIENT SETNAME x; CLIENT GETNAME",
		"CLIENT REPLY SKIP; SCRIPT KILL; PING", "CLIENT REPLY SKIP; CLIENT LIST ID 1; PING", "CLIENT REPLY SKIP; AUTH a b; PING")
}

func TestAReplyThatIsNotWantedIsMissingExactlyWhereRedisOmitsIt(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	other := proxytest.Dial(t, p.Addr())
	for _, script := range replyModes() {
		for _, piecemeal := range []bool{false, true} {
			want, got := wholeAnswer(t, s.Addr(), script, false), wholeAnswer(t, p.Addr(), script, piecemeal)
			if got != want {
				t.Errorf("%s (in pieces: %v)\ngot  %s\nwant %s", script, piecemeal, quote(got), quote(want))
			}
		}
		expect(t, other, "ECHO x", "$1\r\nx\r\n")
	}
	other.Close()
	allGone(t, p)
}

// Commands that go on different connections, and commands that the proxy answers, are answered in the order in which
// they were sent, and carried out in it too.
func TestRepliesFromDifferentConnectionsComeInOrder(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	for _, script := range []string{
		"SET k 0; SELECT 1; SET k 1; GET k; SELECT 0; GET k; BLPOP none 0.01; INCR k; WATCH k; GET k; UNWATCH; INCR k; HELLO 3; GET k; RESET; GET k",
		"DEL k l; RPUSH l a b; BLPOP l 0; LLEN l; SELECT 2; LLEN l; CLIENT SETNAME x; CLIENT GETNAME; SELECT 0; MULTI; LPOP l; EXEC; LLEN l",
		"SET k 1; EVAL \"return redis.call('incr', 'k')\" 0; FLUSHALL; EXISTS k; NOSUCH; GET k; SUBSCRIBE a; UNSUBSCRIBE; INCR k; WAIT 0 1; INCR k",
		"INCR n; AUTH nobody x; INCR n; SELECT 99; INCR n; SELECT x; INCR n; HELLO 9; GET n; QUIT; INCR n",
	} {
		proxytest.Dial(t, s.Addr()).Do("FLUSHALL")
		want := oneByOne(t, s.Addr(), script)
		for _, piecemeal := range []bool{false, true} {
			proxytest.Dial(t, s.Addr()).Do("FLUSHALL")
			if got := wholeAnswer(t, p.Addr(), script, piecemeal); got != want {
				t.Errorf("%s (in pieces: %v)\ngot  %s\nwant %s", script, piecemeal, quote(got), quote(want))
			}
		}
	}
	if n := string(proxytest.Dial(t, s.Addr()).Do("GET", "n")); n != "$1\r\n4\r\n" {
		t.Errorf("n is %q: what was sent behind QUIT has been carried out", n)
	}
	allGone(t, p)
}

// A reply that its client does not read stays with the proxy: the connection that it came on serves the others.
func TestAClientThatReadsSlowlyDoesNotStallThoseWhoShareItsConnection(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 2, 1 })
	proxytest.Dial(t, s.Addr()).Do("SET", "large", strings.Repeat("x", 8<<20))
	slow := proxytest.Dial(t, p.Addr())
	inOneWrite(t, slow, strings.Join(slices.Repeat([]string{"GET large"}, 4), "; "))
	calm := newBystander(t, p.Addr())
	fast := proxytest.Dial(t, p.Addr())
	for range 100 {
		expect(t, fast, "ECHO x", "$1\r\nx\r\n")
	}
	calm.stop(t)
	for range 4 {
		if got := slow.ReadReply(); len(got) != 8<<20+len("$8388608\r\n\r\n") {
			t.Errorf("a reply of %d bytes", len(got))
		}
	}
}
