package proxy_test

import (
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// maxclients, timeout and tcp-keepalive speak of clients, and the clients are the proxy's. All other parameters are the
// upstream's.

func TestConfigSpeaksOfTheProxyWhereItSpeaksOfClients(t *testing.T) {
	onLoops(t, func(t *testing.T, s *proxytest.Server, p *proxytest.Running) {
		for _, protocol := range []int{2, 3} {
			upstream := s.Client().ConfigGet(t.Context(), "*").Val()
			c := p.Client(redis.Options{Protocol: protocol, PoolSize: 1})
			get := func(patterns ...any) map[string]string {
				t.Helper()
				got, err := c.Do(t.Context(), append([]any{"config", "get"}, patterns...)...).Result()
				if err != nil {
					t.Fatal(err)
				}
				out := map[string]string{}
				switch got := got.(type) {
				case map[any]any:
					for k, v := range got {
						out[k.(string)] = v.(string)
					}
				case []any:
					for i := 0; i < len(got); i += 2 {
						out[got[i].(string)] = got[i+1].(string)
					}
				}
				return out
			}
			set := func(words ...any) string {
				t.Helper()
				got, err := c.Do(t.Context(), append([]any{"config", "set"}, words...)...).Result()
				if err != nil {
					return err.Error()
				}
				return got.(string)
			}
			all := get("*")
			for key, want := range upstream {
				switch key {
				case "maxclients":
					want = "10000"
				case "tcp-keepalive":
					want = "300"
				case "timeout":
					want = "0"
				}
				if all[key] != want {
					t.Errorf("CONFIG GET *: %s is %q, want %q", key, all[key], want)
				}
			}
			if got := set("maxclients", "9000", "timeout", "60", "maxmemory-samples", "7", "TCP-KeepAlive", "0"); got != "OK" {
				t.Errorf("CONFIG SET: %s", got)
			}
			if got := get("maxc*", "timeout", "maxmemory-samples", "TCP-KEEPALIVE"); len(got) != 4 || got["maxclients"] != "9000" ||
				got["timeout"] != "60" || got["maxmemory-samples"] != "7" || got["TCP-KEEPALIVE"]+got["tcp-keepalive"] != "0" {
				t.Errorf("CONFIG GET: %v", got)
			}
			now := s.Client().ConfigGet(t.Context(), "*").Val()
			if now["maxclients"] != upstream["maxclients"] || now["timeout"] != "0" || now["tcp-keepalive"] != upstream["tcp-keepalive"] ||
				now["maxmemory-samples"] != "7" {
				t.Errorf("the upstream has %v", now)
			}
			if got := set("maxclients", "10000", "timeout", "0", "tcp-keepalive", "300"); got != "OK" {
				t.Errorf("CONFIG SET of ours alone: %s", got)
			}
			if st := p.Stats(); st.MaxClients != 10000 {
				t.Errorf("%+v", st)
			}
		}
	})
}

func TestConfigSetRefusesWhatRedisRefusesAndThenSetsNothing(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, c := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	for _, words := range []string{
		"maxclients 0", "maxclients -1", "maxclients many", "maxclients 4294967296", "maxclients 1k", "maxclients 010", "timeout -1",
		"timeout 2147483648", "timeout soon", "tcp-keepalive -1", "tcp-keepalive x", "maxclients", "maxclients 5 timeout",
		"maxclients 5 maxclients 6", "MAXCLIENTS 5 maxclients x", "maxclients 5 nosuch 1", "nosuch 1 maxclients 5", "maxclients 0 nosuch 1",
		"timeout 5 maxmemory-samples x", "maxmemory-samples 9 maxclients 0", "maxmemory-samples 9 timeout 1 maxmemory-samples 8", "max* 5",
	} {
		args := append([]string{"CONFIG", "SET"}, strings.Fields(words)...)
		got, want := string(c.Do(args...)), string(direct.Do(args...))
		if words == "maxclients 0 nosuch 1" { // Redis looks at the names first; ours is not asked about the upstream's then
			want = "-ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument must be between 1 and 4294967295 inclusive\r\n"
		}
		if got != want || got[0] != '-' {
			t.Errorf("CONFIG SET %s: %q, Redis says %q", words, got, want)
		}
	}
	if got := string(c.Do("CONFIG", "SET", "maxclients", "4000000000")); !strings.HasPrefix(got,
		"-ERR CONFIG SET failed (possibly related to argument 'maxclients') - The operating system is not able to handle the "+
			"specified number of clients, try with ") {
		t.Errorf("more clients than there can be files: %q", got)
	}
	if got := string(c.Do("CONFIG", "GET", "maxclients", "timeout", "tcp-keepalive", "maxmemory-samples")); strings.Count(got, "\r\n") != 17 ||
		!strings.Contains(got, "\r\n10000\r\n") || !strings.Contains(got, "\r\n300\r\n") {
		t.Errorf("afterwards: %q", got)
	}
	proxytest.Converse(t, p.Addr(), nil, `
		a> MULTI
		a< +OK
		a> CONFIG SET maxclients 5
		a~ ^-ERR CONFIG SET of maxclients, timeout, tcp-keepalive and maxmemory-clients is not possible in a transaction
		a> EXEC
		a~ ^-EXECABORT
		a+ MULTI
		a+ CONFIG SET timeout 5 maxmemory-samples 9
		a+ SET not done
		a> EXEC
		a< +OK
		a~ ^-ERR CONFIG SET of
		a< +QUEUED
		a~ ^-EXECABORT
		a> MULTI
		a< +OK
		a> CONFIG SET maxmemory-samples 5
		a< +QUEUED
		a> CONFIG GET maxclients
		a< +QUEUED
		a> EXEC
		a< *2\r\n+OK\r\n*2\r\n$10\r\nmaxclients\r\n$5\r\n10000
		a> GET not
		a< $-1
	`)
}

func TestAnotherMaxclientsIsInForceAtOnceAndClosesNobody(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.MaxClients, c.Loops = 2, 2 })
	a, b := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	a.Do("PING")
	b.Do("PING")
	refused := func() bool {
		c := proxytest.Dial(t, p.Addr())
		defer c.Close()
		return string(c.Do("PING")) == refusalText
	}
	if !refused() {
		t.Error("one too many was let in")
	}
	if got := string(a.Do("CONFIG", "SET", "maxclients", "3")); got != "+OK\r\n" {
		t.Fatalf("raising it: %q", got)
	}
	third := proxytest.Dial(t, p.Addr())
	if got := string(third.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("with room again: %q", got)
	}
	if got := string(a.Do("CONFIG", "SET", "maxclients", "1")); got != "+OK\r\n" {
		t.Fatalf("lowering it: %q", got)
	}
	for _, c := range []*proxytest.Conn{a, b, third} {
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("one that was there: %q", got)
		}
	}
	if !refused() {
		t.Error("a client was let in although there are more than maxclients")
	}
	b.Close()
	third.Close()
	eventually(t, "the others have gone", func() string {
		if st := p.Stats(); st.Clients != 1 {
			return "not yet"
		}
		return ""
	})
	if !refused() {
		t.Error("the second was let in, with maxclients 1")
	}
}
