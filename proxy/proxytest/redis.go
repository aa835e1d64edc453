package proxytest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// ServerVariable names the environment variable that holds the server program to test against: a path or a
// name on PATH, of Redis or Valkey. Unset means redis-server.
const ServerVariable = "REDBOUNCER_TEST_SERVER"

// startTimeout bounds how long a server may take from its start to its first PONG. It is generous: tests of
// several packages start theirs at once, under the race detector, on two cores.
const startTimeout = 20 * time.Second

// Server is a redis-server of the test's own, on a free loopback port and a unix socket, persisting nothing.
type Server struct {
	// Static after construction.
	t       testing.TB
	bin     string
	dir     string
	args    []string
	conf    string // a file that it reads first, and that CONFIG REWRITE writes; empty: none
	addr    string
	tlsAddr string // empty: it does not serve TLS

	// mu guards the following fields.
	mu      sync.Mutex
	proc    *process
	product string // redis or valkey; empty: it has not been asked
	version string
}

// Redis starts a server with the given extra arguments ("--requirepass", "x", ...), waits until it answers,
// and ends it when the test ends. It never skips: a suite that passes because nothing ran has proved nothing.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	path := serverProgram(t)
	s := &Server{t: t, bin: path, dir: socketDir(t), args: args}
	s.startAnywhere()
	return s
}

// startAnywhere starts the server on a port that is free, for as long as the test runs.
func (s *Server) startAnywhere() {
	s.t.Helper()
	// Somebody else may take the free port between our look and the server's bind, so a start is tried again
	// with another one.
	for try := 1; ; try++ {
		s.addr = freeAddr(s.t)
		err := s.start()
		if err == nil {
			break
		}
		if try == 3 {
			s.t.Fatalf("%s does not start: %v", s.bin, err)
		}
	}
	s.t.Cleanup(s.Kill)
}

// Addr returns the host:port of the server. It stays the same over Restart.
func (s *Server) Addr() string { return s.addr }

// Socket returns the path of the server's unix socket.
func (s *Server) Socket() string { return filepath.Join(s.dir, "redis.sock") }

// URL returns the address as clients and the proxy's upstream setting take it: redis://host:port.
func (s *Server) URL() string { return "redis://" + s.addr }

// SocketURL returns the address of the unix socket in the same form: unix:///path.
func (s *Server) SocketURL() string { return "unix://" + s.Socket() }

// Client returns a go-redis client that talks to the server directly. It is closed when the test ends.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.addr, DisableIdentity: true})
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			s.t.Errorf("closing the direct client: %v", err)
		}
	})
	return c
}

// serverProgram returns the path of the server to test against.
func serverProgram(t testing.TB) string {
	t.Helper()
	bin := os.Getenv(ServerVariable)
	if bin == "" {
		bin = "redis-server"
	}
	path, err := exec.LookPath(bin)
	if err != nil {
		t.Fatalf("this test talks to a real Redis and cannot find %q: install one (apt-get install redis-server, "+
			"brew install redis), or put the path of a redis-server or valkey-server into %s", bin, ServerVariable)
	}
	return path
}

var versionInfo = regexp.MustCompile(`(?m)^(valkey|redis)_version:(\S+)`)

// Version returns the version that the server reports, such as "7.0.15". Valkey reports its own there, not the
// Redis version that it is compatible with.
func (s *Server) Version() string {
	s.t.Helper()
	_, version := s.asked()
	return version
}

// Is reports whether the server is a "redis" or a "valkey", whichever is asked for, of a version or a later one:
// "9.1". It is for what servers do differently where a test has to know.
func (s *Server) Is(product, version string) bool {
	s.t.Helper()
	own, has := s.asked()
	if own != product {
		return false
	}
	parts := strings.Split(has, ".")
	for i, part := range strings.Split(version, ".") {
		want, err := strconv.Atoi(part)
		if err != nil {
			s.t.Fatalf("%q is no version", version)
		}
		got := 0
		if i < len(parts) {
			got, _ = strconv.Atoi(parts[i])
		}
		if got != want {
			return got > want
		}
	}
	return true
}

// asked returns what the server is, and its version. It is asked once.
func (s *Server) asked() (product, version string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.product != "" {
		return s.product, s.version
	}
	info, err := s.Client().Info(context.Background(), "server").Result()
	if err != nil {
		s.t.Fatalf("INFO server: %v", err)
	}
	// Valkey lists redis_version first and valkey_version later.
	for _, m := range versionInfo.FindAllStringSubmatch(info, -1) {
		s.product, s.version = m[1], m[2]
	}
	return s.product, s.version
}

// Kill ends the server at once, as a crash would. A killed server can be started again with Restart.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
		s.proc = nil
	}
}

// Freeze has the server hang, as SIGSTOP does: its connections stay open, and new ones come about. Thaw ends that.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		s.t.Fatal("the server has been killed")
	}
	if err := s.proc.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Restart kills the server if it runs and starts it again, empty, on the same port.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	if err := s.start(); err != nil {
		s.t.Fatalf("%s does not start again: %v", s.bin, err)
	}
}

func (s *Server) start() error {
	host, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		return err
	}
	var args []string
	if s.conf != "" {
		args = append(args, s.conf)
	}
	args = append(args,
		"--bind", host, "--port", port, "--unixsocket", s.Socket(), "--dir", s.dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no",
		// Thousands of clients are the subject of these tests, not of this setting.
		"--maxclients", "15000",
	)
	p, err := startProcess(s.bin, append(args, s.args...))
	if err != nil {
		return err
	}
	if err := s.awaitPong(p); err != nil {
		p.kill()
		return fmt.Errorf("%w\n%s", err, p.output.String())
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	return nil
}

// awaitPong waits until the process answers.
func (s *Server) awaitPong(p *process) error {
	deadline := time.Now().Add(startTimeout)
	for {
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %w", p.err)
		default:
		}
		err := s.ping(deadline)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it does not answer within %v: %w", startTimeout, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ping reports whether the server answers: at its unix socket if it has one, as whoever answers at the port may be another's, which
// has taken it. An error reply (NOAUTH, with --requirepass) is an answer too.
func (s *Server) ping(deadline time.Time) error {
	network, addr := "tcp", s.addr
	if s.dir != "" {
		network, addr = "unix", s.Socket()
	}
	c, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	var b [1]byte
	if _, err := c.Read(b[:]); err != nil {
		return err
	}
	if b[0] != '+' && b[0] != '-' {
		return fmt.Errorf("it answers PING with %q", b)
	}
	return nil
}

// taken are the addresses that freeAddr has returned: of two tests that run in parallel, the second would take the server of the
// first for its own.
var taken sync.Map

// freeAddr returns a loopback address that nobody listens on at this moment, and never the same one twice.
func freeAddr(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		if _, twice := taken.LoadOrStore(addr, true); !twice {
			return addr
		}
	}
}

// socketDir returns a directory of the test's own whose path is short enough for a unix socket in it: 104
// bytes on macOS, 108 on Linux. A test named as a sentence makes t.TempDir longer than that.
func socketDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if len(dir)+len("/redis.sock") < 104 {
		return dir
	}
	dir, err := os.MkdirTemp("", "redis")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	})
	return dir
}
