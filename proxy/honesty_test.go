package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Invariant 6: a command that may have reached Redis is never sent twice, unless it only reads. Redis is made to
// carry out what has been sent and to lose the replies, again and again, while writers count, readers read and
// others do nothing. Whoever had a write in flight is closed and knows that he does not know; a reader gets his
// reply; who had nothing in flight does not notice.

func TestWhenAConnectionBreaksNoWriteIsDoneTwiceAndNoReaderNotices(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.PoolSize = 2 }) // one lane carries them all
	direct := proxytest.Dial(t, s.Addr())
	direct.Do("SET", "constant", "unchanging")

	var stop atomic.Bool
	var all sync.WaitGroup
	writers := make([]*counter, 20)
	for i := range writers {
		writers[i] = &counter{addr: p.Addr(), key: fmt.Sprintf("counter%d", i)}
		all.Go(func() { writers[i].count(&stop) })
	}
	readers := make([]error, 20)
	reads := make([]int, len(readers))
	for i := range readers {
		all.Go(func() { reads[i], readers[i] = readOn(p.Addr(), &stop) })
	}
	idle := proxytest.Dial(t, p.Addr())
	idle.Do("SELECT", "0")

	kills := 0
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); kills++ {
		killBehindBacklog(t, s)
		if got := string(idle.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("an idle client: got %q", got)
		}
		time.Sleep(30 * time.Millisecond) // a second kill right behind the first may rightly close a reader
	}
	stop.Store(true)
	all.Wait()

	closed, counted := 0, 0
	for _, w := range writers {
		if w.err != nil {
			t.Error(w.err)
		}
		closed += w.closed
		counted += w.value
	}
	if closed == 0 {
		t.Error("no writer was ever closed: either none had anything in flight, or it was sent again")
	}
	for i, err := range readers {
		if err != nil || reads[i] == 0 {
			t.Errorf("a reader, after %d reads: %v", reads[i], err)
		}
	}
	t.Logf("%d kills, %d increments, %d times a writer was closed", kills, counted, closed)
	idle.Close()
	allGone(t, p)
}

// killBehindBacklog keeps Redis busy while commands pile up, and has it kill the lane right after it has carried
// them out, before it writes their replies.
func killBehindBacklog(t *testing.T, s *proxytest.Server) {
	t.Helper()
	busy, killer := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, s.Addr())
	defer busy.Close()
	defer killer.Close()
	var lanes []string
	for line := range strings.Lines(string(killer.Do("CLIENT", "LIST"))) {
		if strings.Contains(line, " name=redbouncer") {
			id, _, _ := strings.Cut(strings.TrimPrefix(line, "id="), " ")
			lanes = append(lanes, id)
		}
	}
	busy.Send("EVAL", spin, "0")
	time.Sleep(2 * time.Millisecond)
	for _, id := range lanes {
		killer.Do("CLIENT", "KILL", "ID", id)
	}
	busy.ReadReply()
}

// counter counts in a key of its own, and knows what the key may be at any moment.
type counter struct {
	addr, key string
	value     int // what replies have shown
	inFlight  int // increments whose replies have not come
	closed    int
	err       error
}

func (c *counter) count(stop *atomic.Bool) {
	for !stop.Load() && c.err == nil {
		c.err = c.life(stop)
	}
}

// life counts on one connection until that is closed.
func (c *counter) life(stop *atomic.Bool) error {
	conn, err := proxytest.TryDial(c.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	// What was in flight on the connection before may have been done, once each, or not.
	now, err := c.get(conn)
	if err != nil {
		return fmt.Errorf("%s: %w", c.key, err)
	}
	if now < c.value || now > c.value+c.inFlight {
		return fmt.Errorf("%s is %d after %d increments that were answered and %d that were not", c.key, now, c.value, c.inFlight)
	}
	c.value, c.inFlight = now, 0
	const n = 3
	for !stop.Load() {
		c.inFlight = n
		err := conn.TryWrite([]byte(strings.Repeat(proxytest.Command("INCR", c.key), n)))
		for err == nil && c.inFlight > 0 {
			var b []byte
			if b, err = conn.TryReadReply(); err != nil {
				break
			}
			if want := fmt.Sprintf(":%d\r\n", c.value+1); string(b) != want {
				return fmt.Errorf("%s: got %q, want %q", c.key, b, want)
			}
			c.value++
			c.inFlight--
		}
		if proxytest.IsClosed(err) {
			c.closed++
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.key, err)
		}
	}
	return nil
}

func (c *counter) get(conn *proxytest.Conn) (int, error) {
	if err := conn.TryWrite([]byte(proxytest.Command("GET", c.key))); err != nil {
		return 0, err
	}
	b, err := conn.TryReadReply()
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(b), "\r\n")
	if lines[0] == "$-1" {
		return 0, nil
	}
	return strconv.Atoi(lines[1])
}

// readOn reads until stop and returns how often, or what was wrong.
func readOn(addr string, stop *atomic.Bool) (n int, err error) {
	conn, err := proxytest.TryDial(addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for ; !stop.Load(); n++ {
		if err := conn.TryWrite([]byte(strings.Repeat(proxytest.Command("GET", "constant"), 3))); err != nil {
			return n, err
		}
		for range 3 {
			b, err := conn.TryReadReply()
			if err != nil || string(b) != "$10\r\nunchanging\r\n" {
				return n, fmt.Errorf("got %q, %w", b, err)
			}
		}
	}
	return n, nil
}
