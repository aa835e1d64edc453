package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// How often the program is replaced under load: so often in the suite, and without end for as long as durationVariable says.
const (
	fewUpgrades      = 2
	durationVariable = "REDBOUNCER_TEST_DURATION"
)

// crowd is clients that must not notice anything.
type crowd struct {
	t       *testing.T
	addr    string
	stop    chan struct{}
	running sync.WaitGroup

	commands, connects, failed, refused atomic.Int64
	slowest                             atomic.Int64 // in nanoseconds
}

// busy counts in a key of its own, without a pause, on one connection.
func (w *crowd) busy(c *proxytest.Conn, key string) {
	for n := 1; ; n++ {
		select {
		case <-w.stop:
			return
		default:
		}
		begin := time.Now()
		err := c.TryWrite([]byte(proxytest.Command("INCR", key)))
		var got []byte
		if err == nil {
			got, err = c.TryReadReply()
		}
		if err != nil || string(got) != fmt.Sprintf(":%d\r\n", n) {
			w.failed.Add(1)
			w.t.Errorf("%s> INCR %s\n%s< %q, want %d; %v", key, key, key, got, n, err)
			return
		}
		w.commands.Add(1)
		if took := int64(time.Since(begin)); took > w.slowest.Load() {
			w.slowest.Store(took)
		}
		time.Sleep(time.Millisecond)
	}
}

// comeAndGo connects again and again.
func (w *crowd) comeAndGo() {
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		c, err := proxytest.TryDial(w.addr)
		if err != nil {
			w.refused.Add(1)
			w.t.Errorf("connecting: %v", err)
			continue
		}
		err = c.TryWrite([]byte(proxytest.Command("PING")))
		var got []byte
		if err == nil {
			got, err = c.TryReadReply()
		}
		if err != nil || string(got) != "+PONG\r\n" {
			w.refused.Add(1)
			w.t.Errorf("new> PING\nnew< %q; %v", got, err)
		}
		w.connects.Add(1)
		c.Close()
		time.Sleep(time.Millisecond)
	}
}

func TestNobodyNoticesThatTheProgramIsReplaced(t *testing.T) {
	idle, busy := 300, 50
	var until time.Time
	upgrades := fewUpgrades
	if text := os.Getenv(durationVariable); text != "" {
		d, err := time.ParseDuration(text)
		must(t, err)
		idle, busy, until, upgrades = 1000, 200, time.Now().Add(d), 10
	}
	s := proxytest.Redis(t)
	r := startReplaceable(t, s, "--loops", "2")
	w := &crowd{t: t, addr: r.addr, stop: make(chan struct{})}
	sleepers := make([]*proxytest.Conn, idle)
	for i := range sleepers {
		sleepers[i] = proxytest.Dial(t, r.addr)
		says(t, sleepers[i], "SELECT "+strconv.Itoa(i%16), "+OK\r\n")
		says(t, sleepers[i], "CLIENT SETNAME idle:"+strconv.Itoa(i), "+OK\r\n")
	}
	for i := range busy {
		c := proxytest.Dial(t, r.addr)
		w.running.Go(func() { w.busy(c, fmt.Sprint("busy:", i)) })
	}
	for range 4 {
		w.running.Go(w.comeAndGo)
	}
	most := mostUpstream(t, s, w)
	done := 0
	for ; done < upgrades || time.Now().Before(until); done++ {
		time.Sleep(200 * time.Millisecond)
		before := r.upgrade()
		r.gone(before)
	}
	close(w.stop)
	w.running.Wait()
	for i, c := range sleepers {
		says(t, c, "CLIENT GETNAME", fmt.Sprintf("$%d\r\nidle:%d\r\n", len("idle:"+strconv.Itoa(i)), i))
	}
	t.Logf("%d replacements under %d idle and %d busy clients: %d commands, %d failed, the slowest took %v; %d new connections, %d refused; "+
		"%d upstream connections at most", done, idle, busy, w.commands.Load(), w.failed.Load(),
		time.Duration(w.slowest.Load()).Round(time.Millisecond), w.connects.Load(), w.refused.Load(), most.Load())
	if w.commands.Load() < int64(busy) || w.connects.Load() < 10 {
		t.Error("it has not tried what it is for")
	}
	if most.Load() > 16 {
		t.Errorf("both programs together had %d upstream connections, the bound is 16", most.Load())
	}
}

// mostUpstream asks Redis how many connections it has, as long as the crowd is there.
func mostUpstream(t *testing.T, s *proxytest.Server, w *crowd) *atomic.Int64 {
	t.Helper()
	most := new(atomic.Int64)
	direct := proxytest.Dial(t, s.Addr())
	w.running.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if direct.TryWrite([]byte(proxytest.Command("INFO", "clients"))) != nil {
				return
			}
			reply, err := direct.TryReadReply()
			if err != nil {
				return
			}
			var n int64
			if _, err := fmt.Sscanf(after(string(reply), "connected_clients:"), "%d", &n); err == nil && n-1 > most.Load() {
				most.Store(n - 1) // without ours
			}
		}
	})
	return most
}

// after is what stands behind a word.
func after(text, word string) string {
	_, rest, _ := strings.Cut(text, word)
	return rest
}

// activated is how systemd starts a program: with a socket that it has opened.
func TestASocketOfSystemdsIsServedAndHandedOn(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	must(t, err)
	defer socket.Close()
	inbox := filepath.Join(t.TempDir(), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: inbox, Net: "unixgram"})
	must(t, err)
	defer told.Close()
	s := proxytest.Redis(t)
	r := &replaceable{t: t, path: filepath.Join(t.TempDir(), "redbouncer"), log: filepath.Join(t.TempDir(), "log")}
	r.install()
	// LISTEN_PID is that of the program, which the shell becomes.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, r.path, "serve", "--upstream", s.URL(), "--listen", ln.Addr().String(),
		"--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Env = []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=data", "NOTIFY_SOCKET=" + inbox}
	r.startAs(cmd)
	wantNotice(t, told, "READY=1")
	c := proxytest.Dial(t, r.addr)
	says(t, c, "PING", "+PONG\r\n")

	before := r.upgrade()
	wantNotice(t, told, fmt.Sprintf("MAINPID=%d\nREADY=1", r.pid))
	r.gone(before)
	says(t, c, "PING", "+PONG\r\n")
	if got := r.ask("DRAIN"); got != "+OK\r\n" {
		t.Errorf("o> DRAIN\no< %q", got)
	}
	r.logged("draining")
	if got := r.ask("RESUME"); got != "+OK\r\n" {
		t.Errorf("o> RESUME\no< %q: systemd has the socket too, which cannot be opened again", got)
	}
	says(t, proxytest.Dial(t, r.addr), "PING", "+PONG\r\n")
	r.signal(syscall.SIGTERM)
	wantNotice(t, told, "STOPPING=1")
	r.gone(r.pid)
}

// wantNotice waits until systemd has been told something.
func wantNotice(t *testing.T, told *net.UnixConn, want string) {
	t.Helper()
	must(t, told.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1024)
	for {
		n, err := told.Read(buf)
		if err != nil {
			t.Fatalf("systemd is not told %q: %v", want, err)
		}
		if string(buf[:n]) == want {
			return
		}
	}
}

func TestASocketThatNoSettingNamesIsNamed(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	socket, err := ln.(*net.TCPListener).File()
	must(t, err)
	defer socket.Close()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, self, "serve", "--upstream", "redis://127.0.0.1:1", "--listen", "127.0.0.1:0")
	cmd.ExtraFiles = []*os.File{socket}
	cmd.Env = append(os.Environ(), actAsProgram+"=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=data")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "data in LISTEN_FDS is at "+ln.Addr().String()) {
		t.Errorf("%v: %s", err, out)
	}
}
