package proxy_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// CLIENT KILL closes the proxy's clients, and never a connection that they share: nobody else notices.

// isClosed reports whether the server has closed a connection, after the replies that it returns.
func isClosed(c *proxytest.Conn) (said string, closed bool) {
	c.SetTimeout(2 * time.Second)
	b, err := c.TryReadAll()
	return string(b), err == nil
}

func TestKillClosesWhomItIsMeantForAndNobodyElse(t *testing.T) {
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		proxytest.Dial(t, s.Addr()).Do("ACL", "SETUSER", "bob", "on", ">pw", "~*", "&*", "+@all")
		bystander, asker := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		bystander.Do("PING")
		asker.Do("PING")
		for _, tc := range []struct {
			name    string
			prepare string // commands of the victim
			replies int
			kill    string
			want    string
		}{
			{"by the old form", "PING", 1, "CLIENT KILL {addr}", "+OK\r\n"},
			{"by address", "PING", 1, "CLIENT KILL ADDR {addr}", ":1\r\n"},
			{"by id", "PING", 1, "CLIENT KILL ID {id}", ":1\r\n"},
			{"by id and type", "PING", 1, "client kill id {id} type normal", ":1\r\n"},
			{"by user", "AUTH bob pw", 1, "CLIENT KILL USER bob", ":1\r\n"},
			{"a subscriber", "SUBSCRIBE ch", 1, "CLIENT KILL TYPE pubsub", ":1\r\n"},
			{"one that is blocked", "BLPOP nothing 0", 0, "CLIENT KILL ID {id}", ":1\r\n"},
			{"one that waits for replicas", "WAIT 1 0", 0, "CLIENT KILL ID {id}", ":1\r\n"},
			{"one in a transaction", "WATCH k; MULTI; SET k v", 3, "CLIENT KILL ID {id}", ":1\r\n"},
			{"one that tracks", "HELLO 3; CLIENT TRACKING ON", 2, "CLIENT KILL ID {id}", ":1\r\n"},
			{"a monitor", "MONITOR", 1, "CLIENT KILL ID {id}", ":1\r\n"},
		} {
			t.Run(tc.name, func(t *testing.T) {
				victim := proxytest.Dial(t, p.Addr())
				id := idOf(victim)
				for command := range strings.SplitSeq(tc.prepare, "; ") {
					victim.Send(strings.Fields(command)...)
				}
				for range tc.replies {
					victim.ReadReply()
				}
				command := strings.NewReplacer("{addr}", victim.LocalAddr(), "{id}", id).Replace(tc.kill)
				if got := string(asker.Do(strings.Fields(command)...)); got != tc.want {
					t.Errorf("%s: %q, want %q", command, got, tc.want)
				}
				if _, closed := isClosed(victim); !closed {
					t.Error("it is still there")
				}
				want := strings.Replace(strings.Replace(tc.want, ":1", ":0", 1), "+OK", "-ERR No such client", 1)
				if got := string(asker.Do(strings.Fields(command)...)); got != want {
					t.Errorf("%s again: %q, want %q", command, got, want)
				}
				if got := string(bystander.Do("PING")); got != "+PONG\r\n" {
					t.Fatalf("a bystander: %q", got)
				}
			})
		}
		if st := p.Stats(); st.LostUpstream != 0 || st.Clients != 2 {
			t.Errorf("%+v", st)
		}
		asker.Close()
		bystander.Close()
		allGone(t, p)
	})
}

// Of a connection that is relayed nobody knows where a reply ends, so that its commands go to Redis as they are.
func TestAClientThatIsRelayedDoesNotKillTheConnectionsThatOthersShare(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	bystander := proxytest.Dial(t, p.Addr())
	bystander.Do("PING")
	proxytest.Converse(t, p.Addr(), nil, `
		a> MULTI
		a< +OK
		a> SUBSCRIBE ch
		a< +QUEUED
		a> DISCARD
		a< +OK
		a> CLIENT KILL TYPE normal
		a~ ^-ERR unknown command 'client\|kill is not possible on this connection any more: use another'
		a> PING
		a< +PONG
	`)
	if got := string(bystander.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("a bystander: %q", got)
	}
	if st := p.Stats(); st.LostUpstream != 0 {
		t.Errorf("%+v", st)
	}
}

// Redis lets a client kill itself where it asks for it, and answers it first.
func TestWhoKillsItselfIsAnsweredFirst(t *testing.T) {
	t.Parallel() // it mostly waits
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		for _, tc := range []struct {
			commands string
			want     string
			closed   bool
		}{
			{"CLIENT KILL {addr}|PING", "+OK\r\n", true},
			{"CLIENT KILL ID {id}|PING", ":0\r\n+PONG\r\n", false},
			{"CLIENT KILL ID {id} SKIPME no|PING", ":1\r\n", true},
			{"CLIENT KILL ID {id} SKIPME yes|PING", ":0\r\n+PONG\r\n", false},
			{"PING|CLIENT KILL ADDR {addr} SKIPME no|SET after kill", "+PONG\r\n:1\r\n", true},
			{"MULTI|PING|CLIENT KILL ID {id} SKIPME no|EXEC|SET after kill", "+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n+PONG\r\n:1\r\n", true},
		} {
			for where, addr := range map[string]string{"Redis": s.Addr(), "the proxy": p.Addr()} {
				c := proxytest.Dial(t, addr)
				id := idOf(c)
				var pipeline strings.Builder
				for command := range strings.SplitSeq(strings.NewReplacer("{addr}", c.LocalAddr(), "{id}", id).Replace(tc.commands), "|") {
					pipeline.WriteString(proxytest.Command(strings.Fields(command)...))
				}
				c.Write(pipeline.String())
				c.SetTimeout(time.Second)
				got, err := c.TryReadAll()
				if string(got) != tc.want || (err == nil) != tc.closed {
					t.Errorf("%s of %s: %q, closed: %v; want %q, %v", tc.commands, where, got, err == nil, tc.want, tc.closed)
				}
				c.Close()
			}
		}
		if got := string(proxytest.Dial(t, s.Addr()).Do("EXISTS", "after")); got != ":0\r\n" {
			t.Error("what came behind was carried out")
		}
	})
}

func TestUnblockEndsTheWaitOfABlockedClient(t *testing.T) {
	onLoops(t, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		asker := proxytest.Dial(t, p.Addr())
		for _, command := range []string{
			"BLPOP nothing 0", "BLMOVE nothing nobody LEFT LEFT 0", "BZMPOP 0 1 nothing MIN", "XREAD BLOCK 0 STREAMS nothing $", "WAIT 3 0",
		} {
			for mode, want := range map[string]string{
				"": "*-1\r\n", "TIMEOUT": "*-1\r\n", "error": "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
			} {
				if command == "WAIT 3 0" && mode != "error" {
					want = ":0\r\n"
				}
				c := proxytest.Dial(t, p.Addr())
				id := idOf(c)
				if got := string(asker.Do("CLIENT", "UNBLOCK", id)); got != ":0\r\n" {
					t.Errorf("one that is not blocked: %q", got)
				}
				c.Send(strings.Fields(command)...)
				eventually(t, "unblocking "+command, func() string {
					if got := string(asker.Do(strings.Fields("CLIENT UNBLOCK " + id + " " + mode)...)); got != ":1\r\n" {
						return got
					}
					return ""
				})
				if got := string(c.ReadReply()); got != want {
					t.Errorf("%s, UNBLOCK %s: %q, want %q", command, mode, got, want)
				}
				if got := string(c.Do("PING")); got != "+PONG\r\n" {
					t.Errorf("afterwards: %q", got)
				}
				c.Close()
			}
		}
		if got := string(asker.Do("CLIENT", "UNBLOCK", "99999")); got != ":0\r\n" {
			t.Errorf("nobody: %q", got)
		}
		asker.Close()
		allGone(t, p)
	})
}

// A client whose blocking command waits for a connection is as blocked as any, to whoever looks from outside.
func TestUnblockEndsTheWaitForAConnectionToBlockOn(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout = 3, time.Minute })
		holder, asker := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		holder.Send("BLPOP", "nothing", "0")
		for mode, want := range map[string]string{
			"TIMEOUT": map[string]string{"2": "*-1\r\n", "3": "_\r\n"}[protocol],
			"ERROR":   "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n",
		} {
			c := proxytest.Dial(t, p.Addr())
			c.Do("HELLO", protocol)
			id := idOf(c)
			c.Send("BRPOPLPUSH", "nothing", "nobody", "0")
			c.Send("SET", "behind", mode)
			eventually(t, "the wait", func() string {
				lines, _ := clientLines(t, asker.Do("CLIENT", "LIST", "ID", id))
				if len(lines) != 1 || lines[0]["flags"] != "b" {
					return fmt.Sprint(lines)
				}
				return ""
			})
			if got := string(asker.Do("CLIENT", "UNBLOCK", id, mode)); got != ":1\r\n" {
				t.Errorf("CLIENT UNBLOCK: %q", got)
			}
			if got := string(c.ReadReply()) + string(c.ReadReply()); got != want+"+OK\r\n" {
				t.Errorf("RESP%s, %s: %q", protocol, mode, got)
			}
			c.Close()
		}
		holder.Close()
		asker.Close()
		allGone(t, p)
	}
}

// Whoever asks goes another way than the command that is to be ended, and may be there first.
func TestWhoIsShownAsBlockedCanBeUnblocked(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprint(loops, " loops"), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			zero, rounds := 0, 150
			for range rounds {
				asker, c := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
				id := idOf(c)
				c.Send("BLPOP", "nothing", "0")
				for !bytes.Contains(asker.Do("INFO", "clients"), []byte("blocked_clients:1\r\n")) {
				}
				if string(asker.Do("CLIENT", "UNBLOCK", id)) != ":1\r\n" {
					zero++
				}
				c.Close()
				asker.Close()
				allGone(t, p)
			}
			if zero > 0 {
				t.Errorf("of %d clients that were shown as blocked, %d could not be unblocked", rounds, zero)
			}
		})
	}
}
