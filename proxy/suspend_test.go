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

// An operator who pauses the proxy may restart Redis, and no client sees more of it than that it takes a while.

// pauses pauses the proxy, for up to a minute, and checks what a restart would end all the same.
func pauses(t *testing.T, p *proxytest.Running, wantNote string) {
	t.Helper()
	note, err := p.Pause(context.Background(), time.Minute)
	if err != nil || !strings.HasPrefix(note, wantNote) || wantNote == "" && note != "" {
		t.Fatalf("PAUSE: %q, %v; want %q", note, err, wantNote)
	}
}

func resumes(t *testing.T, p *proxytest.Running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Resume(ctx); err != nil {
		t.Fatalf("RESUME: %v", err)
	}
}

func TestAPauseHoldsEveryCommandUntilItsEndAndARestartIsNotNoticed(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 2 })
	fresh := proxytest.Dial(t, p.Addr())
	for round := range 2 {
		one, two := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		expect(t, one, "SET k v", "+OK\r\n")
		expect(t, two, "SELECT 3", "+OK\r\n")
		pauses(t, p, "")
		if st := p.Stats(); st.Lanes+st.Pins+st.IdlePins > 0 {
			t.Errorf("connections are left: %+v", st)
		}
		one.Write(proxytest.Command("SET", "k", "w") + proxytest.Command("GET", "k"))
		two.Send("PING")
		fresh.Send("CLIENT", "GETNAME")
		late := proxytest.Dial(t, p.Addr())
		late.Send("PING")
		for _, c := range []*proxytest.Conn{one, two, fresh, late} {
			silent(t, c)
		}
		s.Restart()
		silent(t, one)
		resumes(t, p)
		expectNext(t, one, "+OK\r\n")
		expectNext(t, one, "$1\r\nw\r\n")
		expectNext(t, two, "+PONG\r\n")
		expectNext(t, fresh, "$-1\r\n")
		expectNext(t, late, "+PONG\r\n")
		expect(t, two, "CLIENT INFO", string(two.Do("CLIENT", "INFO")))
		if st := p.Stats(); st.Lost+st.LostUpstream > 0 {
			t.Errorf("round %d: %+v", round, st)
		}
	}
}

func TestAPauseWaitsForTransactionsAndThenForNobodyNew(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	tx, watcher, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, tx, "MULTI", "+OK\r\n")
	expect(t, watcher, "WATCH k", "+OK\r\n")
	paused := make(chan error, 1)
	go func() { _, err := p.Pause(context.Background(), time.Minute); paused <- err }()
	eventually(t, "others are held back", func() string {
		all, err := p.Clients(context.Background(), proxy.ClientFilter{})
		if err != nil {
			return err.Error()
		}
		for _, c := range all {
			if c.State == "paused" {
				return ""
			}
		}
		other.Send("PING")
		return fmt.Sprint(all)
	})
	expect(t, tx, "SET k v", "+QUEUED\r\n")
	expect(t, watcher, "MULTI", "+OK\r\n")
	select {
	case err := <-paused:
		t.Fatalf("it has not waited: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	expect(t, watcher, "DISCARD", "+OK\r\n")
	expect(t, tx, "EXEC", "*1\r\n+OK\r\n")
	if err := <-paused; err != nil {
		t.Fatal(err)
	}
	tx.Send("GET", "k")
	silent(t, tx)
	s.Restart()
	resumes(t, p)
	expectNext(t, tx, "$-1\r\n")
}

func TestAPauseThatCannotBeIsUndone(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	tx, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, tx, "MULTI", "+OK\r\n")
	_, err := p.Pause(context.Background(), 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "not paused, clients go on: 1 commands are still in flight, 1 of them in transactions") {
		t.Errorf("told %v", err)
	}
	expect(t, other, "PING", "+PONG\r\n")
	if err := p.Resume(context.Background()); err == nil || err.Error() != "the proxy is neither paused nor draining" {
		t.Errorf("told %v", err)
	}
}

func TestAPauseEndsByItselfAndCanBeMadeLonger(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "PING", "+PONG\r\n")
	start := time.Now()
	if _, err := p.Pause(context.Background(), 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Pause(context.Background(), 500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "PING", "+PONG\r\n")
	if d := time.Since(start); d < 500*time.Millisecond {
		t.Errorf("it has lasted %v", d)
	}
}

// A client that blocks goes on blocking, for the rest of its time, on another connection.
func TestWhoBlocksDoesNotNoticeAPause(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	for _, cmd := range []string{"BLPOP l 0", "BLMPOP 20 1 l LEFT", "BRPOP l 20", "XREAD COUNT 1 BLOCK 20000 STREAMS s 0"} {
		t.Run(cmd, func(t *testing.T) {
			c, pusher := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
			c.Write(proxytest.Command(strings.Fields(cmd)...) + proxytest.Command("ECHO", "behind"))
			eventually(t, "it blocks", func() string { return blockedClients(p, 1) })
			pauses(t, p, "")
			pusher.Send("LPUSH", "l", "x")
			if strings.HasPrefix(cmd, "XREAD") {
				pusher.Send("XADD", "s", "*", "f", "v")
			}
			silent(t, c)
			s.Restart()
			resumes(t, p)
			if got := string(c.ReadReply()); got[0] != '*' || got == "*-1\r\n" {
				t.Errorf("got %q", got)
			}
			expectNext(t, c, "$6\r\nbehind\r\n")
			pusher.Do("FLUSHALL")
		})
	}
	if st := p.Stats(); st.Lost > 0 {
		t.Errorf("%+v", st)
	}
}

func blockedClients(p *proxytest.Running, want int64) string {
	if n := proxy.Gauges(p.Server)[0]; n != want {
		return fmt.Sprintf("%d clients are blocked, not %d", n, want)
	}
	return ""
}

func TestWhoseTimeIsUpDuringAPauseIsToldThen(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	c, gone := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	start := time.Now()
	c.Send("BLPOP", "none", "0.7")
	gone.Send("BLPOP", "l", "0")
	eventually(t, "they block", func() string { return blockedClients(p, 2) })
	pauses(t, p, "")
	gone.Close()
	expectNext(t, c, "*-1\r\n")
	if d := time.Since(start); d < 600*time.Millisecond {
		t.Errorf("told after %v", d)
	}
	c.Send("RPUSH", "l", "x")
	silent(t, c)
	resumes(t, p)
	expectNext(t, c, ":1\r\n")
	expect(t, c, "LLEN l", ":1\r\n") // nothing is popped for nobody
}

// Subscribers stay, and miss nothing that is published through the proxy.
func TestSubscribersRideThroughAPause(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	sub, pattern, pub := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, sub, "SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
	pattern.Do("HELLO", "3")
	pattern.Do("PSUBSCRIBE", "n*")
	for round := range 3 {
		pauses(t, p, "")
		text := fmt.Sprintf("text%d", round)
		pub.Send("PUBLISH", "news", text)
		silent(t, pub)
		s.Restart()
		resumes(t, p)
		expectNext(t, pub, ":2\r\n")
		expectNext(t, sub, "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\n"+text+"\r\n")
		expectNext(t, pattern, ">4\r\n$8\r\npmessage\r\n$2\r\nn*\r\n$4\r\nnews\r\n$5\r\n"+text+"\r\n")
	}
}

// What cannot be kept is said, so that an operator may wait for a better moment.
func TestAPauseTellsOfStateThatARestartWouldEnd(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	monitor, stranger := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, monitor, "MONITOR", "+OK\r\n")
	expect(t, stranger, "CLIENT TRACKING ON BCAST", "+OK\r\n")
	pauses(t, p, "2 clients have upstream connections with state")
	s.Restart()
	monitor.ReadAll()
	ended(t, "the one who tracks", stranger)
	resumes(t, p)
}
