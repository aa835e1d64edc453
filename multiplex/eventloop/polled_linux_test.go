package eventloop_test

import (
	"errors"
	"net"
	"os"
	"reflect"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// What only a loop can get wrong that polls descriptors itself: the system gives their numbers out again at once.

// readable waits until all of them have something to read. It may run on the loop, which sees all of it in one
// turn then.
func readable(t *testing.T, peers ...*peer) {
	t.Helper()
	for _, p := range peers {
		poll := []unix.PollFd{{Fd: int32(p.conn.FD()), Events: unix.POLLIN}}
		for {
			n, err := unix.Poll(poll, int(patience.Milliseconds()))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n != 1 || err != nil {
				t.Errorf("nothing to read: %d, %v", n, err)
			}
			break
		}
	}
}

func TestADescriptorThatIsGivenOutAgainInTheSameTurnHasNoEventsOfTheOld(t *testing.T) {
	r := newRig(t, eventloop.Options{})
	a, ca := r.pair(nil)
	b, cb := r.pair(nil)
	fresh := &peer{r: r}
	near, far := connection(t)
	var old int
	swap := func(p *peer) func([]byte) {
		return func([]byte) { // closes the other one, whose event is in hand, and attaches one in its place
			old = p.conn.FD()
			p.conn.Close()
			conn, err := r.loop.Adopt(near, fresh, false)
			if err != nil {
				t.Error(err)
				return
			}
			fresh.conn = conn
			r.peers = append(r.peers, fresh)
		}
	}
	r.do(func() {
		a.onData, b.onData = swap(b), swap(a)
		ca.send("x")
		cb.send("x")
		readable(t, a, b)
	})
	r.until("one to close the other", func() bool { return fresh.conn != nil })
	r.do(func() {
		if fresh.conn.FD() != old {
			t.Logf("the system gave out %d instead of %d", fresh.conn.FD(), old)
		}
		if len(a.got)+len(b.got) != 1 || len(fresh.notes) != 0 {
			t.Errorf("%q, %q, and the new one was told %v", a.got, b.got, fresh.notes)
		}
	})
	far.send("mine")
	fresh.received("mine")
	fresh.has("Data")
}

// connection returns both ends of a connection that is on no loop.
func connection(t *testing.T) (net.Conn, *client) {
	t.Helper()
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer func() { _ = ln.Close() }()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	return near, &client{far.(*net.TCPConn), t}
}

func TestAnEndedLoopDoesNotWriteToDescriptorsThatAreSomebodyElsesByNow(t *testing.T) {
	l, err := eventloop.New(eventloop.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l.Stop()
	l.Run()
	var sockets []int // take the numbers that the loop had
	for range 4 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, pair[0], pair[1])
	}
	l.Stop()
	l.Post(func() {})
	for _, fd := range sockets {
		if n, err := unix.Read(fd, make([]byte, 16)); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("somebody has written %d bytes to descriptor %d (%v)", n, fd, err)
		}
	}
	for _, fd := range sockets {
		_ = unix.Close(fd)
	}
}

func TestLateConnectionsAreReadAfterTheOthersHaveBeenFlushed(t *testing.T) {
	var order []string // owned by the loop
	r := newRig(t, eventloop.Options{Flush: func() { order = append(order, "flush") }})
	upstream := &peer{r: r, onData: func([]byte) { order = append(order, "late") }}
	near, far := connection(t)
	r.do(func() {
		var err error
		if upstream.conn, err = r.loop.Adopt(near, upstream, true); err != nil {
			t.Error(err)
			return
		}
		r.peers = append(r.peers, upstream)
	})
	var before []*peer
	var clients []*client
	for range 2 {
		p, c := r.pair(func(p *peer) { p.onData = func([]byte) { order = append(order, "client") } })
		before, clients = append(before, p), append(clients, c)
	}
	r.do(func() {
		far.send("x")
		clients[0].send("x")
		clients[1].send("x")
		readable(t, append(before, upstream)...)
		order = nil
	})
	upstream.received("x")
	r.do(func() {
		want := []string{"flush", "client", "client", "flush", "late", "flush"} // the first of the turn of this post
		if len(order) < len(want) || !reflect.DeepEqual(order[:len(want)], want) {
			t.Errorf("%v, want %v", order, want)
		}
	})
}

func TestHungUpIsCalledOnceAPause(t *testing.T) {
	r := newRig(t, eventloop.Options{})
	p, c := r.pair(nil)
	_, other := r.pair(echoes)
	r.do(p.conn.PauseRead)
	c.send("unread")
	_ = c.CloseWrite()
	p.has("HungUp")
	for range 10 { // turns of the loop, in which it could be called again
		other.send("x")
		other.expect("x")
	}
	p.has("HungUp")
	r.do(p.conn.ResumeRead)
	p.has("HungUp", "Data", "EOF")
	if got := string(p.got); got != "unread" {
		t.Errorf("it got %q", got)
	}
}

func TestAPeerOnAUnixSocketHangsUpInGoodOrder(t *testing.T) {
	turns := 0 // owned by the loop
	r := newRig(t, eventloop.Options{Flush: func() { turns++ }})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far := fileConn(t, pair[0]), fileConn(t, pair[1])
	p := &peer{r: r}
	r.do(func() {
		if p.conn, err = r.loop.Adopt(near, p, false); err != nil {
			t.Error(err)
			return
		}
		r.peers = append(r.peers, p)
		p.conn.PauseRead()
	})
	_, _ = far.Write([]byte("last words"))
	_ = far.Close()
	p.has("HungUp")
	r.do(p.conn.ResumeRead)
	p.has("HungUp", "Data", "EOF")
	before := 0
	r.do(func() { before = turns })
	for range 10 {
		r.do(func() {})
	}
	r.do(func() {
		if n := turns - before; n > 50 {
			t.Errorf("it took %d turns for nothing", n)
		}
	})
	p.has("HungUp", "Data", "EOF")
}

func fileConn(t *testing.T, fd int) net.Conn {
	t.Helper()
	f := os.NewFile(uintptr(fd), "socket")
	nc, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	t.Cleanup(func() { _ = nc.Close() })
	return nc
}

func TestAResetOfAPausedConnectionIsAFailure(t *testing.T) {
	r := newRig(t, eventloop.Options{})
	p, c := r.pair(nil)
	r.do(p.conn.PauseRead)
	c.send("unread")
	c.reset()
	p.has("Failed")
}

func TestAcceptedSocketsAreProbedAsRedisWould(t *testing.T) {
	r := newRig(t, eventloop.Options{})
	ln := listen(t, "tcp", "127.0.0.1:0")
	if err := eventloop.SetKeepAlive(ln, 300*time.Second); err != nil {
		t.Fatal(err)
	}
	r.listen(ln)
	r.dial()
	p := <-r.accepted
	r.do(func() {
		for name, want := range map[int]int{unix.TCP_KEEPIDLE: 300, unix.TCP_KEEPINTVL: 100, unix.TCP_KEEPCNT: 3} {
			if got, err := unix.GetsockoptInt(p.conn.FD(), unix.IPPROTO_TCP, name); got != want || err != nil {
				t.Errorf("option %d is %d, %v, want %d", name, got, err, want)
			}
		}
		for level, name := range map[int]int{unix.SOL_SOCKET: unix.SO_KEEPALIVE, unix.IPPROTO_TCP: unix.TCP_NODELAY} {
			if got, err := unix.GetsockoptInt(p.conn.FD(), level, name); got != 1 || err != nil {
				t.Errorf("option %d of level %d is %d, %v, want 1", name, level, got, err)
			}
		}
	})
	if err := eventloop.SetKeepAlive(ln, 0); err != nil {
		t.Fatal(err)
	}
	r.dial()
	p = <-r.accepted
	r.do(func() {
		if got, err := unix.GetsockoptInt(p.conn.FD(), unix.SOL_SOCKET, unix.SO_KEEPALIVE); got != 0 || err != nil {
			t.Errorf("it is probed, though it was turned off: %d, %v", got, err)
		}
	})
}
