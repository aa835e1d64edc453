package proxy_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What is hard about messages: they come in the middle of large replies, to clients that do not read, to users whose
// permissions change, and from a Redis that goes away.

// A message that came in the middle of a reply would be taken for a part of the value.
func TestNoMessageComesBetweenThePiecesOfALargeReply(t *testing.T) {
	for _, streams := range []bool{false, true} {
		t.Run(fmt.Sprintf("streams %v", streams), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				c.PoolSize = 4
				if streams {
					proxy.UseStreams(c)
				}
			})
			value := strings.Repeat("v", 8<<20)
			proxytest.Dial(t, s.Addr()).Do("SET", "large", value)
			var all sync.WaitGroup
			end := make(chan struct{})
			all.Go(func() { publishUntil(t, s.Addr(), end) })
			var clients sync.WaitGroup
			for i := range 3 {
				clients.Go(func() {
					if err := fetchWhileListening(p.Addr(), bulk(value), i); err != nil {
						t.Error(err)
					}
				})
			}
			clients.Wait()
			close(end)
			all.Wait()
			allGone(t, p)
		})
	}
}

// publishUntil publishes numbers to "numbers", as fast as Redis takes them.
func publishUntil(t *testing.T, addr string, end <-chan struct{}) {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for n := 0; ; n++ {
		select {
		case <-end:
			return
		default:
		}
		err := c.TryWrite([]byte(proxytest.Command("PUBLISH", "numbers", fmt.Sprint(n))))
		if err == nil {
			_, err = c.TryReadReply()
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// fetchWhileListening is a subscriber of RESP3 that fetches a large value again and again: on the lane, on a connection
// of its own, and in a transaction.
func fetchWhileListening(addr, want string, client int) error {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	heard, between := -1, 0
	reply := func(want string, cmd ...string) error {
		if err := c.TryWrite([]byte(proxytest.Command(cmd...))); err != nil {
			return err
		}
		for {
			b, err := c.TryReadReply()
			if err != nil {
				return err
			}
			n := 0
			if _, err := fmt.Sscanf(strings.ReplaceAll(string(b[:min(len(b), 60)]), "\r\n", " "),
				">3 $7 message $7 numbers $%d %d", new(int), &n); err == nil {
				if heard >= 0 && n != heard+1 {
					return fmt.Errorf("client %d: message %d after %d", client, n, heard)
				}
				heard = n
				between++
				continue
			}
			if want != "" && string(b) != want {
				return fmt.Errorf("client %d: %v: got %s", client, cmd, proxytest.Quote(b))
			}
			return nil
		}
	}
	steps := [][]string{
		{"", "HELLO", "3"},
		{frame(3, bulk("subscribe"), bulk("numbers"), ":1\r\n"), "SUBSCRIBE", "numbers"},
	}
	for range 5 {
		steps = append(steps, []string{want, "GET", "large"})
	}
	steps = append(steps, []string{"+OK\r\n", "WATCH", "k"}, []string{want, "GET", "large"}, []string{"+OK\r\n", "MULTI"},
		[]string{"+QUEUED\r\n", "GET", "large"}, []string{array(want), "EXEC"})
	for _, step := range steps {
		if err := reply(step[0], step[1:]...); err != nil {
			return err
		}
	}
	if between < 20 {
		return fmt.Errorf("client %d: only %d messages came meanwhile", client, between)
	}
	return nil
}

func TestASubscriberThatDoesNotReadIsClosedAloneAndTheOthersMissNothing(t *testing.T) {
	for name, limit := range map[string]proxy.OutputLimit{
		"hard limit": {Hard: 4 << 20},
		"soft limit": {Soft: 1 << 20, SoftTime: 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops = 1
				c.ClientOutputBufferLimit = proxy.OutputLimits{Normal: proxy.OutputLimit{Hard: 1 << 30}, PubSub: limit}
			})
			publisher := proxytest.Dial(t, s.Addr())
			slow, quick, other := newListener(t, p.Addr(), 2), newListener(t, p.Addr(), 3), newListener(t, p.Addr(), 2)
			slow.subscribe("", "news.0")
			quick.subscribe("", "news.0")
			other.subscribe("P", "news.*")
			body := strings.Repeat("x", 64<<10)
			start := time.Now()
			for n := 0; p.Stats().Clients == 3; n++ {
				if n > 2000 || time.Since(start) > patience {
					t.Fatalf("after %d messages it is still there", n)
				}
				text := fmt.Sprintf("%d %s", n, body)
				publisher.Do("PUBLISH", "news.0", text)
				quick.hear("news.0", text)
				other.hear("news.0", text)
				if limit.Hard == 0 {
					time.Sleep(3 * time.Millisecond)
				}
			}
			if limit.Hard == 0 && time.Since(start) < limit.SoftTime {
				t.Errorf("it was closed after %v", time.Since(start))
			}
			quick.silent()
			other.silent()
			got := slow.ReadAll()
			if n := bytes.Count(got, []byte("message")); n < 1 {
				t.Errorf("the slow one got %d messages", n)
			}
			quick.Close()
			other.Close()
			allGone(t, p)
		})
	}
}

// One that never reads again is closed although nothing more is published.
func TestASubscriberAboveTheSoftLimitIsClosedAlsoIfNothingMoreIsPublished(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.ClientOutputBufferLimit.PubSub = proxy.OutputLimit{Soft: 1 << 20, SoftTime: 100 * time.Millisecond}
	})
	slow := newListener(t, p.Addr(), 3)
	slow.subscribe("", "news.0")
	publisher := proxytest.Dial(t, s.Addr())
	publisher.Do("PUBLISH", "news.0", strings.Repeat("x", 24<<20))
	allGone(t, p)
}

func TestWhoMayNotSubscribeIsToldSoInRedissWords(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 8, 1 })
	direct := proxytest.Dial(t, s.Addr())
	for _, user := range []string{"alice", "bob"} {
		direct.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "resetchannels", "&"+user+".*", "+@all")
	}
	for _, script := range []string{
		"SUBSCRIBE bob.1",
		"SUBSCRIBE alice.1 bob.1",
		"PSUBSCRIBE *",
		"PSUBSCRIBE alice.* bob.*",
		"SSUBSCRIBE bob.1",
		"SUBSCRIBE",
		"SUBSCRIBE alice.1; SUBSCRIBE alice.2 bob.1; PING; UNSUBSCRIBE",
		"SUBSCRIBE alice.1; PUBLISH bob.1 x; PUBLISH alice.1 x; UNSUBSCRIBE",
		"CLIENT REPLY OFF; SUBSCRIBE bob.1; CLIENT REPLY ON",
	} {
		for _, hello := range []string{"AUTH alice pw; ", "HELLO 3 AUTH alice pw; "} {
			compareWithDirect(t, s, p, hello+script)
		}
	}
	nobodySubscribed(t, direct)
	allGone(t, p)
}

func TestAPermissionThatIsTakenAwayIsTakenFromOneUserOnly(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 8, 1 })
	direct := proxytest.Dial(t, s.Addr())
	listeners := map[string]*listener{}
	as := func(user string, proto int) *listener {
		l := newListener(t, p.Addr(), proto)
		if got := string(l.Do("AUTH", user, "pw")); got != "+OK\r\n" {
			t.Fatal(got)
		}
		return l
	}
	for _, user := range []string{"alice", "bob"} {
		direct.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "resetchannels", "&"+user+".*", "&both", "+@all")
		for proto := range 2 {
			l := as(user, 2+proto)
			l.subscribe("", "both", user+".1")
			l.subscribe("P", user+".*")
			listeners[fmt.Sprint(user, 2+proto)] = l
		}
	}
	if links := subscribingLinks(direct); len(links) != 2 {
		t.Errorf("these connections are subscribed:\n%s", strings.Join(links, "\n"))
	}
	say := func(channel, text string, names ...string) {
		t.Helper()
		direct.Do("PUBLISH", channel, text)
		for _, name := range names {
			listeners[name].hear(channel, text)
			listeners[name].silent()
		}
	}
	everybody := []string{"alice2", "alice3", "bob2", "bob3"}
	say("alice.1", "hello", everybody...)
	say("bob.1", "hello", everybody...)
	say("both", "hello", everybody...)

	// The command is taken away: those who are subscribed stay so, and nobody joins them.
	direct.Do("ACL", "SETUSER", "alice", "-subscribe", "-ssubscribe")
	late, direct2 := as("alice", 3), proxytest.Dial(t, s.Addr())
	direct2.Do("AUTH", "alice", "pw")
	late.expectLike(direct2, "SUBSCRIBE", "alice.1")
	late.expectLike(direct2, "SSUBSCRIBE", "alice.1")
	direct.Do("PUBLISH", "alice.1", "for those who were there")
	late.silent()
	for _, name := range everybody {
		listeners[name].hear("alice.1", "for those who were there")
		listeners[name].silent()
	}
	direct.Do("ACL", "SETUSER", "alice", "+@all")

	// A channel is taken away: the user's subscribers are closed, as by Redis.
	direct.Do("ACL", "SETUSER", "alice", "resetchannels", "&alice.*")
	for _, name := range everybody[:2] {
		if got := listeners[name].ReadAll(); len(got) > 0 {
			t.Errorf("%s was told %s", name, proxytest.Quote(got))
		}
	}
	late.expectLike(direct2, "SUBSCRIBE", "both")
	say("both", "still there", everybody[2:]...)
	late.subscribe("", "alice.1")
	for _, l := range listeners {
		l.Close()
	}
	late.Close()
	nobodySubscribed(t, direct)
	allGone(t, p)
}

// expectLike sends a command whose reply must be the one that another connection gets.
func (l *listener) expectLike(direct *proxytest.Conn, cmd ...string) {
	l.t.Helper()
	l.Send(cmd...)
	l.expect(string(direct.Do(cmd...)))
}

func TestWhenRedisComesBackSubscribersAreClosedOrSubscribedAgain(t *testing.T) {
	for _, again := range []bool{false, true} {
		t.Run(fmt.Sprintf("resubscribe %v", again), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops, c.Resubscribe = 6, 1, again })
			all := pubsubCrowd(t, p.Addr(), 12)
			s.Restart()
			direct := proxytest.Dial(t, s.Addr())
			if !again {
				for _, l := range all {
					if got := l.ReadAll(); len(got) > 0 {
						t.Errorf("a subscriber was told %s", proxytest.Quote(got))
					}
				}
				nobodySubscribed(t, direct)
				allGone(t, p)
				return
			}
			eventually(t, "the proxy has subscribed again", func() string {
				links := subscribingLinks(direct)
				if len(links) == 1 && strings.Contains(links[0], " sub=3 psub=1 ") &&
					string(direct.Do("PUBSUB", "SHARDCHANNELS")) == array(bulk("shard.0")) {
					return ""
				}
				return strings.Join(links, "\n")
			})
			// Once more, by the connection alone.
			direct.Do("CLIENT", "KILL", "TYPE", "pubsub")
			eventually(t, "the proxy has subscribed once more", func() string {
				if string(direct.Do("PUBSUB", "SHARDCHANNELS")) == array(bulk("shard.0")) &&
					string(direct.Do("PUBSUB", "NUMPAT")) == ":1\r\n" {
					return ""
				}
				return "not yet"
			})
			publisher := proxytest.Dial(t, p.Addr())
			publishRounds(t, publisher, 0, 5)
			hearRounds(all, 0, 5)
			for i, l := range all {
				waysToLeave[i%len(waysToLeave)](l)
				l.Close()
			}
			publisher.Close()
			nobodySubscribed(t, direct)
			allGone(t, p)
		})
	}
}

// A connection that has much to carry must not be overtaken by what comes on another.
func TestWhatWasPublishedBeforeTheEndOfASubscriptionIsHeard(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	publisher := proxytest.Dial(t, s.Addr())
	body := strings.Repeat("x", 1<<20)
	for proto := 2; proto <= 3; proto++ {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			l := newListener(t, p.Addr(), proto)
			for range 2 {
				l.subscribe("", "news.0")
				l.subscribe("P", "news.*")
				var raw []byte
				for n := range 10 {
					raw = proxytest.AppendCommand(raw, "PUBLISH", "news.0", fmt.Sprint(n, body))
				}
				publisher.Write(string(raw))
				for range 10 {
					publisher.ReadReply()
				}
				l.Send("UNSUBSCRIBE", "news.0")
				l.Send("PUNSUBSCRIBE")
				for n := range 10 {
					l.hear("news.0", fmt.Sprint(n, body))
				}
				l.expect(frame(proto, bulk("unsubscribe"), bulk("news.0"), ":1\r\n"))
				l.expect(frame(proto, bulk("punsubscribe"), bulk("news.*"), ":0\r\n"))
				clear(l.to["message"])
				clear(l.to["pmessage"])
			}
		})
	}
}
