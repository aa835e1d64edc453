package proxy_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// CLIENT PAUSE puts off what it says, as on a direct connection, and nobody else waits for those who are put off.

// silent checks that nothing comes on a connection for a while.
func silent(t *testing.T, c *proxytest.Conn) {
	t.Helper()
	c.SetTimeout(80 * time.Millisecond)
	if b, err := c.TryReadReply(); !proxytest.IsTimeout(err) {
		t.Errorf("got %q, %v", b, err)
	}
	c.SetTimeout(patience)
}

// expectNext reads one reply.
func expectNext(t *testing.T, c *proxytest.Conn, want string) {
	t.Helper()
	if got := string(c.ReadReply()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAPauseOfWritesHoldsUpNobodyWhoReads(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	admin, writer, reader := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, writer, "SET k old", "+OK\r\n")
	for _, write := range []string{
		"SET k new", "PUBLISH a b", "PFCOUNT hll", "BLPOP list 0.01", "XREADGROUP GROUP g c STREAMS x >", "FLUSHALL ASYNC",
		"EVAL return 0", "FCALL f 0", "SORT k", "GETEX k", "FLUSHDB", "BF.ADD k v",
	} {
		t.Run(write, func(t *testing.T) {
			expect(t, admin, "CLIENT PAUSE 60000 WRITE", "+OK\r\n")
			writer.Send(strings.Fields(write)...)
			silent(t, writer)
			expect(t, reader, "EVAL_RO return(1) 0", ":1\r\n")
			expect(t, reader, "EXISTS other", ":0\r\n")
			expect(t, admin, "EXISTS other", ":0\r\n")
			expect(t, admin, "CLIENT UNPAUSE", "+OK\r\n")
			writer.ReadReply()
			expect(t, writer, "SET k old", "+OK\r\n")
		})
	}
}

func TestAPauseEndsByItselfAndOrderHolds(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	admin, writer := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	start := time.Now()
	expect(t, admin, "CLIENT PAUSE 300 WRITE", "+OK\r\n")
	writer.Write(proxytest.Command("GET", "k") + proxytest.Command("SET", "k", "v") + proxytest.Command("GET", "k"))
	expectNext(t, writer, "$-1\r\n")
	if d := time.Since(start); d > 250*time.Millisecond {
		t.Errorf("the read was answered after %v", d)
	}
	expectNext(t, writer, "+OK\r\n")
	expectNext(t, writer, "$1\r\nv\r\n")
	if d := time.Since(start); d < 300*time.Millisecond {
		t.Errorf("the write was answered after %v", d)
	}
}

func TestAPauseOfAllHoldsUpEverythingToItsEnd(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	admin := proxytest.Dial(t, p.Addr())
	reader, fresh := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, reader, "PING", "+PONG\r\n")
	start := time.Now()
	expect(t, admin, "CLIENT PAUSE 400", "+OK\r\n")
	reader.Send("PING")
	fresh.Send("HELLO", "3", "AUTH", "default", "")
	admin.Send("CLIENT", "UNPAUSE") // Redis, too, does not hear it
	silent(t, admin)
	expectNext(t, reader, "+PONG\r\n")
	if d := time.Since(start); d < 400*time.Millisecond {
		t.Errorf("answered after %v", d)
	}
	expectNext(t, admin, "+OK\r\n")
	fresh.ReadReply()
}

func TestTheLongestAndTheStrictestPauseWin(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	admin, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	start := time.Now()
	expect(t, admin, "CLIENT PAUSE 500 WRITE", "+OK\r\n")
	expect(t, admin, "CLIENT PAUSE 1 ALL", "+OK\r\n")
	other.Send("PING")
	expectNext(t, other, "+PONG\r\n")
	if d := time.Since(start); d < 500*time.Millisecond {
		t.Errorf("answered after %v", d)
	}
}

func TestOnlyAPauseThatRedisAcceptsHoldsAnybodyBack(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("ACL", "SETUSER", "weak", "on", ">pw", "~*", "&*", "+@all", "-client|pause")
	admin, writer := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, admin, "AUTH weak pw", "+OK\r\n")
	direct.Do("AUTH", "weak", "pw")
	for _, command := range []string{
		"CLIENT PAUSE 60000 WRITE", "CLIENT PAUSE 60000 SOME", "CLIENT PAUSE -1", "CLIENT PAUSE 1 ALL more", "CLIENT PAUSE",
		"CLIENT PAUSE 9223372036854775807",
	} {
		expect(t, admin, command, string(direct.Do(strings.Fields(command)...)))
		expect(t, writer, "SET k v", "+OK\r\n")
	}
}

func TestATransactionThatWritesWaitsAndOneThatReadsDoesNot(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), nil, `
		admin> CLIENT PAUSE 60000 WRITE
		admin< +OK
		a+ MULTI
		a+ GET k
		a> EXEC
		a< +OK
		a< +QUEUED
		a< *1\r\n$-1
		b+ MULTI
		b+ SET k v
		b> EXEC
		a> GET k
		a< $-1
		# One by one, they have a connection of their own, where Redis waits.
		c> MULTI
		c< +OK
		c> SET k2 v
		a> GET k2
		a< $-1
		admin> CLIENT UNPAUSE
		admin< +OK
		b< +OK
		b< +QUEUED
		b< *1\r\n+OK
		c< +QUEUED
		c> EXEC
		c< *1\r\n+OK
		admin> MULTI
		admin< +OK
		admin> CLIENT PAUSE 60000 WRITE
		admin< +QUEUED
		admin> EXEC
		admin< *1\r\n+OK
		b> SET k again
		a> GET k
		a< $1\r\nv
		admin> CLIENT UNPAUSE
		admin< +OK
		b< +OK
	`)
}

func TestASubscriberHoldsUpNobodyEither(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), nil, `
		two> SUBSCRIBE news
		two< *3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1
		three> HELLO 3
		three~ ^%
		three> SUBSCRIBE news
		three< >3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1
		admin> CLIENT PAUSE 60000 WRITE
		admin< +OK
		two> SET k v
		three> PUBLISH news x
		other> SUBSCRIBE more
		other< *3\r\n$9\r\nsubscribe\r\n$4\r\nmore\r\n:1
		reader> GET k
		reader< $-1
		admin> CLIENT UNPAUSE
		admin< +OK
		two~ ^(-ERR Can't execute 'set'|\*3)
		two~ ^(-ERR Can't execute 'set'|\*3)
	`)
}

func TestWhoHangsUpDuringAPauseIsGone(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	admin := proxytest.Dial(t, p.Addr())
	expect(t, admin, "CLIENT PAUSE 60000 WRITE", "+OK\r\n")
	quits, resets, floods := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	for _, c := range []*proxytest.Conn{quits, resets, floods} {
		c.Send("SET", "k", "v")
		silent(t, c)
	}
	floods.Write(strings.Repeat("GET k\r\n", 20000)) // more than is read of one who waits
	quits.Close()
	resets.Reset()
	floods.Close()
	eventually(t, "they are gone", func() string {
		if st := p.Stats(); st.Clients != 1 {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	expect(t, admin, "CLIENT UNPAUSE", "+OK\r\n")
	expect(t, admin, "EXISTS k", ":0\r\n")
	admin.Close()
	allGone(t, p)
}

func TestAProxyThatStopsDoesNotWaitForAPauseToEnd(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.ShutdownTimeout = patience })
	admin, writer := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, admin, "CLIENT PAUSE 60000 WRITE", "+OK\r\n")
	writer.Write(proxytest.Command("PING") + proxytest.Command("SET", "k", "v"))
	expectNext(t, writer, "+PONG\r\n")
	start := time.Now()
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > patience/2 {
		t.Errorf("it took %v", d)
	}
	if b, err := writer.TryReadAll(); len(b) > 0 || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}

func TestWhenManyWriteAPauseLeavesALaneToThoseWhoRead(t *testing.T) {
	for _, loops := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			admin := proxytest.Dial(t, p.Addr())
			expect(t, admin, "SET k v", "+OK\r\n")
			var readers, writers []*proxytest.Conn
			for range 2 * loops {
				readers = append(readers, proxytest.Dial(t, p.Addr()))
			}
			for range 20 {
				c := proxytest.Dial(t, p.Addr())
				writers = append(writers, c)
				c.Write(strings.Repeat(proxytest.Command("SET", "k", "v"), 2000))
			}
			expect(t, admin, "CLIENT PAUSE 60000 WRITE", "+OK\r\n")
			for range 100 {
				for _, c := range readers {
					expect(t, c, "GET k", "$1\r\nv\r\n")
				}
			}
			expect(t, admin, "CLIENT UNPAUSE", "+OK\r\n")
			for _, c := range writers {
				for range 2000 {
					expectNext(t, c, "+OK\r\n")
				}
			}
			for _, c := range slices.Concat(readers, writers, []*proxytest.Conn{admin}) {
				c.Close()
			}
			allGone(t, p)
		})
	}
}

func TestAPauseDelaysNotOneReadThatIsUnderWay(t *testing.T) {
	for _, loops := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = loops })
			var stop atomic.Bool
			var all sync.WaitGroup
			var slowest [6]time.Duration
			for i := range slowest {
				r, w := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
				all.Go(func() {
					for !stop.Load() {
						start := time.Now()
						r.Do("GET", "k")
						slowest[i] = max(slowest[i], time.Since(start))
					}
				})
				all.Go(func() {
					for !stop.Load() {
						w.Do("SET", "k", "v")
					}
				})
			}
			admin := proxytest.Dial(t, p.Addr())
			for range 5 {
				time.Sleep(20 * time.Millisecond)
				expect(t, admin, "CLIENT PAUSE 5000 WRITE", "+OK\r\n")
				time.Sleep(20 * time.Millisecond)
				expect(t, admin, "GET k", "$1\r\nv\r\n")
				time.Sleep(1500 * time.Millisecond)
				expect(t, admin, "CLIENT UNPAUSE", "+OK\r\n")
			}
			stop.Store(true)
			all.Wait()
			if d := slices.Max(slowest[:]); d > 1200*time.Millisecond { // less may be the machine
				t.Errorf("the slowest of %v took %v", slowest, d)
			}
		})
	}
}

func TestAPauseSetPastTheProxyLosesNothing(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	proxytest.Converse(t, p.Addr(), map[string]string{"direct": s.Addr()}, `
		direct> SET k u
		direct< +OK
		direct> CLIENT PAUSE 60000 WRITE
		direct< +OK
		a> SET k v
		b+ SET k w
		b> GET k
		# Which of the three is read first is not said.
		c> GET k
		direct> CLIENT UNPAUSE
		direct< +OK
		a< +OK
		b< +OK
		b< $1\r\nw
		c~ ^\$1\r\n[uvw]\r\n
	`)
}
