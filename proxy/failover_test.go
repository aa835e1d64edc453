package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A failover must be no more than a pause: what was acknowledged by whoever is the primary now is there, no reply goes to
// the wrong client, and whoever has nothing in flight does not notice.

// downAfter is how long a primary has to be silent until it is taken to be dead.
const downAfter = time.Second

// watchedConfig is the configuration of a proxy that asks sentinels.
func watchedConfig(t *testing.T, url string) proxy.Config {
	t.Helper()
	up, err := multiplex.ParseUpstream(url)
	if err != nil {
		t.Fatal(err)
	}
	return proxy.Config{
		Upstream: up, PoolTimeout: proxy.DefaultPoolTimeout, UpstreamTimeout: proxy.DefaultUpstreamTimeout,
	}
}

// recorder is a client that writes numbered records and reads them back, and connects again when it is closed.
type recorder struct {
	id    int
	addr  string
	acked map[string]time.Time // by record: when it was sent
	// What else came of it.
	refused, closed int
	wrong           []string
}

// record writes until stop is closed.
func (r *recorder) record(t *testing.T, stop <-chan struct{}) {
	c := proxytest.Dial(t, r.addr)
	defer func() { c.Close() }()
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		key, value := fmt.Sprintf("rec:%d:%d", r.id, n), fmt.Sprintf("%d/%d", r.id, n)
		sent := time.Now()
		reply, err := r.ask(c, "SET", key, value)
		var back string
		if err == nil {
			back, err = r.ask(c, "ECHO", value)
		}
		switch {
		case err != nil:
			r.closed++
			c.Close()
			c = proxytest.Dial(t, r.addr)
		case back != fmt.Sprintf("$%d\r\n%s\r\n", len(value), value):
			r.wrong = append(r.wrong, fmt.Sprintf("ECHO %s is answered %q", value, back))
		}
		switch {
		case reply == "+OK\r\n":
			r.acked[key] = sent
		case strings.HasPrefix(reply, "-"):
			r.refused++
		case reply != "":
			r.wrong = append(r.wrong, fmt.Sprintf("SET %s is answered %q", key, reply))
		}
		time.Sleep(time.Millisecond)
	}
}

func (r *recorder) ask(c *proxytest.Conn, words ...string) (string, error) {
	if err := c.TryWrite([]byte(proxytest.Command(words...))); err != nil {
		return "", err
	}
	reply, err := c.TryReadReply()
	return string(reply), err
}

// recordThrough has clients record while something happens, and returns what came of it.
func recordThrough(t *testing.T, p *proxytest.Running, clients int, during func()) []*recorder {
	t.Helper()
	var running sync.WaitGroup
	stop := make(chan struct{})
	var all []*recorder
	for id := range clients {
		r := &recorder{id: id, addr: p.Addr(), acked: map[string]time.Time{}}
		all = append(all, r)
		running.Go(func() { r.record(t, stop) })
	}
	during()
	close(stop)
	running.Wait()
	return all
}

// checkRecords sees which of the records that were acknowledged the primary has. Those may be missing that were sent
// before the proxy had heard of the failover: the old primary took them, and had not passed them on.
func checkRecords(t *testing.T, primary *proxytest.Server, all []*recorder, moved time.Time) (missing int) {
	t.Helper()
	direct := primary.Client()
	acked, refused, closed := 0, 0, 0
	for _, r := range all {
		refused, closed = refused+r.refused, closed+r.closed
		for _, wrong := range r.wrong {
			t.Error(wrong)
		}
		for key, sent := range r.acked {
			acked++
			if n, err := direct.Exists(context.Background(), key).Result(); err != nil {
				t.Fatal(err)
			} else if n == 1 {
				continue
			}
			missing++
			if sent.After(moved) {
				t.Errorf("%s was acknowledged, sent %v after the proxy had moved, and is not there", key, sent.Sub(moved))
			}
		}
	}
	t.Logf("%d records acknowledged, %d of them lost by Redis; %d refused, clients closed %d times", acked, missing, refused, closed)
	if acked == 0 {
		t.Error("nothing was acknowledged")
	}
	return missing
}

// awaitFailover waits until the proxy has followed the n-th failover, and returns when that was.
func awaitFailover(t *testing.T, p *proxytest.Running, n uint64) time.Time {
	t.Helper()
	eventually(t, "the proxy has followed", func() string {
		if got := p.Stats().Failovers; got != n {
			return fmt.Sprintf("%d failovers", got)
		}
		return ""
	})
	return time.Now()
}

func TestAFailoverByHandIsFollowedAndNothingIsLost(t *testing.T) {
	w := proxytest.WithSentinels(t, 0)
	p := proxytest.Proxy(t, watchedConfig(t, w.URL()))
	idle := proxytest.Dial(t, p.Addr())
	expect(t, idle, "SET k before", "+OK\r\n")
	var moved time.Time
	all := recordThrough(t, p, 20, func() {
		time.Sleep(200 * time.Millisecond)
		w.Failover()
		moved = awaitFailover(t, p, 1)
		w.AwaitPrimary(w.B)
		time.Sleep(200 * time.Millisecond)
	})
	// The proxy has stopped writing to the old primary before the new one began. What was under way at that moment may not
	// have been passed on.
	if missing := checkRecords(t, w.B, all, moved); missing > len(all) {
		t.Errorf("%d records that were acknowledged are not there", missing)
	}
	expect(t, idle, "GET k", "$6\r\nbefore\r\n") // it has not noticed
	idle.Close()
	allGone(t, p)
}

// lines collects what the log says.
type lines struct {
	mu  sync.Mutex
	all strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), s)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// logTo has the proxy's log collected.
func logTo(cfg *proxy.Config) *lines {
	l := &lines{}
	cfg.Log = slog.New(slog.NewTextHandler(l, nil))
	return l
}

// The primary dies with everything in it: one sentinel has never been there, one is not in the URL.
func TestWhenThePrimaryDiesReadsAreSentAgainAndCommandsWait(t *testing.T) {
	w := proxytest.WithSentinels(t, downAfter)
	cfg := watchedConfig(t, "redis+sentinel://127.0.0.1:1,"+w.Sentinels[0].Addr()+","+w.Sentinels[1].Addr()+"/"+proxytest.MasterName)
	cfg.LogInterval = 2 * time.Second
	log := logTo(&cfg)
	p := proxytest.Proxy(t, cfg)
	began := time.Now()
	idle, subscriber, tracker, blocked := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, idle, "SET k v", "+OK\r\n")
	subscriber.Do("SUBSCRIBE", "ch")
	tracker.Do("HELLO", "3")
	expect(t, tracker, "CLIENT TRACKING ON", "+OK\r\n")
	expect(t, tracker, "GET k", "$1\r\nv\r\n")
	blocked.Send("BLPOP", "none", "0")
	eventually(t, "the third sentinel is known", func() string {
		if got, err := p.Pool(context.Background()); err != nil || got.Sentinels != 4 || got.SentinelsHeard != 3 || got.Addr != w.A.Addr() {
			return fmt.Sprintf("%+v, %v", got, err)
		}
		return ""
	})
	var moved time.Time
	all := recordThrough(t, p, 10, func() {
		time.Sleep(100 * time.Millisecond)
		w.A.Kill()
		moved = awaitFailover(t, p, 1)
		w.AwaitPrimary(w.B)
		time.Sleep(200 * time.Millisecond)
	})
	checkRecords(t, w.B, all, moved)
	expect(t, idle, "GET k", "$1\r\nv\r\n")
	if got := string(subscriber.ReadAll()); got != "" {
		t.Errorf("the subscriber is told %q before its end", got)
	}
	if got := string(blocked.ReadAll()); got != "" {
		t.Errorf("who is blocked is told %q before its end", got)
	}
	expectNext(t, tracker, ">2\r\n$10\r\ninvalidate\r\n_\r\n")
	expect(t, tracker, "GET k", "$1\r\nv\r\n")
	if got := infoField(t, idle, "proxy", "upstream"); got != w.B.Addr() {
		t.Errorf("INFO has %s", got)
	}
	if got, most := log.count("sentinel cannot be used\" sentinel=127.0.0.1:1 "), int(time.Since(began)/cfg.LogInterval)+1; got == 0 || got > most {
		t.Errorf("%d lines about the sentinel that is not there, in %v\n%s", got, time.Since(began), log)
	}
	idle.Close()
	tracker.Close()
	allGone(t, p)
}

func TestWithoutSentinelsTheProxyGoesOnWithThePrimaryThatItKnows(t *testing.T) {
	w := proxytest.WithSentinels(t, 0)
	p := proxytest.Proxy(t, watchedConfig(t, w.URL()))
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k v", "+OK\r\n")
	for _, s := range w.Sentinels {
		s.Kill()
	}
	expect(t, c, "GET k", "$1\r\nv\r\n")
	// Its connections are ended, and new ones opened.
	proxytest.Dial(t, w.A.Addr()).Do("CLIENT", "KILL", "TYPE", "normal")
	expect(t, c, "GET k", "$1\r\nv\r\n")
	expect(t, c, "SET k w", "+OK\r\n")
	if err := p.Ready(context.Background()); err != nil {
		t.Error(err)
	}
	for _, s := range w.Sentinels {
		s.Start()
	}
	eventually(t, "they are listened to again", func() string {
		if got := p.Stats().Sentinels; got != 3 {
			return fmt.Sprint(got)
		}
		return ""
	})
	w.Failover()
	awaitFailover(t, p, 1)
	expect(t, c, "SET k x", "+OK\r\n")
	if got, err := w.B.Client().Get(context.Background(), "k").Result(); got != "x" || err != nil {
		t.Errorf("the new primary has %q, %v", got, err)
	}
}

func TestWhatCannotWorkWithSentinelsIsSaidAtTheStart(t *testing.T) {
	w := proxytest.WithSentinels(t, 0)
	ctx := context.Background()
	for url, want := range map[string][]string{
		strings.ReplaceAll(w.URL(), proxytest.MasterName, "mymain"): {"upstream:", `knows no master "mymain": it has "mymaster"`},
		w.URL() + "?sentinel-user=me&sentinel-password=secret":      {"upstream:", "sentinels have a user and a password of their own", "sentinel-password"},
	} {
		_, err := proxy.New(watchedConfig(t, url))
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s\nerror %v\nwant  %s", url, err, part)
			}
		}
	}
	// Their own user and password are theirs alone.
	for _, s := range w.Sentinels {
		acl := redis.NewStatusCmd(ctx, "ACL", "SETUSER", "watcher", "on", ">secret", "+sentinel|master", "+sentinel|get-master-addr-by-name",
			"+sentinel|sentinels", "+sentinel|myid", "+subscribe", "+ping", "+client", "+hello", "allchannels")
		if err := s.Client().Process(ctx, acl); err != nil {
			t.Fatal(err)
		}
		off := redis.NewStatusCmd(ctx, "ACL", "SETUSER", "default", "off")
		if err := s.Client().Process(ctx, off); err != nil {
			t.Fatal(err)
		}
	}
	p := proxytest.Proxy(t, watchedConfig(t, w.URL()+"?sentinel-user=watcher&sentinel-password=secret"))
	expect(t, proxytest.Dial(t, p.Addr()), "SET k v", "+OK\r\n")
	eventually(t, "they are listened to", func() string {
		if got := p.Stats().Sentinels; got != 3 {
			return fmt.Sprint(got)
		}
		return ""
	})
}

func TestWhileNoSentinelHasAnsweredClientsWaitForThePrimary(t *testing.T) {
	cfg := watchedConfig(t, "redis+sentinel://127.0.0.1:1,127.0.0.1:2/m")
	cfg.UpstreamTimeout = 300 * time.Millisecond
	log := logTo(&cfg)
	p := proxytest.Proxy(t, cfg)
	expect(t, proxytest.Dial(t, p.Addr()), "GET k", "-ERR upstream is not available: no sentinel says where the primary is\r\n")
	if err := p.Ready(context.Background()); err == nil || !strings.Contains(err.Error(), "no primary is known") {
		t.Errorf("ready: %v", err)
	}
	if log.count("no sentinel answers") != 1 {
		t.Errorf("the log says\n%s", log)
	}
}

// A server that answers as no primary does is left for whoever is the primary by now. The answer itself is the client's: a
// command that was refused is not sent again, as libraries know these words and decide for themselves.
func TestWhoeverIsToldREADONLYIsWithThePrimaryNext(t *testing.T) {
	old, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, old.Addr())
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k v", "+OK\r\n")
	before := p.Stats()
	expect(t, direct, "REPLICAOF 127.0.0.1 1", "+OK\r\n")
	refusal := string(c.Do("SET", "k", "w"))
	if !strings.HasPrefix(refusal, "-READONLY ") {
		t.Fatal(refusal)
	}
	opened := func() uint64 {
		pool, err := p.Pool(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return pool.Connects
	}
	eventually(t, "its lane is opened anew", func() string {
		expect(t, c, "GET k", "$1\r\nv\r\n")
		if got := opened(); got < 2 {
			return fmt.Sprint(got)
		}
		return ""
	})
	// Soon after, nothing is opened anew: a client can make a server say so all day.
	for range 50 {
		c.Do("EVAL", "return redis.error_reply('READONLY really')", "0")
	}
	if got := opened(); got > 4 {
		t.Errorf("%d connections", got)
	}
	if after := p.Stats(); after.Lost != before.Lost {
		t.Errorf("%d clients were closed", after.Lost)
	}
	c.Close()
	allGone(t, p)
}

// A primary that hangs keeps its connections open. What only reads is sent again as soon as there is another; nobody knows
// what has become of a write.
func TestWhatHangsWithThePrimaryIsSentAgainIfItOnlyReads(t *testing.T) {
	w := proxytest.WithSentinels(t, downAfter)
	cfg := watchedConfig(t, w.URL())
	cfg.UpstreamTimeout = 20 * time.Second // the sentinels may be slow on a busy machine
	p := proxytest.Proxy(t, cfg)
	reads, writes, later, watches := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, reads, "SET k v", "+OK\r\n")
	expect(t, writes, "PING", "+PONG\r\n")
	expect(t, watches, "WATCH k", "+OK\r\n")
	stop := stopper(t, w.A)
	stop(syscall.SIGSTOP)
	reads.Send("GET", "k")
	writes.Send("INCR", "n")
	var checked sync.WaitGroup
	checked.Go(func() { // by Redis, on the control connection
		if got := string(later.Do("AUTH", "default", "any")); got != "+OK\r\n" {
			t.Errorf("AUTH is answered %q", got)
		}
	})
	awaitFailover(t, p, 1)
	began := time.Now()
	expectNext(t, reads, "$1\r\nv\r\n")
	for what, c := range map[string]*proxytest.Conn{"write": writes, "transaction": watches} {
		if got := string(c.ReadAll()); got != "" {
			t.Errorf("the one with a %s is told %q", what, got)
		}
	}
	checked.Wait()
	expect(t, later, "GET n", "$-1\r\n") // it is the new primary that is asked
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it took %v from the failover on", took)
	}
	stop(syscall.SIGCONT)
	reads.Close()
	later.Close()
	allGone(t, p)
}

// stopper returns what sends a signal to a server.
func stopper(t *testing.T, s *proxytest.Server) func(os.Signal) {
	t.Helper()
	pid, err := strconv.Atoi(infoField(t, proxytest.Dial(t, s.Addr()), "server", "process_id"))
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Signal(syscall.SIGCONT) })
	return func(sig os.Signal) {
		if err := process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
}
