package proxy_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/redcon"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A sentinel may be wrong. Whether it is the primary that answers is asked there.

// liar is a sentinel that says what the test wants.
type liar struct {
	addr string

	// mu guards the following fields.
	mu      sync.Mutex
	primary string
	epoch   int
}

func newLiar(t *testing.T, primary string) *liar {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{addr: ln.Addr().String(), primary: primary, epoch: 1}
	server := redcon.NewServer(l.addr, l.answer, nil, nil)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() {
		_ = server.Close()
		serving.Wait()
	})
	return l
}

// say has it name another primary.
func (l *liar) say(primary string, epoch int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.primary, l.epoch = primary, epoch
}

func (l *liar) answer(c redcon.Conn, cmd redcon.Command) {
	l.mu.Lock()
	host, port, _ := net.SplitHostPort(l.primary)
	epoch := fmt.Sprint(l.epoch)
	l.mu.Unlock()
	words := make([]string, len(cmd.Args))
	for i, arg := range cmd.Args {
		words[i] = strings.ToLower(string(arg))
	}
	switch strings.Join(words[:min(2, len(words))], " ") {
	case "sentinel master":
		c.WriteAny([]string{"ip", host, "port", port, "config-epoch", epoch})
	case "sentinel get-master-addr-by-name":
		c.WriteAny([]string{host, port})
	case "sentinel sentinels":
		c.WriteArray(0)
	case "ping":
		c.WriteRaw([]byte("*2\r\n$4\r\npong\r\n$0\r\n\r\n"))
	default:
		if words[0] != "subscribe" {
			c.WriteError("ERR unknown command")
			return
		}
		for i, channel := range words[1:] {
			c.WriteArray(3)
			c.WriteBulkString("subscribe")
			c.WriteBulkString(channel)
			c.WriteInt(i + 1)
		}
	}
}

func TestAReplicaIsNotTakenForThePrimaryWhateverSentinelsSay(t *testing.T) {
	a := proxytest.Redis(t)
	host, port, _ := net.SplitHostPort(a.Addr())
	b := proxytest.Redis(t, "--replicaof", host, port)
	l := newLiar(t, b.Addr())
	cfg := watchedConfig(t, "redis+sentinel://"+l.addr+"/m")
	log := logTo(&cfg)
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	c.Send("SET", "k", "v")
	eventually(t, "it is refused", func() string {
		if log.count("it is no primary") == 0 {
			return log.String()
		}
		return ""
	})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if p.Ready(ctx) == nil {
		t.Error("it is ready without a primary")
	}
	l.say(a.Addr(), 2)
	expectNext(t, c, "+OK\r\n")
	// It says something else again, but of an earlier failover; and again, of a later one.
	l.say(b.Addr(), 1)
	proxytest.Dial(t, a.Addr()).Do("CLIENT", "KILL", "TYPE", "normal")
	expect(t, c, "GET k", "$1\r\nv\r\n") // it may meet the lane that is being closed, and is sent again
	expect(t, c, "SET k w", "+OK\r\n")
	if got := p.Stats().Failovers; got != 1 {
		t.Errorf("%d failovers", got)
	}
	l.say(b.Addr(), 3)
	expect(t, proxytest.Dial(t, b.Addr()), "REPLICAOF NO ONE", "+OK\r\n")
	proxytest.Dial(t, a.Addr()).Do("CLIENT", "KILL", "TYPE", "normal")
	c.Do("GET", "k") // it is asked for the new lane
	awaitFailover(t, p, 2)
	expect(t, c, "SET k x", "+OK\r\n")
	expect(t, proxytest.Dial(t, a.Addr()), "GET k", "$1\r\nw\r\n")
}
