package proxy_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// All subscribers of a user share one connection to Redis, and none of them can tell: each gets exactly the messages
// of its own subscriptions, in the order in which they were published, from its confirmation on and up to the
// confirmation of the end.

// listener is a client that subscribes, and knows what it has to hear.
type listener struct {
	*proxytest.Conn
	t     *testing.T
	proto int
	to    map[string]map[string]bool // by the kind of their messages
}

// kinds of subscriptions: the prefix of their commands, and what their messages are called.
var subscriptionKinds = map[string]string{"": "message", "P": "pmessage", "S": "smessage"}

func newListener(t *testing.T, addr string, proto int) *listener {
	t.Helper()
	l := &listener{Conn: proxytest.Dial(t, addr), t: t, proto: proto, to: map[string]map[string]bool{}}
	for _, kind := range subscriptionKinds {
		l.to[kind] = map[string]bool{}
	}
	if proto == 3 {
		if got := l.Do("HELLO", "3"); got[0] != '%' {
			t.Fatalf("HELLO 3: %s", proxytest.Quote(got))
		}
	}
	return l
}

// frame returns a frame of pub/sub in the form of a protocol.
func frame(proto int, elements ...string) string {
	kind := "*"
	if proto == 3 {
		kind = ">"
	}
	return fmt.Sprintf("%s%d\r\n%s", kind, len(elements), strings.Join(elements, ""))
}

// total is what Redis counts in confirmations of a kind.
func (l *listener) total(kind string) int {
	if kind == "smessage" {
		return len(l.to[kind])
	}
	return len(l.to["message"]) + len(l.to["pmessage"])
}

// subscribe subscribes to names and reads the confirmations.
func (l *listener) subscribe(prefix string, names ...string) {
	l.t.Helper()
	l.Send(append([]string{prefix + "SUBSCRIBE"}, names...)...)
	kind := subscriptionKinds[prefix]
	for _, name := range names {
		l.to[kind][name] = true
		l.expect(frame(l.proto, bulk(strings.ToLower(prefix)+"subscribe"), bulk(name), integer(l.total(kind))))
	}
}

// unsubscribe ends subscriptions, all of the kind if no name is given, and reads the confirmations.
func (l *listener) unsubscribe(prefix string, names ...string) {
	l.t.Helper()
	l.Send(append([]string{prefix + "UNSUBSCRIBE"}, names...)...)
	kind, word := subscriptionKinds[prefix], bulk(strings.ToLower(prefix)+"unsubscribe")
	for _, name := range names {
		delete(l.to[kind], name)
		l.expect(frame(l.proto, word, bulk(name), integer(l.total(kind))))
	}
	if len(names) > 0 {
		return
	}
	if len(l.to[kind]) == 0 {
		l.expect(frame(l.proto, word, l.null(), integer(l.total(kind))))
	}
	for len(l.to[kind]) > 0 { // in no certain order
		got := l.ReadReply()
		for name := range l.to[kind] {
			if bytes.Contains(got, []byte(bulk(name))) {
				delete(l.to[kind], name)
				l.same(got, frame(l.proto, word, bulk(name), integer(l.total(kind))))
			}
		}
	}
}

func (l *listener) null() string {
	if l.proto == 3 {
		return "_\r\n"
	}
	return "$-1\r\n"
}

// expect reads one reply or frame.
func (l *listener) expect(want string) {
	l.t.Helper()
	l.same(l.ReadReply(), want)
}

func (l *listener) same(got []byte, want string) {
	l.t.Helper()
	if string(got) != want {
		l.t.Fatalf("%s (RESP%d) got  %s\nwant %s", l.LocalAddr(), l.proto, proxytest.Quote(got), proxytest.Quote([]byte(want)))
	}
}

// hear reads what a message published to channel has to bring this client.
func (l *listener) hear(channel, payload string) {
	l.t.Helper()
	if strings.HasPrefix(channel, "shard") {
		if l.to["smessage"][channel] {
			l.expect(frame(l.proto, bulk("smessage"), bulk(channel), bulk(payload)))
		}
		return
	}
	if l.to["message"][channel] {
		l.expect(frame(l.proto, bulk("message"), bulk(channel), bulk(payload)))
	}
	for pattern := range l.to["pmessage"] {
		if strings.HasPrefix(channel, strings.TrimSuffix(pattern, "*")) {
			l.expect(frame(l.proto, bulk("pmessage"), bulk(pattern), bulk(channel), bulk(payload)))
		}
	}
}

// silent checks that the client has heard all that there is: the next thing that it reads is its own PONG.
func (l *listener) silent() {
	l.t.Helper()
	l.Send("PING", "all?")
	want := bulk("all?")
	if l.proto == 2 && l.total("message")+l.total("smessage") > 0 {
		want = array(bulk("pong"), want)
	}
	l.expect(want)
}

// publishRounds publishes to every channel in turn, in one pipeline.
func publishRounds(t *testing.T, p *proxytest.Conn, from, rounds int) {
	t.Helper()
	var raw []byte
	for i := range rounds {
		for _, ch := range pubsubChannels {
			verb := "PUBLISH"
			if strings.HasPrefix(ch, "shard") {
				verb = "SPUBLISH"
			}
			raw = proxytest.AppendCommand(raw, verb, ch, payload(ch, from+i))
		}
	}
	p.Write(string(raw))
	for range rounds * len(pubsubChannels) {
		if b := p.ReadReply(); b[0] != ':' {
			t.Fatalf("PUBLISH: %s", proxytest.Quote(b))
		}
	}
}

func payload(channel string, n int) string { return fmt.Sprintf("%s #%d", channel, n) }

var pubsubChannels = []string{"news.0", "news.1", "misc.0", "shard.0"}

// hearRounds has clients read all of publishRounds, and nothing more.
func hearRounds(listeners []*listener, from, rounds int) {
	for _, l := range listeners {
		l.t.Helper()
		for i := range rounds {
			for _, ch := range pubsubChannels {
				l.hear(ch, payload(ch, from+i))
			}
		}
		l.silent()
	}
}

var subscribing = regexp.MustCompile(`(?m)^.* (?:sub=[1-9]|psub=[1-9]|ssub=[1-9]).*$`)

// subscribingLinks returns the lines of CLIENT LIST of the connections that are subscribed to something.
func subscribingLinks(direct *proxytest.Conn) []string {
	return subscribing.FindAllString(string(direct.Do("CLIENT", "LIST")), -1)
}

// nobodySubscribed waits until Redis knows of no subscription.
func nobodySubscribed(t *testing.T, direct *proxytest.Conn) {
	t.Helper()
	eventually(t, "Redis knows of no subscription", func() string {
		if links := subscribingLinks(direct); len(links) > 0 {
			return strings.Join(links, "\n")
		}
		for _, sub := range []string{"CHANNELS", "SHARDCHANNELS", "NUMPAT"} {
			if got := string(direct.Do("PUBSUB", sub)); got != "*0\r\n" && got != ":0\r\n" {
				return "PUBSUB " + sub + ": " + got
			}
		}
		return ""
	})
}

// pubsubCrowd is a number of subscribers with different subscriptions to the same few channels.
func pubsubCrowd(t *testing.T, addr string, n int) []*listener {
	t.Helper()
	var all []*listener
	for i := range n {
		l := newListener(t, addr, 2+i%2)
		switch i / 2 % 4 {
		case 0:
			l.subscribe("", "news.0", "news.1")
		case 1:
			l.subscribe("P", "news.*")
			l.subscribe("S", "shard.0")
		case 2:
			l.subscribe("", "news.1")
			l.subscribe("", "news.1", "misc.0") // once more
			l.subscribe("P", "news.*")
		case 3:
			l.subscribe("S", "shard.0")
			l.subscribe("", "misc.0")
		}
		all = append(all, l)
	}
	return all
}

// waysToLeave are the ways in which a subscriber goes. Each ends with the client hearing nothing more.
var waysToLeave = []func(l *listener){
	func(l *listener) { // without names
		for _, prefix := range []string{"", "P", "S"} {
			l.unsubscribe(prefix)
		}
	},
	func(l *listener) { // with names, also of what it is not subscribed to
		for prefix, kind := range subscriptionKinds {
			names := []string{"never"}
			for name := range l.to[kind] {
				names = append(names, name)
			}
			l.unsubscribe(prefix, names...)
		}
	},
	func(l *listener) {
		l.Send("RESET")
		l.expect("+RESET\r\n")
		l.proto = 2
		for _, kind := range subscriptionKinds {
			clear(l.to[kind])
		}
	},
	func(l *listener) {
		l.Send("QUIT")
		l.expect("+OK\r\n")
		l.ReadAll()
	},
	func(l *listener) { l.Close() },
	func(l *listener) { l.Reset() },
}

func TestSubscribersShareOneConnectionAndEachGetsExactlyItsMessages(t *testing.T) {
	for _, streams := range []bool{false, true} {
		t.Run(fmt.Sprintf("streams %v", streams), func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) {
				c.PoolSize, c.Loops = 6, 1
				if streams {
					proxy.UseStreams(c)
				}
			})
			direct, publisher := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
			all := pubsubCrowd(t, p.Addr(), 24)
			if links := subscribingLinks(direct); len(links) != 1 ||
				!strings.Contains(links[0], " sub=3 psub=1 ") || !strings.Contains(links[0], " ssub=1 ") && strings.Contains(links[0], " ssub=") {
				t.Errorf("these connections are subscribed:\n%s", strings.Join(links, "\n"))
			}
			publishRounds(t, publisher, 0, 50)
			hearRounds(all, 0, 50)
			round := 50
			for i, l := range slices.Clone(all) {
				way := i % len(waysToLeave)
				waysToLeave[way](l)
				publishRounds(t, publisher, round, 2)
				if way > 2 { // has hung up
					all = slices.DeleteFunc(all, func(x *listener) bool { return x == l })
				}
				hearRounds(all, round, 2)
				round += 2
			}
			nobodySubscribed(t, direct)
			for _, l := range all {
				l.Close()
			}
			publisher.Close()
			allGone(t, p)
		})
	}
}

func TestEachLoopHasOneConnectionForItsSubscribers(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 6, 2 })
	direct := proxytest.Dial(t, s.Addr())
	all := pubsubCrowd(t, p.Addr(), 24)
	if links := subscribingLinks(direct); len(links) != 2 {
		t.Errorf("these connections are subscribed:\n%s", strings.Join(links, "\n"))
	}
	publisher := proxytest.Dial(t, p.Addr())
	publishRounds(t, publisher, 0, 20)
	hearRounds(all, 0, 20)
	publisher.Close()
	for _, l := range all {
		l.Close()
	}
	nobodySubscribed(t, direct)
	allGone(t, p)
}

func TestWhenTheSharedConnectionBreaksItsSubscribersAreClosedAndNobodyElse(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 6, 1 })
	direct := proxytest.Dial(t, s.Addr())
	all := pubsubCrowd(t, p.Addr(), 12)
	former := newListener(t, p.Addr(), 2)
	former.subscribe("", "news.0")
	former.unsubscribe("")
	for _, l := range all[:2] { // a reply and half a command in between change nothing
		l.silent()
		l.Write("*2\r\n$4\r\nPI")
	}
	if got := string(direct.Do("CLIENT", "KILL", "TYPE", "pubsub")); got != ":1\r\n" {
		t.Errorf("CLIENT KILL: %s", got)
	}
	for _, l := range all {
		if got := l.ReadAll(); len(got) > 0 {
			t.Errorf("a subscriber was told %s", proxytest.Quote(got))
		}
	}
	former.silent()
	again := newListener(t, p.Addr(), 3)
	again.subscribe("", "news.0")
	again.Close()
	former.Close()
	nobodySubscribed(t, direct)
	allGone(t, p)
}

func TestWhoWaitsForTheSharedConnectionIsServedOrRefusedOrLeavesTheQueue(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.PoolSize, c.Loops = 2, 1 // a lane, and a pin
		c.PoolTimeout = silence
	})
	direct := proxytest.Dial(t, s.Addr())
	holder := proxytest.Dial(t, p.Addr())
	hold := func() {
		holder.Do("WATCH", "k")
	}
	hold()
	first, second := newListener(t, p.Addr(), 2), newListener(t, p.Addr(), 3)
	for _, l := range []*listener{first, second} {
		l.Send("SUBSCRIBE", "news.0")
		l.Send("PING", "behind")
	}
	for _, l := range []*listener{first, second} {
		l.expect(refusal)
		l.expect(bulk("behind"))
	}
	if st := p.Stats(); st.PoolTimeouts != 2 || st.Waiting != 0 {
		t.Errorf("after two refusals: %+v", st)
	}
	// Those who hang up leave the queue.
	for _, end := range []func(*proxytest.Conn){(*proxytest.Conn).Close, (*proxytest.Conn).Reset} {
		l := newListener(t, p.Addr(), 3)
		l.Send("SUBSCRIBE", "news.0")
		eventually(t, "a subscriber waits", func() string {
			if st := p.Stats(); st.Waiting != 1 {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
		end(l.Conn)
		eventually(t, "nobody waits", func() string {
			if st := p.Stats(); st.Waiting != 0 {
				return fmt.Sprintf("%+v", st)
			}
			return ""
		})
	}
	// Those who stay are served when their turn comes.
	for _, l := range []*listener{first, second} {
		l.Send("SUBSCRIBE", "news.0")
	}
	holder.Do("UNWATCH")
	for _, l := range []*listener{first, second} {
		l.to["message"]["news.0"] = true
		l.expect(frame(l.proto, bulk("subscribe"), bulk("news.0"), ":1\r\n"))
	}
	publisher := proxytest.Dial(t, p.Addr())
	publishRounds(t, publisher, 0, 3)
	hearRounds([]*listener{first, second}, 0, 3)
	for _, c := range []*proxytest.Conn{first.Conn, second.Conn, holder, publisher} {
		c.Close()
	}
	nobodySubscribed(t, direct)
	allGone(t, p)
}
