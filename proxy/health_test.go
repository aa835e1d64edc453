package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A Redis that hangs keeps its connections open. Its silence, where an answer is due, is what shows it.

func TestAnUpstreamThatHangsIsGivenUpAndTakenAgainWhenItIsBack(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.UpstreamResponseTimeout = 300 * time.Millisecond
		c.UpstreamTimeout = patience
	})
	reader, writer, tx := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	idle := proxytest.Dial(t, p.Addr())
	expect(t, reader, "SET k v", "+OK\r\n")
	expect(t, idle, "PING", "+PONG\r\n")
	expect(t, tx, "MULTI", "+OK\r\n")
	expect(t, tx, "INCR n", "+QUEUED\r\n")
	s.Freeze()
	start := time.Now()
	reader.Send("GET", "k")
	writer.Send("SET", "k", "w")
	tx.Send("GET", "k")
	ended(t, "the one who writes", writer)
	ended(t, "the one in a transaction", tx)
	if d := time.Since(start); d < 300*time.Millisecond {
		t.Errorf("given up after %v", d)
	}
	silent(t, reader)
	s.Thaw()
	if got := string(reader.ReadReply()); got != "$1\r\nv\r\n" && got != "$1\r\nw\r\n" { // the write was not answered, and may have been done
		t.Errorf("got %q", got)
	}
	expect(t, idle, "PING", "+PONG\r\n")
	expect(t, idle, "EXISTS n", ":0\r\n")
	if st := p.Stats(); st.Lost != 2 {
		t.Errorf("%d clients lost their connection: %+v", st.Lost, st)
	}
}

func TestALaneThatIsIdleIsAskedForASignOfLife(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamResponseTimeout = 300 * time.Millisecond })
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "PING", "+PONG\r\n")
	s.Freeze()
	eventually(t, "its silence is noticed", func() string {
		if st := p.Stats(); st.LostUpstream == 0 || st.Lanes > 0 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	s.Thaw()
	expect(t, c, "PING", "+PONG\r\n")
	if st := p.Stats(); st.Lost > 0 {
		t.Errorf("%+v", st)
	}
	// A user who may not use PING is not asked for it, time and again.
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "-ping")
	expect(t, c, "AUTH mute pw", "+OK\r\n")
	expect(t, c, "EXISTS k", ":0\r\n")
	time.Sleep(500 * time.Millisecond)
	if n := strings.Count(string(direct.Do("ACL", "LOG")), "$4\r\nping\r\n"); n != 1 {
		t.Errorf("Redis has noted %d times that the user may not", n)
	}
}

// What may rightly take long is no silence: a script, what waits behind it, a client that blocks, CLIENT PAUSE.
func TestWhatTakesLongIsNotTakenForAnUpstreamThatHangs(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.UpstreamResponseTimeout = 200 * time.Millisecond
		c.AllowDangerous = []string{"all"}
	})
	script, same, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	blocked, writer, admin := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, other, "SELECT 3", "+OK\r\n")
	expect(t, admin, "PING", "+PONG\r\n")
	blocked.Send("BLPOP", "none", "1.7")
	script.Send("EVAL", "local t = redis.call('TIME') local s = t[1] * 1000000 + t[2] repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - s > 800000 return 1", "0")
	time.Sleep(50 * time.Millisecond)
	same.Send("PING")
	other.Send("PING")
	expectNext(t, script, ":1\r\n")
	expectNext(t, same, "+PONG\r\n")
	expectNext(t, other, "+PONG\r\n")
	expect(t, admin, "CLIENT PAUSE 700 WRITE", "+OK\r\n")
	writer.Send("SET", "k", "v")
	expectNext(t, writer, "+OK\r\n")
	expectNext(t, blocked, "*-1\r\n")
	if st := p.Stats(); st.LostUpstream+st.Lost > 0 {
		t.Errorf("%+v", st)
	}
}

func TestTheConsoleSaysHowTheUpstreamStands(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "PING", "+PONG\r\n")
	s.Kill()
	c.Send("PING")
	eventually(t, "it is down", func() string {
		r, err := p.Pool(context.Background())
		if err != nil || r.Upstream != "down" || r.Tries < 2 || !strings.Contains(r.Error, "refused") {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	s.Restart()
	expectNext(t, c, "+PONG\r\n")
	if r, err := p.Pool(context.Background()); err != nil || r.Upstream != "up" || r.Error != "" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTheResponseTimeoutIsSwitchedOnAndOffByAReload(t *testing.T) {
	var cfg proxy.Config
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.UpstreamResponseTimeout, c.UpstreamTimeout = 0, patience
		cfg = *c
	})
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "PING", "+PONG\r\n")
	s.Freeze()
	c.Send("INCR", "n")
	silent(t, c)
	reconfigure(t, p, &cfg, func(c *proxy.Config) { c.UpstreamResponseTimeout = 200 * time.Millisecond })
	ended(t, "the one who writes", c)
	s.Thaw()

	reconfigure(t, p, &cfg, func(c *proxy.Config) { c.UpstreamResponseTimeout = 400 * time.Millisecond })
	w := proxytest.Dial(t, p.Addr())
	expect(t, w, "SET n 1", "+OK\r\n")
	s.Freeze()
	w.Send("INCR", "n")
	reconfigure(t, p, &cfg, func(c *proxy.Config) { c.UpstreamResponseTimeout = 0 })
	time.Sleep(800 * time.Millisecond)
	s.Thaw()
	expectNext(t, w, ":2\r\n")
}

// Whatever is the oldest command of a connection, those whose commands are behind it are not to wait for ever.
func TestAHangIsNoticedWhateverIsAtTheFront(t *testing.T) {
	for name, front := range map[string]string{
		"a write":          proxytest.Command("SET", "k", "v"),
		"a transaction":    proxytest.Command("MULTI") + proxytest.Command("SET", "k", "v") + proxytest.Command("EXEC"),
		"EXEC alone":       proxytest.Command("EXEC"),
		"XREAD":            proxytest.Command("XREAD", "STREAMS", "k", "0"),
		"INFO":             proxytest.Command("INFO"),
		"CLIENT LIST":      proxytest.Command("CLIENT", "LIST"),
		"CONFIG GET":       proxytest.Command("CONFIG", "GET", "maxclients"),
		"CONFIG SET":       proxytest.Command("CONFIG", "SET", "maxclients", "100"),
		"CLIENT SETNAME":   proxytest.Command("CLIENT", "SETNAME", "x"),
		"PUBLISH":          proxytest.Command("PUBLISH", "x", "y"),
		"WAIT":             proxytest.Command("SET", "k", "v") + proxytest.Command("WAIT", "0", "0"),
		"another's SELECT": proxytest.Command("SELECT", "0"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamResponseTimeout, c.Loops = 300*time.Millisecond, 1 })
			c, w := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
			expect(t, c, "PING", "+PONG\r\n")
			expect(t, w, "PING", "+PONG\r\n")
			time.Sleep(50 * time.Millisecond) // for what the proxy itself asks
			s.Freeze()
			c.Write(front)
			time.Sleep(20 * time.Millisecond)
			w.Send("INCR", "n")
			ended(t, "the one who writes behind it", w)
		})
	}
}

// While Redis is kept from answering anybody, by whomever and on whatever loop, nobody's connection is taken for one that hangs.
func TestWhatFreezesRedisBreaksNobodysConnection(t *testing.T) {
	const spin = "local t = redis.call('TIME') local s = t[1] * 1000000 + t[2] repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] - s > 1000000 return 1"
	eval, multi, exec := proxytest.Command("EVAL", spin, "0"), proxytest.Command("MULTI"), proxytest.Command("EXEC")
	for name, what := range map[string]struct {
		first, then string
		replies     int
	}{
		"DEBUG SLEEP":                    {then: proxytest.Command("DEBUG", "SLEEP", "1"), replies: 1},
		"a script in a transaction":      {then: multi + proxytest.Command("SET", "k", "v") + eval + exec, replies: 4},
		"one on a connection of its own": {first: multi, then: proxytest.Command("SET", "k", "v") + eval + exec, replies: 3},
		"DEBUG SLEEP in a transaction":   {first: multi, then: proxytest.Command("DEBUG", "SLEEP", "1") + exec, replies: 2},
		"a script behind other commands": {then: eval + proxytest.Command("GET", "k"), replies: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.UpstreamResponseTimeout, c.Loops, c.AllowDangerous = 300*time.Millisecond, 2, []string{"all"}
			}, "--enable-debug-command", "yes")
			c := proxytest.Dial(t, p.Addr())
			var others []*proxytest.Conn
			for range 4 { // on both loops
				o := proxytest.Dial(t, p.Addr())
				expect(t, o, "PING", "+PONG\r\n")
				others = append(others, o)
			}
			if what.first != "" {
				c.Write(what.first)
				expectNext(t, c, "+OK\r\n")
			}
			c.Write(what.then)
			time.Sleep(50 * time.Millisecond)
			for _, o := range others {
				o.Send("INCR", "n")
			}
			for range what.replies {
				if got, err := c.TryReadReply(); err != nil || got[0] == '-' {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			for _, o := range others {
				if got, err := o.TryReadReply(); err != nil {
					t.Errorf("who writes beside it: %q, %v", got, err)
				}
			}
			if st := p.Stats(); st.LostUpstream > 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestALargeValueOnASlowLineIsNoSilence(t *testing.T) {
	t.Parallel()
	s := proxytest.Redis(t)
	line := proxytest.NewLine(t, s.Addr())
	cfg := proxytest.Config(t, s)
	cfg.Upstream = parseUpstream(t, "redis://"+line.Addr())
	cfg.UpstreamResponseTimeout = 1500 * time.Millisecond // longer than a busy machine holds everybody up
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k v", "+OK\r\n")
	line.Worsen(2*time.Millisecond, false) // 32 KB each: some 16 MB a second at most
	c.SetTimeout(3 * patience)
	begin := time.Now()
	c.Write(proxytest.Command("SET", "k", strings.Repeat("x", 64<<20)))
	expectNext(t, c, "+OK\r\n")
	if took := time.Since(begin); took < 2*cfg.UpstreamResponseTimeout {
		t.Errorf("the line was not slow: it took %v", took)
	}
}
