package proxy_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A library that speaks RESP2 has changes to what it has read told to another connection of its own, which it names by
// the id that it has from the proxy.

// redirecting returns two clients, of which the first has redirected to the second what it is to be told, and the
// second's id.
func redirecting(t *testing.T, p *proxytest.Running, protocol string, options ...string) (a, b *proxytest.Conn, id string) {
	t.Helper()
	a, b = proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	a.Do("HELLO", "3")
	b.Do("HELLO", protocol)
	id = string(regexp.MustCompile(`\d+`).Find(b.Do("CLIENT", "ID")))
	if protocol == "2" {
		b.Do("SUBSCRIBE", "__redis__:invalidate")
	}
	if got := string(a.Do(append([]string{"CLIENT", "TRACKING", "ON", "REDIRECT", id}, options...)...)); got != "+OK\r\n" {
		t.Fatalf("CLIENT TRACKING is answered %q", got)
	}
	return a, b, id
}

// isTold fails the test if the next thing that c is told is not want.
func isTold(t *testing.T, c *proxytest.Conn, want string) {
	t.Helper()
	if got := string(c.ReadReply()); got != want {
		t.Errorf("it is told %q, want %q", got, want)
	}
}

// inboxClosed waits until the upstream has no more connections of the proxy's than that of the client who reads, and the
// one that subscribers have left.
func inboxClosed(t *testing.T, direct *proxytest.Conn) {
	t.Helper()
	eventually(t, "the inbox is closed", func() string {
		if list := string(direct.Do("CLIENT", "LIST")); strings.Count(list, ":pin ") > 2 {
			return list
		}
		return ""
	})
}

func TestChangesAreToldToTheClientThatTheyAreRedirectedTo(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprint(loops, " loops"), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			direct := proxytest.Dial(t, s.Addr())

			a, b, id := redirecting(t, p, "2")
			a.Do("GET", "k")
			direct.Do("SET", "k", "1")
			isTold(t, b, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$1\r\nk\r\n")
			direct.Do("FLUSHALL")
			isTold(t, b, "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n")
			if got := string(a.Do("CLIENT", "GETREDIR")); got != ":"+id+"\r\n" {
				t.Errorf("CLIENT GETREDIR: %q, want %s", got, id)
			}
			if got := string(a.Do("CLIENT", "TRACKINGINFO")); !regexp.MustCompile(`redirect\r\n:` + id + "\r\n").MatchString(got) {
				t.Errorf("CLIENT TRACKINGINFO: %q, want %s", got, id)
			}
			// When the one who is told goes, the one who reads is told that.
			b.Close()
			inboxClosed(t, direct)
			direct.Do("SET", "other", "1")
			a.Do("GET", "other")
			direct.Do("SET", "other", "2")
			isTold(t, a, ">2\r\n$21\r\ntracking-redir-broken\r\n:"+id+"\r\n")

			a, b, _ = redirecting(t, p, "3", "BCAST", "PREFIX", "user:")
			direct.Do("SET", "user:1", "1")
			isTold(t, b, ">2\r\n$10\r\ninvalidate\r\n*1\r\n$6\r\nuser:1\r\n")
			a.Close()
			b.Do("PING")
		})
	}
}

func TestNobodyCanBeToldWhoIsNotThere(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	want := string(proxytest.Dial(t, s.Addr()).Do("CLIENT", "TRACKING", "ON", "REDIRECT", "999999"))
	c := proxytest.Dial(t, p.Addr())
	if got := string(c.Do("CLIENT", "TRACKING", "ON", "REDIRECT", "999999")); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// The id of a connection of the proxy's is nobody's here, though it is somebody's to the upstream.
	direct := proxytest.Dial(t, s.Addr())
	ids := regexp.MustCompile(`(?m)^id=(\d+) .*name=redbouncer`).FindAllStringSubmatch(string(direct.Do("CLIENT", "LIST")), -1)
	if len(ids) == 0 {
		t.Fatal("the proxy has no connections")
	}
	for _, id := range ids {
		if got := string(c.Do("CLIENT", "TRACKING", "ON", "REDIRECT", "9"+id[1]+"00")); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	// Not in a transaction, which is refused then.
	for _, step := range []struct{ command, want string }{
		{"MULTI", "+OK"},
		{"CLIENT TRACKING ON REDIRECT 1", "-ERR CLIENT TRACKING with REDIRECT is not possible in a transaction"},
		{"SET k 1", "+QUEUED"},
		{"EXEC", "-EXECABORT Transaction discarded because of previous errors."},
		{"EXISTS k", ":0"},
	} {
		words, _ := proxytest.Words(step.command)
		if got := string(c.Do(words...)); got != step.want+"\r\n" {
			t.Errorf("%s: %q, want %q", step.command, got, step.want)
		}
	}
}

func TestAnInboxThatCannotBeHadIsARefusalAndLeavesNothingBehind(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout = 3, 0 })
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	id := string(regexp.MustCompile(`\d+`).Find(b.Do("CLIENT", "ID")))
	if got := string(a.Do("WATCH", "k")); got != "+OK\r\n" { // the one connection that can be lent
		t.Fatal(got)
	}
	if got := string(a.Do("CLIENT", "TRACKING", "ON", "REDIRECT", id)); got != "-ERR max number of clients reached\r\n" {
		t.Errorf("%q", got)
	}
	for range 2 {
		if got := string(a.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("%q", got)
		}
	}
	a.Close()
	b.Close()
	allGone(t, p)
}

// Who is refused because there is no connection for the one to be told must not keep one meanwhile.
func TestWhoMayNotRedirectKeepsNoConnection(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout, c.Loops = 4, 0, 1 })
	holder, a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	holder.Do("WATCH", "k")
	id := regexp.MustCompile(`\d+`).Find(b.Do("CLIENT", "ID"))
	if got := string(a.Do("CLIENT", "TRACKING", "ON", "REDIRECT", string(id))); got != "-ERR max number of clients reached\r\n" {
		t.Fatalf("it is answered %q", got)
	}
	eventually(t, "only one connection is lent", func() string {
		if st := p.Stats(); st.Pins != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}
