package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A configuration is put in force while clients are connected: what it says holds at once, and nobody is disconnected.

// reconfigure puts a configuration in force with a change in it, which stays for the next time.
func reconfigure(t *testing.T, p *proxytest.Running, cfg *proxy.Config, change func(*proxy.Config)) {
	t.Helper()
	change(cfg)
	if err := p.Reload(t.Context(), *cfg); err != nil {
		t.Fatal(err)
	}
}

// waitUntil waits until something holds.
func waitUntil(t *testing.T, what string, holds func() bool) {
	t.Helper()
	eventually(t, what, func() string {
		if holds() {
			return ""
		}
		return "not yet"
	})
}

// reloading starts a Redis and a proxy, and returns the proxy's configuration too.
func reloading(t *testing.T, change func(*proxy.Config)) (*proxytest.Running, *proxy.Config) {
	t.Helper()
	var cfg proxy.Config
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		if change != nil {
			change(c)
		}
		cfg = *c
	})
	return p, &cfg
}

func TestLimitsThatAReloadChangesHoldAtOnce(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.MaxClients = 2 })
	say := func(script string) { t.Helper(); proxytest.Converse(t, p.Addr(), nil, script) }
	say(`
		a> PING
		a< +PONG
		b> PING
		b< +PONG
		c> PING
		c< -ERR max number of clients reached
		a: close
		b: close
	`)
	a := proxytest.Dial(t, p.Addr())
	waitUntil(t, "the others have gone", func() bool { return p.Stats().Clients == 1 })
	a.Do("SET", "k", "v")
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.MaxClients = 1 })
	say(`
		b> PING
		b< -ERR max number of clients reached
	`)
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.MaxClients, c.Limits = 3, parseRules(t, "addr each maxclients 1") })
	say(`
		b> PING
		b< -ERR max number of clients reached
	`)
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.Limits = parseRules(t, "addr each maxclients 3") })
	say(`
		b> PING
		b< +PONG
	`)
	if got := string(a.Do("GET", "k")); got != "$1\r\nv\r\n" {
		t.Errorf("who was there throughout gets %q", got)
	}
}

func TestCommandsThatAReloadDeniesAreRefusedAtOnce(t *testing.T) {
	for _, loops := range []int{1, 2} {
		p, cfg := reloading(t, func(c *proxy.Config) { c.Loops = loops })
		a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		say := func(want string, words ...string) {
			t.Helper()
			for _, c := range []*proxytest.Conn{a, b} {
				if got := string(c.Do(words...)); !strings.HasPrefix(got, want) {
					t.Errorf("%d loops> %s: %q, want %s", loops, words, got, want)
				}
			}
		}
		say("*0", "KEYS", "*")
		waitUntil(t, "Redis has said what it knows", func() bool { return proxy.Knows(p.Server, "get")[loops-1].Arity == 2 })
		reconfigure(t, p, cfg, func(c *proxy.Config) { c.DenyCommands = []string{"keys"} })
		say("-ERR KEYS is not allowed through redbouncer", "KEYS", "*")
		say("-ERR DEBUG is not allowed through redbouncer", "DEBUG", "SLEEP", "0")
		reconfigure(t, p, cfg, func(c *proxy.Config) { c.DenyCommands, c.AllowDangerous = nil, []string{"debug"} })
		say("*0", "KEYS", "*")
		say("-ERR DEBUG command not allowed", "DEBUG", "SLEEP", "0") // Redis's own refusal
		for _, known := range proxy.Knows(p.Server, "get") {
			if known.Arity != 2 {
				t.Errorf("what Redis has said of GET is forgotten: %+v", known)
			}
		}
	}
}

func TestBuffersThatANewLimitForbidsAreNotKept(t *testing.T) {
	p, cfg := reloading(t, nil)
	reader, half := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	reader.Do("SET", "k", strings.Repeat("x", 8<<20))
	for range 3 {
		reader.Send("GET", "k") // and reads nothing
	}
	half.Write("*2\r\n$4\r\nECHO\r\n$4000000\r\n" + strings.Repeat("x", 3000000))
	waitUntil(t, "both have something in buffers", func() bool { return p.Stats().ClientMemory > 8<<20 })
	reconfigure(t, p, cfg, func(c *proxy.Config) {
		c.ClientOutputBufferLimit = proxy.OutputLimits{Normal: proxy.OutputLimit{Hard: 1 << 20}}
		c.ClientQueryBufferLimit = 1 << 20
	})
	waitUntil(t, "both have been closed", func() bool { return p.Stats().Clients == 0 })
}

func TestListenersThatAReloadPutsBehindABalancerExpectItsHeaderAtOnce(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.Loops, c.Listen = 2, []string{"127.0.0.1:0"} })
	before := proxytest.Dial(t, p.Addr())
	before.Do("PING") // it has been accepted
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, "127.0.0.1") })
	for range 2 { // one on each loop
		c := proxytest.Dial(t, p.Addr())
		c.Write(headerV1("203.0.113.9:4711"))
		if got := addrShown(t, c.Do("CLIENT", "INFO")); got != "203.0.113.9:4711" {
			t.Errorf("a client of the balancer is shown at %s", got)
		}
	}
	if got := string(before.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("who was in before is told %q", got)
	}
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.AcceptProxy, c.TrustedProxies = nil, nil })
	proxytest.Converse(t, p.Addr(), nil, `
		a> PING
		a< +PONG
	`)
}

func TestProtectedModeThatAReloadChangesHoldsAtOnce(t *testing.T) {
	var cfg proxy.Config
	p, _, addr := guarded(t, func(c *proxy.Config) { cfg = *c })
	reply := func() string { return string(proxytest.Dial(t, addr).Do("PING")) }
	if got := reply(); !strings.HasPrefix(got, "-DENIED") {
		t.Errorf("at first: %q", got)
	}
	reconfigure(t, p, &cfg, func(c *proxy.Config) { c.ProtectedMode = "no" })
	if got := reply(); got != "+PONG\r\n" {
		t.Errorf("without protected mode: %q", got)
	}
	reconfigure(t, p, &cfg, func(c *proxy.Config) { c.ProtectedMode = "yes" })
	if got := reply(); !strings.HasPrefix(got, "-DENIED") {
		t.Errorf("with it again: %q", got)
	}
}

// Timers look once a second.
func TestTimeoutsThatAReloadChangesAreKept(t *testing.T) {
	p, cfg := reloading(t, nil)
	silent, idle, busy := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	idle.Do("PING")
	busy.Do("MULTI")
	waitUntil(t, "all are in", func() bool { return p.Stats().Clients == 3 })
	reconfigure(t, p, cfg, func(c *proxy.Config) {
		c.HandshakeTimeout, c.TransactionTimeout = 100*time.Millisecond, 100*time.Millisecond
	})
	silent.ReadAll()
	if got := string(busy.ReadReply()); !strings.Contains(got, "transaction-timeout") {
		t.Errorf("who is idle in a transaction is told %q", got)
	}
	if got := string(idle.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("who has only been idle is told %q", got)
	}
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.Timeout = 500 * time.Millisecond })
	idle.ReadAll()
}

func TestWhatAnOperatorHasSetStaysUntilTheConfigurationSaysOtherwise(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.Limits = parseRules(t, "addr each maxclients 5", "user bob maxclients 5") })
	shown := func(name string) string {
		t.Helper()
		for _, s := range p.Server.Settings() {
			if s.Name == name {
				return s.Value + " " + s.From
			}
		}
		t.Fatalf("there is no %s", name)
		return ""
	}
	expect := func(name, want string) {
		t.Helper()
		if got := strings.TrimSpace(shown(name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, err := range []error{
		p.Set("timeout", "60"), p.Set("maxclients", "50"), p.SetRule("addr each maxclients 7"), p.SetRule("user eve maxclients 1"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.PoolTimeout, c.MaxClients = time.Second, 70 })
	expect("timeout", "60s run time")
	expect("maxclients", "70")
	expect("limit", "addr each maxclients 7;user bob maxclients 5;user eve maxclients 1 run time")
	reconfigure(t, p, cfg, func(c *proxy.Config) {
		c.Timeout, c.Limits = 30*time.Second, parseRules(t, "addr each maxclients 5", "user eve maxclients 2")
	})
	expect("timeout", "30s")
	expect("limit", "addr each maxclients 7;user eve maxclients 2 run time") // bob's is gone from the configuration, and eve's is new
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.Limits = parseRules(t, "addr each maxclients 6", "user eve maxclients 2") })
	expect("limit", "addr each maxclients 6;user eve maxclients 2")
}

// What is set between the writing of the configuration and its adoption is not undone by it.
func TestAnAdoptedConfigurationChangesNothingButWhereValuesComeFrom(t *testing.T) {
	p, cfg := reloading(t, nil)
	for _, err := range []error{
		p.Set("timeout", "70"), p.Set("maxclients", "50"), p.Set("tcp-keepalive", "0"), p.Set("maxmemory-clients", "64mb"),
		p.SetRule("addr each maxclients 7"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	next := *cfg
	next.Timeout, next.MaxClients, next.TCPKeepAlive, next.MaxMemoryClients = time.Minute, 50, -1, 64<<20
	next.Limits = parseRules(t, "addr each maxclients 7")
	p.Adopt(next)
	var got strings.Builder
	for _, s := range p.Server.Settings() {
		if s.Live {
			fmt.Fprintf(&got, "%s=%s %s\n", s.Name, s.Value, s.From)
		}
	}
	want := "limit=addr each maxclients 7 \nmaxclients=50 \ntimeout=70s run time\ntcp-keepalive=0s \nmaxmemory-clients=64mb \n"
	if got.String() != want {
		t.Errorf("in force are\n%s, want\n%s", got.String(), want)
	}
}

func TestAReloadThatIsRefusedChangesNothing(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.Loops = 2 })
	before := fmt.Sprint(p.Server.Settings())
	for _, bad := range []struct {
		setting, value string
		change         func(*proxy.Config)
	}{
		{"maxclients", "16777215", func(c *proxy.Config) { c.MaxClients = 1<<24 - 1 }},
		{"limit", "total overflow queue queue-size 2000000000", func(c *proxy.Config) {
			c.Limits = parseRules(t, "total overflow queue queue-size 2000000000")
		}},
		{"pool-size", "3", func(c *proxy.Config) { c.PoolSize = 3 }},
		{"deny-commands", "auth", func(c *proxy.Config) { c.DenyCommands = []string{"auth"} }},
		{"pool-timeout", "25h0m0s", func(c *proxy.Config) { c.PoolTimeout = 25 * time.Hour }},
		{"accept-proxy", ":1", func(c *proxy.Config) { c.AcceptProxy = []string{":1"} }},
	} {
		next := *cfg
		next.Timeout, next.UpstreamTimeout = time.Minute, time.Minute
		bad.change(&next)
		err := p.Reload(t.Context(), next)
		var wrong *proxy.ConfigError
		if !errors.As(err, &wrong) || wrong.Setting != bad.setting || wrong.Value != bad.value {
			t.Errorf("%s %s: %v", bad.setting, bad.value, err)
		}
		if after := fmt.Sprint(p.Server.Settings()); after != before {
			t.Errorf("%s %s: in force are\n%s, want\n%s", bad.setting, bad.value, after, before)
		}
	}
}

// The pool sinks as clients give connections back, and never is above what is shown.
func TestThePoolGrowsAtOnceAndSinksAsClientsGiveConnectionsBack(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout = 4, 100*time.Millisecond })
	var watch [9]*proxytest.Conn
	for i := range watch {
		watch[i] = proxytest.Dial(t, p.Addr())
	}
	say := func(c *proxytest.Conn, want string, words ...string) {
		t.Helper()
		if got := string(c.Do(words...)); !strings.HasPrefix(got, want) {
			t.Fatalf("%s: %q, want %s", words, got, want)
		}
	}
	bounded := func() {
		t.Helper()
		if st := p.Stats(); st.Upstream > st.PoolSize {
			t.Errorf("%d upstream connections, shown are %d", st.Upstream, st.PoolSize)
		}
	}
	say(watch[0], "+OK", "WATCH", "k")
	say(watch[1], "+OK", "WATCH", "k")
	say(watch[2], "-ERR max number of clients reached", "WATCH", "k")
	watch[2] = proxytest.Dial(t, p.Addr())
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.PoolSize = 10 })
	for _, c := range watch[2:8] {
		say(c, "+OK", "WATCH", "k")
	}
	bounded()
	reconfigure(t, p, cfg, func(c *proxy.Config) { c.PoolSize = 4 })
	if st := p.Stats(); st.PoolSize != 10 {
		t.Errorf("while 8 are lent, the bound shown is %d", st.PoolSize)
	}
	say(watch[8], "$-1", "GET", "k") // what is shared goes on
	for i, c := range watch[:8] {
		say(c, "+OK", "UNWATCH")
		bounded()
		if i == 3 { // still too many
			say(watch[8], "-ERR max number of clients reached", "WATCH", "k")
			watch[8] = proxytest.Dial(t, p.Addr())
		}
	}
	waitUntil(t, "the bound is 4", func() bool { st := p.Stats(); return st.PoolSize == 4 && st.Upstream <= 4 })
	say(watch[0], "+OK", "WATCH", "k")
	say(watch[1], "+OK", "WATCH", "k")
	say(watch[8], "$-1", "GET", "k")
	bounded()
}

// Everything that can be changed is changed again and again under clients that do all kinds of things: for the race detector,
// and nobody may be disconnected, or told anything that it would not be told otherwise.
func TestNobodyNoticesReloads(t *testing.T) {
	p, cfg := reloading(t, func(c *proxy.Config) { c.Loops, c.PoolTimeout = 2, 20*time.Second })
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var commands atomic.Int64
	for i := range 12 {
		c := proxytest.Dial(t, p.Addr())
		clients.Go(func() {
			key, n := fmt.Sprint("k", i), 0
			for ctx.Err() == nil {
				n++
				script := [][2]string{{"INCR " + key, fmt.Sprintf(":%d\r\n", n)}, {"GET " + key, fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(n)), n)}}
				if i%3 == 0 {
					script = append(script, [2]string{"WATCH " + key, "+OK\r\n"}, [2]string{"UNWATCH", "+OK\r\n"})
				}
				for _, line := range script {
					err := c.TryWrite([]byte(proxytest.Command(strings.Fields(line[0])...)))
					got, _ := c.TryReadReply()
					if err != nil || string(got) != line[1] {
						t.Errorf("%d> %s\n%d< %q, want %q; %v", i, line[0], i, got, line[1], err)
						return
					}
					commands.Add(1)
				}
			}
		})
	}
	rules := [][]limits.Rule{nil, parseRules(t, "addr each maxclients 100"), parseRules(t, "total overflow queue", "addr each maxclients 90")}
	for i := range 60 {
		reconfigure(t, p, cfg, func(c *proxy.Config) {
			c.MaxClients, c.Limits, c.PoolSize = 1000+i, rules[i%3], []int{16, 6, 9}[i%3]
			c.Timeout, c.HandshakeTimeout, c.TransactionTimeout = time.Duration(60+i)*time.Second, time.Minute+time.Duration(i), time.Hour
			c.TCPKeepAlive, c.TCPBacklog, c.UpstreamTimeout = time.Duration(i+1)*time.Second, 100+i, time.Duration(5+i)*time.Second
			c.ProtoMaxBulkLen, c.ClientQueryBufferLimit, c.MaxMemoryClients = 1<<20+int64(i), 1<<25+int64(i), 1<<30+int64(i)
			c.ClientOutputBufferLimit.Normal.Hard = 1<<24 + int64(i)
			c.DenyCommands, c.ProtectedMode = [][]string{nil, {"keys"}}[i%2], []string{"yes", "no"}[i%2]
			c.Suspects.Churn.Opens, c.ShutdownTimeout, c.Resubscribe = 30+i, time.Duration(10+i)*time.Second, i%2 == 0
		})
		if st := p.Stats(); st.Upstream > st.PoolSize {
			t.Errorf("%d upstream connections, shown are %d", st.Upstream, st.PoolSize)
		}
		before := commands.Load()
		waitUntil(t, "clients go on", func() bool { return commands.Load() > before+20 || t.Failed() })
	}
	stop()
	clients.Wait()
	if st := p.Stats(); st.Clients != 12 || st.Lost != 0 {
		t.Errorf("of 12 clients %d are left, %d have been lost", st.Clients, st.Lost)
	}
}

func TestWhatAReloadSaysOfBalancersHoldsForTLSToo(t *testing.T) {
	var cfg proxy.Config
	e := encrypt(t, func(c *proxy.Config) {
		c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, "127.0.0.1")
		cfg = *c
	})
	through := func(header string) error {
		nc, err := net.Dial("tcp", e.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(header)); err != nil {
			return err
		}
		_, err = proxytest.OverTLS(t, nc, e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"})))
		return err
	}
	if err := through(headerV1("192.0.2.1:40001")); err != nil {
		t.Fatal(err)
	}
	reconfigure(t, e.Running, &cfg, func(c *proxy.Config) { c.TrustedProxies = trusted(t, "10.0.0.0/8") })
	if err := through(headerV1("192.0.2.1:40002")); err == nil {
		t.Error("one that is trusted no more is believed")
	}
	reconfigure(t, e.Running, &cfg, func(c *proxy.Config) { c.AcceptProxy = nil })
	if err := through(""); err != nil {
		t.Errorf("without a header, where none is expected any more: %v", err)
	}
	reconfigure(t, e.Running, &cfg, func(c *proxy.Config) { c.HandshakeTimeout = 100 * time.Millisecond })
	silent, err := net.Dial("tcp", e.Addr())
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	_ = silent.SetReadDeadline(begin.Add(patience))
	if _, err := silent.Read(make([]byte, 1)); proxytest.IsTimeout(err) || time.Since(begin) > 5*time.Second {
		t.Errorf("a handshake may take %s: %v", time.Since(begin), err)
	}
	_ = silent.Close()
}
