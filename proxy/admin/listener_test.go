package admin_test

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func TestGoRedisSpeaksWithTheConsoleInBothProtocols(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}}, samples())
	for _, protocol := range []int{2, 3} {
		c := redis.NewClient(&redis.Options{
			Addr: r.admin.Addr().String(), Username: "operator", Password: "secret", Protocol: protocol, ClientName: "me",
		})
		t.Cleanup(func() { _ = c.Close() })
		ctx := t.Context()
		if err := c.Ping(ctx).Err(); err != nil {
			t.Fatal(err)
		}
		got, err := c.Do(ctx, "PROXY", "SHOW", "CONFIG", "maxclients").Result()
		want := map[int]string{
			2: "[name        value  from  live maxclients  10000  -     yes]",
			3: "[map[from: live:true name:maxclients value:10000]]",
		}[protocol]
		if err != nil || fmt.Sprint(got) != want {
			t.Errorf("RESP%d: got %v, %v; want %s", protocol, got, err, want)
		}
		if v := c.ConfigGet(ctx, "maxclients").Val(); v["maxclients"] != "10000" {
			t.Errorf("RESP%d: CONFIG GET: %v", protocol, v)
		}
		if v := c.Info(ctx).Val(); !strings.Contains(v, "connected_clients:0\r\n") {
			t.Errorf("RESP%d: INFO: %q", protocol, v)
		}
		if _, err := c.Do(ctx, "GET", "k").Result(); err == nil || !strings.HasPrefix(err.Error(), "ERR there is no PROXY GET") {
			t.Errorf("RESP%d: GET: %v", protocol, err)
		}
	}
}

func TestRedisCLIShowsTables(t *testing.T) {
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip("there is no redis-cli")
	}
	r := newRig(t, admin.Config{}, samples())
	_, port, _ := net.SplitHostPort(r.admin.Addr().String())
	const shown = "addr        source    rule  value  waiting_s  bytes  inside\n10.0.0.8:2  10.0.0.8  addr  -            1.5     31  no\n"
	for _, args := range []string{"SHOW QUEUE", "-3 PROXY SHOW QUEUE FORMAT TABLE"} {
		out, err := exec.Command(cli, append([]string{"-p", port}, strings.Fields(args)...)...).CombinedOutput()
		if err != nil || string(out) != shown {
			t.Errorf("redis-cli %s: %v, %q; want %q", args, err, out, shown)
		}
	}
	out, err := exec.Command(cli, "--no-raw", "-p", port, "SHOW", "QUEUE").CombinedOutput() // as on a terminal
	want := "1) addr        source    rule  value  waiting_s  bytes  inside\n2) 10.0.0.8:2  10.0.0.8  addr  -            1.5     31  no\n"
	if err != nil || string(out) != want {
		t.Errorf("redis-cli --no-raw: %v, %q; want %q", err, out, want)
	}
}

func TestWhatClientsSayWhenTheyConnectIsAnswered(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	r.converse(t, `
		a> COMMAND DOCS
		a< *0
		a> COMMAND COUNT
		a< :0
		a> CLIENT SETINFO LIB-NAME x
		a< +OK
		a> CLIENT SETNAME me
		a< +OK
		a> CLIENT GETNAME
		a< $2\r\nme
		a> CLIENT ID
		a< :1
		a> CLIENT LIST
		a~ ^-ERR unknown subcommand 'LIST'
		a> SELECT 0
		a< +OK
		a> SELECT 1
		a~ ^-ERR DB index is out of range
		a> PING hello
		a< $5\r\nhello
		a> HELLO 4
		a< -NOPROTO unsupported protocol version
		a>> PING\r\n*1\r\n$4\r\nPING\r\nproxy show version\r\n
		a< +PONG
		a< +PONG
		a< +redbouncer dev
		a> QUIT
		a< +OK
		a< (end)
	`)
	if st := r.proxy.Stats(); st.Clients != 0 || st.Admitted != 0 {
		t.Errorf("clients of the console are counted: %+v", st)
	}
}

// Whoever can reach the listener must not be able to end the process, or to use it up.
func TestBadInputEndsTheConnectionAndNothingElse(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	for _, raw := range []string{
		"*1\r\n$9223372036854775807\r\n", "*9223372036854775807\r\n", "*1\r\n$-5\r\n", "*1\r\n:5\r\n",
		"*2\r\n$9223372036854775800\r\nx\r\n", "\"unbalanced\r\n", "POST / HTTP/1.1\r\nHost: x\r\n\r\n", "Host: x\r\n",
		"*1\r\n$70000\r\n", strings.Repeat("x", 80<<10),
		"*1000\r\n" + strings.Repeat("$100\r\n"+strings.Repeat("x", 100)+"\r\n", 800),
	} {
		c := proxytest.Dial(t, r.admin.Addr().String())
		if err := c.TryWrite([]byte(raw)); err != nil && !proxytest.IsClosed(err) {
			t.Fatal(err)
		}
		if got := string(c.ReadAll()); got != "" && !strings.HasPrefix(got, "-ERR Protocol error") {
			t.Errorf("%.40q is answered %.100q", raw, got)
		}
	}
	r.converse(t, "a> PING\na< +PONG")
}

func TestTheConsoleHasSoManyConnectionsAndNoMore(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	var conns []*proxytest.Conn
	for range 64 {
		c := proxytest.Dial(t, r.admin.Addr().String())
		c.Do("PING")
		conns = append(conns, c)
	}
	if got := string(proxytest.Dial(t, r.admin.Addr().String()).ReadAll()); got != "-ERR max number of clients reached\r\n" {
		t.Errorf("one too many is told %q", got)
	}
	conns[0].Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c := proxytest.Dial(t, r.admin.Addr().String())
		c.Send("PING")
		if got, _ := c.TryReadReply(); string(got) == "+PONG\r\n" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of one that has gone is not free")
		}
	}
}

func TestTheConsoleCanBeAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	for range 2 { // the second time, the first one's socket may be there still
		s := newAdmin(t, admin.Config{Listen: "unix:" + path, HTTPListen: admin.None})
		s.Start()
		c := proxytest.Dial(t, "unix:"+path)
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("got %q", got)
		}
		if got := string(c.Do("SHOW", "POOL")); got != "-ERR the proxy is starting\r\n" {
			t.Errorf("got %q", got)
		}
		s.Stop()
		if got := c.ReadAll(); len(got) > 0 {
			t.Errorf("after the end came %q", got)
		}
	}
}

func TestAConsoleForEverybodyIsNotForOtherHosts(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "[::]:0", "10.0.0.7:6390"} {
		s, err := admin.New(admin.Config{Listen: addr, HTTPListen: admin.None})
		if err == nil {
			s.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), "admin-listen") || !strings.Contains(err.Error(), "set admin-users") {
			t.Errorf("%s: %v", addr, err)
		}
	}
	newAdmin(t, admin.Config{Listen: "0.0.0.0:0", AdminUsers: []string{"operator"}})
}
