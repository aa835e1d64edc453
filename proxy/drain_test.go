package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Clients are sent away when nothing of theirs is under way, and not all at the same time.

func TestADrainClosesWhoIsIdleAndCanBeUndone(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 2 })
	idle, tx, sub := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, idle, "PING", "+PONG\r\n")
	expect(t, tx, "MULTI", "+OK\r\n")
	sub.Do("SUBSCRIBE", "news")
	if err := p.Drain(); err != nil {
		t.Fatal(err)
	}
	ended(t, "the one who is idle", idle)
	expect(t, tx, "SET k v", "+QUEUED\r\n")
	eventually(t, "nobody is let in", func() string {
		if c, err := proxytest.TryDial(p.Addr()); err == nil {
			c.Close()
			return "somebody is"
		}
		return ""
	})
	if err := p.Ready(context.Background()); err == nil || err.Error() != "the proxy is draining" {
		t.Errorf("ready: %v", err)
	}
	if err := p.Resume(context.Background()); err != nil {
		t.Fatal(err)
	}
	expect(t, tx, "EXEC", "*1\r\n+OK\r\n")
	expect(t, proxytest.Dial(t, p.Addr()), "PUBLISH news x", ":1\r\n")
	sub.ReadReply()
	if err := p.Drain(); err != nil {
		t.Fatal(err)
	}
	ended(t, "the one whose transaction is over", tx)
	silent(t, sub)
}

func TestADrainTakesItsTime(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	const clients = 300
	ends := make(chan time.Time, clients)
	for range clients {
		c := proxytest.Dial(t, p.Addr())
		expect(t, c, "PING", "+PONG\r\n")
		go func() { _, _ = c.TryReadAll(); ends <- time.Now() }()
	}
	start := time.Now()
	if err := p.Drain(); err != nil {
		t.Fatal(err)
	}
	steps := map[time.Duration]int{}
	for range clients {
		steps[(<-ends).Sub(start)/(100*time.Millisecond)]++
	}
	if len(steps) < 4 {
		t.Errorf("they were closed in these tenths of a second: %v", steps)
	}
	t.Log(steps)
}

// Who is at work when the proxy ends has an answer to each command that was done. Counted by the clients, and by Redis.
func TestAShutdownUnderLoadLosesNoCommand(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.ShutdownDelay = 200 * time.Millisecond
		c.Loops = 2
	})
	stop := make(chan struct{})
	var lateAcks atomic.Int64
	clients, _, done := steadyLoad(p.Addr(), 100, 5000, stop)
	time.Sleep(300 * time.Millisecond)
	ended := make(chan error, 1)
	go func() { ended <- p.Stop() }()
	eventually(t, "it says that it is not ready", func() string {
		if err := p.Ready(context.Background()); err == nil {
			return "it is"
		}
		return ""
	})
	late := proxytest.Dial(t, p.Addr()) // is let in until the delay is over
	if string(late.Do("INCR", "late")) == ":1\r\n" {
		lateAcks.Add(1)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	close(stop)
	done.Wait()
	direct := proxytest.Dial(t, s.Addr())
	cut := 0
	for _, c := range clients {
		_, digits, _ := strings.Cut(strings.TrimSpace(string(direct.Do("GET", c.key))), "\r\n")
		if n, err := strconv.Atoi(digits); err != nil || n != c.acked {
			t.Errorf("%s is %q: %d were acknowledged", c.key, digits, c.acked)
		}
		cut += c.unknown + c.readErrs
	}
	if lateAcks.Load() != 1 {
		t.Error("who came during shutdown-delay was not served")
	}
	t.Logf("%d commands came when their connection had been closed", cut)
}

// Every connection is replaced, and nobody notices.
func TestAReconnectReplacesEveryConnectionAndNobodyNotices(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	ids := func() string {
		lines, _ := clientLines(t, direct.Do("CLIENT", "LIST"))
		var all []string
		for _, line := range lines {
			if strings.HasPrefix(line["name"], "redbouncer:") {
				all = append(all, line["id"])
			}
		}
		return strings.Join(all, " ")
	}
	sub, tx, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	sub.Do("SUBSCRIBE", "news")
	expect(t, tx, "MULTI", "+OK\r\n")
	expect(t, other, "BLPOP l 0.01", "*-1\r\n")
	stop := make(chan struct{})
	clients, _, done := steadyLoad(p.Addr(), 20, 2000, stop)
	time.Sleep(100 * time.Millisecond)
	before := map[string]bool{}
	for id := range strings.FieldsSeq(ids()) {
		before[id] = true
	}
	for range 5 {
		if err := p.Reconnect(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
	}
	expect(t, tx, "SET k v", "+QUEUED\r\n")
	expect(t, tx, "EXEC", "*1\r\n+OK\r\n")
	expect(t, tx, "GET k", "$1\r\nv\r\n")
	eventually(t, "all are other connections", func() string {
		for id := range strings.FieldsSeq(ids()) {
			if before[id] {
				return fmt.Sprintf("%s is still there", id)
			}
		}
		return ""
	})
	close(stop)
	done.Wait()
	for _, c := range clients {
		if c.unknown+c.readErrs+len(c.said) > 0 {
			t.Errorf("%+v", c)
		}
	}
	eventually(t, "the subscription is there", func() string {
		if got := string(direct.Do("PUBLISH", "news", "x")); got != ":1\r\n" {
			return got
		}
		return ""
	})
	expectNext(t, sub, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\nx\r\n")
	if st := p.Stats(); st.Lost+st.LostUpstream > 0 {
		t.Errorf("%+v", st)
	}
}

func TestListenersAreOpenedAndChangedAtTheSameTime(t *testing.T) {
	var cfg proxy.Config
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.Log = slog.New(slog.NewTextHandler(log, nil))
		cfg = *c
	})
	expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
	for i := range 20 {
		if err := p.Drain(); err != nil {
			t.Fatal(err)
		}
		reconfigure(t, p, &cfg, func(c *proxy.Config) { c.TCPBacklog = 300 + i })
		opened := make(chan error, 1)
		go func() { opened <- p.Resume(context.Background()) }()
		reconfigure(t, p, &cfg, func(c *proxy.Config) { c.TCPBacklog = 100 + i })
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
		expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
	}
	if strings.Contains(log.String(), "tcp-backlog cannot be changed") {
		t.Error("the log complains of listeners that are closed")
	}
}

func TestTheEndOfADrainAndOfTheProxyAtTheSameTime(t *testing.T) {
	for range 5 {
		_, p := redisAndProxy(t, nil)
		expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
		if err := p.Drain(); err != nil {
			t.Fatal(err)
		}
		resumed := make(chan error, 1)
		go func() { resumed <- p.Resume(context.Background()) }()
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		t.Logf("RESUME: %v", <-resumed) // either may have come first
		if c, err := proxytest.TryDial(p.Addr()); err == nil {
			c.Close()
			t.Error("the listener is open")
		}
	}
}

func TestADrainBeforeTheStartIsToldSo(t *testing.T) {
	server, err := proxy.New(proxytest.Config(t, proxytest.Redis(t)))
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Drain(); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("it is told %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := server.Run(ended); err != nil {
		t.Error(err)
	}
}
