package proxy_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Waiting at the door costs nobody else anything: who does not want to any more is gone at once, who sends a lot is not read,
// who is one of many is behind one who is alone, and the end of the proxy is the end of all queues.

// waits waits until a number of clients does.
func waits(t *testing.T, p *proxytest.Running, n int) {
	t.Helper()
	eventually(t, "the queue", func() string {
		if got := p.Stats().Queued; got != n {
			return fmt.Sprintf("%d wait, want %d", got, n)
		}
		return ""
	})
}

// megabyte is a megabyte of commands, and how many they are.
func megabyte() (string, int) {
	one := proxytest.Command("INCR", "n")
	n := (1 << 20) / len(one)
	return strings.Repeat(one, n), n
}

func TestWhoHangsUpInAQueueIsGoneAtOnce(t *testing.T) {
	much, _ := megabyte()
	for _, tt := range []struct {
		name, sends string
		hangUp      func(*proxytest.Conn)
	}{
		{"silent, reset", "", (*proxytest.Conn).Reset},
		{"silent, closed", "", (*proxytest.Conn).Close},
		{"with a command, reset", proxytest.Command("PING"), (*proxytest.Conn).Reset},
		{"with half a command, closed", "*2\r\n$3\r\nGE", (*proxytest.Conn).Close},
		{"with more than is read, reset", much, (*proxytest.Conn).Reset},
		{"with more than is read, closed", much[:150<<10], (*proxytest.Conn).Close}, // the end of more would not get here
	} {
		t.Run(tt.name, func(t *testing.T) {
			withRules(t, 1, []string{"total overflow queue queue-timeout 60s"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
				eventually(t, "the one who has made the users has gone", func() string {
					if n := p.Stats().Clients; n != 0 {
						return fmt.Sprint(n)
					}
					return ""
				})
				in := proxytest.Dial(t, p.Addr())
				in.Do("PING")
				c := proxytest.Dial(t, p.Addr())
				c.Write(tt.sends)
				waits(t, p, 1)
				if len(tt.sends) > 1000 {
					time.Sleep(50 * time.Millisecond) // until it is not read any more
				}
				start := time.Now()
				tt.hangUp(c)
				for p.Stats().Queued > 0 && time.Since(start) < time.Second {
					time.Sleep(time.Millisecond)
				}
				if d := time.Since(start); d > 100*time.Millisecond {
					t.Errorf("it was there for %v after it had gone", d)
				}
				if st := p.Stats(); st.Refused != 1 {
					t.Errorf("%+v", st)
				}
				in.Close()
				eventually(t, "all is zero", func() string { return stillCounted(p) })
			})
		})
	}
}

func TestWhoSendsAMegabyteInAQueueIsLeftUnreadAndServedInOrder(t *testing.T) {
	for _, streams := range []bool{false, true} {
		t.Run(fmt.Sprintf("streams %t", streams), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients, c.Limits = 2, 1, parseRules(t, "total overflow queue queue-timeout 60s")
				if streams {
					proxy.UseStreams(c)
				}
			})
			in := proxytest.Dial(t, p.Addr())
			in.Do("PING")
			much, n := megabyte()
			c := proxytest.Dial(t, p.Addr())
			written := make(chan error, 1)
			go func() { written <- c.TryWrite([]byte(much)) }()
			waits(t, p, 1)
			most := 0
			for range 20 {
				list, err := p.Queue(t.Context())
				if err != nil || len(list) != 1 {
					t.Fatal(list, err)
				}
				most = max(most, list[0].Bytes)
				time.Sleep(10 * time.Millisecond)
			}
			if most < 32<<10 || most > 192<<10 {
				t.Errorf("%d bytes of it were read while it waited", most)
			}
			if got := string(in.Do("EXISTS", "n")); got != ":0\r\n" {
				t.Errorf("it was served while it waited: %q", got)
			}
			in.Close()
			for i := range n {
				if got, want := string(c.ReadReply()), fmt.Sprintf(":%d\r\n", i+1); got != want {
					t.Fatalf("reply %d is %q", i, got)
				}
			}
			if err := <-written; err != nil {
				t.Error(err)
			}
			c.Close()
			eventually(t, "all is zero", func() string { return stillCounted(p) })
		})
	}
}

func TestAFloodAtTheDoorDelaysNoSingleClientFromElsewhere(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients = loops, 20
				c.Limits = parseRules(t, "total overflow queue queue-size 300 queue-timeout 60s")
			})
			var flood []*proxytest.Conn
			for range 500 {
				c := proxytest.Dial(t, p.Addr())
				c.Send("PING")
				flood = append(flood, c)
			}
			waits(t, p, 300)
			single := proxytest.DialFrom(t, "127.0.0.2", p.Addr())
			single.Send("SET", "k", "v")
			eventually(t, "the one from elsewhere waits too, in the place of one of the flood", func() string {
				if list, err := p.Queue(t.Context()); err != nil || len(list) != 300 || !strings.Contains(fmt.Sprint(list), "127.0.0.2") {
					return fmt.Sprint(len(list), err)
				}
				return ""
			})
			flood[7].Close()
			start := time.Now()
			if got := string(single.ReadReply()); got != "+OK\r\n" {
				t.Errorf("the one from elsewhere: %q", got)
			}
			if st := p.Stats(); st.Admitted != 21 || st.Clients != 20 || st.Queued != 299 {
				t.Errorf("%+v, want the next place to be its", st)
			}
			t.Logf("it was let in %v after the next place came free", time.Since(start))
			flood[8].Close()
			waits(t, p, 298)
			for _, c := range flood {
				c.Reset()
			}
			single.Close()
			eventually(t, "all is zero", func() string { return stillCounted(p) })
		})
	}
}

func TestWhoWaitsWhenTheProxyStopsIsToldAtOnce(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.MaxClients = loops, 2
				c.Limits = parseRules(t, "total overflow queue queue-timeout 60s", "name w maxclients 1 overflow queue queue-timeout 60s")
			})
			in, late := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
			in.Do("CLIENT", "SETNAME", "w")
			late.Do("CLIENT", "SETNAME", "w")
			late.Send("GET", "k")
			var waiting []*proxytest.Conn
			for i := range 20 {
				c := proxytest.Dial(t, p.Addr())
				if i%2 == 0 {
					c.Send("PING")
				}
				waiting = append(waiting, c)
			}
			much, _ := megabyte()
			unread := proxytest.Dial(t, p.Addr())
			unread.Write(much)
			waits(t, p, 22)
			start := time.Now()
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			d := time.Since(start)
			if d > time.Second {
				t.Errorf("stopping took %v", d)
			}
			t.Logf("stopping took %v", d)
			for i, c := range append(waiting, late) {
				if got := string(c.ReadAll()); got != refusalText {
					t.Errorf("client %d was told %q", i, got)
				}
			}
			unread.ReadAll()
			if got := string(in.ReadAll()); got != "" {
				t.Errorf("the one that was in: %q", got)
			}
			if st := p.Stats(); st.Clients != 0 || st.Queued != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestWhoShowsWhoItIsMayHaveSentAMegabyteBehind(t *testing.T) {
	for _, rule := range []string{"total overflow reject", "total overflow queue queue-timeout 60s"} {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, streams %t", rule, streams), func(t *testing.T) {
				s, p := redisAndProxy(t, func(c *proxy.Config) {
					c.Loops, c.MaxClients, c.Limits = 2, 2, parseRules(t, rule, "user ops reserved 1")
					if streams {
						proxy.UseStreams(c)
					}
				})
				proxytest.Dial(t, s.Addr()).Do("ACL", "SETUSER", "ops", "on", ">pw", "~*", "+@all")
				in := proxytest.Dial(t, p.Addr())
				in.Do("PING")
				much, n := megabyte()
				ops := proxytest.Dial(t, p.Addr())
				written := make(chan error, 1)
				go func() { written <- ops.TryWrite([]byte(proxytest.Command("AUTH", "ops", "pw") + much)) }()
				for i := range n + 1 {
					want := "+OK\r\n"
					if i > 0 {
						want = fmt.Sprintf(":%d\r\n", i)
					}
					if got := string(ops.ReadReply()); got != want {
						t.Fatalf("reply %d is %q", i, got)
					}
				}
				if err := <-written; err != nil {
					t.Error(err)
				}

				// A wrong password is no way in, nor to be kept.
				other := proxytest.Dial(t, p.Addr())
				go func() { written <- other.TryWrite([]byte(proxytest.Command("AUTH", "ops", "wrong") + much)) }()
				if rule == "total overflow reject" {
					if said := string(other.ReadAll()); said != "" && said != refusalText {
						t.Errorf("with a wrong password: %q", said)
					}
				} else {
					waits(t, p, 1)
					other.Reset()
				}
				if err := <-written; err != nil && !proxytest.IsClosed(err) { // it may be closed before all has been taken
					t.Error(err)
				}
				if got := string(in.Do("GET", "n")); got != fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(n)), n) {
					t.Errorf("it was served: %q", got)
				}
				if st := p.Stats(); st.Admitted != 2 {
					t.Errorf("%+v", st)
				}
				in.Close()
				ops.Close()
				eventually(t, "all is zero", func() string { return stillCounted(p) })
			})
		}
	}
}

func TestWhoShowsWhoItIsMayDoSoByteByByte(t *testing.T) {
	withRules(t, 1, []string{"user ops reserved 1"}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		for _, introduction := range []string{proxytest.Command("AUTH", "ops", "pw"), proxytest.Command("HELLO", "3", "AUTH", "ops", "pw")} {
			c := proxytest.Dial(t, p.Addr())
			for _, b := range []byte(introduction) {
				c.Write(string(b))
				time.Sleep(time.Millisecond)
			}
			if got := string(c.ReadReply()); got[0] == '-' {
				t.Errorf("%q: %q", introduction, got)
			}
			c.Close()
			allGone(t, p)
		}
		half := proxytest.Dial(t, p.Addr())
		half.Write("*2\r\n$4\r\nAU")
		if got := string(half.ReadAll()); got != refusalText {
			t.Errorf("half an introduction: %q", got)
		}
	})
}
