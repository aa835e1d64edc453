package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// says checks an exchange.
func says(t *testing.T, c *proxytest.Conn, words, want string) {
	t.Helper()
	args, err := proxytest.Words(words)
	must(t, err)
	if got := string(c.Do(args...)); got != want {
		t.Errorf("a> %s\na< %q, want %q", words, got, want)
	}
}

func TestWhatAClientHasSaidIsKnownToTheNextProgram(t *testing.T) {
	s := proxytest.Redis(t)
	direct := proxytest.Dial(t, s.Addr())
	says(t, direct, "ACL SETUSER bob on >hunter2 ~* &* +@all", "+OK\r\n")
	says(t, direct, "SET k zero", "+OK\r\n")
	r := startReplaceable(t, s)
	c := proxytest.Dial(t, r.addr)
	c.Do("HELLO", "3", "AUTH", "bob", "hunter2", "SETNAME", "worker:7")
	says(t, c, "SELECT 5", "+OK\r\n")
	c.Do("CLIENT", "SETINFO", "LIB-NAME", "redis-py") // which Redis 7.0 does not know, but we do
	c.Do("CLIENT", "SETINFO", "LIB-VER", "5.0")
	says(t, c, "CLIENT NO-EVICT ON", "+OK\r\n")
	says(t, c, "SET k five", "+OK\r\n")
	id := string(c.Do("CLIENT", "ID"))
	fresh := proxytest.Dial(t, r.addr) // has said nothing yet

	for range 2 { // the second time by one that has been handed over itself
		r.gone(r.upgrade())
		says(t, c, "GET k", "$4\r\nfive\r\n")
		says(t, c, "ACL WHOAMI", "$3\r\nbob\r\n")
		says(t, c, "CLIENT GETNAME", "$8\r\nworker:7\r\n")
		says(t, c, "CLIENT ID", id)
		says(t, c, "GET none", "_\r\n") // RESP3
		info := string(c.Do("CLIENT", "INFO"))
		for _, want := range []string{"db=5", "user=bob", "resp=3", "flags=e", "name=worker:7"} {
			if !strings.Contains(info, want) {
				t.Errorf("CLIENT INFO is %q, want %s", info, want)
			}
		}
		says(t, c, "MULTI", "+OK\r\n")
		says(t, c, "INCR n", "+QUEUED\r\n")
		says(t, c, "DISCARD", "+OK\r\n")
	}
	says(t, fresh, "GET k", "$4\r\nzero\r\n")
	if got := r.ask("SHOW", "CLIENTS", "user", "bob", "FORMAT", "JSON"); !strings.Contains(got, `"worker:7"`) || !strings.Contains(got, `"redis-py/5.0"`) {
		t.Errorf("operators are shown %q", got)
	}
	if text, _ := os.ReadFile(r.log); strings.Contains(string(text), "hunter2") {
		t.Error("the log has a password")
	}
}

func TestAClientInATransactionFollowsAtItsEnd(t *testing.T) {
	s := proxytest.Redis(t)
	r := startReplaceable(t, s)
	c := proxytest.Dial(t, r.addr)
	says(t, c, "MULTI", "+OK\r\n")
	says(t, c, "INCR n", "+QUEUED\r\n")
	before := r.upgrade()
	says(t, c, "INCR n", "+QUEUED\r\n")
	if err := syscall.Kill(before, 0); err != nil {
		t.Fatalf("process %d has ended with a client in a transaction", before)
	}
	says(t, c, "EXEC", "*2\r\n:1\r\n:2\r\n")
	r.gone(before)
	says(t, c, "INCR n", ":3\r\n")
}

func TestASubscriberStaysUntilItsTimeIsUp(t *testing.T) {
	s := proxytest.Redis(t)
	r := startReplaceable(t, s, "--handover-timeout", "2s", "--shutdown-timeout", "2s")
	c := proxytest.Dial(t, r.addr)
	c.Do("SUBSCRIBE", "news")
	blocked := proxytest.Dial(t, r.addr)
	blocked.Send("BLPOP", "list", "0")
	time.Sleep(50 * time.Millisecond)
	before := r.upgrade()
	other := proxytest.Dial(t, r.addr)
	other.Do("PUBLISH", "news", "hello")
	if got := string(c.ReadReply()); !strings.Contains(got, "hello") {
		t.Errorf("the subscriber was told %q", got)
	}
	says(t, other, "RPUSH list x", ":1\r\n")
	if got := string(blocked.ReadReply()); !strings.Contains(got, "x") {
		t.Errorf("who blocked was told %q", got)
	}
	eventually(t, "all but the subscriber have followed", func() bool { return strings.Contains(r.ask("UPGRADE"), "still has 1 clients") })
	r.gone(before)
	if _, err := c.TryReadReply(); !proxytest.IsClosed(err) {
		t.Errorf("the subscriber's connection: %v, want it closed", err)
	}
	says(t, blocked, "PING", "+PONG\r\n") // it has followed
	r.logged("the program before this one has ended")
	r.gone(r.upgrade())
	says(t, blocked, "PING", "+PONG\r\n")
}

func TestAProgramThatCannotTakeOverChangesNothing(t *testing.T) {
	s := proxytest.Redis(t)
	file := writeFile(t, "maxclients: 100\nlisten: 127.0.0.1:0\n")
	r := startReplaceable(t, s, "--config", file, "--watch-config", "no", "--upgrade-timeout", "3s")
	c := proxytest.Dial(t, r.addr)
	says(t, c, "SELECT 3", "+OK\r\n")
	says(t, c, "SET k v", "+OK\r\n")
	program, err := os.ReadFile(r.path)
	must(t, err)
	script := func(text string) {
		replace(t, r.path, text)
		must(t, os.Chmod(r.path, 0o755))
	}
	for _, x := range []struct {
		name    string
		prepare func()
		want    string
	}{
		{"a mistake in the file", func() { replace(t, file, "maxclients: many\n") }, `maxclients: "many"`},
		{"an address that is taken", func() { replace(t, file, "listen: [\"127.0.0.1:0\", \""+s.Addr()+"\"]\n") }, "in use"},
		{"a crash", func() { script("#!/bin/sh\nexit 7\n") }, "exit status 7"},
		{"another program", func() { script("#!/bin/sh\nexit 0\n") }, "is it one that can?"},
		{"one that hangs", func() { script("#!/bin/sh\nexec sleep 30\n") }, "upgrade-timeout"},
		{"no program", func() { must(t, os.Remove(r.path)) }, "cannot be started"},
	} {
		t.Run(x.name, func(t *testing.T) {
			replace(t, file, "maxclients: 100\nlisten: 127.0.0.1:0\n")
			x.prepare()
			if got := r.ask("UPGRADE"); !strings.HasPrefix(got, "-ERR not upgraded, this program goes on") || !strings.Contains(got, x.want) {
				t.Errorf("o> PROXY UPGRADE\no< %q, want %s", got, x.want)
			}
			r.logged("not upgraded")
			says(t, c, "GET k", "$1\r\nv\r\n")
			says(t, proxytest.Dial(t, r.addr), "PING", "+PONG\r\n")
		})
	}
	replace(t, file, "maxclients: 100\nlisten: 127.0.0.1:0\n")
	must(t, os.WriteFile(r.path, program, 0o755))
	before := r.pid
	if got := r.ask("UPGRADE"); !strings.HasPrefix(got, "+OK, process ") {
		t.Fatalf("o> PROXY UPGRADE\no< %q", got)
	}
	r.pid = int(r.logged("upgraded")["pid"].(float64))
	r.gone(before)
	says(t, c, "GET k", "$1\r\nv\r\n")
}

func TestLimitsHoldOverBothPrograms(t *testing.T) {
	s := proxytest.Redis(t)
	r := startReplaceable(t, s, "--maxclients", "5")
	says(t, proxytest.Dial(t, r.addr), "CONFIG SET maxclients 4", "+OK\r\n")
	inTransaction := proxytest.Dial(t, r.addr)
	says(t, inTransaction, "MULTI", "+OK\r\n")
	idle := proxytest.Dial(t, r.addr)
	says(t, idle, "PING", "+PONG\r\n")
	before := r.upgrade()
	fourth := proxytest.Dial(t, r.addr)
	says(t, fourth, "PING", "+PONG\r\n")
	says(t, proxytest.Dial(t, r.addr), "PING", "-ERR max number of clients reached\r\n")
	inTransaction.Close()
	r.gone(before)
	eventually(t, "the place of a client that has gone is free", func() bool {
		return string(proxytest.Dial(t, r.addr).Do("PING")) == "+PONG\r\n"
	})
	says(t, idle, "PING", "+PONG\r\n")
}

func TestAUnixSocketIsHandedOver(t *testing.T) {
	s := proxytest.Redis(t)
	dir, err := os.MkdirTemp("", "rb") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	r := startReplaceable(t, s, "--listen", "unix:"+dir+"/data", "--admin-listen", "unix:"+dir+"/admin")
	r.addr, r.admin = "unix:"+dir+"/data", "unix:"+dir+"/admin"
	c := proxytest.Dial(t, r.addr)
	says(t, c, "SELECT 2", "+OK\r\n")
	for range 2 {
		r.gone(r.upgrade())
		says(t, c, "PING", "+PONG\r\n")
		says(t, proxytest.Dial(t, r.addr), "PING", "+PONG\r\n")
		if got := r.ask("SHOW", "VERSION"); strings.HasPrefix(got, "-") {
			t.Errorf("o> SHOW VERSION\no< %q", got)
		}
	}
	r.signal(syscall.SIGTERM)
	r.gone(r.pid)
	if _, err := os.Stat(dir + "/data"); err == nil {
		t.Error("the last program has left its socket behind")
	}
}

func TestAnEmbeddedUpstreamCannotBeHandedOver(t *testing.T) {
	p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0")
	operator := proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	p.logged("redbouncer is ready")
	if got := string(operator.Do("UPGRADE")); !strings.Contains(got, "embedded") {
		t.Errorf("o> UPGRADE\no< %q", got)
	}
	if got := string(operator.Do("UPGRADE", "now")); !strings.HasPrefix(got, "-ERR") {
		t.Errorf("o> UPGRADE now\no< %q", fmt.Sprint(got))
	}
}
