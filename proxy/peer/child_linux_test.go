package peer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The client is another process: this test's own program, which TestMain has do as the variable says.

const childVariable = "REDBOUNCER_PEER_CHILD"

func TestMain(m *testing.M) {
	if order := os.Getenv(childVariable); order != "" {
		if err := child(strings.Fields(order)); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child connects as it is told, and stays until its standard input ends.
func child(order []string) error {
	n, err := strconv.Atoi(order[2])
	if err != nil {
		return err
	}
	switch order[0] {
	case "churn": // a connection for each request, which takes a while
		go churn(order[1], time.Duration(n)*time.Microsecond)
	case "mapped":
		if err := dialMapped(order[1]); err != nil {
			return err
		}
	default:
		for range n {
			if _, err := net.Dial(order[0], order[1]); err != nil {
				return err
			}
		}
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func churn(addr string, life time.Duration) {
	for {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return
		}
		time.Sleep(life)
		_ = nc.Close()
	}
}

// dialMapped connects an IPv6 socket to an IPv4 address, as Java does.
func dialMapped(addr string) error {
	a := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	return unix.Connect(fd, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()})
}

// start starts a child and waits until it has connected. Its first words are those given, or its own name.
func start(tb testing.TB, order string, words ...string) *exec.Cmd {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(self)
	if len(words) > 0 {
		cmd.Args = words
	}
	cmd.Env = append(os.Environ(), childVariable+"="+order, "GORACE=atexit_sleep_ms=0") // which is a second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		tb.Fatalf("the child says %q", line)
	}
	return cmd
}

// listen returns a listener, and a channel of what it accepts.
func listen(tb testing.TB, network, addr string) (net.Listener, chan net.Conn) {
	tb.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		tb.Skip(err) // no IPv6
	}
	accepted := make(chan net.Conn, 4096)
	ended := make(chan struct{})
	go accept(ln, accepted, ended)
	tb.Cleanup(func() {
		_ = ln.Close()
		<-ended
		for len(accepted) > 0 {
			_ = (<-accepted).Close()
		}
	})
	return ln, accepted
}

func accept(ln net.Listener, accepted chan net.Conn, ended chan struct{}) {
	defer close(ended)
	for {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		accepted <- nc
	}
}

// running returns a Resolver that runs until the test ends.
func running(tb testing.TB) *Resolver {
	r := NewResolver()
	go r.Run()
	tb.Cleanup(r.Stop)
	return r
}

type answer struct {
	Process
	ok bool
}

// lookup asks who is at the other end of an accepted connection, and returns a channel with room for the answer.
func (r *Resolver) lookup(tb testing.TB, nc net.Conn) chan answer {
	tb.Helper()
	c := make(chan answer, 1)
	if !r.Lookup(nc.LocalAddr().(*net.TCPAddr).AddrPort(), nc.RemoteAddr().(*net.TCPAddr).AddrPort(),
		func(p *Process) {
			if p == nil {
				p = &Process{}
			}
			c <- answer{*p, p.PID != 0}
		}) {
		tb.Fatal("it was not asked")
	}
	return c
}

func get(tb testing.TB, c chan answer) answer {
	tb.Helper()
	select {
	case a := <-c:
		return a
	case <-time.After(20 * time.Second):
		tb.Fatal("there is no answer")
		return answer{}
	}
}

func selfName(tb testing.TB) string {
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return filepath.Base(self)
}
