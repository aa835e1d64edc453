package proxy_test

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// silence is how long a connection must say nothing before a test believes that it has nothing to say.
const silence = 500 * time.Millisecond

// tooSlow is the longest that any command of a bystander may take. It is far above what is ever seen, also
// under the race detector on two busy cores, and far below what a stalled lane would make of it.
const tooSlow = 5 * time.Second

// bystander is a well-behaved client beside a badly behaved one. It must not notice: every reply is right,
// and none is late.
type bystander struct {
	conn *proxytest.Conn
	end  chan struct{}
	done sync.WaitGroup

	// Written by the goroutine, read after it has ended.
	commands int
	slowest  time.Duration
	err      error
}

// newBystander starts one, until stop.
func newBystander(t *testing.T, addr string) *bystander {
	t.Helper()
	c, err := proxytest.TryDial(addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &bystander{conn: c, end: make(chan struct{})}
	b.done.Go(b.live)
	return b
}

// live sends one command after the other, until stop closes end or something is wrong.
func (b *bystander) live() {
	defer b.conn.Close()
	for i := 0; ; i++ {
		select {
		case <-b.end:
			return
		default:
		}
		value := fmt.Sprintf("bystander-%d", i)
		for _, step := range []struct{ cmd, want string }{
			{proxytest.Command("SET", "bystander", value), "+OK\r\n"},
			{proxytest.Command("GET", "bystander"), fmt.Sprintf("$%d\r\n%s\r\n", len(value), value)},
		} {
			start := time.Now()
			err := b.conn.TryWrite([]byte(step.cmd))
			var got []byte
			if err == nil {
				got, err = b.conn.TryReadReply()
			}
			b.slowest = max(b.slowest, time.Since(start))
			if err != nil || string(got) != step.want {
				b.err = fmt.Errorf("after %d commands: got %q, want %q, %w", b.commands, got, step.want, err)
				return
			}
			b.commands++
		}
		// Others need the processor too.
		time.Sleep(time.Millisecond)
	}
}

// stop ends the bystander and fails the test if it has noticed anything.
func (b *bystander) stop(t *testing.T) {
	t.Helper()
	close(b.end)
	b.done.Wait()
	if b.err != nil {
		t.Errorf("the bystander noticed: %v", b.err)
	}
	if b.slowest > tooSlow {
		t.Errorf("the bystander had to wait %v for one command", b.slowest)
	}
	if b.commands == 0 {
		t.Error("the bystander was never served")
	}
	t.Logf("bystander: %d commands, the slowest in %v", b.commands, b.slowest.Round(time.Microsecond))
}

// memory watches how much of it this process uses, test and proxy together.
type memory struct {
	end  chan struct{}
	done sync.WaitGroup
	base uint64
	peak uint64 // written by the goroutine, read after it has ended
}

// heap returns the bytes of memory that the Go runtime holds for the program.
func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// watchMemory starts watching.
func watchMemory() *memory {
	runtime.GC()
	m := &memory{end: make(chan struct{}), base: heap()}
	m.done.Go(m.watch)
	return m
}

// watch samples until stop closes end.
func (m *memory) watch() {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-m.end:
			return
		case <-tick.C:
			m.peak = max(m.peak, heap())
		}
	}
}

// stop ends the watch and fails the test if the use of memory grew by more than most, or has not come back to
// about where it was.
func (m *memory) stop(t *testing.T, most uint64) {
	t.Helper()
	close(m.end)
	m.done.Wait()
	m.peak = max(m.peak, heap())
	grown := m.peak - min(m.base, m.peak)
	t.Logf("memory: %.1f MB more at the peak, %.1f MB before", mb(grown), mb(m.base))
	if grown > most {
		t.Errorf("memory grew by %.1f MB, more than %.1f MB", mb(grown), mb(most))
	}
	// Half of what is allowed at the peak is generous for what may stay.
	eventually(t, "memory is given back", func() string {
		runtime.GC()
		if now := heap(); now > m.base+most/2 {
			return fmt.Sprintf("%.1f MB are still held", mb(now-m.base))
		}
		return ""
	})
}

func mb(n uint64) float64 { return float64(n) / (1 << 20) }

// patience is how long a test waits for what must come about by itself.
const patience = 10 * time.Second

// eventually polls until problem returns nothing, and fails the test with what it said if that takes too long.
func eventually(t *testing.T, what string, problem func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: not yet after %v: %s", what, patience, p)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
