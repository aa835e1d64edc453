package proxy_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What happens to Redis itself, and what the proxy makes of it: nothing. Clients know Redis's words.

// infoField returns a field of what INFO says.
func infoField(t *testing.T, c *proxytest.Conn, section, field string) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(c.Do("INFO", section)), "\r\n"+field+":")
	if !ok {
		t.Fatalf("INFO %s has no %s", section, field)
	}
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// replicaOf starts a replica of s and returns its process.
func replicaOf(t *testing.T, s *proxytest.Server) *os.Process {
	t.Helper()
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c := proxytest.Dial(t, proxytest.Redis(t, "--replicaof", host, port).Addr())
	eventually(t, "the replica is in step", func() string {
		if status := infoField(t, c, "replication", "master_link_status"); status != "up" {
			return status
		}
		return ""
	})
	pid, err := strconv.Atoi(infoField(t, c, "server", "process_id"))
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	return process
}

// WAIT counts what has been written on its connection. Nobody may be told that replicas have his write when they have
// not: a client trusts that with its data.
func TestWAITNeverClaimsThatAReplicaHasWhatItHasNot(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--repl-diskless-sync-delay", "0")
	replica := replicaOf(t, s)
	direct := proxytest.Dial(t, s.Addr())
	c := proxytest.Dial(t, p.Addr())
	expect(t, c, "SET k 0", "+OK\r\n")
	expect(t, c, "WAIT 1 5000", ":1\r\n")
	if err := replica.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = replica.Signal(syscall.SIGCONT) })
	for _, script := range []string{
		"SET k 1; WAIT 1 20",
		"SELECT 3; SET k 1; SELECT 0; WAIT 1 20",
		"SET k 1; SELECT 4; WAIT 1 20",
		"SET k 1; HELLO 3; WAIT 1 20",
		"WATCH k; SET k 1; UNWATCH; WAIT 1 20",
		"WATCH k; SET k 1; WAIT 1 20",
		"SET k 1; WATCH k; WAIT 1 20",
		"MULTI; SET k 1; EXEC; WAIT 1 20",
		"RPUSH l x; BLPOP l 0; WAIT 1 20",
		"EVAL \"return redis.call('set','k','2')\" 0; GET k; WAIT 1 20",
		"SET k 1; WAIT 1 20; WAIT 1 20; GET k; WAIT 1 20",
		"SET k 1; RESET; WAIT 1 20",
	} {
		c := proxytest.Dial(t, p.Addr())
		inOneWrite(t, c, script)
		for cmd := range strings.SplitSeq(script, "; ") {
			reply := string(c.ReadReply())
			if strings.HasPrefix(cmd, "WAIT") && reply != ":0\r\n" {
				t.Errorf("%s: %s is answered %q", script, cmd, reply)
			}
		}
		c.Close()
	}
	// In a transaction, WAIT does not wait, and newer versions do not count its writes.
	const inTransaction = "SET k 1; MULTI; SET k 2; WAIT 1 20; EXEC; PING"
	if want, got := wholeAnswer(t, s.Addr(), inTransaction, false), wholeAnswer(t, p.Addr(), inTransaction, false); got != want {
		t.Errorf("in a transaction: %q, directly %q", got, want)
	}
	// The connection that carried the write is there no more, or it was another client's.
	for _, cmd := range []string{"PING", "GET k", "DEL none", "SELECT 5"} {
		expect(t, c, "SET k 2", "+OK\r\n")
		direct.Do("CLIENT", "KILL", "TYPE", "normal")
		c.Do("PING") // it may meet the lane that is being closed, and is sent again
		c.Do(strings.Fields(cmd)...)
		expect(t, c, "WAIT 1 20", ":0\r\n")
		other := proxytest.Dial(t, p.Addr())
		expect(t, other, "WAIT 1 20", ":0\r\n")
		other.Close()
	}
	// Who may not PUBLISH has no means to move the count past what he wrote on a connection that has gone.
	direct.Do("ACL", "SETUSER", "mute", "on", ">pw", "~*", "&*", "+@all", "-publish")
	mute := proxytest.Dial(t, p.Addr())
	expect(t, mute, "AUTH mute pw", "+OK\r\n")
	for range 2 {
		expect(t, mute, "SET k 2", "+OK\r\n")
		direct.Do("CLIENT", "KILL", "USER", "mute")
		mute.Do("PING")
		if got := string(mute.Do("WAIT", "1", "20")); got != ":0\r\n" && !strings.HasPrefix(got, "-NOPERM ") {
			t.Errorf("who may not PUBLISH is told %q", got)
		}
	}
	mute.Close()
	if err := replica.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	expect(t, c, "SET k 3", "+OK\r\n")
	expect(t, c, "WAIT 1 5000", ":1\r\n")
	c.Close()
	allGone(t, p)
}

// When Redis becomes a replica, it ends those who wait, with a reason, and refuses those who write. It does so here.
func TestWhenRedisBecomesAReplicaItsOwnErrorsAreTold(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	plain, waits, watches, subscribes := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, plain, "SET k v", "+OK\r\n")
	expect(t, watches, "WATCH k", "+OK\r\n")
	subscribes.Do("SUBSCRIBE", "ch")
	inOneWrite(t, waits, "BLPOP none 0; SET run 1")
	directWaits := proxytest.Dial(t, s.Addr())
	directWaits.Send("BLPOP", "none", "0")
	eventually(t, "both wait", func() string {
		if got := infoField(t, direct, "clients", "blocked_clients"); got != "2" {
			return got
		}
		return ""
	})
	const upstreamGone = "REPLICAOF 127.0.0.1 1"
	expect(t, direct, upstreamGone, "+OK\r\n")
	want := string(directWaits.ReadAll())
	if got := string(waits.ReadAll()); got != want || !strings.HasPrefix(want, "-UNBLOCKED ") {
		t.Errorf("who waits is told %q, directly %q", got, want)
	}
	readOnly := string(direct.Do("SET", "k", "2"))
	if !strings.HasPrefix(readOnly, "-READONLY ") {
		t.Fatal(readOnly)
	}
	expect(t, plain, "SET k 2", readOnly)
	expect(t, plain, "GET k", "$1\r\nv\r\n")
	for _, multi := range []string{"MULTI; SET k 2; EXEC", "WATCH k; MULTI; SET k 2; EXEC"} {
		if got, want := wholeAnswer(t, p.Addr(), multi, false), wholeAnswer(t, s.Addr(), multi, false); got != want {
			t.Errorf("%s: %q, directly %q", multi, got, want)
		}
	}
	expect(t, direct, "CONFIG SET replica-serve-stale-data no", "+OK\r\n")
	masterDown := string(direct.Do("GET", "k"))
	if !strings.HasPrefix(masterDown, "-MASTERDOWN ") {
		t.Fatal(masterDown)
	}
	expect(t, plain, "GET k", masterDown)
	expect(t, direct, "REPLICAOF NO ONE", "+OK\r\n")
	expect(t, plain, "SET k 3", "+OK\r\n")
	expect(t, plain, "EXISTS run", ":0\r\n")
	expect(t, plain, "PUBLISH ch m", ":1\r\n")
	expectNext(t, subscribes, "*3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$1\r\nm\r\n")
}

// What Redis refuses for reasons of its own is passed on, in its words, and is not tried again.
func TestWhatRedisRefusesForReasonsOfItsOwnIsPassedOn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, p := redisAndProxy(t, nil, "--enable-debug-command", "yes", "--dir", dir)
	direct := proxytest.Dial(t, s.Addr())
	for _, protocol := range []string{"2", "3"} {
		c := proxytest.Dial(t, p.Addr())
		c.Do("HELLO", protocol)
		same := func(prefix string, commands ...string) {
			t.Helper()
			refused := false
			for _, cmd := range append(commands, "MULTI; GET k; INCR n; EXEC") {
				want, got := wholeAnswer(t, s.Addr(), "HELLO "+protocol+"; "+cmd, false), wholeAnswer(t, p.Addr(), "HELLO "+protocol+"; "+cmd, false)
				if got != want {
					t.Errorf("%s\ngot  %s\nwant %s", cmd, quote(got), quote(want))
				}
				refused = refused || strings.Contains(want, prefix)
			}
			if !refused {
				t.Errorf("nothing was refused with %s", prefix)
			}
		}
		direct.Do("SET", "k", "v")
		direct.Do("CONFIG", "SET", "maxmemory", "1")
		same("-OOM ", "SET k w", "GET k", "EVAL \"return redis.call('set','k','w')\" 0", "LPUSH l x")
		direct.Do("CONFIG", "SET", "maxmemory", "0")
		direct.Do("CONFIG", "SET", "min-replicas-to-write", "1")
		same("-NOREPLICAS ", "SET k w", "GET k")
		direct.Do("CONFIG", "SET", "min-replicas-to-write", "0")
		c.Close()
	}
	// A directory that is not there cannot be written to.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	direct.Do("CONFIG", "SET", "save", "3600 1000000")
	direct.Do("BGSAVE")
	eventually(t, "saving has failed", func() string {
		if got := string(direct.Do("SET", "k", "v")); !strings.HasPrefix(got, "-MISCONF ") {
			return got
		}
		return ""
	})
	c := proxytest.Dial(t, p.Addr())
	for _, cmd := range []string{"SET k w", "PING", "GET k"} {
		expect(t, c, cmd, string(direct.Do(strings.Fields(cmd)...)))
	}
}

func TestWhileRedisLoadsItsDataClientsAreToldSo(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--enable-debug-command", "yes", "--key-load-delay", "300", "--loading-process-events-interval-bytes", "1024")
	direct, c := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	expect(t, direct, "DEBUG POPULATE 1000", "+OK\r\n")
	expect(t, c, "GET key:1", "$7\r\nvalue:1\r\n")
	direct.Send("DEBUG", "RELOAD")
	told := map[string]int{}
	eventually(t, "it is told of, and then over", func() string {
		told[string(c.Do("GET", "key:1"))]++
		if len(told) < 2 {
			return fmt.Sprint(told)
		}
		return ""
	})
	expectNext(t, direct, "+OK\r\n")
	if n := told["-LOADING Redis is loading the dataset in memory\r\n"] + told["-LOADING Valkey is loading the dataset in memory\r\n"]; n == 0 {
		t.Errorf("told %v", told)
	}
	expect(t, c, "GET key:1", "$7\r\nvalue:1\r\n")
	if n := p.Stats().LostUpstream; n > 0 {
		t.Errorf("%d clients were closed", n)
	}
}

// A Redis that has just been started may answer before it has its data. Nobody is told so who can wait.
func TestWhoComesWhileRedisStartsWaitsForItsData(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.UpstreamTimeout = patience }, "--appendonly", "yes", "--key-load-delay", "100")
	c := proxytest.Dial(t, p.Addr())
	var writes strings.Builder
	const keys = 5000 // Redis looks up from loading after each 1024
	for i := range keys {
		writes.WriteString(proxytest.Command("SET", fmt.Sprint("key:", i), "v"))
	}
	c.Write(writes.String())
	for range keys {
		expectNext(t, c, "+OK\r\n")
	}
	for range 2 {
		s.Restart()
		direct := proxytest.Dial(t, s.Addr())
		if got := string(direct.Do("GET", "key:1")); !strings.HasPrefix(got, "-LOADING") {
			t.Errorf("it is not loading: %q", got)
		}
		expect(t, c, fmt.Sprint("GET key:", keys-1), "$1\r\nv\r\n")
		expect(t, proxytest.Dial(t, p.Addr()), "GET key:1", "$1\r\nv\r\n")
	}
}

// A client that monitors sees what Redis does, on a connection of its own, for as long as it wants.
func TestOnlyWhoMonitorsSeesWhatOthersDo(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	for _, end := range []string{"QUIT", "RESET", "close"} {
		monitor, other := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		expect(t, other, "SET secret 1", "+OK\r\n")
		expect(t, monitor, "MONITOR", "+OK\r\n")
		for i := range 20 {
			inOneWrite(t, other, fmt.Sprintf("GET secret; SET secret %d; ECHO x", i))
			for _, want := range []string{fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(max(i-1, 1))), max(i-1, 1)), "+OK\r\n", "$1\r\nx\r\n"} {
				if got := string(other.ReadReply()); got != want && i > 1 {
					t.Errorf("got %q, want %q", got, want)
				}
			}
		}
		for seen := false; !seen; {
			line := string(monitor.ReadReply())
			if line[0] != '+' {
				t.Fatalf("a line that is none: %q", line)
			}
			seen = strings.Contains(line, `"SET" "secret" "19"`)
		}
		switch end {
		case "QUIT":
			monitor.Send("QUIT")
			if got := string(monitor.ReadAll()); !strings.HasSuffix(got, "+OK\r\n") {
				t.Errorf("QUIT is answered %q", got)
			}
		case "RESET":
			monitor.Send("RESET")
			for string(monitor.ReadReply()) != "+RESET\r\n" {
			}
			expect(t, other, "SET secret 2", "+OK\r\n")
			expect(t, monitor, "GET secret", "$1\r\n2\r\n")
		}
		monitor.Close()
		other.Close()
		allGone(t, p)
		direct := proxytest.Dial(t, s.Addr())
		eventually(t, "Redis has no monitor", func() string {
			lines, _ := clientLines(t, direct.Do("CLIENT", "LIST"))
			for _, line := range lines {
				if strings.Contains(line["flags"], "O") {
					return fmt.Sprint(line)
				}
			}
			return ""
		})
	}
}
