package proxy_test

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What the rules say is what clients meet, over sockets, with Redis behind: one rule a conversation. What the gate decides
// has its own tests; these show that a session does as it is told.

// withRules starts a proxy with rules, on one loop and on two.
func withRules(t *testing.T, maxclients int, rules []string, test func(*testing.T, *proxytest.Server, *proxytest.Running)) {
	t.Helper()
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			t.Parallel()
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients, c.Limits = loops, maxclients, parseRules(t, rules...)
				c.PoolTimeout = 300 * time.Millisecond
			})
			d := proxytest.Dial(t, s.Addr())
			for _, user := range []string{"app", "ops", "other"} {
				d.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all")
			}
			t.Cleanup(func() { allGone(t, p) }) // behind those that close the clients
			test(t, s, p)
		})
	}
}

func parseRules(t *testing.T, texts ...string) (rules []limits.Rule) {
	t.Helper()
	for _, text := range texts {
		r, err := limits.ParseRule(text)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	return rules
}

// limitConversations are played one by one.
var limitConversations = []struct {
	name       string
	maxclients int
	rules      []string
	script     string
}{
	{"maxclients of an address, reject", 100, []string{"addr 127.0.0.1 maxclients 2"}, `
		a> PING
		a< +PONG
		b> PING
		b< +PONG
		c> PING
		c< -ERR max number of clients reached
		c< (end)
		a> QUIT
		a< +OK
		a< (end)
		d> PING
		d< +PONG
	`},
	{"maxclients of a user, known by AUTH, reject", 100, []string{"user app maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b> PING
		b< +PONG
		b> AUTH app pw
		b< +OK
		b> GET k
		b< -ERR max number of clients reached
		b> GET k
		b< -ERR max number of clients reached
		b< (end)
		a> ACL WHOAMI
		a~ app
	`},
	{"a client that says nothing after it has become one too many is told and closed", 100, []string{"user app maxclients 1"}, `
		a> AUTH app pw
		a< +OK
		b> AUTH app pw
		b< +OK
		b< -ERR max number of clients reached
		b< (end)
	`},
	{"maxclients of a user, known by HELLO, queue", 100, []string{"user app maxclients 1 overflow queue queue-timeout 10s"}, `
		a> HELLO 3 AUTH app pw
		a~ redis|valkey
		b+ HELLO 3 AUTH app pw
		b+ SET k v
		b+ GET k
		b> PING
		b~ redis|valkey
		a> GET k
		a< _
		a> QUIT
		a< +OK
		b< +OK
		b< $1\r\nv
		b< +PONG
	`},
	{"leaving a user makes room as leaving does", 100, []string{"user app maxclients 1 overflow queue queue-timeout 10s"}, `
		a> AUTH app pw
		a< +OK
		b+ AUTH app pw
		b> ACL WHOAMI
		b< +OK
		a> AUTH other pw
		a< +OK
		b~ app
		a> RESET
		a< +RESET
		a> AUTH app pw
		a< +OK
		b> RESET
		b< +RESET
		a> ACL WHOAMI
		a~ app
	`},
	{"maxclients of a name prefix", 100, []string{"name worker:* maxclients 1"}, `
		a> CLIENT SETNAME worker:1
		a< +OK
		b> CLIENT SETNAME worker:2
		b< +OK
		b> PING
		b< -ERR max number of clients reached
		c> HELLO 2 SETNAME worker:3
		c~ redis|valkey
		c> PING
		c< -ERR max number of clients reached
		d> CLIENT SETNAME other
		d< +OK
		d> PING
		d< +PONG
	`},
	{"maxclients of a library", 100, []string{"lib leaky/* maxclients 1"}, `
		a+ CLIENT SETINFO LIB-NAME leaky
		a+ CLIENT SETINFO LIB-VER 1.0
		a> PING
		a~ ^[+-]
		a~ ^[+-]
		a< +PONG
		b+ CLIENT SETINFO LIB-NAME leaky
		b+ CLIENT SETINFO LIB-VER 2.0
		b> PING
		b~ ^[+-]
		b~ ^[+-]
		b< -ERR max number of clients reached
	`},
	{"maxclients in all, queue", 1, []string{"total overflow queue queue-timeout 10s"}, `
		a> SET k v
		a< +OK
		b+ GET k
		b> ECHO x
		a> SET k w
		a< +OK
		a: close
		b< $1\r\nw
		b< $1\r\nx
	`},
	{"a queue that takes too long", 1, []string{"total overflow queue queue-timeout 50ms"}, `
		a> PING
		a< +PONG
		b+ GET k
		b> GET k
		b< -ERR max number of clients reached
		b< (end)
		a> PING
		a< +PONG
	`},
	{"a queue that is full", 1, []string{"total overflow queue queue-size 1 queue-timeout 10s"}, `
		a> PING
		a< +PONG
		b> PING
		c> PING
		c< -ERR max number of clients reached
		b: reset
		a: close
		d> PING
		d< +PONG
	`},
	{"a client that closes its sending side gives up its place", 1, []string{"total overflow queue queue-timeout 10s"}, `
		a> PING
		a< +PONG
		b> PING
		b: half
		b< -ERR max number of clients reached
		b< (end)
	`},
	{"a rule that only observes", 100, []string{"addr each maxclients 1 overflow observe"}, `
		a> PING
		a< +PONG
		b> PING
		b< +PONG
	`},
	{"new connections a second", 100, []string{"addr each new-connections-per-second 0.1 burst 2"}, `
		a> PING
		a< +PONG
		b> PING
		b< +PONG
		c> PING
		c< -ERR max number of clients reached
		a: close
		d> PING
		d< -ERR max number of clients reached
	`},
	{"places reserved for a user, who shows it with its first command", 2, []string{"user ops reserved 1"}, `
		a> PING
		a< +PONG
		b> PING
		b< -ERR max number of clients reached
		b< (end)
		c> AUTH other pw
		c< -ERR max number of clients reached
		c< (end)
		d> AUTH ops pw
		d< +OK
		d> ACL WHOAMI
		d~ ops
		e+ HELLO 3 AUTH ops pw
		e> ACL WHOAMI
		e< -ERR max number of clients reached
		e< -ERR max number of clients reached
		d: close
		f> AUTH ops wrong
		f< -ERR max number of clients reached
		f< (end)
		g+ CLIENT SETNAME admin
		g+ HELLO 3 AUTH ops pw SETNAME op
		g> ACL WHOAMI
		g< +OK
		g~ redis|valkey
		g~ ops
	`},
	{"places reserved for a user, who waits in the queue like the others", 2, []string{"total overflow queue queue-timeout 10s", "user ops reserved 1"}, `
		a> PING
		a< +PONG
		b> PING
		c+ AUTH ops pw
		c> ACL WHOAMI
		c< +OK
		c~ ops
		a: close
		b< +PONG
	`},
	{"places reserved for a name", 1, []string{"name ops:* reserved 1"}, `
		a> CLIENT SETNAME app
		a< -ERR max number of clients reached
		b> CLIENT SETNAME ops:1
		b< +OK
		b> CLIENT GETNAME
		b< $5\r\nops:1
	`},
	{"upstream connections of one's own", 100, []string{"addr each max-pins 1"}, `
		a> MULTI
		a< +OK
		b> WATCH k
		b< -ERR max number of clients reached
		c> BLPOP queue 0.01
		a> EXEC
		a< *0
		c< *-1
		d> BLPOP queue 10
		e> PING
		e< +PONG
		e> LPUSH queue x
		e< :1
		d~ queue
		d> BLPOP queue 0.01
		d< *-1
	`},
	{"the output of one client", 100, []string{"user app client-output-buffer-limit 1mb"}, `
		a> SETRANGE big 20000000 x
		a< :20000001
		a> AUTH app pw
		a< +OK
		a> GET big
		a~ (end)
	`},
	{"the input of one client", 100, []string{"user app client-query-buffer-limit 1kb"}, `
		a> AUTH app pw
		a< +OK
		a>> *3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2000\r\n` + strings.Repeat("x", 1500) + `
		a< (end)
	`},
}

func TestWhatTheRulesSayIsWhatClientsMeet(t *testing.T) {
	for _, tc := range limitConversations {
		t.Run(tc.name, func(t *testing.T) {
			withRules(t, tc.maxclients, tc.rules, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
				if strings.Contains(tc.script, "~ (end)") { // what comes before it is a matter of the socket's buffers
					script, _, _ := strings.Cut(tc.script, "a> GET big")
					proxytest.Converse(t, p.Addr(), nil, script)
					bigReply(t, p)
					return
				}
				proxytest.Converse(t, p.Addr(), nil, tc.script)
			})
		})
	}
}

// bigReply has a client ask for much and read nothing: it is closed, and another is not.
func bigReply(t *testing.T, p *proxytest.Running) {
	t.Helper()
	slow, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	other.Do("PING")
	slow.Do("AUTH", "app", "pw")
	slow.Send("GET", "big")
	eventually(t, "the end of who does not read", func() string {
		if n := p.Stats().Clients; n != 2 { // another, and the one that has asked for the large value to be there
			return fmt.Sprint(n, " clients")
		}
		return ""
	})
	if got := string(other.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("another client: %q", got)
	}
}

func TestCommandsInFlightOfOneClientAreBoundedAndNoneIsLost(t *testing.T) {
	withRules(t, 100, []string{"addr each max-in-flight 10"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		c := proxytest.Dial(t, p.Addr())
		c.Do("PING")
		eventually(t, "nothing of the proxy's own in flight", func() string {
			if n := p.Stats().InFlight; n > 0 {
				return fmt.Sprint(n)
			}
			return ""
		})
		const n = 5000
		most := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 200 {
				most = max(most, p.Stats().InFlight)
			}
		}()
		c.Write(strings.Repeat(proxytest.Command("INCR", "n"), n))
		for i := range n {
			if got, want := string(c.ReadReply()), fmt.Sprintf(":%d\r\n", i+1); got != want {
				t.Fatalf("reply %d is %q", i, got)
			}
		}
		<-done
		if most > 10 {
			t.Errorf("%d commands were in flight, want 10 at most", most)
		}
		c.Close()
	})
}

func TestClientsOfASourceMayBeIdleForAsLongAsItsRuleSays(t *testing.T) {
	withRules(t, 100, []string{"user app max-idle 1s"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		idle, other, blocked := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		idle.Do("AUTH", "app", "pw")
		other.Do("PING")
		blocked.Do("AUTH", "app", "pw")
		blocked.Send("BLPOP", "queue", "0")
		idle.SetTimeout(10 * time.Second)
		if said := string(idle.ReadAll()); said != "" {
			t.Errorf("the idle client was told %q", said)
		}
		if got := string(other.Do("RPUSH", "queue", "x")); got != ":1\r\n" {
			t.Errorf("a client of another user: %q", got)
		}
		if got := string(blocked.ReadReply()); !strings.Contains(got, "queue") {
			t.Errorf("a client that waits: %q", got)
		}
		other.Close()
		blocked.Close()
	})
}

func TestAClientThatIsIdleMakesRoomForAnother(t *testing.T) {
	withRules(t, 3, []string{"total overflow evict-idle"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		holder, idle, blocked := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		idle.Do("SELECT", "3")
		holder.Do("WATCH", "k")
		blocked.Send("BLPOP", "queue", "0")
		time.Sleep(1200 * time.Millisecond)
		for range 2 {
			c := proxytest.Dial(t, p.Addr())
			if got := string(c.Do("PING")); got != "+PONG\r\n" {
				t.Fatalf("the one who has come: %q", got)
			}
			if said := string(idle.ReadAll()); said != "" {
				t.Errorf("the idle client was told %q", said)
			}
			time.Sleep(1200 * time.Millisecond)
			idle = c
		}
		idle.Do("MULTI")
		if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != refusalText {
			t.Errorf("when nobody can go: %q", got)
		}
		if got := string(holder.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("a client that watches: %q", got)
		}
		idle.Close()
		holder.Close()
		blocked.Close()
	})
}

func TestTheLogTellsWhichRuleRefusesAndWhom(t *testing.T) {
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.Limits = parseRules(t, "name leaky maxclients 1", "addr each maxclients 1 overflow observe")
		c.Log, c.LogInterval = slog.New(slog.NewTextHandler(log, nil)), time.Second
	})
	var clients []*proxytest.Conn
	for range 5 {
		c := proxytest.Dial(t, p.Addr())
		c.Do("CLIENT", "SETNAME", "leaky")
		clients = append(clients, c)
	}
	suppressed := regexp.MustCompile(`suppressed=(\d+)`)
	eventually(t, "the log", func() string {
		text := log.String()
		for _, what := range []string{
			"clients? refused: max number of clients reached, by the rule name leaky",
			"clients? would have been refused: max number of clients reached, by the rule addr each",
		} {
			// One of the five is no client too many. Before its process has been found, a client is another source than after.
			lines, told := regexp.MustCompile(what).FindAllStringIndex(text, -1), 0
			for _, at := range lines {
				line, _, _ := strings.Cut(text[at[0]:], "\n")
				n := 1
				if m := suppressed.FindStringSubmatch(line); m != nil {
					n, _ = strconv.Atoi(m[1])
				}
				told += n
				if !strings.Contains(line, "source=") {
					return "no source in " + line
				}
			}
			if told != 4 || len(lines) > 4 {
				return fmt.Sprintf("%d clients in %d lines: %s in\n%s", told, len(lines), what, text)
			}
		}
		return ""
	})
	for _, c := range clients {
		c.Close()
	}
	allGone(t, p)
}

// A client that a rule refuses late, when it waits in BLPOP already, would wait there, and hold its upstream connection,
// for as long as it likes.
func TestAClientThatIsRefusedWhileItWaitsForOthersGoes(t *testing.T) {
	withRules(t, 100, []string{"user app maxclients 1"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		first := proxytest.Dial(t, p.Addr())
		first.Do("AUTH", "app", "pw")
		second := proxytest.Dial(t, p.Addr())
		second.Send("BLPOP", "queue", "0")
		eventually(t, "a client that waits", func() string {
			if n := proxy.Gauges(p.Server)[0]; n != 1 {
				return fmt.Sprint(n)
			}
			return ""
		})
		proxy.BecomeKnown(p.Server, second.LocalAddr(), limits.ByUser, "app") // as when its process is found late
		second.SetTimeout(5 * time.Second)
		if got := string(second.ReadAll()); got != refusalText {
			t.Errorf("the one that waits was told %q", got)
		}
		if got := string(first.Do("RPUSH", "queue", "x")); got != ":1\r\n" {
			t.Errorf("the other one: %q", got)
		}
		first.Close()
	})
}

// A client that has to wait, and is decided on before it does, is decided on once.
func TestAClientIsLetInOnceThoughSomebodyLeavesAsItKnocks(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.MaxClients, c.Limits = 1, parseRules(t, "total overflow queue queue-timeout 10s")
	})
	for range 200 {
		if err := proxy.KnockWhileOneLeaves(p.Server); err != nil {
			t.Fatal(err)
		}
		allGone(t, p)
	}
}

func TestARefusedClientThatSaysWhoItIsIsCountedOnce(t *testing.T) {
	withRules(t, 2, []string{"user ops reserved 1"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		proxytest.Converse(t, p.Addr(), nil, `
			a> PING
			a< +PONG
			b+ CLIENT SETNAME b
			b> AUTH other pw
			b< -ERR max number of clients reached
			b< (end)
			a: close
		`)
		if n := p.Stats().Refused; n != 1 {
			t.Errorf("%d clients were refused, want 1", n)
		}
	})
}

func TestARefusedClientIsNotReadWhileItsPasswordIsChecked(t *testing.T) {
	withRules(t, 2, []string{"user ops reserved 1"}, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		first := proxytest.Dial(t, p.Addr())
		first.Do("PING")
		busy := proxytest.Dial(t, s.Addr())
		busy.Send("EVAL", `local t = redis.call("TIME")[1]; while redis.call("TIME")[1] - t < 2 do end`, "0")
		time.Sleep(50 * time.Millisecond)

		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = c.Write([]byte(proxytest.Command("AUTH", "other", "pw")))
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)) // before it has been told
		flood := []byte(strings.Repeat("x", 100<<20))
		time.Sleep(20 * time.Millisecond)
		n, _ := c.Write(flood)
		if n > 20<<20 { // the kernel takes some
			t.Errorf("%d bytes of a client that is refused are kept", n)
		}
		busy.ReadReply()
		first.Close()
	})
}

func TestARuleWhoseQueueNeedsMoreFilesThanThereCanBeIsNotPutInForce(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Limits = parseRules(t, "total overflow queue queue-size 10") })
	before := fmt.Sprint(p.Server.Rules())
	for _, rule := range []string{"total overflow queue queue-size 2000000000", "addr each maxclients 1 overflow queue queue-size 2000000000"} {
		if err := p.Server.SetRule(rule); err == nil || !strings.Contains(err.Error(), "open as many files") {
			t.Errorf("%s: %v", rule, err)
		}
	}
	if after := fmt.Sprint(p.Server.Rules()); after != before {
		t.Errorf("in force are %s, want %s", after, before)
	}
	if err := p.Server.SetRule("total overflow queue queue-size 20"); err != nil {
		t.Error(err)
	}
}

// The settings are those in force, not those of the start.
func TestTheSettingLimitIsWhatIsInForce(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Limits = parseRules(t, "addr each maxclients 5") })
	limit := func(want string) {
		t.Helper()
		for _, s := range p.Server.Settings() {
			if s.Name == "limit" {
				if s.Value != want || !s.Live {
					t.Errorf("limit is %+v, want %s", s, want)
				}
				return
			}
		}
		t.Error("there is no setting limit")
	}
	limit("addr each maxclients 5")
	if err := p.Server.SetRule("total overflow queue"); err != nil {
		t.Fatal(err)
	}
	limit("total overflow queue;addr each maxclients 5")
	for _, head := range []string{"total", "addr each"} {
		if err := p.Server.UnsetRule(head); err != nil {
			t.Fatal(err)
		}
	}
	limit("none")
}

// The log tells of each client once, however often it says the same of itself again.
func TestAClientThatWouldHaveBeenRefusedIsToldOfOnce(t *testing.T) {
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.Limits = parseRules(t, "name app maxclients 1 overflow observe")
		c.Log, c.LogInterval = slog.New(slog.NewTextHandler(log, nil)), time.Second
	})
	for range 2 {
		c := proxytest.Dial(t, p.Addr())
		c.Do("PING")
		time.Sleep(300 * time.Millisecond) // its process is found
		for range 10 {
			c.Do("CLIENT", "SETNAME", "app")
		}
	}
	time.Sleep(2500 * time.Millisecond)
	if text := log.String(); strings.Count(text, "would have been refused") != 1 {
		t.Errorf("the log says\n%s", text)
	}
}
