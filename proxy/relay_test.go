package proxy_test

import (
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A client whose connection is relayed gets the bytes of its own upstream connection. Nothing else may be put among them:
// nobody knows where something ends.

// whatComes returns what a client that monitors is told until a command of another has been shown to it.
func whatComes(t *testing.T, c, other *proxytest.Conn) string {
	t.Helper()
	other.Do("ECHO", "the end")
	var all strings.Builder
	for !strings.Contains(all.String(), "the end") {
		all.Write(c.ReadReply())
	}
	return all.String()
}

func TestAClientThatIsRelayedIsToldOfNoChangesButByItsOwnConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, c := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	c.Do("HELLO", "3")
	c.Do("CLIENT", "TRACKING", "ON")
	c.Do("GET", "k")
	c.Send("MONITOR")
	isTold(t, c, ">2\r\n$10\r\ninvalidate\r\n_\r\n") // all may change from now on
	isTold(t, c, "+OK\r\n")
	direct.Do("SET", "k", strings.Repeat("x", 1<<20))
	if _, told, found := strings.Cut(whatComes(t, c, direct), "invalidate"); found {
		t.Errorf("among what it monitors is an invalidation, with %.200q behind it", told)
	}
}

func TestNobodyRedirectsToAClientThatIsRelayed(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	a, b, id := redirecting(t, p, "3")
	a.Do("GET", "k")
	if got := string(b.Do("MONITOR")); got != "+OK\r\n" {
		t.Fatalf("MONITOR is answered %q", got)
	}
	eventually(t, "the inbox is closed", func() string {
		if list := string(direct.Do("CLIENT", "LIST")); strings.Count(list, ":pin ") != 2 {
			return list
		}
		return ""
	})
	direct.Do("SET", "k", "1")
	if got := string(a.ReadReply()); !strings.Contains(got, "tracking-redir-broken") {
		t.Errorf("who redirected is told %q", got)
	}
	if got := whatComes(t, b, direct); strings.Contains(got, "invalidate") {
		t.Errorf("among what it monitors is %q", got)
	}
	if got := string(a.Do("CLIENT", "TRACKING", "ON", "REDIRECT", id)); !strings.HasPrefix(got, "-ERR redbouncer cannot redirect") {
		t.Errorf("CLIENT TRACKING is answered %q", got)
	}
}

// What is answered in the words of the proxy still is, when the next command makes the connection one that is relayed.
func TestWhatIsInFlightIsAnsweredBeforeAClientIsRelayed(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	c := proxytest.Dial(t, p.Addr())
	c.Write("MULTI\r\n")
	isTold(t, c, "+OK\r\n")
	c.Write("CONFIG SET maxclients 5\r\nSUBSCRIBE ch\r\n")
	isTold(t, c, "-ERR CONFIG SET of maxclients, timeout, tcp-keepalive and maxmemory-clients is not possible in a transaction\r\n")
	isTold(t, c, "+QUEUED\r\n")
}

// A subscriber of RESP2 may use none of these. On a lane, they would change what it is for all of its clients.
func TestASubscriberDoesNotTurnALaneIntoSomethingElse(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.AllowDangerous = []string{"all"} })
	for _, words := range []string{
		"SCRIPT DEBUG SYNC", "REPLCONF listening-port 1", "PSYNC ? -1", "SYNC", "MONITOR", "MONITOR x", "SYNC x", "PSYNC", "REPLCONF",
	} {
		t.Run(words, func(t *testing.T) {
			answer := func(addr string) string {
				c := proxytest.Dial(t, addr)
				c.Do("SUBSCRIBE", "ch")
				return string(c.Do(strings.Fields(words)...))
			}
			if got, want := answer(p.Addr()), answer(s.Addr()); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := string(proxytest.Dial(t, p.Addr()).Do("EVAL", "return 7", "0")); got != ":7\r\n" {
				t.Errorf("a script of another client is answered %q", got)
			}
		})
	}
}

// What a subscriber of RESP2 sends is not run, also if the user has just lost the right that the upstream was to be asked
// with.
func TestACommandThatIsOnlyAskedAboutIsNeverRunOnASharedConnection(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all")
	victim, subscriber := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	for _, c := range []*proxytest.Conn{victim, subscriber} {
		c.Do("AUTH", "u", "pw")
		c.Do("SET", "k", "v")
	}
	subscriber.Do("SUBSCRIBE", "ch")
	subscriber.Do("GET", "k")
	direct.Do("ACL", "SETUSER", "u", "-multi")
	for range 20 {
		victim.Send("GET", "k")
		for _, words := range [][]string{{"SELECT", "1"}, {"SET", "k", "stolen"}, {"BLPOP", "none", "0"}} {
			if got := string(subscriber.Do(words...)); !strings.HasPrefix(got, "-ERR Can't execute '"+strings.ToLower(words[0])) {
				t.Fatalf("%v is answered %q", words, got)
			}
		}
		isTold(t, victim, "$1\r\nv\r\n")
		if got := string(victim.Do("SET", "k", "v")); got != "+OK\r\n" {
			t.Fatalf("the other client is answered %q", got)
		}
	}
	if n := p.Stats().LostUpstream; n > 0 {
		t.Errorf("%d connections broke", n)
	}
}

func TestAClientThatWantsNoRepliesIsShownNothing(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	for name, addr := range map[string]string{"direct": s.Addr(), "proxied": p.Addr()} {
		t.Run(name, func(t *testing.T) {
			direct, c := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, addr)
			c.Write(proxytest.Command("CLIENT", "REPLY", "OFF") + proxytest.Command("MONITOR"))
			eventually(t, "the client monitors", func() string {
				if !strings.Contains(string(direct.Do("CLIENT", "LIST")), "cmd=monitor") {
					return "not yet"
				}
				return ""
			})
			direct.Do("ECHO", "unheard")
			c.Send("CLIENT", "REPLY", "ON")
			isTold(t, c, "+OK\r\n")
		})
	}
}
