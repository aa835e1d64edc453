package proxy_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What a subscriber is told is what Redis tells: conversations of one client, compared byte for byte with those of a
// direct connection, sent in one write and command by command.

var helloID = regexp.MustCompile(`\$2\r\nid\r\n:\d+`)

// compareWithDirect plays a conversation, commands that are separated by semicolons, directly and through the proxy.
func compareWithDirect(t *testing.T, s *proxytest.Server, p *proxytest.Running, script string) {
	t.Helper()
	observer := proxytest.Dial(t, s.Addr())
	defer observer.Close()
	nobodySubscribed(t, observer) // of the conversation before
	want := wholeAnswer(t, s.Addr(), script, false)
	for _, piecemeal := range []bool{false, true} {
		nobodySubscribed(t, observer)
		if got := wholeAnswer(t, p.Addr(), script, piecemeal); got != want {
			t.Errorf("%s (one by one: %v)\ngot  %s\nwant %s", script, piecemeal,
				proxytest.Quote([]byte(got)), proxytest.Quote([]byte(want)))
		}
	}
}

// wholeAnswer returns all that comes back, up to the end of the connection.
func wholeAnswer(t *testing.T, addr, script string, piecemeal bool) string {
	t.Helper()
	c := proxytest.Dial(t, addr)
	defer c.Close()
	var raw []byte
	for cmd := range strings.SplitSeq(script+"; QUIT", "; ") {
		words, err := proxytest.Words(cmd)
		if err != nil {
			t.Fatal(err)
		}
		raw = proxytest.AppendCommand(raw, words...)
	}
	if piecemeal {
		for i := 0; i < len(raw); i += 7 {
			c.Write(string(raw[i:min(i+7, len(raw))]))
		}
	} else {
		c.Write(string(raw))
	}
	return helloID.ReplaceAllString(string(c.ReadAll()), "(id)")
}

func TestASubscribersConversationsAreThoseOfADirectConnection(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 8, 1 })
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "limited", "on", ">pw", "~k*", "&*", "+@all", "-config", "-client|kill")
	direct.Do("ACL", "SETUSER", "other", "on", ">pw", "~*", "&*", "+@all")
	direct.Do("ACL", "SETUSER", "leaver", "on", ">pw", "~*", "&*", "+@all", "-unsubscribe")
	direct.Do("ACL", "SETUSER", "poor", "on", ">pw", "~*", "&*", "+@all", "-multi", "-discard")
	for _, script := range []string{
		// Commands that are known, unknown, wrong, and forbidden.
		"SUBSCRIBE a; GET k; get k; GET; SET k v; NOSUCH; NOSUCH a b c; CLIENT; CLIENT ID; client id; CLIENT NOSUCH; CLIENT KILL",
		"SUBSCRIBE a; CONFIG GET save; config get save; OBJECT ENCODING k; XINFO STREAM k; XADD k",
		"SUBSCRIBE a; MULTI; MULTI x; EXEC; EXEC x; DISCARD; DISCARD x; WATCH; WATCH k; UNWATCH; UNWATCH x",
		"SUBSCRIBE a; SELECT 1; SELECT; SELECT x; AUTH; AUTH other pw; AUTH other wrong; HELLO; HELLO 3; HELLO 9; HELLO 3 AUTH other pw",
		"SUBSCRIBE a; EVAL 'return 1' 0; BLPOP k 0; XREAD BLOCK 0 STREAMS k $; WAIT 0 0; PUBLISH a x; PUBLISH; SPUBLISH a x",
		"SUBSCRIBE a; QUIT x; RESET x; CLIENT REPLY OFF; CLIENT REPLY SKIP; PING",
		"AUTH limited pw; SUBSCRIBE a; GET other; GET k; CONFIG GET x; CLIENT KILL; CLIENT KILL ID 1; MULTI; PING",
		"AUTH poor pw; SUBSCRIBE a; PING; UNSUBSCRIBE; PING",
		"AUTH leaver pw; SUBSCRIBE a; UNSUBSCRIBE a; UNSUBSCRIBE; PING; PUNSUBSCRIBE",
		"HELLO 3 AUTH leaver pw; SUBSCRIBE a b; UNSUBSCRIBE a; UNSUBSCRIBE b; PING; RESET; PING",
		// PING.
		"SUBSCRIBE a; PING; PING x; PING a b; ping; UNSUBSCRIBE; PING; PING x",
		"HELLO 3; SUBSCRIBE a; PING; PING x; PING a b; UNSUBSCRIBE; PING",
		"PSUBSCRIBE a; PING x; PUNSUBSCRIBE; SSUBSCRIBE s; PING x; SUNSUBSCRIBE; PING x",
		// Subscriptions and their counts.
		"SUBSCRIBE a b a; PSUBSCRIBE a* b*; SSUBSCRIBE s t; UNSUBSCRIBE a a x; PUNSUBSCRIBE b*; SUNSUBSCRIBE s; GET k; UNSUBSCRIBE b",
		"UNSUBSCRIBE; PUNSUBSCRIBE; SUNSUBSCRIBE; UNSUBSCRIBE a b; SUNSUBSCRIBE a; SUBSCRIBE; PSUBSCRIBE; SSUBSCRIBE",
		"HELLO 3; UNSUBSCRIBE; PUNSUBSCRIBE; SUNSUBSCRIBE; UNSUBSCRIBE a b; SUNSUBSCRIBE a; SUBSCRIBE; PSUBSCRIBE; SSUBSCRIBE",
		`SUBSCRIBE ""; SUBSCRIBE "a\r\nb" "\x00"; UNSUBSCRIBE ""; UNSUBSCRIBE "a\r\nb"; UNSUBSCRIBE; GET k`,
		"SUBSCRIBE a; RESET; GET k; PING; UNSUBSCRIBE",
		// RESP3, where a subscriber may do everything. (What it publishes to itself in a transaction, or after it has
		// changed the user, comes on another connection than the reply: in which order is not certain, nor is it the
		// same in all versions of Redis.)
		"HELLO 3; SUBSCRIBE a; GET k; SET k v; GET k; SELECT 1; GET k; SELECT 0; PUBLISH a x; PUBLISH b x; SPUBLISH a x; UNSUBSCRIBE; DEL k",
		"HELLO 3; SUBSCRIBE a; PSUBSCRIBE a*; PUBLISH a x; MULTI; PUBLISH b y; GET k; EXEC; PUNSUBSCRIBE; UNSUBSCRIBE; PUBLISH a z",
		"HELLO 3; SUBSCRIBE a; MULTI; PING; DISCARD; WATCH k; MULTI; PUBLISH b x; EXEC; PUBLISH a y; BLPOP k 0.01; UNSUBSCRIBE; GET k",
		"HELLO 3; SUBSCRIBE a; HELLO 2; GET k; PUBLISH a x; PING; UNSUBSCRIBE; GET k",
		"HELLO 3; SUBSCRIBE a; AUTH other pw; ACL WHOAMI; SUBSCRIBE a b; UNSUBSCRIBE a; UNSUBSCRIBE",
		"HELLO 3; SUBSCRIBE a; PING; HELLO 3 AUTH other pw SETNAME x; CLIENT GETNAME; UNSUBSCRIBE a",
		"HELLO 3; SUBSCRIBE a; CLIENT SETNAME x; CLIENT GETNAME; CLIENT NO-EVICT ON; RESET; GET k; CLIENT GETNAME",
		// CLIENT REPLY, which does not suppress what is pushed.
		"CLIENT REPLY OFF; SUBSCRIBE a; GET k; PING; UNSUBSCRIBE; GET k; CLIENT REPLY ON; PING",
		"CLIENT REPLY SKIP; SUBSCRIBE a b; PING; GET k; UNSUBSCRIBE a b; PING",
		"CLIENT REPLY SKIP; SUBSCRIBE; PING",
		"SUBSCRIBE a; UNSUBSCRIBE; CLIENT REPLY SKIP; UNSUBSCRIBE; PING",
		"HELLO 3; CLIENT REPLY OFF; SUBSCRIBE a; PUBLISH a x; GET k; PING; SUBSCRIBE; CLIENT REPLY ON; UNSUBSCRIBE; PING",
		"HELLO 3; SUBSCRIBE a; CLIENT REPLY SKIP; PUBLISH a x; PUBLISH a y; CLIENT REPLY SKIP; UNSUBSCRIBE a; PING",
	} {
		t.Run(script, func(t *testing.T) { compareWithDirect(t, s, p, script) })
	}
	nobodySubscribed(t, direct)
	allGone(t, p)
}
