package eventloop_test

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// At the door: many at once, nobody, and who they are.

func TestAStormOfConnectionsIsAcceptedAndTheOthersAreServed(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		const storm = 400 // more than are accepted in one turn
		_, old := r.pair(echoes)
		r.do(func() { r.prepare = echoes })
		clients := make([]*client, storm)
		r.do(func() { // the loop sees all of them at once
			for i := range clients {
				clients[i] = r.dial()
			}
		})
		old.send("still here?")
		old.expect("still here?")
		for _, c := range clients {
			c.send("hello")
		}
		for _, c := range clients {
			c.expect("hello")
		}
		r.do(func() {
			if len(r.peers) != storm+1 {
				t.Errorf("%d were accepted", len(r.peers))
			}
		})
	})
}

func TestNobodyIsAcceptedAfterTheListenerHasStopped(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		_, c := r.pair(echoes)
		r.do(r.stopAccept)
		if nc, err := net.DialTimeout("tcp", r.addr, patience); err == nil {
			_ = nc.Close()
			t.Error("somebody still accepts")
		}
		c.send("but those inside are served")
		c.expect("but those inside are served")
	})
}

func TestAnIncomingConnectionKnowsItsAddresses(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		p, c := r.pair(nil)
		r.do(func() {
			if got, want := p.in.Remote(), c.LocalAddr().String(); got != want {
				t.Errorf("Remote is %q, want %q", got, want)
			}
			if got, want := p.conn.LocalAddr(), c.RemoteAddr().String(); got != want {
				t.Errorf("LocalAddr is %q, want %q", got, want)
			}
			if got := p.conn.FD() >= 0; got != r.polled {
				t.Errorf("it has a descriptor: %t", got)
			}
		})
	})
}

func TestAUnixSocketHasItsPathForAnAddress(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		t.Chdir(t.TempDir()) // a path that is short enough
		path := filepath.Join(".", "s")
		ln := listen(t, "unix", path)
		var stop func()
		var err error
		r.do(func() { stop, err = r.loop.Listen(ln, r.accept) })
		if err != nil {
			t.Fatal(err)
		}
		defer r.do(func() { stop() })
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		p := <-r.accepted
		r.do(func() {
			if got, want := p.in.Remote(), "s:0"; got != want {
				t.Errorf("Remote is %q, want %q", got, want)
			}
			if got, want := p.conn.LocalAddr(), "s:0"; got != want {
				t.Errorf("LocalAddr is %q, want %q", got, want)
			}
			p.in.KeepAlive(time.Minute) // is not for sockets of this kind, and does no harm
		})
	})
}

func TestAConnectionThatNobodyTakesIsClosed(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		ln := listen(t, "tcp", "127.0.0.1:0")
		r.addr = ln.Addr().String()
		var stop func()
		var err error
		r.do(func() {
			stop, err = r.loop.Listen(ln, func(in eventloop.Incoming) {
				in.KeepAlive(time.Minute)
				in.KeepAlive(0)
				in.Close()
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.do(func() { stop() })
		r.dial().expectEnd("")
	})
}

func TestSetBacklogTakesAnyListener(t *testing.T) {
	ln := listen(t, "tcp", "127.0.0.1:0")
	defer func() { _ = ln.Close() }()
	if err := eventloop.SetBacklog(ln, 5); err != nil {
		t.Error(err)
	}
	if err := eventloop.SetBacklog(struct{ net.Listener }{ln}, 5); err != nil {
		t.Error(err)
	}
}
