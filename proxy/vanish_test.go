package proxy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Redis closes the connections of a user that is deleted. Here, too, such a user's clients do not stay, whatever they
// are doing, and nobody else notices.

// ended checks that a connection ends, with nothing more to read.
func ended(t *testing.T, what string, c *proxytest.Conn) {
	t.Helper()
	if b, err := c.TryReadAll(); len(b) > 0 || err != nil && !proxytest.IsClosed(err) {
		t.Errorf("%s: got %q, %v", what, b, err)
	}
}

func TestTheClientsOfAUserThatIsDeletedAreClosed(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			direct := proxytest.Dial(t, s.Addr())
			for round := range 3 {
				for _, user := range []string{"leaving", "staying"} {
					direct.Do("ACL", "SETUSER", user, "on", fmt.Sprintf(">pw%d", round), "~*", "&*", "+@all")
				}
				users := func(name string) map[string]*proxytest.Conn {
					all := map[string]*proxytest.Conn{}
					for _, doing := range []string{"nothing", "nothing in database 3", "nothing in RESP3", "WATCH", "BLPOP", "MULTI", "SUBSCRIBE"} {
						c := proxytest.Dial(t, p.Addr())
						expect(t, c, fmt.Sprintf("AUTH %s pw%d", name, round), "+OK\r\n")
						all[doing] = c
					}
					expect(t, all["nothing"], "GET k", "$-1\r\n")
					expect(t, all["nothing in database 3"], "SELECT 3", "+OK\r\n")
					all["nothing in RESP3"].Do("HELLO", "3")
					expect(t, all["nothing in RESP3"], "GET k", "_\r\n")
					expect(t, all["WATCH"], "WATCH k", "+OK\r\n")
					expect(t, all["MULTI"], "MULTI", "+OK\r\n")
					all["SUBSCRIBE"].Do("SUBSCRIBE", "news")
					all["BLPOP"].Send("BLPOP", "none", "0")
					return all
				}
				leaving, staying := users("leaving"), users("staying")
				anyone := proxytest.Dial(t, p.Addr())
				expect(t, anyone, "PING", "+PONG\r\n")
				eventually(t, "those who block do so", func() string {
					if st := p.Stats(); st.Pins < 8 {
						return fmt.Sprintf("%+v", st)
					}
					return ""
				})
				expect(t, direct, "ACL DELUSER leaving", ":1\r\n")
				for doing, c := range leaving {
					ended(t, doing, c)
				}
				expect(t, anyone, "PING", "+PONG\r\n")
				for doing, c := range staying {
					if doing == "BLPOP" {
						direct.Do("RPUSH", "none", "v")
						expectNext(t, c, "*2\r\n$4\r\nnone\r\n$1\r\nv\r\n")
					}
					want := "$1\r\nx\r\n"
					switch doing {
					case "MULTI":
						want = "+QUEUED\r\n"
					case "SUBSCRIBE":
						want = "-ERR Can't execute 'echo': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context\r\n"
					}
					if got := string(c.Do("ECHO", "x")); got != want {
						t.Errorf("%s: %q", doing, got)
					}
					c.Close()
				}
				refused := proxytest.Dial(t, p.Addr())
				if got := refused.Do("AUTH", "leaving", "pw0"); got[0] != '-' {
					t.Errorf("%q", got)
				}
				refused.Close()
				anyone.Close()
				allGone(t, p)
			}
		})
	}
}

func TestTheClientsOfAUserThatIsInNoFileAnyMoreAreClosed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users.acl")
	write := func(lines string) {
		if err := os.WriteFile(file, []byte("user default on nopass ~* &* +@all\n"+lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("user u on >pw ~* &* +@all\n")
	s, p := redisAndProxy(t, nil, "--aclfile", file)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "AUTH u pw", "+OK\r\n")
	expect(t, c, "GET k", "$-1\r\n")
	write("")
	direct := proxytest.Dial(t, s.Addr())
	expect(t, direct, "ACL LOAD", "+OK\r\n")
	ended(t, "a client", c)
}

func TestAPasswordThatIsChangedClosesNobody(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	expect(t, direct, "ACL SETUSER u on >old ~* &* +@all", "+OK\r\n")
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	for _, c := range []*proxytest.Conn{a, b} {
		expect(t, c, "AUTH u old", "+OK\r\n")
		expect(t, c, "SET k v", "+OK\r\n")
	}
	expect(t, direct, "ACL SETUSER u resetpass >new", "+OK\r\n")
	expect(t, a, "GET k", "$1\r\nv\r\n")
	// It is only where a connection has to be opened that it matters.
	if got := string(a.Do("SELECT", "3")); got[0] != '-' {
		t.Errorf("%q", got)
	}
	expect(t, a, "GET k", "$1\r\nv\r\n")
	// Whoever shows the new one helps all of them.
	expect(t, b, "AUTH u new", "+OK\r\n")
	expect(t, a, "SELECT 3", "+OK\r\n")
	expect(t, direct, "CLIENT KILL USER u", ":3\r\n")
	expect(t, a, "PING", "+PONG\r\n")
	expect(t, b, "PING", "+PONG\r\n")
}

func TestAConnectionThatOnlyBreaksClosesNobodyWhoIsIdle(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	expect(t, direct, "ACL SETUSER u on >pw ~* &* +@all", "+OK\r\n")
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "AUTH u pw", "+OK\r\n")
	for range 3 {
		expect(t, c, "PING", "+PONG\r\n")
		direct.Do("CLIENT", "KILL", "USER", "u")
	}
	expect(t, c, "PING", "+PONG\r\n")
	c.Close()
	allGone(t, p)
}
