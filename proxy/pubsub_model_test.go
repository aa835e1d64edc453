package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Clients subscribe, unsubscribe, publish and reconnect at random while the connections that carry subscriptions are
// cut. Publishers number their messages. Each client knows what it has to hear: from a confirmation on, every number,
// once and in order, and up to the end of the subscription all that had been published before it asked for the end.

func TestASubscriberNeverMissesAMessageNorHearsOneTwice(t *testing.T) {
	t.Parallel() // it mostly waits
	seed := proxytest.Seed(t)
	for _, tc := range []struct {
		name  string
		loops int
		cut   bool
	}{
		{"one loop", 1, false},
		{"two loops, connections are cut", 2, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.Loops = 6, tc.loops })
			m := &pubsubModel{addr: p.Addr(), cut: tc.cut, until: time.Now().Add(1500 * time.Millisecond)}
			m.run(t, s, seed)
			nobodySubscribed(t, proxytest.Dial(t, s.Addr()))
			allGone(t, p)
		})
	}
}

const modelChannels = 4

// pubsubModel is what has been published.
type pubsubModel struct {
	// Static after construction.
	addr  string
	cut   bool // connections are cut: a client may be closed
	until time.Time

	// Atomic.
	begun, published [modelChannels]atomic.Int64 // the last number that may have been published, and that was
	heard, ends      atomic.Int64
	cuts             atomic.Int64
	subscriptions    atomic.Int64

	// mu guards the following fields.
	mu       sync.Mutex
	problems []string
}

func (m *pubsubModel) problem(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problems = append(m.problems, err.Error())
}

func (m *pubsubModel) over() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.problems) > 0 || time.Now().After(m.until)
}

func (m *pubsubModel) run(t *testing.T, s *proxytest.Server, seed uint64) {
	var all, others sync.WaitGroup
	end := make(chan struct{})
	for ch := range modelChannels {
		// Half of them publish through the proxy.
		addr := m.addr
		if ch%2 == 0 {
			addr = s.Addr()
		}
		others.Go(func() { m.publish(addr, ch, end) })
	}
	if m.cut {
		others.Go(func() { m.cutConnections(s.Addr(), end) })
	}
	for i := range 16 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i)))
			for !m.over() {
				if err := m.life(rnd, i); err != nil {
					m.problem(err)
				}
			}
		})
	}
	all.Wait()
	close(end)
	others.Wait()
	for _, p := range m.problems {
		t.Error(p)
	}
	t.Logf("%d messages heard, %d subscriptions, %d connections cut, %d clients closed",
		m.heard.Load(), m.subscriptions.Load(), m.cuts.Load(), m.ends.Load())
	if m.heard.Load() == 0 || m.subscriptions.Load() == 0 || m.cut && (m.cuts.Load() == 0 || m.ends.Load() == 0) {
		t.Error("a test of nothing")
	}
}

// publish publishes numbers to one channel. Channel 3 is a shard channel.
func (m *pubsubModel) publish(addr string, ch int, end <-chan struct{}) {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		m.problem(err)
		return
	}
	defer c.Close()
	verb := "PUBLISH"
	if ch == 3 {
		verb = "SPUBLISH"
	}
	for n := int64(1); ; n++ {
		select {
		case <-end:
			return
		default:
		}
		m.begun[ch].Store(n)
		err := c.TryWrite([]byte(proxytest.Command(verb, modelChannel(ch), fmt.Sprintf("%d %s", n, filler(n)))))
		var b []byte
		if err == nil {
			b, err = c.TryReadReply()
		}
		if err != nil || b[0] != ':' {
			m.problem(fmt.Errorf("publishing: %q, %w", b, err))
			return
		}
		m.published[ch].Store(n)
		time.Sleep(200 * time.Microsecond)
	}
}

// filler makes messages of different lengths, a few of them large.
func filler(n int64) string {
	size := n % 100
	if n%100 == 0 {
		size = 200 << 10
	}
	return strings.Repeat("x", int(size))
}

func modelChannel(ch int) string { return fmt.Sprintf("c%d", ch) }

// cutConnections has Redis kill the connections that carry subscriptions.
func (m *pubsubModel) cutConnections(addr string, end <-chan struct{}) {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		m.problem(err)
		return
	}
	defer c.Close()
	for {
		select {
		case <-end:
			return
		case <-time.After(120 * time.Millisecond):
		}
		err := c.TryWrite([]byte(proxytest.Command("CLIENT", "KILL", "TYPE", "pubsub")))
		var b []byte
		if err == nil {
			b, err = c.TryReadReply()
		}
		if err != nil {
			m.problem(err)
			return
		}
		n, _ := strconv.Atoi(strings.Trim(string(b), ":\r\n"))
		m.cuts.Add(int64(n))
	}
}

// modelClient is one connection.
type modelClient struct {
	*proxytest.Conn
	m     *pubsubModel
	rnd   *rand.Rand
	proto int
	name  string
	subs  map[string]*modelSub // by kind and name
	own   int                  // the last number that it has published to itself
	echo  int                  // the last one that it has heard
}

// modelSub is a subscription. Last holds, by channel, the last number heard; before the first one, it is not there.
type modelSub struct {
	last   map[int]int64
	before map[int]int64 // published before the client asked for the subscription
	after  map[int]int64 // begun when it was confirmed: what comes after that must be heard
}

var errCut = errors.New("cut")

// life is one connection from its begin to its end.
func (m *pubsubModel) life(rnd *rand.Rand, i int) error {
	c, err := proxytest.TryDial(m.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	x := &modelClient{Conn: c, m: m, rnd: rnd, proto: 2 + i%2, name: fmt.Sprintf("own%d", i), subs: map[string]*modelSub{}}
	if x.proto == 3 {
		if err := x.await(func(b []byte) bool { return b[0] == '%' }, "HELLO", "3"); err != nil {
			return err
		}
	}
	for range 1 + rnd.IntN(20) {
		if m.over() {
			break
		}
		err := x.step()
		if errors.Is(err, errCut) {
			m.ends.Add(1)
			return nil
		}
		if err != nil {
			return fmt.Errorf("client %d (RESP%d): %w", i, x.proto, err)
		}
	}
	if rnd.IntN(2) == 0 {
		c.Reset()
	}
	return nil
}

func (x *modelClient) step() error {
	switch k := x.rnd.IntN(10); {
	case k < 4:
		return x.subscribe(x.pick())
	case k < 7:
		return x.unsubscribe(x.pick())
	case k < 9 && x.proto == 3 && x.subs["message "+x.name] != nil:
		return x.publishToItself()
	case k == 9:
		return x.reset()
	}
	time.Sleep(time.Duration(x.rnd.IntN(5)) * time.Millisecond)
	return x.ping()
}

// pick returns the kind and name of a subscription.
func (x *modelClient) pick() (kind, name string) {
	switch k := x.rnd.IntN(8); {
	case k < 4:
		return "message", modelChannel(k % 3)
	case k < 5:
		return "pmessage", "c*"
	case k < 7:
		return "smessage", modelChannel(3)
	}
	return "message", x.name
}

var prefixOf = map[string]string{"message": "", "pmessage": "P", "smessage": "S"}

// channelsOf returns the numbered channels of a subscription.
func channelsOf(kind, name string) []int {
	if kind == "pmessage" {
		return []int{0, 1, 2}
	}
	n, err := strconv.Atoi(strings.TrimPrefix(name, "c"))
	if err != nil {
		return nil // the client's own
	}
	return []int{n}
}

func (x *modelClient) subscribe(kind, name string) error {
	id := kind + " " + name
	sub := x.subs[id]
	if sub == nil {
		sub = &modelSub{last: map[int]int64{}, before: map[int]int64{}, after: map[int]int64{}}
		for _, ch := range channelsOf(kind, name) {
			sub.before[ch] = x.m.published[ch].Load()
		}
	}
	word := strings.ToLower(prefixOf[kind]) + "subscribe"
	err := x.await(func(b []byte) bool {
		if x.subs[id] == nil { // from here on, and not before
			x.subs[id] = sub
			for _, ch := range channelsOf(kind, name) {
				sub.after[ch] = x.m.begun[ch].Load()
			}
		}
		return bytes.Contains(b, []byte(bulk(word)+bulk(name)))
	}, prefixOf[kind]+"SUBSCRIBE", name)
	x.m.subscriptions.Add(1)
	return err
}

func (x *modelClient) unsubscribe(kind, name string) error {
	id := kind + " " + name
	sub, until := x.subs[id], map[int]int64{}
	for _, ch := range channelsOf(kind, name) {
		until[ch] = x.m.published[ch].Load()
	}
	word := strings.ToLower(prefixOf[kind]) + "unsubscribe"
	err := x.await(func(b []byte) bool { return bytes.Contains(b, []byte(bulk(word)+bulk(name))) },
		prefixOf[kind]+"UNSUBSCRIBE", name)
	delete(x.subs, id)
	if err != nil || sub == nil {
		return err
	}
	for ch, n := range until {
		if last := sub.last[ch]; n > sub.after[ch] && last < n {
			return fmt.Errorf("%s of channel %d: heard up to %d, but %d had been published before UNSUBSCRIBE (confirmed at %d)",
				id, ch, last, n, sub.after[ch])
		}
	}
	return nil
}

func (x *modelClient) publishToItself() error {
	x.own++
	if err := x.await(func(b []byte) bool { return b[0] == ':' }, "PUBLISH", x.name, fmt.Sprint(x.own)); err != nil {
		return err
	}
	if err := x.ping(); err != nil { // whichever comes first
		return err
	}
	for x.echo < x.own {
		if err := x.await(nil); err != nil {
			return fmt.Errorf("heard %d of its own messages, published %d: %w", x.echo, x.own, err)
		}
	}
	return nil
}

func (x *modelClient) ping() error {
	return x.await(func(b []byte) bool { return bytes.HasSuffix(b, []byte(bulk("marker"))) }, "PING", "marker")
}

func (x *modelClient) reset() error {
	err := x.await(func(b []byte) bool { return string(b) == "+RESET\r\n" }, "RESET")
	clear(x.subs)
	x.own, x.echo = 0, 0
	if err == nil && x.proto == 3 {
		err = x.await(func(b []byte) bool { return b[0] == '%' }, "HELLO", "3")
	}
	return err
}

// await sends a command, if there is one, and reads up to its reply, or one message.
func (x *modelClient) await(isReply func(b []byte) bool, cmd ...string) error {
	var err error
	if len(cmd) > 0 {
		err = x.TryWrite([]byte(proxytest.Command(cmd...)))
	}
	for err == nil {
		var b []byte
		if b, err = x.TryReadReply(); err != nil {
			break
		}
		isMessage, wrong := x.message(b)
		switch {
		case wrong != nil:
			return wrong
		case isMessage && len(cmd) > 0:
		case isMessage:
			return nil
		case isReply == nil || !isReply(b):
			return fmt.Errorf("%v: got %s", cmd, proxytest.Quote(b))
		default:
			return nil
		}
	}
	if x.m.cut && proxytest.IsClosed(err) {
		return errCut
	}
	return fmt.Errorf("%v: %w", cmd, err)
}

var messageFrame = regexp.MustCompile(
	`^[>*][34]\r\n\$\d\r\n([ps]?message)\r\n\$\d+\r\n(\S+)\r\n(?:\$\d+\r\n(c\d+)\r\n)?\$\d+\r\n(\d+)`)

// message takes note of a message, and says what is wrong with it.
func (x *modelClient) message(b []byte) (isMessage bool, wrong error) {
	match := messageFrame.FindSubmatch(b[:min(len(b), 200)])
	if match == nil {
		return false, nil
	}
	kind, name, channel := string(match[1]), string(match[2]), string(match[3])
	n, _ := strconv.ParseInt(string(match[4]), 10, 64)
	sub := x.subs[kind+" "+name]
	if (b[0] == '>') != (x.proto == 3) || sub == nil {
		return true, fmt.Errorf("not subscribed, or in the wrong form: %s", proxytest.Quote(b))
	}
	x.m.heard.Add(1)
	if name == x.name {
		if int(n) != x.echo+1 && x.echo > 0 {
			return true, fmt.Errorf("its own message %d after %d", n, x.echo)
		}
		x.echo = int(n)
		return true, nil
	}
	if channel == "" {
		channel = name
	}
	ch := channelsOf("message", channel)[0]
	if !bytes.HasSuffix(b, []byte(bulk(fmt.Sprintf("%d %s", n, filler(n))))) {
		return true, fmt.Errorf("torn: %s", proxytest.Quote(b))
	}
	last, began := sub.last[ch], sub.last[ch] > 0
	switch {
	case began && n != last+1:
		return true, fmt.Errorf("%s %s: message %d of channel %d after %d", kind, name, n, ch, last)
	case !began && (n <= sub.before[ch] || n > sub.after[ch]+1):
		return true, fmt.Errorf("%s %s: the first message of channel %d is %d, but it was subscribed between %d and %d",
			kind, name, ch, n, sub.before[ch], sub.after[ch])
	}
	sub.last[ch] = n
	return true, nil
}
