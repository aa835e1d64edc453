package eventloop_test

import (
	"crypto/tls"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
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

func TestAnIncomingConnectionTellsItsTwoEnds(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0", "[::]:0"} {
		bothWays(t, func(t *testing.T, r *rig) {
			ln, err := net.Listen("tcp", at)
			if err != nil {
				t.Skip(err) // no IPv6
			}
			r.listen(ln)
			if at == "[::]:0" { // an IPv4 client of a listener for both has a mapped address
				r.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port))
			}
			c := r.dial()
			in := r.incoming(<-r.accepted)
			local, remote := in.Addrs()
			if got, want := remote.String(), c.LocalAddr().String(); got != want {
				t.Errorf("the client is %s, want %s", got, want)
			}
			if got, want := local.String(), c.RemoteAddr().String(); got != want {
				t.Errorf("we are %s, want %s", got, want)
			}
			if pid := in.PeerPID(); pid != 0 {
				t.Errorf("its process is %d, which TCP does not tell", pid)
			}
		})
	}
}

func TestTheProcessAtAUnixSocketIsKnown(t *testing.T) {
	bothWays(t, func(t *testing.T, r *rig) {
		t.Chdir(t.TempDir())
		r.listen(listen(t, "unix", "s"))
		nc, err := net.Dial("unix", "s")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		in := r.incoming(<-r.accepted)
		want := 0
		if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
			want = os.Getpid()
		}
		if pid := in.PeerPID(); pid != want {
			t.Errorf("it is %d, want %d", pid, want)
		}
		if local, remote := in.Addrs(); local.IsValid() || remote.IsValid() {
			t.Errorf("it has addresses: %s, %s", local, remote)
		}
	})
}

func TestAnIncomingConnectionOverTLSIsTheOneBelow(t *testing.T) {
	t.Chdir(t.TempDir())
	ln := listen(t, "unix", "s")
	defer func() { _ = ln.Close() }()
	nc, err := net.Dial("unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	ours, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	plain := eventloop.Accepted(ours).PeerPID()
	in := eventloop.Accepted(tls.Server(ours, &tls.Config{MinVersion: tls.VersionTLS13}))
	if pid := in.PeerPID(); pid != plain {
		t.Errorf("its process is %d, want %d", pid, plain)
	}
	in.Close()
	if pid := in.PeerPID(); pid != 0 {
		t.Errorf("it has been closed, and its process is %d", pid)
	}
}

// listen has the loop accept from another listener, until the test ends.
func (r *rig) listen(ln net.Listener) {
	r.t.Helper()
	r.addr = ln.Addr().String()
	var stop func()
	var err error
	r.do(func() { stop, err = r.loop.Listen(ln, r.accept) })
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { r.do(func() { stop() }) })
}

// incoming returns what was accepted.
func (r *rig) incoming(p *peer) (in eventloop.Incoming) {
	r.do(func() { in = p.in })
	return in
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
