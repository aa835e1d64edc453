package proxy_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A failover must be no more than a pause: what was acknowledged by whoever is the primary now is there, no reply goes to
// the wrong client, and whoever has nothing in flight does not notice.

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
func checkRecords(t *testing.T, primary *proxytest.Server, all []*recorder, moved time.Time) {
	t.Helper()
	direct := primary.Client()
	acked, missing, refused, closed := 0, 0, 0, 0
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
	w := proxytest.WithSentinels(t)
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
	checkRecords(t, w.B, all, moved)
	expect(t, idle, "GET k", "$6\r\nbefore\r\n") // it has not noticed
	idle.Close()
	allGone(t, p)
}
