package proxy_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Clients that are idle for too long are closed. Who waits is not idle; and a transaction that nobody goes on with is
// ended, because it keeps a connection from all others.

func TestAnIdleClientIsClosedAndOneThatWaitsIsNot(t *testing.T) {
	t.Parallel() // it mostly waits
	onLoops(t, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		operator := newBusy(t, p.Addr(), time.Second)
		var waiting, idle []*proxytest.Conn
		for _, commands := range []string{"BLPOP queue 0", "SUBSCRIBE ch", "PSUBSCRIBE ch*", "MONITOR", "XREAD BLOCK 0 STREAMS st $"} {
			c := proxytest.Dial(t, p.Addr())
			c.Send(strings.Fields(commands)...)
			if !strings.Contains(commands, " 0") {
				c.ReadReply()
			}
			waiting = append(waiting, c)
		}
		for _, commands := range []string{"PING", "WATCH k", "MULTI", ""} {
			c := proxytest.Dial(t, p.Addr())
			if commands != "" {
				c.Do(strings.Fields(commands)...)
			}
			idle = append(idle, c)
		}
		if got := string(operator.Do("CONFIG", "SET", "timeout", "1")); got != "+OK\r\n" {
			t.Fatalf("CONFIG SET: %q", got)
		}
		for end := time.Now().Add(3300 * time.Millisecond); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
			if got := string(operator.Do("PING")); got != "+PONG\r\n" {
				t.Fatalf("one that is not idle: %q", got)
			}
		}
		for i, c := range idle {
			if said, closed := isClosed(c); !closed || said != "" {
				t.Errorf("idle client %d: closed: %v, after %q", i, closed, said)
			}
		}
		if lines, _ := clientLines(t, operator.Do("CLIENT", "LIST")); len(lines) != 1+len(waiting) {
			t.Errorf("who is left: %v", lines)
		}
		operator.Do("RPUSH", "queue", "job")
		if got := string(waiting[0].ReadReply()); !strings.Contains(got, "job") {
			t.Errorf("one that was blocked: %q", got)
		}
		operator.Do("CONFIG", "SET", "timeout", "0")
		time.Sleep(2 * time.Second)
		if got := string(waiting[0].Do("PING")); got != "+PONG\r\n" {
			t.Errorf("when the timeout had been switched off: %q", got)
		}
	})
}

func TestATransactionThatIsNotGoneOnWithIsEnded(t *testing.T) {
	t.Parallel() // it mostly waits
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.TransactionTimeout = 3 * time.Second // much longer than a busy machine holds up the one in no hurry
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	})
	bystander, slow := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	bystander.Do("PING")
	slow.Do("WATCH", "k")
	for _, commands := range []string{"MULTI", "WATCH k", "WATCH k; MULTI; SET k v"} {
		c := proxytest.Dial(t, p.Addr())
		for command := range strings.SplitSeq(commands, "; ") {
			c.Do(strings.Fields(command)...)
		}
		began := time.Now()
		var said string
		var closed bool
		for !closed && time.Since(began) < 15*time.Second {
			c.SetTimeout(100 * time.Millisecond)
			b, err := c.TryReadAll()
			said, closed = said+string(b), err == nil
			slow.Do("GET", "k") // goes on, in no hurry
		}
		if said != "-ERR closed: idle in a transaction for longer than transaction-timeout\r\n" || !closed {
			t.Errorf("%s: closed: %v, after %q", commands, closed, said)
		}
		if took := time.Since(began); took < 2900*time.Millisecond {
			t.Errorf("%s: ended after %v", commands, took)
		}
	}
	if n := strings.Count(log.String(), "idle in a transaction for longer than transaction-timeout"); n != 3 {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
	for _, c := range []*proxytest.Conn{bystander, slow} {
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("a bystander: %q", got)
		}
		c.Close()
	}
	allGone(t, p)
}

// busy is a client that sends a command often enough not to be idle. On a machine that holds the test up for longer than
// that, it is idle after all, and may be closed: then another takes its place.
type busy struct {
	*proxytest.Conn
	t     *testing.T
	addr  string
	every time.Duration // longer without a command is idle
	since time.Time     // before its last command was answered
}

func newBusy(t *testing.T, addr string, every time.Duration) *busy {
	return &busy{proxytest.Dial(t, addr), t, addr, every, time.Now()}
}

// Do sends one command and returns its reply.
func (b *busy) Do(parts ...string) []byte {
	b.t.Helper()
	for {
		asked := time.Now()
		err := b.TryWrite([]byte(proxytest.Command(parts...)))
		var reply []byte
		if err == nil {
			reply, err = b.TryReadReply()
		}
		idle := time.Since(b.since)
		switch {
		case err == nil:
			b.since = asked
			return reply
		case proxytest.IsClosed(err) && idle >= b.every:
			b.t.Logf("held up: no command for %v; another client takes over", idle)
			b.Conn, b.since = proxytest.Dial(b.t, b.addr), time.Now()
		default:
			b.t.Fatalf("a client that was idle for %v at most, at %s: %v", idle, strings.Join(parts, " "), err)
		}
	}
}
