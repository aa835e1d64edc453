package proxy_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What bounds all clients together, or each of them while it does nothing: memory, the time until the first command, and
// the warnings before it is too late.

const megs = 1 << 20 // a unit

// hoard has a client keep n bytes in the proxy's memory: a value that is not complete.
func hoard(t *testing.T, c *proxytest.Conn, n int) {
	t.Helper()
	_ = c.TryWrite(fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n%s", n, strings.Repeat("x", n-10))) // it may be closed meanwhile
}

// release has it sent on.
func release(t *testing.T, c *proxytest.Conn) {
	t.Helper()
	c.Write(strings.Repeat("x", 10) + "\r\n")
	if got := string(c.ReadReply()); got != "+OK\r\n" {
		t.Errorf("when the value is complete: %q", got)
	}
}

// remembers waits until the proxy has about that much of its clients in memory.
func remembers(t *testing.T, p *proxytest.Running, n int64) {
	t.Helper()
	eventually(t, "the clients' memory", func() string {
		if got := p.Stats().ClientMemory; got < n || got > n+n/4+megs {
			return fmt.Sprintf("%d, want about %d", got, n)
		}
		return ""
	})
}

func TestThoseWithTheLargestBuffersGoFirst(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			log := &lockedBuffer{}
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxMemoryClients, c.Log = loops, 40*megs, slog.New(slog.NewTextHandler(log, nil))
			})
			asker := proxytest.Dial(t, p.Addr())
			asker.Do("PING")
			clients := map[string]*proxytest.Conn{}
			for _, name := range []string{"small", "medium", "large", "exempt", "late"} {
				clients[name] = proxytest.Dial(t, p.Addr())
				clients[name].Do("PING")
			}
			clients["exempt"].Do("CLIENT", "NO-EVICT", "ON")
			evicted := func(n string) {
				t.Helper()
				eventually(t, "INFO", func() string {
					if fields, _ := infoOf(t, asker); fields["evicted_clients"] != n {
						return fields["evicted_clients"] + " evicted, want " + n
					}
					return ""
				})
			}
			// A buffer may be larger by a quarter than what is in it; the sizes are such that this makes no difference.
			hoard(t, clients["small"], 1*megs)
			hoard(t, clients["medium"], 8*megs)
			hoard(t, clients["large"], 20*megs)
			remembers(t, p, 29*megs)
			evicted("0")
			hoard(t, clients["late"], 12*megs)
			clients["large"].ReadAll()
			remembers(t, p, 21*megs)
			evicted("1")
			hoard(t, clients["exempt"], 20*megs)
			clients["late"].ReadAll()
			remembers(t, p, 29*megs)
			evicted("2")

			// A lower limit is kept to at once.
			if got := string(asker.Do("CONFIG", "SET", "maxmemory-clients", "27mb")); got != "+OK\r\n" {
				t.Errorf("CONFIG SET: %q", got)
			}
			clients["medium"].ReadAll()
			remembers(t, p, 21*megs)
			evicted("3")
			release(t, clients["small"])
			release(t, clients["exempt"])
			remembers(t, p, 0)
			if text := log.String(); strings.Count(text, "it has the largest buffers") != 3 {
				t.Errorf("the log:\n%s", text)
			}
			asker.Do("CONFIG", "SET", "maxmemory-clients", "0")
			hoard(t, clients["small"], 60*megs)
			remembers(t, p, 60*megs)
			release(t, clients["small"])
			for _, c := range clients {
				c.Close()
			}
			asker.Close()
			eventually(t, "all is zero", func() string { return stillCounted(p) })
		})
	}
}

func TestWhatClientsDoNotReadIsTheirMemoryToo(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops, c.MaxMemoryClients = 2, 40*megs })
	good := proxytest.Dial(t, p.Addr())
	good.Do("SETRANGE", "big", fmt.Sprint(20*megs), "x")
	monitor := proxytest.Dial(t, p.Addr())
	monitor.Do("MONITOR")
	greedy := proxytest.Dial(t, p.Addr())
	greedy.Write(strings.Repeat(proxytest.Command("GET", "big"), 4))
	eventually(t, "the greedy one is closed", func() string {
		if st := p.Stats(); st.Evicted != 1 || st.Clients != 2 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if got := good.Do("GET", "big"); len(got) < 20*megs {
		t.Errorf("who reads gets %d bytes", len(got))
	}
	hoard(t, monitor, 45*megs)
	eventually(t, "and the one that is passed through", func() string {
		if st := p.Stats(); st.Evicted != 2 || st.Clients != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	good.Close()
	eventually(t, "all is zero", func() string { return stillCounted(p) })
}

func TestMaxmemoryClientsIsSetAsInRedis(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, through := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	for _, value := range []string{"100mb", "1gb", "0", "12345", "1k", "x", "-1", "1tb", "10MB"} {
		want, got := string(direct.Do("CONFIG", "SET", "maxmemory-clients", value)), string(through.Do("CONFIG", "SET", "maxmemory-clients", value))
		if got != strings.ReplaceAll(want, "memory or percent value", "memory value") {
			t.Errorf("CONFIG SET maxmemory-clients %q: %q, Redis says %q", value, got, want)
		}
		if want, got := string(direct.Do("CONFIG", "GET", "maxmemory-clients")), string(through.Do("CONFIG", "GET", "maxmemory-clients")); got != want {
			t.Errorf("CONFIG GET after %q: %q, Redis says %q", value, got, want)
		}
	}
}

func TestAClientHasToSayItsFirstCommandInTime(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			t.Parallel()
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients, c.HandshakeTimeout = loops, 8, 2*time.Second
				c.Limits = parseRules(t, "total overflow queue queue-timeout 60s", "name w maxclients 1 overflow queue queue-timeout 60s")
			})
			dial := func() *proxytest.Conn { return proxytest.Dial(t, p.Addr()) }
			silent, half, empty, spoke, blocked, subscribed, named, late := dial(), dial(), dial(), dial(), dial(), dial(), dial(), dial()
			start := time.Now()
			half.Write("*1\r\n$4\r\nPI")
			empty.Write("\r\n\r\n")
			spoke.Do("PING")
			blocked.Send("BLPOP", "q", "0")
			subscribed.Do("SUBSCRIBE", "ch")
			named.Do("CLIENT", "SETNAME", "w")
			late.Do("CLIENT", "SETNAME", "w")
			late.Send("PING") // waits
			var outside []*proxytest.Conn
			for range 4 {
				outside = append(outside, dial())
			}
			waits(t, p, 5)
			for name, c := range map[string]*proxytest.Conn{"silent": silent, "half a command": half, "empty lines": empty} {
				if said := c.ReadAll(); len(said) > 0 {
					t.Errorf("%s was told %s", name, proxytest.Quote(said))
				}
				if d := time.Since(start); d < 1900*time.Millisecond || d > 5*time.Second {
					t.Errorf("%s was closed after %v", name, d)
				}
			}
			// Three of those that waited outside are in by now; their time has just begun.
			waits(t, p, 2)
			in := time.Now()
			if got := string(outside[0].Do("PING")); got != "+PONG\r\n" {
				t.Errorf("one that has waited for longer than the time: %q", got)
			}
			outside[1].ReadAll()
			if d := time.Since(in); d < 500*time.Millisecond {
				t.Errorf("another was closed %v after it had been let in", d)
			}
			for name, c := range map[string]*proxytest.Conn{"that has spoken": spoke, "that has a name": named} {
				if got := string(c.Do("PING")); got != "+PONG\r\n" {
					t.Errorf("one %s: %q", name, got)
				}
			}
			spoke.Do("RPUSH", "q", "x")
			if got := string(blocked.ReadReply()); !strings.HasSuffix(got, "x\r\n") {
				t.Errorf("one that was blocked: %q", got)
			}
			spoke.Do("PUBLISH", "ch", "x")
			if got := string(subscribed.ReadReply()); !strings.HasSuffix(got, "x\r\n") {
				t.Errorf("one that has subscribed: %q", got)
			}
			named.Close()
			if got := string(late.ReadReply()); got != "+PONG\r\n" {
				t.Errorf("one that has waited inside: %q", got)
			}
			for _, c := range append(outside, spoke, blocked, subscribed, late) {
				c.Close()
			}
			eventually(t, "all is zero", func() string { return stillCounted(p) })
		})
	}
}

func TestTheLogWarnsOnceThatALimitIsNear(t *testing.T) {
	for _, tt := range []struct {
		setting, calm, top string
		add                func(*proxytest.Conn)
		extra              int // upstream connections besides those of the clients
	}{
		{"maxclients", "clients are below 70 % of maxclients again", "proxy.test", func(c *proxytest.Conn) { c.Do("PING") }, 0},
		{"pool-size", "upstream connections are below 70 % of pool-size again", "proxy.test", func(c *proxytest.Conn) { c.Do("WATCH", "k") }, 1},
	} {
		t.Run(tt.setting, func(t *testing.T) {
			t.Parallel()
			log := &lockedBuffer{}
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.Log = 1, slog.New(slog.NewTextHandler(log, nil))
				if c.PoolSize = 20; tt.extra == 0 {
					c.MaxClients, c.PoolSize = 20, 50
				}
			})
			var clients []*proxytest.Conn
			to := func(n int) {
				for len(clients) > n-tt.extra {
					clients[0].Close()
					clients = clients[1:]
				}
				for len(clients) < n-tt.extra {
					c := proxytest.Dial(t, p.Addr())
					tt.add(c)
					clients = append(clients, c)
				}
				time.Sleep(2200 * time.Millisecond) // two looks of the keeper
			}
			expect := func(when string, lines80, lines95, calm int) {
				t.Helper()
				text := log.String()
				for what, want := range map[string]int{
					"80 % of " + tt.setting + " reached": lines80, "95 % of " + tt.setting + " reached": lines95, tt.calm: calm,
				} {
					if got := strings.Count(text, what); got != want {
						t.Errorf("%s: %q is told %d times, want %d:\n%s", when, what, got, want, text)
					}
				}
			}
			to(15)
			expect("at 75 %", 0, 0, 0)
			to(16)
			expect("at 80 %", 1, 0, 0)
			to(19)
			expect("at 95 %", 1, 1, 0)
			to(15)
			to(19)
			expect("at 95 % again", 1, 1, 0)
			if line := log.String(); !strings.Contains(line, "top_sources=\""+tt.top+"[") {
				t.Errorf("the sources are not named:\n%s", line)
			}
			to(2)
			if tt.extra == 0 { // idle pins are kept for a while
				expect("when it is calm", 1, 1, 1)
				to(17)
				expect("at 85 % again", 2, 1, 1)
			}
			for _, c := range clients {
				c.Close()
			}
			eventually(t, "all is zero", func() string { return stillCounted(p) })
		})
	}
}
