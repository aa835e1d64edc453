package proxytest

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex/certs"
)

// MasterName is what the sentinels of a test call the primary.
const MasterName = "mymaster"

// Watched is a primary with a replica, and sentinels that fail over from one to the other.
type Watched struct {
	A, B      *Server // A is the primary at first
	Sentinels []*Sentinel

	t     testing.TB
	lines map[*Server]*Line // by which everybody reaches them; nil: directly
}

// WithSentinels starts a primary, a replica and three sentinels, and waits until they know each other. To the first of them
// a primary is down when it has not answered for downAfter, and to the others a second later, so that they do not all want
// to lead the failover: then nobody does, for seconds. Zero is for tests in which nothing dies: no failover but by hand,
// however busy the machine is. Arguments are for the primary and the replica, which have files that the sentinels' orders
// are written to: who is killed and started again is what it was.
func WithSentinels(t testing.TB, downAfter time.Duration, args ...string) *Watched {
	t.Helper()
	w := &Watched{t: t}
	w.start(downAfter, args)
	return w
}

// WithSentinelsOnLines is WithSentinels, but everybody who talks to the primary or the replica, the sentinels included, does so
// over a Line to each, whose address it is known by.
func WithSentinelsOnLines(t testing.TB, downAfter time.Duration, args ...string) *Watched {
	t.Helper()
	w := &Watched{t: t, lines: map[*Server]*Line{}}
	w.start(downAfter, args)
	return w
}

func (w *Watched) start(downAfter time.Duration, args []string) {
	w.t.Helper()
	w.A, w.B = w.server(args), w.server(args)
	host, port := w.split(w.Addr(w.A))
	ctx := context.Background()
	direct, replica := w.A.Client(), w.B.Client()
	w.must(replica.Do(ctx, "REPLICAOF", host, port).Err())
	w.must(replica.Do(ctx, "CONFIG", "REWRITE").Err())
	w.await("the replica has the primary's data", func() bool { return w.B.reports("master_link_status:up") })
	// From then on it is up to a second until the primary begins to tell it of writes.
	w.must(direct.Set(ctx, "probe", "1", 0).Err())
	w.await("the replica is told of writes", func() bool { return replica.Get(ctx, "probe").Err() == nil })
	direct.Del(ctx, "probe")
	if downAfter == 0 {
		downAfter = time.Minute
	}
	for _, late := range []time.Duration{0, time.Second, time.Second} {
		w.Sentinels = append(w.Sentinels, startSentinel(w.t, w.Addr(w.A), downAfter+late))
	}
	for _, s := range w.Sentinels {
		w.await("the sentinels know everybody", func() bool {
			master, err := s.Client().Master(ctx, MasterName).Result()
			return err == nil && master["num-slaves"] == "1" && master["num-other-sentinels"] == "2"
		})
	}
}

// server starts a server with a configuration file.
func (w *Watched) server(args []string) *Server {
	w.t.Helper()
	dir := socketDir(w.t)
	s := &Server{t: w.t, bin: serverProgram(w.t), dir: dir, conf: filepath.Join(dir, "redis.conf")}
	s.args = append([]string{"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}, args...)
	w.must(os.WriteFile(s.conf, nil, 0o600))
	s.startAnywhere()
	if w.lines != nil {
		w.lines[s] = NewLine(w.t, s.addr)
		host, port := w.split(w.Addr(s))
		w.must(s.Client().ConfigSet(context.Background(), "replica-announce-ip", host).Err())
		w.must(s.Client().ConfigSet(context.Background(), "replica-announce-port", port).Err())
		w.must(s.Client().ConfigRewrite(context.Background()).Err())
	}
	return s
}

// Line returns the line to a server. There is one only with WithSentinelsOnLines.
func (w *Watched) Line(s *Server) *Line { return w.lines[s] }

// Addr returns the address that a server is known by.
func (w *Watched) Addr(s *Server) string {
	if l := w.lines[s]; l != nil {
		return l.Addr()
	}
	return s.Addr()
}

// Primary returns who the first sentinel that answers says that it is, and the other one.
func (w *Watched) Primary() (primary, replica *Server) {
	w.t.Helper()
	w.await("a sentinel says who is the primary", func() bool {
		addr, err := w.Ask()
		primary, replica = w.named(addr)
		return err == nil && primary != nil
	})
	return primary, replica
}

// named returns the server at an address, and the other one.
func (w *Watched) named(addr string) (it, other *Server) {
	switch addr {
	case w.Addr(w.A):
		return w.A, w.B
	case w.Addr(w.B):
		return w.B, w.A
	}
	return nil, nil
}

// AwaitSettled waits until all sentinels agree on who the primary is, it is, and the other one is a replica that has its data.
// That takes up to a minute when failovers are under way, as those that come to nothing are tried again.
func (w *Watched) AwaitSettled() (primary, replica *Server) {
	w.t.Helper()
	for deadline := time.Now().Add(3 * startTimeout); ; time.Sleep(50 * time.Millisecond) {
		if primary, replica = w.settled(); primary != nil {
			return primary, replica
		}
		if time.Now().After(deadline) {
			w.t.Fatal("sentinels, primary and replica are at odds after a minute")
		}
	}
}

// settled returns nil if AwaitSettled has to wait.
func (w *Watched) settled() (primary, replica *Server) {
	addr, err := w.Ask()
	if err != nil {
		return nil, nil
	}
	for _, s := range w.Sentinels {
		if said, err := s.primary(); err != nil || said != addr {
			return nil, nil
		}
	}
	primary, replica = w.named(addr)
	if primary == nil || !primary.reports("role:master") || !replica.reports("master_link_status:up") {
		return nil, nil
	}
	return primary, replica
}

// reports says whether INFO replication has some words. It asks on a connection of its own, as the last one may have gone
// with the server.
func (s *Server) reports(words string) bool {
	c, err := TryDial(s.Addr())
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetTimeout(time.Second)
	if c.TryWrite(AppendCommand(nil, "INFO", "replication")) != nil {
		return false
	}
	said, err := c.TryReadReply()
	return err == nil && strings.Contains(string(said), words)
}

// Ask returns what the first sentinel that answers says of where the primary is. It may be called on any goroutine.
func (w *Watched) Ask() (addr string, err error) {
	for _, s := range w.Sentinels {
		if addr, err = s.primary(); err == nil {
			return addr, nil
		}
	}
	return "", err
}

// Epoch returns the number of the last failover that a sentinel knows of.
func (w *Watched) Epoch() int {
	w.t.Helper()
	last := 0
	for _, s := range w.Sentinels {
		master, err := s.Client().Master(context.Background(), MasterName).Result()
		w.must(err)
		epoch, err := strconv.Atoi(master["config-epoch"])
		w.must(err)
		last = max(last, epoch)
	}
	return last
}

// primary returns what the sentinel says of where the primary is.
func (s *Sentinel) primary() (addr string, err error) {
	at, err := s.Client().GetMasterAddrByName(context.Background(), MasterName).Result()
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(at[0], at[1]), nil
}

func (w *Watched) split(addr string) (host, port string) {
	w.t.Helper()
	host, port, err := net.SplitHostPort(addr)
	w.must(err)
	return host, port
}

func (w *Watched) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// await waits until something holds.
func (w *Watched) await(what string, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(startTimeout); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within %v: %s", startTimeout, what)
		}
	}
}

// Failover has the sentinels make the other server the primary, and returns when the first of them has begun.
func (w *Watched) Failover() {
	w.t.Helper()
	w.await("a sentinel begins a failover", func() bool {
		for _, s := range w.Sentinels {
			if s.Client().Failover(context.Background(), MasterName).Err() == nil {
				return true
			}
		}
		return false
	})
}

// AwaitPrimary waits until the living sentinels agree on who the primary is, and the server itself too.
func (w *Watched) AwaitPrimary(s *Server) {
	w.t.Helper()
	host, port := w.split(w.Addr(s))
	w.await("the sentinels say that it is "+s.Addr(), func() bool {
		for _, x := range w.Sentinels {
			addr, err := x.Client().GetMasterAddrByName(context.Background(), MasterName).Result()
			if !x.Dead() && (err != nil || addr[0] != host || addr[1] != port) {
				return false
			}
		}
		return s.reports("role:master")
	})
}

// URL returns the address of the sentinels as the proxy's upstream setting takes it.
func (w *Watched) URL() string {
	var addrs []string
	for _, s := range w.Sentinels {
		addrs = append(addrs, s.addr)
	}
	return "redis+sentinel://" + strings.Join(addrs, ",") + "/" + MasterName
}

// Sentinel is a sentinel of the test's own.
type Sentinel struct {
	// Static after construction.
	t    testing.TB
	addr string
	conf string

	// mu guards the following field.
	mu   sync.Mutex
	proc *process

	clients sync.Once
	client  *redis.SentinelClient
}

// SentinelTLS starts a sentinel that watches a server of RedisTLS, through TLS, and serves TLS too, with the certificate in
// files. It returns the URL of that server's primary as the proxy's upstream setting takes it.
func SentinelTLS(t testing.TB, primary *Server, files certs.Files) (url string) {
	t.Helper()
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	startSentinel(t, primary.TLSAddr(), time.Minute, "tls-port "+port, "tls-cert-file "+files.Cert, "tls-key-file "+files.Key,
		"tls-ca-cert-file "+files.CA, "tls-replication yes")
	return "rediss+sentinel://" + addr + "/" + MasterName
}

// startSentinel starts a sentinel that watches a primary, with more lines in its configuration, and ends it when the test
// ends.
func startSentinel(t testing.TB, primary string, downAfter time.Duration, more ...string) *Sentinel {
	t.Helper()
	host, port, err := net.SplitHostPort(primary)
	if err != nil {
		t.Fatal(err)
	}
	s := &Sentinel{t: t, addr: freeAddr(t)}
	_, own, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	dir := socketDir(t)
	s.conf = filepath.Join(dir, "sentinel.conf")
	conf := fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\n%s\n", own, dir, strings.Join(more, "\n")) +
		fmt.Sprintf("sentinel monitor %s %s %s 1\n", MasterName, host, port) +
		fmt.Sprintf("sentinel down-after-milliseconds %s %d\n", MasterName, downAfter.Milliseconds()) +
		fmt.Sprintf("sentinel failover-timeout %s 2000\n", MasterName)
	if err := os.WriteFile(s.conf, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// Addr returns the host:port of the sentinel.
func (s *Sentinel) Addr() string { return s.addr }

// Client returns a client that talks to the sentinel. It is closed when the test ends.
func (s *Sentinel) Client() *redis.SentinelClient {
	s.clients.Do(func() {
		s.client = redis.NewSentinelClient(&redis.Options{Addr: s.addr, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1})
		s.t.Cleanup(func() { _ = s.client.Close() })
	})
	return s.client
}

// Start starts the sentinel with what it knew when it ended.
func (s *Sentinel) Start() {
	s.t.Helper()
	server := &Server{addr: s.addr}
	p, err := startProcess(serverProgram(s.t), []string{s.conf, "--sentinel"})
	if err == nil {
		err = server.awaitPong(p)
	}
	if err != nil {
		s.t.Fatalf("a sentinel does not start: %v", err)
	}
	s.mu.Lock()
	s.proc = p
	s.mu.Unlock()
	// They talk to each other more often than they do by default, so that tests are quick. Servers before 7.0 cannot. What a
	// replica has said is good for five PING periods, and while a primary is down replicas are asked once a second.
	ctx := context.Background()
	_ = s.Client().Process(ctx, redis.NewStatusCmd(ctx, "SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PING-PERIOD", "400",
		"ASK-PERIOD", "100", "PUBLISH-PERIOD", "200"))
}

// Kill ends the sentinel at once.
func (s *Sentinel) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != nil {
		s.proc.kill()
		s.proc = nil
	}
}

// Dead reports whether the sentinel has been killed.
func (s *Sentinel) Dead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc == nil
}
