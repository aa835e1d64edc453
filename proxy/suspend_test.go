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

// It may be too late for a pause: then those who wait for Redis already wait for the operator instead.
func TestAPauseOfAProxyWhoseUpstreamIsGoneHoldsThoseWhoWait(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamTimeout = time.Second })
	c, pin := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k v", "+OK\r\n")
	s.Kill()
	c.Write(proxytest.Command("GET", "k") + proxytest.Command("PING"))
	pin.Send("BLPOP", "l", "0.01")
	pauses(t, p, "")
	time.Sleep(1200 * time.Millisecond)
	silent(t, c)
	if err := p.Ready(context.Background()); err != nil {
		t.Errorf("not ready: %v", err)
	}
	s.Restart()
	resumes(t, p)
	expectNext(t, c, "$-1\r\n")
	expectNext(t, c, "+PONG\r\n")
	expectNext(t, pin, "*-1\r\n")
}

// A pause does not hold up a shutdown, and what was held back is answered before the end.
func TestAnOperatorLogsInDuringAPauseAndEndsIt(t *testing.T) {
	var p *proxytest.Running
	s, q := redisAndProxy(t, func(c *proxy.Config) {
		c.Console = func(proxy.ConsoleCommand) []byte {
			if err := p.Resume(context.Background()); err != nil {
				return []byte("-ERR " + err.Error() + "\r\n")
			}
			return []byte("+OK\r\n")
		}
		c.Operates = func(user string) bool { return user == "ops" }
		c.UpstreamTimeout = 300 * time.Millisecond
	})
	p = q
	setUser(t, s, "ops", ">pw")
	setUser(t, s, "app", ">pw")
	expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
	for _, login := range []string{"AUTH ops pw", "HELLO 3 AUTH ops pw"} {
		pauses(t, p, "")
		app, ops := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		app.Write(proxytest.Command("AUTH", "app", "pw") + proxytest.Command("PING"))
		if got := string(ops.Do(strings.Fields(login)...)); isError(got) {
			t.Errorf("%s is answered %q", login, got)
		}
		silent(t, app)
		expect(t, ops, "PROXY RESUME", "+OK\r\n")
		expectNext(t, app, "+OK\r\n")
		expectNext(t, app, "+PONG\r\n")
	}
	// While Redis is away, nobody can be told who it is; nor that it is not.
	pauses(t, p, "")
	s.Kill()
	ops := proxytest.Dial(t, p.Addr())
	ops.Send("AUTH", "ops", "pw")
	time.Sleep(1500 * time.Millisecond) // longer than the upstream is waited for
	silent(t, ops)
	s.Restart()
	setUser(t, s, "ops", ">pw")
	resumes(t, p)
	expectNext(t, ops, "+OK\r\n")
}

func isError(reply string) bool { return strings.HasPrefix(reply, "-") }

func TestAProxyThatStopsWhilePausedAnswersWhatItHasHeldBack(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	c, blocked := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, c, "PING", "+PONG\r\n")
	blocked.Send("BLPOP", "l", "0")
	eventually(t, "it blocks", func() string { return blockedClients(p, 1) })
	pauses(t, p, "")
	c.Send("SET", "k", "v")
	silent(t, c)
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := string(c.ReadAll()); got != "+OK\r\n" {
		t.Errorf("got %q", got)
	}
	ended(t, "the one who blocks", blocked)
	expect(t, proxytest.Dial(t, s.Addr()), "GET k", "$1\r\nv\r\n")
}

// Whatever clients do, and however often the operator pauses and resumes: each gets its own answers, in order.
func TestManyPausesLeaveEverybodyInStep(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops, c.PoolSize = 2, 8 })
	stop := make(chan struct{})
	clients, _, done := steadyLoad(p.Addr(), 50, 5000, stop)
	errs := make(chan error, 20)
	for i := range cap(errs) {
		c := proxytest.Dial(t, p.Addr())
		go func() { errs <- popInTurns(c, fmt.Sprint("list:", i/2), i%2 == 0, stop) }()
	}
	eventually(t, "the proxy serves", func() string {
		if p.State() != "serving" {
			return p.State()
		}
		return ""
	})
	for range 15 {
		if _, err := p.Pause(context.Background(), time.Minute); err != nil {
			t.Error(err)
		}
		resumes(t, p)
		time.Sleep(20 * time.Millisecond)
	}
	close(stop)
	done.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, c := range clients {
		if c.unknown+c.readErrs+len(c.said) > 0 {
			t.Errorf("%+v", c)
		}
	}
	if st := p.Stats(); st.Lost+st.PoolTimeouts > 0 {
		t.Errorf("%+v", st)
	}
}

// popInTurns pushes numbers to a list, or pops them from it and finds each in its turn.
func popInTurns(c *proxytest.Conn, list string, push bool, stop <-chan struct{}) error {
	for n := 0; ; {
		select {
		case <-stop:
			return nil
		default:
		}
		cmd := proxytest.Command("BLPOP", list, "0.2")
		if push {
			cmd = proxytest.Command("RPUSH", list, fmt.Sprint(n))
		}
		if err := c.TryWrite([]byte(cmd)); err != nil {
			return err
		}
		reply, err := c.TryReadReply()
		switch got := string(reply); {
		case err != nil:
			return err
		case push && got[0] != ':':
			return fmt.Errorf("RPUSH: %q", got)
		case push:
			n++
			time.Sleep(5 * time.Millisecond)
		case got == "*-1\r\n":
		case strings.HasSuffix(got, fmt.Sprintf("\r\n%d\r\n", n)):
			n++
		default:
			return fmt.Errorf("popped %q, want %d", got, n)
		}
	}
}

// A read whose connection has broken waits for the next one, and so for the end of the pause.
func TestAReadThatIsToBeSentAgainWaitsForTheEndOfAPause(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamTimeout = 500 * time.Millisecond })
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k v", "+OK\r\n")
	s.Freeze()
	c.Send("GET", "k")
	eventually(t, "it is in flight", func() string {
		if st := p.Stats(); st.InFlight != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	s.Kill()
	pauses(t, p, "")
	for range 2 { // it may not be sent to a Redis that is to go again
		s.Restart()
		time.Sleep(600 * time.Millisecond)
		silent(t, c)
	}
	resumes(t, p)
	expectNext(t, c, "$-1\r\n")
}

func TestAPauseTakesBackWhatBlocksOfUsersThatTheProxyIsNot(t *testing.T) {
	_, p := redisAndProxy(t, nil, "--requirepass", "secret")
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "AUTH secret", "+OK\r\n")
	c.Send("BLPOP", "k", "0")
	eventually(t, "it blocks", func() string { return blockedAt(c, p) })
	pauses(t, p, "")
	resumes(t, p)
	other := proxytest.Dial(t, p.Addr())
	expect(t, other, "AUTH secret", "+OK\r\n")
	expect(t, other, "RPUSH k v", ":1\r\n")
	expectNext(t, c, "*2\r\n$1\r\nk\r\n$1\r\nv\r\n")

	// Of one who may not unblock anybody, nothing can be taken back, and the operator is told.
	expect(t, other, "ACL SETUSER weak on >pw ~* +@all -client", "+OK\r\n")
	weak := proxytest.Dial(t, p.Addr())
	expect(t, weak, "AUTH weak pw", "+OK\r\n")
	weak.Send("BLPOP", "k", "0")
	eventually(t, "it blocks", func() string { return blockedAt(weak, p) })
	pauses(t, p, "1 clients have upstream connections with state")
	resumes(t, p)
	expect(t, other, "RPUSH k w", ":1\r\n")
	expectNext(t, weak, "*2\r\n$1\r\nk\r\n$1\r\nw\r\n")
}

// blockedAt says what is in the way of a client's being blocked.
func blockedAt(c *proxytest.Conn, p *proxytest.Running) string {
	all, err := p.Clients(context.Background(), proxy.ClientFilter{})
	if err != nil {
		return err.Error()
	}
	for _, x := range all {
		if x.Remote == c.LocalAddr() && x.InFlight == 1 && x.Pin != "" {
			return ""
		}
	}
	return "it does not"
}

func TestTheTimeThatACommandBlocksIsFoundAmongOtherWords(t *testing.T) {
	for cmd, want := range map[string]int{
		"XREAD BLOCK 5 STREAMS s 0":                             2,
		"XREAD COUNT 1 BLOCK 5 STREAMS BLOCK 0":                 4,
		"XREAD STREAMS BLOCK 0":                                 0,
		"XREADGROUP GROUP block c BLOCK 1000 STREAMS s >":       5,
		"XREADGROUP GROUP g block NOACK BLOCK 1000 STREAMS s >": 6,
		"XREADGROUP GROUP g c STREAMS block >":                  0,
		"XREAD BLOCK 5 STREAMS s $":                             0,
		"BLPOP block 0":                                         2,
		"BLMPOP 3 1 k LEFT":                                     1,
	} {
		if got := proxy.BlockingTime(proxytest.Command(strings.Fields(cmd)...)); got != want {
			t.Errorf("%s: argument %d, want %d", cmd, got, want)
		}
	}
}

func TestAPauseCountsWhoIsRedirectedTo(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 1 })
	to, from := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	id := strings.TrimPrefix(strings.TrimSpace(string(to.Do("CLIENT", "ID"))), ":")
	to.Do("SUBSCRIBE", "__redis__:invalidate")
	expect(t, from, "CLIENT TRACKING ON REDIRECT "+id, "+OK\r\n")
	pauses(t, p, "2 clients have upstream connections with state")
	s.Restart()
	resumes(t, p)
	eventually(t, "both are closed", func() string {
		if n := p.Stats().Lost; n != 2 {
			return fmt.Sprintf("%d are", n)
		}
		return ""
	})
}

func TestTheEndDoesNotWaitForAnUpstreamThatRESUMEWaitsFor(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamTimeout = 20 * time.Second })
	expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
	pauses(t, p, "")
	s.Kill()
	resumed := make(chan error, 1)
	go func() { resumed <- p.Resume(context.Background()) }()
	eventually(t, "RESUME waits", func() string {
		if _, err := p.Pause(context.Background(), time.Minute); err == nil || !strings.Contains(err.Error(), "resuming") {
			return fmt.Sprint(err)
		}
		return ""
	})
	begin := time.Now()
	if err := p.Stop(); err != nil || time.Since(begin) > 3*time.Second {
		t.Errorf("the end took %s: %v", time.Since(begin), err)
	}
	if err := <-resumed; err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("RESUME says %v", err)
	}
}

func TestAPauseThatIsGivenMoreTimeHasIt(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	expect(t, proxytest.Dial(t, p.Addr()), "PING", "+PONG\r\n")
	for n := range 60 {
		end := time.Now().Add(50 * time.Millisecond)
		if _, err := p.Pause(context.Background(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(end) + time.Duration(n-30)*20*time.Microsecond)
		if _, err := p.Pause(context.Background(), time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		resumes(t, p) // it would say that there is no pause
	}
}

// Redis is restarted during a pause: no connection may be left that leads to what it was before.
func TestAPauseLeavesNoConnectionOpenAndOpensNone(t *testing.T) {
	t.Parallel()
	s := proxytest.Redis(t, "--requirepass", "secret")
	line := proxytest.NewLine(t, s.Addr())
	cfg := proxytest.Config(t, s)
	cfg.Upstream = parseUpstream(t, "redis://"+line.Addr())
	cfg.Loops = 1
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "AUTH secret", "+OK\r\n") // on the control connection
	expect(t, c, "PING", "+PONG\r\n")
	line.Worsen(300*time.Millisecond, false)
	c.Send("SELECT", "3")
	time.Sleep(100 * time.Millisecond) // its lane is being opened
	pauses(t, p, "")
	for begin := time.Now(); time.Since(begin) < 2*time.Second; time.Sleep(10 * time.Millisecond) {
		if st := p.Stats(); st.Lanes > 0 {
			t.Fatalf("a lane has been opened: %+v", st)
		}
	}
	line.Worsen(0, false)
	resumes(t, p)
	expectNext(t, c, "+OK\r\n")
	expect(t, c, "GET k", "$-1\r\n")
	pauses(t, p, "")
	if st := p.Stats(); st.Upstream > 0 {
		t.Errorf("a connection is left: %+v", st)
	}
}
