package proxy_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// CLIENT LIST shows the proxy's clients, on whichever loop they are, in the form of the upstream's version.

// onLoops runs a test with one loop and with two.
func onLoops(t *testing.T, test func(t *testing.T, s *proxytest.Server, p *proxytest.Running)) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			test(t, s, p)
		})
	}
}

// clientLines returns the lines of a reply to CLIENT LIST or CLIENT INFO, by field, with the order of the fields.
func clientLines(t *testing.T, reply []byte) (lines []map[string]string, order []string) {
	t.Helper()
	header, body, _ := strings.Cut(string(reply), "\r\n")
	n, err := strconv.Atoi(header[1:])
	if err != nil || header[0] != '$' && header[0] != '=' || len(body) != n+2 {
		t.Fatalf("no bulk string: %s", proxytest.Quote(reply))
	}
	body = strings.TrimSuffix(body, "\r\n")
	if header[0] == '=' {
		body = strings.TrimPrefix(body, "txt:")
	}
	for line := range strings.Lines(body) {
		fields := map[string]string{}
		order = nil
		for field := range strings.SplitSeq(strings.TrimSuffix(line, "\n"), " ") {
			key, value, ok := strings.Cut(field, "=")
			if !ok {
				t.Fatalf("%q is no field of %q", field, line)
			}
			fields[key] = value
			order = append(order, key)
		}
		lines = append(lines, fields)
	}
	return lines, order
}

// idOf returns a client's id.
func idOf(c *proxytest.Conn) string {
	return strings.TrimSuffix(strings.TrimPrefix(string(c.Do("CLIENT", "ID")), ":"), "\r\n")
}

// listed returns the names of the clients that CLIENT LIST shows, in its order.
func listed(t *testing.T, c *proxytest.Conn, args ...string) []string {
	t.Helper()
	reply := c.Do(append([]string{"CLIENT", "LIST"}, args...)...)
	names := []string{}
	lines, _ := clientLines(t, reply)
	for _, line := range lines {
		names = append(names, line["name"])
	}
	return names
}

func TestTheListShowsTheClientsInTheUpstreamsForm(t *testing.T) {
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		_, form := clientLines(t, proxytest.Dial(t, s.Addr()).Do("CLIENT", "LIST"))
		var conns []*proxytest.Conn
		for i := range 5 {
			c := proxytest.Dial(t, p.Addr())
			c.Do("CLIENT", "SETNAME", fmt.Sprint("c", i))
			conns = append(conns, c)
		}
		conns[1].Do("SELECT", "3")
		conns[2].Do("HELLO", "3")
		for _, asker := range []*proxytest.Conn{conns[0], conns[2]} {
			lines, order := clientLines(t, asker.Do("CLIENT", "LIST"))
			if !slices.Equal(order, form) {
				t.Errorf("fields %v, Redis has %v", order, form)
			}
			if len(lines) != len(conns) {
				t.Fatalf("%d lines for %d clients: %v", len(lines), len(conns), lines)
			}
			for i, line := range lines {
				for field, want := range map[string]string{
					"id": idOf(conns[i]), "addr": conns[i].LocalAddr(), "laddr": p.Addr(), "name": fmt.Sprint("c", i),
					"age": "0", "idle": "0", "flags": "N", "db": []string{"0", "3", "0", "0", "0"}[i], "sub": "0", "multi": "-1",
					"user": "default", "resp": []string{"2", "2", "3", "2", "2"}[i], "redir": "-1",
				} {
					if line[field] != want && (field != "idle" && field != "age" || line[field] > "1") {
						t.Errorf("client %d: %s=%s, want %s", i, field, line[field], want)
					}
				}
				info, order := clientLines(t, conns[i].Do("CLIENT", "INFO"))
				if len(info) != 1 || !slices.Equal(order, form) || info[0]["addr"] != line["addr"] || info[0]["id"] != line["id"] ||
					info[0]["cmd"] != "client|info" {
					t.Errorf("client %d: CLIENT INFO says %v", i, info)
				}
			}
		}
		for _, c := range conns {
			c.Close()
		}
		allGone(t, p)
	})
}

func TestTheListShowsWhatClientsAreDoing(t *testing.T) {
	t.Parallel() // it mostly waits
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		asker, quiet := proxytest.Dial(t, p.Addr()), "e"
		if s.Is("valkey", "8.0") { // READONLY is not for clusters only
			quiet = "re"
		}
		for _, tc := range []struct {
			name     string
			commands string
			replies  int
			want     map[string]string
		}{
			{"blocked", "BLPOP nothing 0", 0, map[string]string{"flags": "b", "cmd": "blpop"}},
			{"reading", "XREAD BLOCK 0 STREAMS nothing $", 0, map[string]string{"flags": "b", "cmd": "xread"}},
			{"waiting", "WAIT 1 0", 0, map[string]string{"flags": "b", "cmd": "wait"}},
			{"subscribed", "SUBSCRIBE a b; PSUBSCRIBE c", 3, map[string]string{"flags": "P", "sub": "2", "psub": "1", "cmd": "psubscribe"}},
			{"sharded", "SSUBSCRIBE a", 1, map[string]string{"flags": "P", "ssub": "1"}},
			{"queuing", "MULTI; GET k; GET l", 3, map[string]string{"flags": "x", "multi": "2", "cmd": "get"}},
			{"watching", "WATCH k", 1, map[string]string{"flags": "N", "multi": "-1", "cmd": "watch"}},
			{"tracking", "HELLO 3; CLIENT TRACKING ON BCAST", 2, map[string]string{"flags": "tB", "redir": "0", "resp": "3"}},
			{"quiet", "CLIENT NO-EVICT ON; READONLY", 2, map[string]string{"flags": quiet}},
			{"pinned", "WATCH k; SELECT 4", 2, map[string]string{"db": "4"}},
			{"monitoring", "MONITOR", 1, map[string]string{"flags": "O", "cmd": "monitor"}},
			{"unknown", "NOSUCHCOMMAND", 1, map[string]string{"cmd": "NULL"}},
		} {
			t.Run(tc.name, func(t *testing.T) {
				c := proxytest.Dial(t, p.Addr())
				id := idOf(c)
				for command := range strings.SplitSeq(tc.commands, "; ") {
					c.Send(strings.Fields(command)...)
				}
				for range tc.replies {
					c.ReadReply()
				}
				eventually(t, "the list", func() string {
					lines, _ := clientLines(t, asker.Do("CLIENT", "LIST", "ID", id))
					if len(lines) != 1 {
						return fmt.Sprint(lines)
					}
					for field, want := range tc.want {
						if lines[0][field] != want {
							return fmt.Sprintf("%s=%s, want %s", field, lines[0][field], want)
						}
					}
					return ""
				})
				c.Close()
			})
		}
		asker.Close()
		allGone(t, p)
	})
}

func TestTheListIsFilteredByIDAndType(t *testing.T) {
	onLoops(t, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		conns := map[string]*proxytest.Conn{}
		for _, name := range []string{"one", "two", "three", "sub"} {
			conns[name] = proxytest.Dial(t, p.Addr())
			conns[name].Do("CLIENT", "SETNAME", name)
		}
		conns["sub"].Do("SUBSCRIBE", "ch")
		asker := conns["one"]
		for _, tc := range []struct {
			args []string
			want []string
		}{
			{nil, []string{"one", "two", "three", "sub"}},
			{[]string{"ID", idOf(conns["two"])}, []string{"two"}},
			{[]string{"id", idOf(conns["two"]), "99999", idOf(conns["three"])}, []string{"two", "three"}},
			{[]string{"ID", "99999"}, []string{}},
			{[]string{"TYPE", "normal"}, []string{"one", "two", "three"}},
			{[]string{"type", "PubSub"}, []string{"sub"}},
			{[]string{"TYPE", "master"}, []string{}},
			{[]string{"TYPE", "replica"}, []string{}},
		} {
			if got := listed(t, asker, tc.args...); !slices.Equal(got, tc.want) {
				t.Errorf("CLIENT LIST %v: %v, want %v", tc.args, got, tc.want)
			}
		}
		// In a transaction, and with the reply of RESP3.
		asker.Do("HELLO", "3")
		asker.Do("MULTI")
		asker.Do("CLIENT", "LIST", "TYPE", "pubsub")
		asker.Do("PING")
		if got := string(asker.Do("EXEC")); !strings.HasPrefix(got, "*2\r\n=") || strings.Count(got, "id=") != 1 ||
			!strings.Contains(got, " name=sub ") || !strings.HasSuffix(got, "+PONG\r\n") {
			t.Errorf("in a transaction: %q", got)
		}
	})
}

func TestAgeAndIdlenessAreTheClients(t *testing.T) {
	t.Parallel() // it mostly waits
	_, p := redisAndProxy(t, nil)
	old, asker := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	id := idOf(old)
	time.Sleep(2100 * time.Millisecond)
	lines, _ := clientLines(t, asker.Do("CLIENT", "LIST", "ID", id))
	if len(lines) != 1 || lines[0]["age"] < "2" || lines[0]["idle"] < "2" || lines[0]["cmd"] != "client|id" {
		t.Errorf("after two seconds: %v", lines)
	}
	old.Do("PING")
	lines, _ = clientLines(t, asker.Do("CLIENT", "LIST", "ID", id))
	if len(lines) != 1 || lines[0]["age"] < "2" || lines[0]["idle"] != "0" || lines[0]["cmd"] != "ping" {
		t.Errorf("after a command: %v", lines)
	}
}

// Whoever may not do a thing with Redis may not do it here, and is told so in Redis's words.
func TestWhoMayNotIsToldByRedis(t *testing.T) {
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		direct := proxytest.Dial(t, s.Addr())
		direct.Do("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-client|list", "-client|kill", "-client|unblock",
			"-info", "-config|get", "-config|set", "-config|resetstat")
		direct.Do("AUTH", "weak", "pw")
		victim, c := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		victim.Do("PING")
		c.Do("AUTH", "weak", "pw")
		for _, cmd := range []string{
			"CLIENT LIST", "CLIENT LIST TYPE nosuch", "CLIENT KILL TYPE normal", "CLIENT KILL " + victim.LocalAddr(), "CLIENT UNBLOCK 1",
			"INFO", "INFO proxy", "CONFIG GET maxclients", "CONFIG SET maxclients 1", "CONFIG SET maxclients 0",
			"CONFIG SET timeout 1 maxmemory-samples 5", "CONFIG RESETSTAT",
		} {
			got, want := string(c.Do(strings.Fields(cmd)...)), string(direct.Do(strings.Fields(cmd)...))
			if got != want || !strings.HasPrefix(got, "-NOPERM") {
				t.Errorf("%s: %q, Redis says %q", cmd, got, want)
			}
		}
		if got := string(victim.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("the victim: %q", got)
		}
		if st := p.Stats(); st.MaxClients != proxy.DefaultMaxClients {
			t.Errorf("maxclients is %d", st.MaxClients)
		}
		lines, _ := clientLines(t, victim.Do("CLIENT", "LIST"))
		if len(lines) != 2 || lines[0]["user"] != "default" || lines[1]["user"] != "weak" {
			t.Errorf("users: %v", lines)
		}
	})
}
