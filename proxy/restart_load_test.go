package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Redis is restarted under clients at work, each of which counts in a key of its own. What was acknowledged is there,
// and nothing is there twice.

// tally is a client that increments its key and reads it back, in turns, until it is told to stop.
type tally struct {
	key      string
	acked    int // increments that were answered
	unknown  int // increments whose connection ended before they were
	readErrs int // reads that had any other outcome than the value
	said     []string
	slowest  time.Duration
}

// steadyLoad has clients send so many commands a second, all together, until stop is closed.
func steadyLoad(addr string, clients, rate int, stop <-chan struct{}) (all []*tally, sent *atomic.Int64, done *sync.WaitGroup) {
	sent, done = new(atomic.Int64), new(sync.WaitGroup)
	for i := range clients {
		c := &tally{key: fmt.Sprint("count:", i)}
		all = append(all, c)
		done.Add(1)
		go func() {
			defer done.Done()
			pace := time.Duration(clients) * time.Second / time.Duration(rate)
			time.Sleep(pace * time.Duration(i) / time.Duration(clients))
			c.work(addr, pace, i, sent, stop)
		}()
	}
	return all, sent, done
}

func (c *tally) work(addr string, pace time.Duration, first int, sent *atomic.Int64, stop <-chan struct{}) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	var conn *proxytest.Conn
	for n := first; ; n++ {
		select {
		case <-stop:
			if conn != nil {
				conn.Close()
			}
			return
		case <-ticker.C:
		}
		if conn == nil {
			var err error
			if conn, err = proxytest.TryDial(addr); err != nil {
				c.said = append(c.said, err.Error())
				continue
			}
		}
		sent.Add(1)
		begin := time.Now()
		if !c.once(conn, n%2 == 0) {
			conn.Close()
			conn = nil
		}
		c.slowest = max(c.slowest, time.Since(begin))
	}
}

// once sends one command. It reports false if the connection has ended.
func (c *tally) once(conn *proxytest.Conn, write bool) bool {
	verb := "GET"
	if write {
		verb = "INCR"
	}
	err := conn.TryWrite([]byte(proxytest.Command(verb, c.key)))
	var reply []byte
	if err == nil {
		reply, err = conn.TryReadReply()
	}
	switch {
	case err != nil && write:
		c.unknown++
	case err != nil:
		c.readErrs++
	case write && reply[0] == ':':
		c.acked++
	case write || reply[0] != '$':
		c.said = append(c.said, string(reply))
	}
	return err == nil
}

// restartUnderLoad restarts Redis in the middle, and returns what the clients have seen.
func restartUnderLoad(t *testing.T, restart func(s *proxytest.Server, p *proxytest.Running)) (unknown int, commands int64) {
	t.Helper()
	patient := func(c *proxy.Config) { c.UpstreamTimeout = 30 * time.Second } // a busy machine takes its time to load
	s, p := redisAndProxy(t, patient, "--appendonly", "yes", "--enable-debug-command", "yes",
		"--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
	stop := make(chan struct{})
	clients, sent, done := steadyLoad(p.Addr(), 200, 5000, stop)
	time.Sleep(500 * time.Millisecond)
	restart(s, p)
	time.Sleep(500 * time.Millisecond)
	close(stop)
	done.Wait()
	direct := proxytest.Dial(t, s.Addr())
	var slowest time.Duration
	for _, c := range clients {
		got := strings.TrimSpace(string(direct.Do("GET", c.key)))
		_, digits, _ := strings.Cut(got, "\r\n")
		n, err := strconv.Atoi(digits)
		if err != nil || n < c.acked || n > c.acked+c.unknown {
			t.Errorf("%s is %q: %d were acknowledged, of %d nobody knows", c.key, got, c.acked, c.unknown)
		}
		if c.readErrs > 0 || len(c.said) > 0 {
			t.Errorf("%s: %d reads had an error, and it was told %q", c.key, c.readErrs, c.said)
		}
		unknown += c.unknown
		slowest = max(slowest, c.slowest)
	}
	t.Logf("%d commands, %d writes whose connection ended, slowest answer %v", sent.Load(), unknown, slowest)
	return unknown, sent.Load()
}

func TestARestartDuringAPauseIsNoErrorForAnyOfTwoHundredClients(t *testing.T) {
	unknown, _ := restartUnderLoad(t, func(s *proxytest.Server, p *proxytest.Running) {
		pauses(t, p, "")
		s.Restart()
		resumes(t, p)
	})
	if unknown > 0 {
		t.Errorf("%d clients saw their connection end", unknown)
	}
}

func TestARestartWithoutAPauseEndsOnlyConnectionsWithWritesInFlight(t *testing.T) {
	unknown, _ := restartUnderLoad(t, func(s *proxytest.Server, _ *proxytest.Running) { s.Restart() })
	if unknown > 200 {
		t.Errorf("%d writes got no answer: at most one of each client can have been in flight", unknown)
	}
}
