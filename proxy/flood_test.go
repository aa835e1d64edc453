package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Bad clients in numbers. Each test has a bystander that must not notice and a bound on memory. The sizes are
// those of an ordinary run; floodVariable makes them those of the acceptance.

// floodVariable names the environment variable that, set to 1, asks for 1 GB of garbage and 10,000 half-open
// clients.
const floodVariable = "REDBOUNCER_TEST_FLOOD"

func flooding() bool { return os.Getenv(floodVariable) == "1" }

// garbage kinds: what a connection sends until it is closed, or has sent enough.
var garbageKinds = []struct {
	name string
	// head comes first, then body over and over.
	head, body string
	// share is the part of the volume that this kind gets, in percent.
	share int
}{
	{"random bytes", "", "", 20},
	{"a line without end", "", strings.Repeat("x", 1<<16), 20},
	{"an argument of half a gigabyte that ends early", "*2\r\n$4\r\nECHO\r\n$536870912\r\n", strings.Repeat("\x00", 1<<16), 30},
	{"two billion arguments", "*2147483647\r\n", strings.Repeat("$3\r\nabc\r\n", 1<<13), 20},
	{"commands that nobody knows", "", strings.Repeat("nosuchcommand a b c d e f g h i j k l m n o p\r\n", 1<<10), 10},
}

// garbageMemory bounds what garbage costs. One client at a time holds up to 16 MB here; the rest is what its
// predecessors left to the garbage collector. A proxy that sets memory aside for what was only announced needs more.
const garbageMemory = 256 << 20

// tookEnough is how much one connection sends at most before it hangs up: more than the proxy is told to keep.
const tookEnough = 24 << 20

func TestAFloodOfGarbageHarmsNobodyElse(t *testing.T) {
	total := 64 << 20
	if flooding() {
		total = 1 << 30
	}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.ClientQueryBufferLimit = 16 << 20
		c.ClientOutputBufferLimit.Normal.Hard = 16 << 20
	})
	calm := newBystander(t, p.Addr())
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	noise := make([]byte, 1<<16)
	for _, kind := range garbageKinds {
		t.Run(kind.name, func(t *testing.T) {
			m := watchMemory()
			share, sent, conns := total/100*kind.share, 0, 0
			for ; sent < share; conns++ {
				body := []byte(kind.body)
				if kind.body == "" {
					_, _ = rnd.Read(noise)
					body = noise
				}
				n := sendGarbage(t, p.Addr(), kind.head, body, min(tookEnough, share-sent))
				if n == 0 {
					t.Fatal("a connection took nothing")
				}
				sent += n
			}
			t.Logf("%.0f MB on %d connections", mb(uint64(sent)), conns)
			m.stop(t, garbageMemory)
		})
	}
	calm.stop(t)
	allGone(t, p)
}

// sendGarbage sends on one connection until that is closed or has taken enough, and returns how much it took.
// It reads nothing: that, too, is how bad clients are.
func sendGarbage(t *testing.T, addr, head string, body []byte, enough int) int {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Reset()
	// A proxy that stops reading from this client has defended itself too.
	c.SetTimeout(silence)
	sent := 0
	next := append([]byte(head), body...)
	for sent < enough {
		err := c.TryWrite(next)
		if err != nil {
			return sent + 1
		}
		sent += len(next)
		next = body
	}
	return sent
}

// Half-open clients hold a connection and nothing else: scanners, leaks, crashed hosts. Ten thousand of them
// are what this program is for.
func TestThousandsOfHalfOpenClientsHarmNobodyElse(t *testing.T) {
	n := 2000
	if flooding() {
		n = 10_000
	}
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.MaxClients, c.PoolSize = n+100, 4 })
	calm := newBystander(t, p.Addr())
	m := watchMemory()

	release := holdConnections(t, p.Addr(), n)
	eventually(t, "every half-open client is counted", func() string {
		if got := p.Stats().Clients; got < n+1 {
			return fmt.Sprintf("%d of %d", got, n+1)
		}
		return ""
	})
	if ours := upstreamConnections(t, s); ours > 4 {
		t.Errorf("%d upstream connections, the bound is 4", ours)
	}
	// One more client is served as if it were alone.
	c := proxytest.Dial(t, p.Addr())
	if got := string(c.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("got %q", got)
	}
	release()
	// A client that holds half a command holds these bytes and some bookkeeping.
	m.stop(t, uint64(n)*8<<10+16<<20)
	calm.stop(t)
	c.Close()
	allGone(t, p)
}

// holdVariable makes TestHelperHoldsConnections do its work: "address count".
const holdVariable = "REDBOUNCER_TEST_HOLD"

// holdConnections has another process open n connections that each send half a command at most, and returns
// when they are open. Another process, since one may not have enough file descriptors for both ends.
func holdConnections(t *testing.T, addr string, n int) (release func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperHoldsConnections$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", holdVariable, addr, n))
	cmd.Stderr = t.Output()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	release = func() {
		if !ended {
			ended = true
			_ = in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(release)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatalf("the process that holds connections said %q, %v", line, err)
	}
	return release
}

// TestHelperHoldsConnections is the process behind holdConnections; as a test it does nothing. It ends when
// its standard input does.
func TestHelperHoldsConnections(t *testing.T) {
	addr, count, ok := strings.Cut(os.Getenv(holdVariable), " ")
	if !ok {
		return
	}
	n, err := strconv.Atoi(count)
	if err != nil {
		t.Fatal(err)
	}
	halves := []string{"", "*3\r\n", "*2\r\n$3\r\nGET\r\n$10\r\nhalf", "SET k ", "*1\r\n$4\r\nPING\r"}
	for i := range n {
		c, err := proxytest.TryDial(addr)
		if err == nil {
			err = c.TryWrite([]byte(halves[i%len(halves)]))
		}
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(c.Close)
	}
	fmt.Println("held")
	_, _ = bufio.NewReader(os.Stdin).ReadByte()
}

// A client that asks and does not listen costs the proxy memory, up to the limit, and nobody anything else.
func TestAClientThatNeverReadsHarmsNobodyElse(t *testing.T) {
	const size, limit = 1 << 20, 32 << 20
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.ClientOutputBufferLimit.Normal.Hard = limit })
	value := strings.Repeat("v", size)
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("SET", "big", value)

	for _, tc := range []struct{ name, ask string }{
		{"of a shared connection", proxytest.Command("GET", "big")},
		{"of a transaction", proxytest.Command("MULTI") + proxytest.Command("GET", "big") + proxytest.Command("EXEC")},
		{"of a connection of its own", proxytest.Command("WATCH", "k") + proxytest.Command("GET", "big") +
			proxytest.Command("UNWATCH")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calm := newBystander(t, p.Addr())
			m := watchMemory()
			c, err := proxytest.TryDial(p.Addr())
			if err != nil {
				t.Fatal(err)
			}
			// 400 MB of replies, asked for in a few KB. The write may meet a closed connection, or one that is
			// not read any more.
			c.SetTimeout(2 * time.Second)
			_ = c.TryWrite(bytes.Repeat([]byte(tc.ask), 400))
			time.Sleep(time.Second) // the harm, if any, needs time to happen
			how := "its connection was kept, and not read from"
			if p.Stats().Clients <= 1 {
				how = "its connection was closed"
			}
			t.Log(how)
			c.Reset()
			m.stop(t, 3*limit)
			calm.stop(t)
		})
	}
	allGone(t, p)
}

// What a client that does read late gets is right, as far as it goes.
func TestAClientThatReadsLateGetsTheRightBytes(t *testing.T) {
	const size, count = 1 << 20, 64
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	c := proxytest.Dial(t, p.Addr())
	var ask []byte
	for i := range count {
		key := fmt.Sprintf("big%d", i)
		direct.Do("SET", key, strings.Repeat(string(rune('a'+i%26)), size))
		ask = proxytest.AppendCommand(ask, "GET", key)
	}
	calm := newBystander(t, p.Addr())
	c.Write(string(ask))
	time.Sleep(200 * time.Millisecond) // late is the point
	for i := range count {
		want := proxytest.Command(strings.Repeat(string(rune('a'+i%26)), size))[len("*1\r\n"):]
		if got := c.ReadReply(); string(got) != want {
			t.Fatalf("reply %d is not the value: %s", i, proxytest.Quote(got))
		}
	}
	calm.stop(t)
}

// upstreamConnections returns how many connections Redis has from the proxy.
func upstreamConnections(t *testing.T, s *proxytest.Server) int {
	t.Helper()
	c := proxytest.Dial(t, s.Addr())
	defer c.Close()
	return strings.Count(string(c.Do("CLIENT", "LIST")), " name=redbouncer")
}

// allGone waits until the proxy's books say that no client is there and nothing is lent to one.
func allGone(t *testing.T, p *proxytest.Running) {
	t.Helper()
	eventually(t, "every counter of clients is zero", func() string {
		s := p.Stats()
		if s.Clients != 0 || s.InFlight != 0 || s.Waiting != 0 || s.Pins != 0 {
			return fmt.Sprintf("%+v", s)
		}
		return ""
	})
}
