package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// INFO tells of the proxy's clients, in the fields that the upstream's version has, and of all else what the upstream
// tells.

// infoOf returns the fields of INFO, and the sections in their order.
func infoOf(t *testing.T, c *proxytest.Conn, sections ...string) (map[string]string, []string) {
	t.Helper()
	return parseInfo(t, c.Do(append([]string{"INFO"}, sections...)...))
}

func parseInfo(t *testing.T, reply []byte) (fields map[string]string, sections []string) {
	t.Helper()
	header, body, _ := strings.Cut(string(reply), "\r\n")
	n := 0
	if _, err := fmt.Sscanf(header[1:], "%d", &n); err != nil || len(body) != n+2 {
		t.Fatalf("the header says %q, the body has %d bytes: %s", header, len(body)-2, proxytest.Quote(reply))
	}
	body = strings.TrimSuffix(body, "\r\n")
	if header[0] == '=' {
		if !strings.HasPrefix(body, "txt:") {
			t.Errorf("a verbatim string without format: %s", proxytest.Quote(reply))
		}
		body = strings.TrimPrefix(body, "txt:")
	}
	fields = map[string]string{}
	for line := range strings.SplitSeq(body, "\r\n") {
		switch {
		case strings.Contains(line, "\n"):
			t.Errorf("a line that does not end as Redis's: %q", line)
		case strings.HasPrefix(line, "# "):
			sections = append(sections, line[2:])
		case line != "":
			key, value, _ := strings.Cut(line, ":")
			if _, twice := fields[key]; twice {
				t.Errorf("%s is there twice", key)
			}
			fields[key] = value
		}
	}
	return fields, sections
}

func TestInfoTellsOfTheProxysClients(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.MaxClients, c.Loops = 10, 2 })
	asker := proxytest.Dial(t, p.Addr())
	direct := proxytest.Dial(t, s.Addr())
	upstream, _ := infoOf(t, direct)
	expect := func(want map[string]string) {
		t.Helper()
		eventually(t, "INFO", func() string {
			fields, _ := infoOf(t, asker)
			for key, v := range want {
				if fields[key] != v {
					return fmt.Sprintf("%s:%s, want %s", key, fields[key], v)
				}
			}
			return ""
		})
	}
	expect(map[string]string{"connected_clients": "1", "maxclients": "10", "blocked_clients": "0", "tracking_clients": "0",
		"total_connections_received": "1", "rejected_connections": "0", "pool_size": "16", "upstream": s.Addr(),
		"upstream_maxclients": upstream["maxclients"], "upstream_connected_clients": "2"})
	var conns []*proxytest.Conn
	for i := range 9 {
		c := proxytest.Dial(t, p.Addr())
		c.Do("PING")
		switch i {
		case 0, 1:
			c.Send("BLPOP", "nothing", "0")
		case 2:
			c.Do("HELLO", "3")
			c.Do("CLIENT", "TRACKING", "ON")
		case 3:
			c.Do("SUBSCRIBE", "ch")
		case 4:
			c.Do("WATCH", "k")
		}
		conns = append(conns, c)
	}
	for range 3 {
		if got := proxytest.Dial(t, p.Addr()).Do("PING"); string(got) != refusalText {
			t.Errorf("one too many: %q", got)
		}
	}
	expect(map[string]string{"connected_clients": "10", "blocked_clients": "2", "tracking_clients": "1",
		"total_connections_received": "10", "rejected_connections": "3"})
	if got := string(asker.Do("CONFIG", "RESETSTAT")); got != "+OK\r\n" {
		t.Errorf("CONFIG RESETSTAT: %q", got)
	}
	conns[8].Close()
	expect(map[string]string{"connected_clients": "9", "total_connections_received": "0", "rejected_connections": "0"})
	if st := p.Stats(); st.Admitted != 10 || st.Refused != 3 {
		t.Errorf("the server's own counters: %+v", st)
	}
	proxytest.Dial(t, p.Addr()).Do("PING")
	expect(map[string]string{"total_connections_received": "1"})
	for _, c := range conns {
		c.Close()
	}
	expect(map[string]string{"connected_clients": "2", "blocked_clients": "0", "tracking_clients": "0"})
}

func TestInfoHasTheSectionsThatAreAskedForAndOursWithThem(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	for _, protocol := range []string{"2", "3"} {
		c := proxytest.Dial(t, p.Addr())
		c.Do("HELLO", protocol)
		for words, ours := range map[string]bool{
			"": true, "all": true, "Everything": true, "DEFAULT": true, "proxy": true, "PROXY": true, "server Proxy keyspace": true,
			"clients": false, "server stats": false, "nosuch": false, "nosuch proxy": true,
		} {
			_, want := infoOf(t, direct, strings.Fields(words)...)
			fields, got := infoOf(t, c, strings.Fields(words)...)
			if ours {
				want = append(want, "Proxy")
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("INFO %s: %v, want %v", words, got, want)
			}
			if ours != (fields["redbouncer_version"] != "") {
				t.Errorf("INFO %s: %v", words, fields)
			}
		}
		// In a transaction, sent at once and bit by bit.
		c.Write(proxytest.Command("MULTI") + proxytest.Command("INFO", "clients") + proxytest.Command("PING") + proxytest.Command("EXEC"))
		for range 3 {
			c.ReadReply()
		}
		got := string(c.ReadReply())
		c.Do("MULTI")
		c.Do("INFO", "clients")
		c.Do("PING")
		if again := string(c.Do("EXEC")); !strings.Contains(again, "connected_clients:1\r\n") {
			t.Errorf("in a transaction: %q", again)
		}
		body, ok := strings.CutPrefix(got, "*2\r\n")
		body, pong := strings.CutSuffix(body, "+PONG\r\n")
		if fields, _ := parseInfo(t, []byte(body)); !ok || !pong || fields["connected_clients"] != "1" || fields["maxclients"] != "10000" {
			t.Errorf("in a transaction: %q", got)
		}
		c.Close()
	}
}

// The gauges are kept by many hands. When all clients have gone, however they went, none is left over.
func TestTheGaugesAreZeroWhenAllHaveGone(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops, c.PoolSize, c.PoolTimeout = 2, 8, 200*time.Millisecond })
	proxytest.Dial(t, s.Addr()).Do("SET", "k", "v")
	scripts := []string{
		"BLPOP nothing 0", "BLPOP nothing 0.01; PING; BLPOP nothing 0", "SUBSCRIBE a b; UNSUBSCRIBE a; PSUBSCRIBE c", "WATCH k; MULTI; GET k",
		"WATCH k; UNWATCH; WATCH l", "HELLO 3; CLIENT TRACKING ON; GET k; CLIENT TRACKING OFF; CLIENT TRACKING ON", "WAIT 1 50",
		"XREAD BLOCK 0 STREAMS nothing $", "MONITOR", "WATCH k; MULTI; CLIENT TRACKING ON; EXEC", "SUBSCRIBE a; RESET; WATCH k; RESET; PING",
		"MULTI; SUBSCRIBE x; EXEC", "WATCH k; QUIT", "CLIENT KILL TYPE pubsub; CLIENT LIST; INFO", "SUBSCRIBE a; MULTI; PING",
	}
	var all sync.WaitGroup
	for i := range 24 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
				c, err := proxytest.TryDial(p.Addr())
				if err != nil {
					t.Error(err)
					return
				}
				var pipeline []byte
				for command := range strings.SplitSeq(scripts[random.IntN(len(scripts))], "; ") {
					pipeline = proxytest.AppendCommand(pipeline, strings.Fields(command)...)
				}
				cut := len(pipeline)
				if random.IntN(3) == 0 {
					cut = random.IntN(cut)
				}
				_ = c.TryWrite(pipeline[:cut]) // it may have been killed
				time.Sleep(time.Duration(random.IntN(30)) * time.Millisecond)
				if random.IntN(2) == 0 {
					c.Reset()
				}
				c.Close()
			}
		})
	}
	all.Wait()
	allGone(t, p)
	asker := proxytest.Dial(t, p.Addr())
	if got := proxy.Gauges(p.Server); got != [4]int64{} {
		t.Errorf("blocked, subscribed, tracking, watching: %v", got)
	}
	if lines, _ := clientLines(t, asker.Do("CLIENT", "LIST")); len(lines) != 1 {
		t.Errorf("CLIENT LIST: %v", lines)
	}
	fields, _ := infoOf(t, asker)
	for _, key := range []string{"connected_clients", "blocked_clients", "tracking_clients"} {
		if want := map[bool]string{true: "1", false: "0"}[key == "connected_clients"]; fields[key] != want {
			t.Errorf("%s:%s, want %s", key, fields[key], want)
		}
	}
}
