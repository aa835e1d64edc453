package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// An upstream connection is lent to a client while there is state of that client's on it, and not one moment
// longer: a few clients that keep theirs for no reason starve all others, and nothing shows them why.

func TestAConnectionIsLentOnlyWhileThereIsStateOnIt(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	for _, tc := range []struct {
		conversation string // commands, in order
		kept         bool
	}{
		{"GET k; SET k v; EVAL 'return 1' 0", false},
		{"MULTI; SET k v; EXEC", false},
		{"MULTI; SET k v; DISCARD", false},
		{"MULTI; GET; EXEC", false},
		{"MULTI; NOSUCHCOMMAND; EXEC", false},
		{"MULTI; NOSUCHCOMMAND; DISCARD", false},
		{"MULTI; SELECT 1; DISCARD", false},
		{"MULTI; CLIENT GETNAME; EXEC", false},
		{"MULTI; BLPOP k2 0; EXEC", false},
		{"MULTI; MULTI; EXEC", false},
		{"MULTI; WATCH k; EXEC", false},
		{"WATCH k; UNWATCH", false},
		{"WATCH k; MULTI; EXEC", false},
		{"WATCH k; MULTI; DISCARD", false},
		{"WATCH k; RESET", false},
		{"MULTI; RESET", false},
		{"BLPOP k2 0.01", false},
		{"XREAD BLOCK 10 STREAMS k2 $", false},
		{"WAIT 0 10", false},
		{"SUBSCRIBE a; UNSUBSCRIBE a", false},
		{"PSUBSCRIBE a; RESET", false},
		{"SUBSCRIBE", false},
		{"UNSUBSCRIBE", false},
		{"WATCH", false},
		{"MULTI surplus", false},
		{"EXEC", false},
		{"DISCARD", false},
		{"NOSUCHCOMMAND", false},
		{"FLUSHALL", false},
		{"SELECT 1; SELECT 99; HELLO 3; CLIENT SETNAME x; AUTH a b", false},
		{"MULTI", true},
		{"WATCH k", true},
		{"WATCH k; MULTI; SET k v", true},
		{"SUBSCRIBE a b; UNSUBSCRIBE a", true},
		{"CLIENT TRACKING ON", false},
		{"CLIENT TRACKING ON; WATCH k; UNWATCH", true},
		{"CLIENT TRACKING ON BCAST", true},
	} {
		t.Run(tc.conversation, func(t *testing.T) {
			c := proxytest.Dial(t, p.Addr())
			for cmd := range strings.SplitSeq(tc.conversation, "; ") {
				words, err := proxytest.Words(cmd)
				if err != nil {
					t.Fatal(err)
				}
				c.Send(words...)
				replies := 1
				if strings.HasSuffix(words[0], "SUBSCRIBE") {
					replies = max(1, len(words)-1) // one a channel
				}
				for range replies {
					c.ReadReply()
				}
			}
			want := 0
			if tc.kept {
				want = 1
			}
			eventually(t, "the number of lent connections", func() string {
				if st := p.Stats(); st.Pins != want {
					return fmt.Sprintf("%+v, want %d pins", st, want)
				}
				return ""
			})
			c.Close()
			allGone(t, p)
		})
	}
}

// With more clients in transactions than connections, each connection goes from hand to hand. Opening a new one each
// time would cost more than the transactions do.
func TestAConnectionIsHandedToTheNextWhoWaits(t *testing.T) {
	s, p := redisAndProxy(t, func(cfg *proxy.Config) { cfg.PoolSize = 4 })
	opened := func() int {
		info, err := s.Client().InfoMap(t.Context(), "stats").Result()
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(info["Stats"]["total_connections_received"])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := opened()
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			c := proxytest.Dial(t, p.Addr())
			for range 50 {
				for _, cmd := range []string{"WATCH k", "MULTI", "INCR n", "EXEC"} {
					c.Send(strings.Fields(cmd)...)
					c.ReadReply()
				}
			}
		})
	}
	clients.Wait()
	if n := opened() - before; n > 50 {
		t.Errorf("500 transactions of 10 clients opened %d connections", n)
	}
}

// A subscriber of RESP2 is answered on a lane, also while a connection is lent to it for another reason.
func TestAConnectionIsTakenBackFromAClientWhoseLaneBreaks(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, c := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	for _, words := range []string{"CLIENT TRACKING ON BCAST", "SUBSCRIBE ch", "PING"} {
		c.Do(strings.Fields(words)...)
	}
	lane := laneID.FindStringSubmatch(string(direct.Do("CLIENT", "LIST")))[1]
	busy := proxytest.Dial(t, s.Addr())
	busy.Send("EVAL", "local t = redis.call('time'); local stop = t[1] * 1e6 + t[2] + 4e5\n"+
		"repeat t = redis.call('time') until t[1] * 1e6 + t[2] > stop", "0")
	time.Sleep(100 * time.Millisecond)
	direct.Send("CLIENT", "KILL", "ID", lane)
	time.Sleep(50 * time.Millisecond)
	c.Send("WATCH") // wrong, which the upstream is to say; it comes behind the end of its connection
	if got, err := c.TryReadAll(); err != nil || len(got) > 0 {
		t.Fatalf("it is answered %q, error %v", got, err)
	}
	allGone(t, p)
}

func TestAConnectionThatSubscribersLeaveIsHandedOnAtOnce(t *testing.T) {
	_, p := redisAndProxy(t, func(cfg *proxy.Config) { cfg.PoolSize = 3 })
	subscriber, next := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	subscriber.Do("HELLO", "3")
	next.Do("HELLO", "3")
	var waited time.Duration
	for range 6 {
		subscriber.Do("SUBSCRIBE", "ch")
		next.Send("MULTI")
		eventually(t, "MULTI waits", func() string {
			if st := p.Stats(); st.Waiting != 1 {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
		began := time.Now()
		subscriber.Do("UNSUBSCRIBE", "ch")
		next.ReadReply()
		waited = max(waited, time.Since(began))
		next.Do("DISCARD")
	}
	if waited > 200*time.Millisecond {
		t.Errorf("it took up to %v, with nobody in the way", waited)
	}
}
