//go:build linux

package main

import (
	"bufio"
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// The raw client against a server of a few lines.

// fakeServer answers each command that is one line of an array of bulk strings, or calls stall first.
type fakeServer struct {
	answer string
	// stallAfter is how many commands are answered before one takes stall, once. 0: none does.
	stallAfter int64
	stall      time.Duration
	seen       atomic.Int64
}

func (f *fakeServer) start(t *testing.T) target {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go f.serve(l)
	return newTarget(contender{name: "fake"}, l.Addr().String())
}

// serve ends with its listener.
func (f *fakeServer) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go f.talk(c)
	}
}

// talk ends when the client leaves. All connections stall together, as those of a server of one thread do.
func (f *fakeServer) talk(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		if !strings.HasPrefix(line, "*") {
			continue
		}
		if f.seen.Add(1) == f.stallAfter {
			time.Sleep(f.stall)
		}
		if _, err := c.Write([]byte(f.answer)); err != nil {
			return
		}
	}
}

func runLoop(t *testing.T, cfg loopConfig, d time.Duration) (tally, error) {
	t.Helper()
	cfg.cpu = -1
	l, err := newLoop(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if !cfg.renew {
		if err := l.connect(context.Background()); err != nil {
			return tally{}, err
		}
	}
	return l.run(context.Background(), d)
}

func oneGet(replies int) []batch {
	return []batch{{bytes: appendCommand(nil, "GET", "k"), commands: 1, replies: replies}}
}

func TestAStallIsChargedForAllWhomItMakesWait(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n", stallAfter: 200, stall: 100 * time.Millisecond}
	// One connection: what is due while the server stalls waits behind it.
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 1, batches: oneGet(1), rate: 1000}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if got.commands != 1000 || got.took.Commands != 1000 {
		t.Errorf("%d commands answered and %d latencies, want 1,000 at 1,000 a second", got.commands, got.took.Commands)
	}
	// A hundred commands were due in those 100 ms: a tenth of all waited, the first of them for all of it.
	if got.took.P99 < 80*time.Millisecond || got.took.P95 < 30*time.Millisecond || got.took.Max < 95*time.Millisecond {
		t.Errorf("a stall of 100 ms shows as p95 %s, p99 %s, longest %s", got.took.P95, got.took.P99, got.took.Max)
	}
	if got.took.P50 > 50*time.Millisecond {
		t.Errorf("the median is %s: most did not wait", got.took.P50)
	}
}

func TestAClosedLoopDoesNotSeeTheStallInItsP99(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n", stallAfter: 200, stall: 100 * time.Millisecond}
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 1, batches: oneGet(1)}, 500*time.Millisecond)
	if err != nil || got.took.P99 > 80*time.Millisecond || got.took.Max < 95*time.Millisecond {
		t.Errorf("%v: p99 %s, longest %s; this is why latencies are not taken from it", err, got.took.P99, got.took.Max)
	}
}

func TestAFixedRateIsKept(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n"}
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 10, batches: oneGet(1), rate: 2000}, 300*time.Millisecond)
	if err != nil || got.commands != 600 || f.seen.Load() != 610 { // 10 said PING
		t.Errorf("%d commands in 0.3 s, the server saw %d, %v; want 600 and 610", got.commands, f.seen.Load(), err)
	}
}

func TestEachConnectionServesOneCommandIfTheyAreRenewed(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n"}
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 3, batches: oneGet(1), renew: true}, 100*time.Millisecond)
	if err != nil || got.commands < 10 {
		t.Errorf("%d commands, %v", got.commands, err)
	}
}

func TestABatchIsAnsweredWhenAllItsRepliesAre(t *testing.T) {
	f := &fakeServer{answer: "$1\r\nx\r\n"}
	b := batch{bytes: appendCommand(appendCommand(nil, "MULTI"), "EXEC"), commands: 1, replies: 2}
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 2, batches: []batch{b}}, 100*time.Millisecond)
	if seen := int(f.seen.Load()); err != nil || got.commands == 0 || seen < 2*got.commands {
		t.Errorf("%d transactions of %d commands, %v", got.commands, seen, err)
	}
}

func TestAWholeRunEndsWithItsLastAnswer(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n", stallAfter: 2, stall: 100 * time.Millisecond} // the first said PING
	got, err := runLoop(t, loopConfig{target: f.start(t), clients: 1, batches: oneGet(1), whole: true}, 20*time.Millisecond)
	if err != nil || got.commands != 1 || got.elapsed < 90*time.Millisecond {
		t.Errorf("%d commands in %s, %v; want the one that took 100 ms", got.commands, got.elapsed, err)
	}
}

func TestARefusalIsNotMeasuredAsService(t *testing.T) {
	for answer, want := range map[string]string{
		"-ERR max number of clients reached\r\n": "max number of clients reached",
		"+OK\r\n+OK\r\n":                         "not asked for",
	} {
		f := &fakeServer{answer: answer}
		_, err := runLoop(t, loopConfig{target: f.start(t), clients: 2, batches: oneGet(1)}, 50*time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", answer, err)
		}
	}
	_, err := runLoop(t, loopConfig{target: newTarget(contender{}, "127.0.0.1:1"), clients: 1, batches: oneGet(1)}, 50*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody listens: got %v", err)
	}
}

func TestAnInterruptEndsALoad(t *testing.T) {
	f := &fakeServer{answer: "+OK\r\n"}
	l, err := newLoop(loopConfig{target: f.start(t), clients: 1, batches: oneGet(1), rate: 1, cpu: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.connect(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := l.run(ctx, time.Minute); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(begin), err)
	}
}
