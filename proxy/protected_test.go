package proxy_test

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A proxy that holds credentials lends them to whoever connects. So, unless told otherwise, it serves its own host only.

func TestWhichAddressesAreOfThisHost(t *testing.T) {
	for remote, want := range map[string]bool{
		"127.0.0.1:6000": true, "127.9.9.9:1": true, "[::1]:6000": true, "[::ffff:127.0.0.1]:6000": true,
		"/run/redbouncer.sock:0": true, "redbouncer.sock:0": true, "/odd:path:0": true,
		"192.0.2.1:6000": false, "[2001:db8::1]:6000": false, "[::ffff:192.0.2.1]:6000": false, "0.0.0.0:1": false,
		"[fe80::1%eth0]:6000": false, "": false,
	} {
		if got := proxy.IsLocal(remote); got != want {
			t.Errorf("%q is of this host: %t", remote, got)
		}
	}
}

// outside returns an address of this host that is not the loopback interface's.
func outside(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if ip, ok := addr.(*net.IPNet); ok && ip.IP.To4() != nil && !ip.IP.IsLoopback() {
			return ip.IP.String()
		}
	}
	t.Skip("this host has the loopback interface only: nobody can come from elsewhere")
	return ""
}

// guarded starts a proxy that listens everywhere and on a unix socket, in front of a Redis with a password. It returns
// its log, and its address as other hosts see it.
func guarded(t *testing.T, change func(*proxy.Config)) (*proxytest.Running, *lockedBuffer, string) {
	host := outside(t)
	s := proxytest.Redis(t, "--requirepass", "secret")
	cfg := proxytest.Config(t, s)
	var err error
	cfg.Upstream, err = multiplex.ParseUpstream("redis://:secret@" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = []string{"0.0.0.0:0", "unix:" + t.TempDir() + "/r.sock"}
	cfg.LogInterval = time.Second
	log := &lockedBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	change(&cfg)
	p := proxytest.Proxy(t, cfg)
	_, port, err := net.SplitHostPort(p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return p, log, net.JoinHostPort(host, port)
}

func TestOtherHostsAreRefusedWhileTheProxyHoldsCredentials(t *testing.T) {
	p, log, outside := guarded(t, func(*proxy.Config) {})
	eventually(t, "the warning at the start", func() string {
		if !strings.Contains(log.String(), "protected mode is in force") {
			return "the log says:\n" + log.String()
		}
		return ""
	})
	_, port, _ := net.SplitHostPort(outside)
	for _, addr := range []string{"127.0.0.1:" + port, "unix:" + p.Addrs()[1].String()} {
		if got := string(proxytest.Dial(t, addr).Do("SET", "k", "v")); got != "+OK\r\n" {
			t.Errorf("from this host, by %s: %q", addr, got)
		}
	}
	for range 3 {
		proxytest.Converse(t, outside, nil, `
			a> GET k
			a~ ^-DENIED redbouncer is running in protected mode because [^\r\n]+ 1\) [^\r\n]+ 2\) [^\r\n]+ 3\) [^\r\n]+\r\n$
			a< (end)
			# a library that begins with HELLO is told again
			b> HELLO 3
			b~ ^-DENIED
			b> GET k
			b~ ^-DENIED
			b< (end)
		`)
	}
	eventually(t, "the log", func() string {
		text := log.String()
		if strings.Count(text, `msg="client refused: protected mode"`) != 1 || !strings.Contains(text, `more clients refused: protected mode" source=`) {
			return "want one line, and one that counts the others:\n" + text
		}
		return ""
	})
	if st := p.Stats(); st.Refused != 6 || st.Clients > 2 || st.Admitted != 2 {
		t.Errorf("%+v, want 6 refused and 2 admitted", st)
	}
	allGoneBut(t, p, 2)
}

// allGoneBut waits until a number of clients is left.
func allGoneBut(t *testing.T, p *proxytest.Running, n int) {
	t.Helper()
	eventually(t, "the clients that are left", func() string {
		if got := p.Stats().Clients; got != n {
			return "there are others"
		}
		return ""
	})
}

func TestWhoComesWhenTheProxyIsFullIsToldThatFirst(t *testing.T) {
	p, _, outside := guarded(t, func(c *proxy.Config) { c.MaxClients = 1 })
	_, port, _ := net.SplitHostPort(p.Addr())
	proxytest.Converse(t, outside, map[string]string{"inside": "127.0.0.1:" + port}, `
		a> PING
		a~ ^-DENIED
		inside> PING
		inside< +PONG
		b> PING
		b< -ERR max number of clients reached
	`)
}

func TestProtectedModeIsForProxiesWithCredentialsOnly(t *testing.T) {
	for what, change := range map[string]func(*proxy.Config){
		"switched off": func(c *proxy.Config) { c.ProtectedMode = "no" },
		"without credentials": func(c *proxy.Config) {
			c.Upstream, _ = multiplex.ParseUpstream("redis://" + c.Upstream.String())
		},
	} {
		t.Run(what, func(t *testing.T) {
			_, log, outside := guarded(t, change)
			if got := string(proxytest.Dial(t, outside).Do("AUTH", "secret")); got != "+OK\r\n" {
				t.Errorf("AUTH from another host: %q", got)
			}
			if strings.Contains(log.String(), "protected mode") {
				t.Errorf("the log speaks of it:\n%s", log)
			}
		})
	}
}

// A place under a rule, in a queue, or that somebody idle has made is no way around protected mode.
func TestNoRuleLetsOtherHostsInWhileTheProxyHoldsCredentials(t *testing.T) {
	for _, tc := range []struct {
		name       string
		maxclients int
		rule       string
		holder     bool // a client of this host has a place, and leaves while the other one is at the door
	}{
		{"a name with places reserved, and room for all", 100, "name ops reserved 1", false},
		{"a name with places reserved, and no room for others", 2, "name ops reserved 1", true},
		{"a user with places reserved", 100, "user ops reserved 1", false},
		{"a queue", 1, "total overflow queue queue-timeout 10s", true},
		{"an idle client that can go", 1, "total overflow evict-idle", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p, _, outside := guarded(t, func(c *proxy.Config) {
				c.MaxClients, c.Limits = tc.maxclients, parseRules(t, tc.rule)
			})
			_, port, _ := net.SplitHostPort(outside)
			holder := proxytest.Dial(t, "127.0.0.1:"+port)
			if !tc.holder {
				holder.Close()
			} else if got := string(holder.Do("PING")); got != "+PONG\r\n" {
				t.Fatalf("a client of this host: %q", got)
			}
			if strings.Contains(tc.rule, "evict-idle") {
				time.Sleep(1200 * time.Millisecond)
			}
			other := proxytest.Dial(t, outside)
			other.Send("CLIENT", "SETNAME", "ops")
			if tc.holder && !strings.Contains(tc.rule, "evict-idle") {
				time.Sleep(100 * time.Millisecond)
				holder.Close()
			}
			_ = other.TryWrite([]byte(proxytest.Command("SET", "k", "v")))
			said, _ := other.TryReadAll()
			if !strings.HasPrefix(string(said), "-") || strings.Contains(string(said), "+OK") {
				t.Errorf("a client of another host was told %q", said)
			}
			if n := p.Stats().Admitted; n > 1 {
				t.Errorf("%d clients were let in", n)
			}
		})
	}
}
