package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A client costs an upstream connection only while it cannot do without, and where waiting for one suffices, nobody
// fails. The test logs how many connections a thousand clients of each kind need.

const crowd = 1000

// workload is what each client of a crowd does.
type workload struct {
	name string
	live func(c *proxytest.Conn, id int) error
	most int // upstream connections that it may need
}

var workloads = []workload{
	{"plain commands", livePlainly, 1},
	{"pipelined transactions", liveInTransactions, 1},
	{"WATCH loops", liveWatching, 16},
	{"subscribers of 10 channels", liveSubscribed, 2},
	{"readers that track", liveTracking, 3},
	{"blocking reads that end by themselves", liveBlocking, 16},
}

// What an idle session takes is a matter of a size class of the allocator: 320 bytes, or 352.
func TestASessionIsSmall(t *testing.T) {
	if proxy.SessionSize > 320 {
		t.Errorf("it takes %d bytes", proxy.SessionSize)
	}
}

func TestAThousandClientsOfAKindNeedFewConnections(t *testing.T) {
	for _, w := range workloads {
		t.Run(w.name, func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize, c.PoolTimeout = 16, 30*time.Second })
			var most atomic.Int64
			stop := make(chan struct{})
			var sampler sync.WaitGroup
			sampler.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(2 * time.Millisecond):
						most.Store(max(most.Load(), int64(p.Stats().Upstream)))
					}
				}
			})
			start := time.Now()
			failed := liveAll(p.Addr(), w.live)
			close(stop)
			sampler.Wait()
			if len(failed) > 0 {
				t.Errorf("%d of %d clients failed, the first: %v", len(failed), crowd, failed[0])
			}
			if n := int(most.Load()); n > w.most || n == 0 {
				t.Errorf("%d upstream connections, want at most %d", n, w.most)
			}
			t.Logf("%-40s %5d clients, %2d upstream connections at most, %v", w.name, crowd, most.Load(),
				time.Since(start).Round(10*time.Millisecond))
		})
	}
}

// liveAll has a crowd live at once, all of them connected until the last is done.
func liveAll(addr string, live func(*proxytest.Conn, int) error) (failed []error) {
	var mu sync.Mutex
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, err)
	}
	conns := make([]*proxytest.Conn, crowd)
	var all sync.WaitGroup
	for id := range conns {
		c, err := proxytest.TryDial(addr)
		if err != nil {
			fail(err)
			continue
		}
		c.SetTimeout(40 * time.Second)
		conns[id] = c
		all.Go(func() {
			if err := live(c, id); err != nil {
				fail(fmt.Errorf("client %d: %w", id, err))
			}
		})
	}
	all.Wait()
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	return failed
}

// ask sends commands in one write and checks the replies; an empty one may be anything but an error.
func ask(c *proxytest.Conn, commands string, replies ...string) error {
	if err := c.TryWrite([]byte(commands)); err != nil {
		return err
	}
	for _, want := range replies {
		got, err := c.TryReadReply()
		if err != nil {
			return err
		}
		if want == "" && got[0] != '-' || string(got) == want {
			continue
		}
		return fmt.Errorf("got %q, want %q", got, want)
	}
	return nil
}

func livePlainly(c *proxytest.Conn, id int) error {
	key := fmt.Sprint("k", id)
	for i := range 20 {
		v := fmt.Sprint(i)
		err := ask(c, proxytest.Command("SET", key, v)+proxytest.Command("GET", key), "+OK\r\n",
			fmt.Sprintf("$%d\r\n%s\r\n", len(v), v))
		if err != nil {
			return err
		}
	}
	return nil
}

func liveInTransactions(c *proxytest.Conn, id int) error {
	key := fmt.Sprint("n", id)
	block := proxytest.Command("MULTI") + proxytest.Command("INCR", key) + proxytest.Command("INCR", key) +
		proxytest.Command("EXEC")
	for i := range 20 {
		err := ask(c, block, "+OK\r\n", "+QUEUED\r\n", "+QUEUED\r\n", fmt.Sprintf("*2\r\n:%d\r\n:%d\r\n", 2*i+1, 2*i+2))
		if err != nil {
			return err
		}
	}
	return nil
}

// liveWatching counts up a key that ten clients share, as the documentation of WATCH has it.
func liveWatching(c *proxytest.Conn, id int) error {
	key := fmt.Sprint("shared", id%100)
	for range 2 {
		for try := 0; ; try++ {
			if try == 200 {
				return errors.New("somebody else was always faster")
			}
			if err := ask(c, proxytest.Command("WATCH", key), "+OK\r\n"); err != nil {
				return err
			}
			if err := ask(c, proxytest.Command("GET", key), ""); err != nil {
				return err
			}
			err := ask(c, proxytest.Command("MULTI")+proxytest.Command("INCR", key), "+OK\r\n", "+QUEUED\r\n")
			if err != nil {
				return err
			}
			if err := c.TryWrite([]byte(proxytest.Command("EXEC"))); err != nil {
				return err
			}
			reply, err := c.TryReadReply()
			if err != nil {
				return err
			}
			if bytes.HasPrefix(reply, []byte("*1")) {
				break
			}
		}
	}
	return nil
}

func liveSubscribed(c *proxytest.Conn, id int) error {
	channel := fmt.Sprint("c", id%10)
	return ask(c, proxytest.Command("SUBSCRIBE", channel), fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$2\r\n%s\r\n:1\r\n", channel))
}

func liveTracking(c *proxytest.Conn, id int) error {
	err := ask(c, proxytest.Command("HELLO", "3")+proxytest.Command("CLIENT", "TRACKING", "ON"), "", "+OK\r\n")
	for i := 0; i < 20 && err == nil; i++ {
		err = ask(c, proxytest.Command("GET", fmt.Sprintf("t%d:%d", id, i)), "_\r\n")
	}
	return err
}

func liveBlocking(c *proxytest.Conn, id int) error {
	key := fmt.Sprint("q", id)
	for range 3 {
		err := ask(c, proxytest.Command("RPUSH", key, "v")+proxytest.Command("BLPOP", key, "0"), ":1\r\n",
			fmt.Sprintf("*2\r\n$%d\r\n%s\r\n$1\r\nv\r\n", len(key), key))
		if err != nil {
			return err
		}
	}
	return nil
}
