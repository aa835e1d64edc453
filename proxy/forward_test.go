package proxy_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who a client is, is told by what stands between it and the proxy: a balancer that says where it comes from, a process that
// holds the connection. Here both are something that passes connections on.

// forwarder passes on the connections that it accepts to addr, each with some bytes in front, and returns where it does.
func forwarder(t *testing.T, addr, front string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go passOn(ln, addr, front)
	return ln.Addr().String()
}

// passOn accepts until the listener is closed.
func passOn(ln net.Listener, addr, front string) {
	for {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		network, to := "tcp", addr
		if path, ok := strings.CutPrefix(addr, "unix:"); ok {
			network, to = "unix", path
		}
		out, err := net.Dial(network, to)
		if err != nil {
			_ = in.Close()
			continue
		}
		if _, err := io.WriteString(out, front); err != nil {
			_ = in.Close()
		}
		go passBytes(in, out)
		go passBytes(out, in)
	}
}

// passBytes ends when either side does, and tells the other.
func passBytes(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if cw, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = cw.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// childVariable has the test's program be a process that passes connections on, to that address.
const childVariable = "REDBOUNCER_PROXY_CHILD"

func TestMain(m *testing.M) {
	if addr := os.Getenv(childVariable); addr != "" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(ln.Addr())
		go passOn(ln, addr, "")
		_, _ = io.Copy(io.Discard, os.Stdin) // until the test is over
		return
	}
	// The tests that are run in parallel are those that mostly wait: how many at once is no matter of processors.
	if err := flag.Set("test.parallel", "6"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// process is another process of this host that has clients.
type process struct {
	*exec.Cmd
	addr string // what connects there, is a client of the proxy that belongs to the process
}

// client connects by way of the process.
func (p *process) client(t *testing.T) *proxytest.Conn {
	t.Helper()
	return proxytest.Dial(t, p.addr)
}

// startProcess starts a process with a name that passes connections on to addr.
func startProcess(t *testing.T, name, addr string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Link(self, path); err != nil {
		if err := copyFile(path, self); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), childVariable+"="+addr, "GORACE=atexit_sleep_ms=0") // which is a second
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	if !strings.HasPrefix(line, "127.0.0.1:") {
		t.Fatalf("the process says %q", line)
	}
	return &process{cmd, strings.TrimSpace(line)}
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// stillCounted says what of the books is not zero, though all clients have gone.
func stillCounted(p *proxytest.Running) string {
	st := p.Stats()
	if st.Clients != 0 || st.InFlight != 0 || st.Waiting != 0 || st.Pins != 0 || st.Queued != 0 || st.ClientMemory != 0 {
		return fmt.Sprintf("%+v", st)
	}
	for _, r := range p.Rules() {
		for _, x := range r.Groups {
			if x.Open != 0 || x.Waiting != 0 || x.Pins != 0 {
				return fmt.Sprintf("the rule %s: %+v", r.Rule, x)
			}
		}
	}
	for _, x := range p.Ledger().BySource() {
		if x.Open != 0 {
			return fmt.Sprintf("the ledger: %+v", x)
		}
	}
	return ""
}
