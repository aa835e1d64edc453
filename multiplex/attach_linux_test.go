package multiplex

import (
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// A connection that the loop does not take, because the system lets it watch no more, is tried again after a pause,
// and whoever waits for it goes on waiting.

func TestAConnectionThatTheLoopDoesNotTakeIsTriedAgainLater(t *testing.T) {
	loop, err := eventloop.New(eventloop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	loop.Stop()
	loop.Run() // an ended loop takes none
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	up, err := ParseUpstream("redis://" + nobody.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	budget := limits.NewBudget(3, 1, nil)
	p := NewPool(Config{Loop: loop, Upstream: up, Budget: budget, UpstreamTimeout: time.Second, Log: slog.New(slog.DiscardHandler)})

	lane := p.Context(p.Initial())
	lane.Await(warmUp{lane})
	lane.dialed(&established{nc: socket(t)}, nil)
	if !lane.opening || lane.retry == nil || budget.Open(limits.Lane) != 1 || len(p.links) != 0 {
		t.Errorf("opening: %t, with a pause: %t, slots: %d, links: %d",
			lane.opening, lane.retry != nil, budget.Open(limits.Lane), len(p.links))
	}

	told := false
	_, r := p.AcquirePin(lane, nil, func(*Link, error) { told = true })
	r.dialed(&established{nc: socket(t)}, nil)
	if told || r.retry == nil || budget.Open(limits.Pin) != 1 {
		t.Errorf("told: %t, with a pause: %t, slots: %d", told, r.retry != nil, budget.Open(limits.Pin))
	}
	r.Cancel()
	if budget.Open(limits.Pin) != 0 {
		t.Error("the slot was not given back")
	}
	var unreachable *UnreachableError
	if !errors.As(p.LastError(), &unreachable) {
		t.Errorf("the reason is %v", p.LastError())
	}
}

// socket returns a connection.
func socket(t *testing.T) net.Conn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}
