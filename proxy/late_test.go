package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/peer"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who a client is may become known at the oddest of moments: in a transaction, on a connection of its own, while it waits for
// others, while it only listens. Nobody is served against a rule from then on, nobody hangs, and replies stay in order.

var lateConversations = []struct {
	name   string
	rules  []string
	script string
}{
	{"AUTH within WATCH, reject", []string{"user app maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b> WATCH k
		b< +OK
		b+ AUTH app pw
		b> SET k v
		b< +OK
		b< -ERR max number of clients reached
		b> MULTI
		b< -ERR max number of clients reached
		b> SET k v
		b< -ERR max number of clients reached
		b> EXEC
		b< -ERR max number of clients reached
		b< (end)
		a> EXISTS k
		a< :0
	`},
	{"AUTH within WATCH, queue", []string{"user app maxclients 1 overflow queue queue-timeout 10s"}, `
		a> AUTH app pw
		a< +OK
		b+ WATCH k
		b+ AUTH app pw
		b+ MULTI
		b+ SET k v
		b> EXEC
		b< +OK
		b< +OK
		a> EXISTS k
		a< :0
		a> AUTH other pw
		a< +OK
		b< +OK
		b< +QUEUED
		b< *1\r\n+OK
		b> ACL WHOAMI
		b~ app
	`},
	{"AUTH within WATCH, queue, and somebody writes meanwhile", []string{"user app maxclients 1 overflow queue queue-timeout 10s"}, `
		a> AUTH app pw
		a< +OK
		b+ WATCH k
		b+ AUTH app pw
		b+ MULTI
		b+ SET k v
		b> EXEC
		b< +OK
		b< +OK
		a> SET k a
		a< +OK
		a: close
		b< +OK
		b< +QUEUED
		b< *-1
	`},
	{"HELLO with AUTH and SETNAME, and commands behind it, reject by the user", []string{"user app maxclients 1", "name w:* maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b+ SET k v
		b+ HELLO 3 AUTH app pw SETNAME w:1
		b+ SET k w
		b> GET k
		b< +OK
		b~ redis|valkey
		b< -ERR max number of clients reached
		b< -ERR max number of clients reached
		b< (end)
		a> GET k
		a< $1\r\nv
	`},
	{"HELLO with AUTH and SETNAME, a queue by the user and then another by the name", []string{
		"user app maxclients 1 overflow queue queue-timeout 10s", "name w:* maxclients 1 overflow queue queue-timeout 10s"}, `
		a> AUTH app pw
		a< +OK
		n> CLIENT SETNAME w:0
		n< +OK
		b+ HELLO 3 AUTH app pw SETNAME w:1
		b+ INCR k
		b+ INCR k
		b> INCR k
		b~ redis|valkey
		a> QUIT
		a< +OK
		n> GET k
		n< $-1
		n> CLIENT SETNAME x
		n< +OK
		b< :1
		b< :2
		b< :3
	`},
	{"HELLO with AUTH and SETNAME, a queue by the user, but refused by the name", []string{
		"user app maxclients 1 overflow queue queue-timeout 10s", "name w:* maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		n> CLIENT SETNAME w:0
		n< +OK
		b+ HELLO 3 AUTH app pw SETNAME w:1
		b> INCR k
		b~ redis|valkey
		b< -ERR max number of clients reached
		b< (end)
		n> EXISTS k
		n< :0
	`},
	{"RESET takes a user and a name back, and what waits for either goes on", []string{
		"user app maxclients 1 overflow queue queue-timeout 10s", "name w:* maxclients 1 overflow queue queue-timeout 10s"}, `
		a> HELLO 2 AUTH app pw SETNAME w:1
		a~ redis|valkey
		b+ AUTH app pw
		b> ACL WHOAMI
		b< +OK
		c+ CLIENT SETNAME w:2
		c> CLIENT GETNAME
		c< +OK
		a> RESET
		a< +RESET
		b~ app
		c< $3\r\nw:2
		a> ACL WHOAMI
		a~ default
		a> CLIENT GETNAME
		a< $-1
	`},
	{"RESET of one that has been refused", []string{"user app maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b+ AUTH app pw
		b+ RESET
		b> PING
		b< +OK
		b< -ERR max number of clients reached
		b< -ERR max number of clients reached
		b< (end)
	`},
	{"CLIENT REPLY SKIP before being refused", []string{"user app maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b+ CLIENT REPLY SKIP
		b+ AUTH app pw
		b+ SET k v
		b> SET k v
		b< -ERR max number of clients reached
		b< -ERR max number of clients reached
		b< (end)
		a> EXISTS k
		a< :0
	`},
	{"a subscriber of RESP3", []string{"name w:* maxclients 1"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b> HELLO 3
		b~ redis|valkey
		b> SUBSCRIBE ch
		b~ subscribe
		b> CLIENT SETNAME w:2
		b< +OK
		b> GET k
		b< -ERR max number of clients reached
		b> SUBSCRIBE ch2
		b< -ERR max number of clients reached
		b< (end)
	`},
	{"a subscriber of RESP3 that says nothing", []string{"name w:* maxclients 1"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b> HELLO 3
		b~ redis|valkey
		b> SUBSCRIBE ch
		b~ subscribe
		b> CLIENT SETNAME w:2
		b< +OK
		b< -ERR max number of clients reached
		b< (end)
	`},
	{"a subscriber of RESP3 in a queue is told messages", []string{"name w:* maxclients 1 overflow queue queue-timeout 10s"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b> HELLO 3
		b~ redis|valkey
		b> SUBSCRIBE ch
		b~ subscribe
		b+ CLIENT SETNAME w:2
		b> SUBSCRIBE ch2
		b< +OK
		a> PUBLISH ch x
		a< :1
		b~ message
		a> PUBLISH ch2 x
		a< :0
		a: close
		b~ subscribe\r\n\$3\r\nch2
		c> PUBLISH ch2 x
		c< :1
		b~ message
	`},
	{"subscribing behind the name that is too much", []string{"name w:* maxclients 1"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b+ CLIENT SETNAME w:2
		b> SUBSCRIBE ch
		b< +OK
		b< -ERR max number of clients reached
		b< (end)
		a> PUBLISH ch x
		a< :0
	`},
	{"what would wait for others behind the name that is too much", []string{"name w:* maxclients 1"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b+ CLIENT SETNAME w:2
		b> BLPOP q 0
		b< +OK
		b< -ERR max number of clients reached
		b< (end)
		c+ CLIENT SETNAME w:3
		c> MONITOR
		c< +OK
		c< -ERR max number of clients reached
		c< (end)
		a> RPUSH q x
		a< :1
		a> LLEN q
		a< :1
	`},
	{"a transaction behind the name that is too much is not carried out", []string{"name w:* maxclients 1"}, `
		a> CLIENT SETNAME w:1
		a< +OK
		b+ CLIENT SETNAME w:2
		b+ MULTI
		b+ SET k v
		b> EXEC
		b< +OK
		b< -ERR max number of clients reached
		b< -ERR max number of clients reached
		b< -ERR max number of clients reached
		b< (end)
		a> EXISTS k
		a< :0
	`},
	{"a client in a queue that closes its sending side is told", []string{"user app maxclients 1 overflow queue queue-timeout 10s"}, `
		a> AUTH app pw
		a< +OK
		b+ AUTH app pw
		b> SET k v
		b< +OK
		b: half
		b< -ERR max number of clients reached
		b< (end)
		a> EXISTS k
		a< :0
	`},
}

func TestWhatBecomesKnownLateCountsAtOnce(t *testing.T) {
	for _, tc := range lateConversations {
		t.Run(tc.name, func(t *testing.T) {
			withRules(t, 100, tc.rules, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
				t.Cleanup(func() { eventually(t, "all is zero", func() string { return stillCounted(p) }) }) // behind those that close the clients
				proxytest.Converse(t, p.Addr(), nil, tc.script)
			})
		})
	}
}

func TestAClientThatWantsNoRepliesIsRefusedAllTheSame(t *testing.T) {
	withRules(t, 100, []string{"user app maxclients 1"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		first, mute := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		first.Do("AUTH", "app", "pw")
		mute.Write(proxytest.Command("CLIENT", "REPLY", "OFF") + proxytest.Command("AUTH", "app", "pw") + proxytest.Command("SET", "k", "v"))
		start := time.Now()
		if said := string(mute.ReadAll()); said != "" && said != refusalText {
			t.Errorf("it was told %q", said)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("it was there for %v", d)
		}
		if got := string(first.Do("EXISTS", "k")); got != ":0\r\n" {
			t.Errorf("it was served: %s", got)
		}
		first.Close()
	})
}

// lateProcess has a client's process become known, at that moment, to be one that a rule has no room for.
func lateProcess(p *proxytest.Running, c *proxytest.Conn) {
	proxy.FindProcess(p.Server, c.LocalAddr(), peer.Process{PID: 1 << 30, Executable: "late"})
}

// lateModes are what a client may be in when its process is found, and what it does then.
var lateModes = []struct {
	name    string
	prepare string // each command is answered, but for the last after a bang
	then    string // is sent when its process has been found
	replies string // to that, if it gets a place
}{
	{"idle", "SET x 1", "SET k v", "+OK"},
	{"in MULTI", "MULTI|SET k v", "SET k w|EXEC", "+QUEUED|*2\r\n+OK\r\n+OK"},
	{"in WATCH", "WATCH k|GET k", "MULTI|SET k v|EXEC", "+OK|+QUEUED|*1\r\n+OK"},
	{"blocked in BLPOP", "!BLPOP q 0", "", ""},
	{"blocked in XREAD", "!XREAD BLOCK 0 STREAMS s $", "", ""},
	{"blocked in WAIT", "SET x 1|!WAIT 1 0", "", ""},
	{"subscribed", "SUBSCRIBE ch", "PING", "*2\r\n$4\r\npong\r\n$0\r\n"},
	{"subscribed, RESP3", "HELLO 3|SUBSCRIBE ch", "SET k v", "+OK"},
	{"in MONITOR", "MONITOR", "", ""},
}

func TestAClientWhoseProcessIsFoundLateIsNotServedAgainstItsRule(t *testing.T) {
	for _, mode := range lateModes {
		t.Run(mode.name, func(t *testing.T) {
			withRules(t, 100, []string{"process late maxclients 1"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
				first, late := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
				first.Do("PING")
				knownProcess(t, p, first, late)
				lateProcess(p, first)
				prepare(t, p, late, mode.prepare)
				lateProcess(p, late)
				start := time.Now()
				n := sendAll(late, mode.then)
				said := string(late.ReadAll())
				if want := strings.Repeat(refusalText, max(n, 1)); !strings.HasSuffix(said, want) || strings.Contains(strings.TrimSuffix(said, want), "+OK\r\n+OK") {
					t.Errorf("it was told %q, want %q", said, want)
				}
				if d := time.Since(start); d > 3*time.Second {
					t.Errorf("it was there for %v", d)
				}
				other := proxytest.Dial(t, p.Addr())
				for command, want := range map[string]string{"EXISTS k": ":0", "RPUSH q x": ":1"} {
					if got := string(other.Do(strings.Fields(command)...)); got != want+"\r\n" {
						t.Errorf("%s: %q, want %s", command, got, want)
					}
				}
				if got := string(other.Do("LLEN", "q")); got != ":1\r\n" {
					t.Errorf("somebody has popped: %q", got)
				}
				eventually(t, "nobody is subscribed", func() string {
					if got := string(other.Do("PUBLISH", "ch", "x")); got != ":0\r\n" {
						return got
					}
					return ""
				})
				first.Close()
				other.Close()
				eventually(t, "all is zero", func() string { return stillCounted(p) })
			})
		})
	}
}

func TestAClientWhoseProcessIsFoundLateWaitsForItsTurn(t *testing.T) {
	for _, mode := range lateModes {
		t.Run(mode.name, func(t *testing.T) {
			withRules(t, 100, []string{"process late maxclients 1 overflow queue queue-timeout 10s"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
				first, late := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
				first.Do("PING")
				knownProcess(t, p, first, late)
				lateProcess(p, first)
				prepare(t, p, late, mode.prepare)
				lateProcess(p, late)
				n := sendAll(late, mode.then)
				if got := string(first.Do("EXISTS", "k")); got != ":0\r\n" {
					t.Errorf("it was served: %s", got)
				}
				if n := p.Stats().Queued; n != 1 {
					t.Errorf("%d wait", n)
				}
				first.Close()
				for _, want := range strings.Split(mode.replies, "|")[:n] {
					if got := string(late.ReadReply()); got != want+"\r\n" {
						t.Errorf("when it has a place: %q, want %q", got, want)
					}
				}
				eventually(t, "it is in", func() string {
					for _, r := range p.Rules() {
						for _, x := range r.Groups {
							if r.Head == "process late" && (x.Open != 1 || x.Waiting != 0) {
								return fmt.Sprintf("%+v", x)
							}
						}
					}
					return ""
				})
				late.Close()
				eventually(t, "all is zero", func() string { return stillCounted(p) })
			})
		})
	}
}

// knownProcess waits until the true processes of clients have been found, so that this does not happen later.
func knownProcess(t *testing.T, p *proxytest.Running, clients ...*proxytest.Conn) {
	t.Helper()
	eventually(t, "the processes", func() string {
		list, err := p.Clients(t.Context(), proxy.ClientFilter{})
		if err != nil {
			return err.Error()
		}
		known := 0
		for _, x := range list {
			for _, c := range clients {
				if x.Remote == c.LocalAddr() && x.PID != "" {
					known++
				}
			}
		}
		if known < len(clients) {
			return fmt.Sprint(known, " are known")
		}
		return ""
	})
}

// prepare has a client do what brings it into a mode.
func prepare(t *testing.T, p *proxytest.Running, c *proxytest.Conn, commands string) {
	t.Helper()
	for command := range strings.SplitSeq(commands, "|") {
		if command, blocks := strings.CutPrefix(command, "!"); blocks {
			c.Send(strings.Fields(command)...)
			eventually(t, "it is blocked", func() string {
				if n := proxy.Gauges(p.Server)[0]; n != 1 {
					return fmt.Sprint(n)
				}
				return ""
			})
			return
		}
		if got := string(c.Do(strings.Fields(command)...)); got[0] == '-' {
			t.Fatalf("%s: %q", command, got)
		}
	}
}

// sendAll sends commands in one piece, and returns how many they are.
func sendAll(c *proxytest.Conn, commands string) (n int) {
	if commands == "" {
		return 0
	}
	var raw strings.Builder
	for command := range strings.SplitSeq(commands, "|") {
		raw.WriteString(proxytest.Command(strings.Fields(command)...))
		n++
	}
	c.Write(raw.String())
	return n
}

func TestABlockedClientThatARuleHasBecomeTooNarrowForStaysAndNobodyElseComes(t *testing.T) {
	withRules(t, 100, nil, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		blocked, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		prepare(t, p, blocked, "!BLPOP q 0")
		other.Do("PING")
		if err := p.SetRule("addr 127.0.0.1 maxclients 1"); err != nil {
			t.Fatal(err)
		}
		if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != refusalText {
			t.Errorf("one more: %q", got)
		}
		if got := string(other.Do("RPUSH", "q", "x")); got != ":1\r\n" {
			t.Errorf("one that is in: %q", got)
		}
		if got := string(blocked.ReadReply()); !strings.HasSuffix(got, "\r\nx\r\n") {
			t.Errorf("the one that was blocked: %q", got)
		}
		blocked.Close()
		if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != refusalText {
			t.Errorf("one more, as the first has gone: %q", got)
		}
		other.Close()
		eventually(t, "there is room", func() string {
			c := proxytest.Dial(t, p.Addr())
			defer c.Close()
			if got := string(c.Do("PING")); got != "+PONG\r\n" {
				return got
			}
			return ""
		})
	})
}
