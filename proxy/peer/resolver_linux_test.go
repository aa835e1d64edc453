package peer

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// Whose socket it is at the other end.

// withoutDiag has a Resolver read the tables, as if the kernel did not answer.
func withoutDiag(r *Resolver) {
	if r.diag != nil {
		r.diag.close()
		r.diag = nil
	}
}

func TestAClientOnThisHostHasAProcess(t *testing.T) {
	for _, tables := range []bool{false, true} {
		for _, tt := range []struct{ name, listen, order string }{
			{"v4", "127.0.0.1:0", "tcp"},
			{"v6", "[::1]:0", "tcp"},
			{"v4 mapped", "127.0.0.1:0", "mapped"},
			{"v4 at a listener for both", "[::]:0", "mapped"},
		} {
			name := tt.name
			if tables {
				name += ", from the tables"
			}
			t.Run(name, func(t *testing.T) {
				r := NewResolver()
				if tables {
					withoutDiag(r)
				} else if r.diag == nil {
					t.Skip("the kernel does not answer")
				}
				go r.Run()
				defer r.Stop()
				ln, accepted := listen(t, "tcp", tt.listen)
				addr := ln.Addr().(*net.TCPAddr).AddrPort()
				if addr.Addr().IsUnspecified() {
					addr = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addr.Port())
				}
				cmd := start(t, tt.order+" "+addr.String()+" 1", "python3", "leak.py", "--password", "s3cret")
				a := get(t, r.lookup(t, <-accepted))
				want := Process{PID: cmd.Process.Pid, Executable: selfName(t), Command: "python3 leak.py", Container: a.Container}
				if !a.ok || a.Process != want {
					t.Errorf("%+v, want %+v", a, want)
				}
			})
		}
	}
}

func TestAClientOnAUnixSocketHasAProcess(t *testing.T) {
	t.Chdir(t.TempDir())
	_, accepted := listen(t, "unix", "s")
	path, err := filepath.Abs("s")
	if err != nil {
		t.Fatal(err)
	}
	cmd := start(t, "unix "+path+" 1")
	nc := <-accepted
	defer func() { _ = nc.Close() }()
	p, ok := ByPID(eventloop.Accepted(nc).PeerPID())
	if !ok || p.PID != cmd.Process.Pid || p.Executable != selfName(t) || p.Command != selfName(t) {
		t.Errorf("%+v, %t", p, ok)
	}
}

func TestAScriptIsNamedBesideItsInterpreter(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	t.Chdir(t.TempDir())
	ln, accepted := listen(t, "tcp", "127.0.0.1:0")
	const script = "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)\n"
	if err := os.WriteFile("leak.py", []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-u", "leak.py", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port), "s3cret")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nc := <-accepted
	a := get(t, running(t).lookup(t, nc))
	_ = nc.Close()
	_ = cmd.Wait()
	if !a.ok || !strings.HasPrefix(a.Executable, "python") || !strings.HasSuffix(a.Command, " leak.py") {
		t.Errorf("%+v", a)
	}
}

func TestAConnectionOfOurOwnIsOurs(t *testing.T) {
	r := running(t)
	ln, accepted := listen(t, "tcp", "127.0.0.1:0")
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = nc.Close() }()
	if a := get(t, r.lookup(t, <-accepted)); !a.ok || a.PID != os.Getpid() {
		t.Errorf("%+v", a)
	}
}

func TestWhoHasHungUpIsNobody(t *testing.T) {
	asks, reads := NewResolver(), NewResolver()
	withoutDiag(reads)
	for _, r := range []*Resolver{asks, reads} {
		go r.Run()
		t.Cleanup(r.Stop)
		ln, accepted := listen(t, "tcp", "127.0.0.1:0")
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		ours := <-accepted
		_ = nc.Close()
		if a := get(t, r.lookup(t, ours)); a.ok {
			t.Errorf("%+v", a)
		}
		_ = ours.Close()
	}
}

func TestAClientOfAnotherHostIsNotLookedUp(t *testing.T) {
	r := running(t)
	for _, ends := range [][2]string{
		{"10.0.0.1:6379", "10.0.0.2:4242"}, {"[fd00::1]:6379", "[fd00::2]:4242"}, {"[::1]:6379", "127.0.0.1:4242"},
	} {
		local, remote := netip.MustParseAddrPort(ends[0]), netip.MustParseAddrPort(ends[1])
		if r.Lookup(local, remote, func(*Process) { t.Error("it was") }) {
			t.Errorf("%s is taken for one of this host", remote)
		}
	}
	if r.Lookup(netip.AddrPort{}, netip.AddrPort{}, nil) {
		t.Error("a unix socket's addresses are taken for one of this host")
	}
}

func TestLookupsBeyondTheBoundAreRefusedAndLaterOnesAreNot(t *testing.T) {
	r := NewResolver()
	a := netip.MustParseAddrPort("127.0.0.1:1")
	var wg sync.WaitGroup
	for range maxLookups {
		wg.Add(1)
		if !r.Lookup(a, a, func(*Process) { wg.Done() }) {
			t.Fatal("one within the bound is refused")
		}
	}
	if r.Lookup(a, a, nil) {
		t.Error("one more is taken")
	}
	go r.Run()
	defer r.Stop()
	wg.Wait()
	answered := make(chan bool, 1)
	if !r.Lookup(a, a, func(p *Process) { answered <- p != nil }) || <-answered {
		t.Error("there is no room when all have been answered")
	}
}

func TestNobodyIsLookedUpAfterTheEnd(t *testing.T) {
	ran, idle := NewResolver(), NewResolver()
	go ran.Run()
	a := netip.MustParseAddrPort("127.0.0.1:1")
	for _, r := range []*Resolver{ran, idle} {
		r.Stop()
		r.Stop()
		if r.Lookup(a, a, nil) {
			t.Error("somebody is")
		}
	}
	idle.Run() // returns
}

func TestANumberThatHasBeenGivenToAnotherProcessIsNotTakenForTheFirst(t *testing.T) {
	r := NewResolver()
	defer r.Stop()
	pid := os.Getpid()
	o := r.remember(pid)
	if o == nil || r.remember(pid) != o {
		t.Fatal("a process is not remembered")
	}
	o.start--
	o.seen = o.seen.Add(-sameFor)
	o.Command = "another"
	if now := r.remember(pid); now == o || now.Command == "another" || len(r.recent) != 1 {
		t.Errorf("%+v, of %d", now, len(r.recent))
	}
	r.recent = append(r.recent, &owner{Process: Process{PID: 1 << 30}})
	r.newcomers = 1
	r.wanted[1] = &lookup{done: func(*Process) {}}
	r.searchRecent()
	if len(r.recent) != 1 {
		t.Error("a process that has ended is remembered")
	}
}

func TestThoseWhoCannotBeFoundAreSearchedForLessAndLess(t *testing.T) {
	r := NewResolver()
	withoutDiag(r)
	defer r.Stop()
	for range 8 {
		missed := 0
		r.want(&lookup{done: func(p *Process) {
			if p == nil {
				missed++
			}
		}}, 1) // an inode that no socket has
		r.open++
		r.searchAll()
		if missed != 1 {
			t.Fatal("it was not answered")
		}
	}
	if r.full.least != idleRest {
		t.Errorf("searches rest for %s", r.full.least)
	}
	if rest := time.Until(r.full.next); rest < idleRest/2 {
		t.Errorf("the next is in %s", rest)
	}
}

func TestALineOfTheKernelsTableIsRead(t *testing.T) {
	for _, tt := range []struct{ line, own, other string }{
		{"   0: 0100007F:A557 0100007F:18EB 01 00000000:00000000 00:00000000 00000000     0        0 77 1 0 20",
			"127.0.0.1:42327", "127.0.0.1:6379"},
		{"   1: 0000000000000000FFFF00000100007F:A557 0000000000000000FFFF00000100007F:18EB 01 0:0 00:0 0 0 0 77 1",
			"127.0.0.1:42327", "127.0.0.1:6379"},
		{"   2: 00000000000000000000000001000000:A557 00000000000000000000000001000000:18EB 01 0:0 00:0 0 0 0 77 1",
			"[::1]:42327", "[::1]:6379"},
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "", ""},
		{"   0: 0100007F:A557 0100007F:18EB 06 00000000:00000000 03:00001721 00000000     0        0 0 3 0", "", ""},
		{"", "", ""},
	} {
		e, inode, ok := tableLine([]byte(tt.line))
		if ok != (tt.own != "") {
			t.Errorf("%s: %t", tt.line, ok)
		}
		if ok && (inode != 77 || e.own.String() != tt.own || e.other.String() != tt.other) {
			t.Errorf("%s: %v %d", tt.line, e, inode)
		}
	}
}
