package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// echo is a console that answers with what it has been asked, and by whom.
func echo(cmd proxy.ConsoleCommand) []byte {
	words := make([]string, len(cmd.Args))
	for i, arg := range cmd.Args {
		words[i] = string(arg)
	}
	return fmt.Appendf(nil, "+%s by %s in RESP%d\r\n", strings.Join(words, " "), cmd.User, cmd.RESP)
}

func TestPROXYIsAnsweredInItsPlaceWhateverIsPipelined(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Console = func(cmd proxy.ConsoleCommand) []byte {
		time.Sleep(20 * time.Millisecond) // everything else could overtake it
		return echo(cmd)
	}
	proxytest.Converse(t, proxytest.Proxy(t, cfg).Addr(), nil, `
		a+ SET k v
		a+ proxy show clients
		a+ GET k
		a+ PROXY
		a> PING
		a< +OK
		a< +proxy show clients by default in RESP2
		a< $1\r\nv
		a< +PROXY by default in RESP2
		a< +PONG
		a> HELLO 3
		a~ ^%
		a> PROXY x
		a< +PROXY x by default in RESP3

		# on a connection of its own, outside of a transaction and in one
		b> WATCH k
		b< +OK
		b> PROXY x
		b< +PROXY x by default in RESP2
		b> MULTI
		b< +OK
		b> PROXY x
		b< -ERR PROXY is not possible in a transaction
		b> EXEC
		b~ ^-EXECABORT
		b> PROXY x
		b< +PROXY x by default in RESP2
		c+ MULTI
		c+ PROXY x
		c> EXEC
		c< +OK
		c< -ERR PROXY is not possible in a transaction
		c~ ^-EXECABORT

		# a client that wants no reply
		d+ CLIENT REPLY SKIP
		d+ PROXY x
		d> PROXY y
		d< +PROXY y by default in RESP2

		# a pause is no reason not to look
		e> CLIENT PAUSE 60000 ALL
		e< +OK
		f> PROXY x
		f< +PROXY x by default in RESP2

		# the last word of a client that has closed its sending side
		g> PROXY x
		g: half
		g< +PROXY x by default in RESP2
		g< (end)
	`)
}

func TestPROXYIsAnsweredWhileTheUpstreamIsGone(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Console = echo
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	c.Do("PING")
	s.Kill()
	for range 3 {
		if got := string(c.Do("PROXY", "x")); got != "+PROXY x by default in RESP2\r\n" {
			t.Errorf("got %q", got)
		}
	}
	if got := string(proxytest.Dial(t, p.Addr()).Do("PROXY", "x")); got != "+PROXY x by default in RESP2\r\n" {
		t.Errorf("a new client is told %q", got)
	}
}

func TestPROXYIsNoCommandWithoutAConsole(t *testing.T) {
	s := proxytest.Redis(t)
	p := proxytest.Proxy(t, proxytest.Config(t, s))
	direct, through := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	if a, b := direct.Do("PROXY", "SHOW"), through.Do("PROXY", "SHOW"); !bytes.Equal(a, b) {
		t.Errorf("Redis says %q, the proxy %q", a, b)
	}
}

func TestPROXYCanBeDeniedAndDoesNotReachTheUpstreamOnARelayedConnection(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Console, cfg.DenyCommands = echo, []string{"proxy"}
	proxytest.Converse(t, proxytest.Proxy(t, cfg).Addr(), nil, `
		a> PROXY x
		a< -ERR PROXY is not allowed through redbouncer: it is listed in deny-commands
	`)
	cfg.DenyCommands = nil
	proxytest.Converse(t, proxytest.Proxy(t, cfg).Addr(), nil, `
		a> MONITOR
		a< +OK
		a> PROXY x
		a~ ^-ERR unknown command 'PROXY is not possible on this connection any more: use another'
	`)
}

func TestAClientThatGoesBeforeTheConsoleHasAnsweredLeavesNothingBehind(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	asked, answer := make(chan struct{}), make(chan struct{})
	cfg.Console = func(proxy.ConsoleCommand) []byte {
		close(asked)
		<-answer
		return []byte("+too late\r\n")
	}
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	c.Send("PROXY", "x")
	<-asked
	c.Reset()
	for deadline := time.Now().Add(20 * time.Second); p.Stats().Clients > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the client is still there")
		}
	}
	close(answer)
}

// Who is shown, and as what.
func TestClientsLanesAndPinsAreReportedAsTheyAre(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Loops = 2
	p := proxytest.Proxy(t, cfg)
	proxytest.Converse(t, p.Addr(), nil, "w> QUIT\nw< +OK\nw< (end)") // the upstream is known
	conns := map[string]*proxytest.Conn{}
	for name, commands := range map[string]string{
		"plain": "SET k v", "watch": "WATCH k", "tx": "MULTI|GET k", "db": "SELECT 3", "sub": "SUBSCRIBE c", "mon": "MONITOR",
		"block": "BLPOP nothing 0",
	} {
		c := proxytest.Dial(t, p.Addr())
		c.Do("CLIENT", "SETNAME", name)
		c.Do("CLIENT", "SETINFO", "LIB-NAME", "lib")
		c.Do("CLIENT", "SETINFO", "LIB-VER", "1.0")
		for command := range strings.SplitSeq(commands, "|") {
			if c.Send(strings.Fields(command)...); name != "block" {
				c.ReadReply()
			}
		}
		conns[name] = c
	}
	ctx := t.Context()
	var got []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got = nil
		clients, err := p.Clients(ctx, proxy.ClientFilter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range clients {
			if c.LastCommand == "quit" {
				continue // it is about to go
			}
			if c.Lib != "lib/1.0" || c.User != "default" || c.Remote != conns[c.Name].LocalAddr() || c.Listener != "127.0.0.1:0" ||
				c.Commands < 3 || c.Received == 0 || c.Sent == 0 || c.RESP != 2 {
				t.Fatalf("the report is %+v", c)
			}
			got = append(got, fmt.Sprintf("%s %s %s db=%d %s", c.Name, c.State, c.Pin, c.DB, c.LastCommand))
		}
		if slices.Contains(got, "block barred blocked db=0 blpop") {
			break
		}
	}
	slices.Sort(got)
	want := []string{
		"block barred blocked db=0 blpop", "db flowing  db=3 select", "mon flowing monitor db=0 monitor", "plain flowing  db=0 set",
		"sub flowing  db=0 subscribe", "tx flowing transaction db=0 get", "watch flowing watch db=0 watch",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	checkLinks(ctx, t, s, p.Server)
}

// checkLinks compares the lanes and pins that are reported with what the upstream sees.
func checkLinks(ctx context.Context, t *testing.T, s *proxytest.Server, p *proxy.Server) {
	t.Helper()
	pins, err := p.Pins(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var why []string
	for _, r := range pins {
		if r.Holder == 0 != (r.Why == "subscriptions" || r.Why == "idle") {
			t.Errorf("the pin is %+v", r)
		}
		if r.Why != "idle" {
			why = append(why, r.Why)
		}
	}
	slices.Sort(why)
	if want := []string{"blocked", "monitor", "subscriptions", "transaction", "watch"}; !slices.Equal(why, want) {
		t.Errorf("the pins are for %q, want %q", why, want)
	}
	lanes, err := p.Lanes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sessions := 0
	list := s.Client().ClientList(ctx).Val()
	for _, r := range lanes {
		sessions += r.Sessions
		if !strings.Contains(list, fmt.Sprintf("id=%d ", r.ID)) || r.User != "default" || r.State != "serving" {
			t.Errorf("the lane is %+v, the upstream has\n%s", r, list)
		}
	}
	if sessions != 7 {
		t.Errorf("%d sessions on lanes, want 7", sessions)
	}
	pool, err := p.Pool(ctx)
	if st := p.Stats(); err != nil || pool.Lanes != len(lanes) || pool.Pins != len(pins) || pool.Size != st.PoolSize ||
		pool.Connects < uint64(len(lanes)+len(pins)) || pool.IdlePins != st.IdlePins {
		t.Errorf("the pool is %+v, %v; with %d lanes and %d pins", pool, err, len(lanes), len(pins))
	}
}

func TestAFilterMeansThoseForWhomAllOfItHolds(t *testing.T) {
	r := proxy.ClientReport{
		ID: 7, Remote: "10.1.2.3:4567", Listener: "10.0.0.1:6380", User: "app", Name: "worker:1", Lib: "redis-py/5.0", PID: "4711",
		Process: "python3", Container: "abc", State: "flowing", Pin: "watch", Idle: time.Minute,
	}
	six, socket := r, r
	six.Remote, socket.Remote = "[fd00::7]:4567", "/run/redis.sock:0"
	for _, c := range []struct {
		words string
		of    proxy.ClientReport
		want  bool
	}{
		{"", r, true},
		{"id 7", r, true}, {"id 8", r, false},
		{"addr 10.1.2.3", r, true}, {"addr 10.1.2.4", r, false}, {"addr 10.1.2.3:4567", r, true}, {"addr 10.1.2.3:4568", r, false},
		{"addr 10.1.0.0/16", r, true}, {"addr 10.1.2.99/24", r, true}, {"addr 10.2.0.0/16", r, false}, {"addr ::ffff:10.1.2.3", r, true},
		{"addr fd00::7", six, true}, {"addr fd00::/8", six, true}, {"addr [fd00::7]:4567", six, true}, {"addr 0.0.0.0/0", six, false},
		{"addr unix:/run/redis.sock", socket, true}, {"addr /run/redis.sock", socket, true}, {"addr ::/0", socket, false},
		{"user app", r, true}, {"user a", r, false}, {"USER a*", r, true},
		{"name worker:*", r, true}, {"name *:1", r, true}, {"name w*r*1", r, true}, {"name w*2", r, false}, {"name *", r, true},
		{"name *1*1", r, false}, {"name worker:1*", r, true}, {"lib redis-py*", r, true}, {"lib *", proxy.ClientReport{}, true},
		{"listener *:6380", r, true}, {"pid 4711", r, true}, {"process py*", r, true}, {"container abc", r, true},
		{"state flowing", r, true}, {"pin watch", r, true}, {"pin *", r, true},
		{"idle 60", r, true}, {"idle 1m", r, true}, {"idle >=60", r, true}, {"idle 61", r, false}, {"idle 0", r, true},
		{"user app name worker:*", r, true}, {"user app name x", r, false}, {"id 7 id 8", r, false},
	} {
		f, err := proxy.ParseClientFilter(strings.Fields(c.words)...)
		if err != nil {
			t.Errorf("%s: %v", c.words, err)
		} else if got := f.Matches(&c.of); got != c.want {
			t.Errorf("%s: %t of %s", c.words, got, c.of.Remote)
		}
		if c.of.ID == 7 && f.Sparing(7).Matches(&c.of) {
			t.Errorf("%s: the one who asks is meant", c.words)
		}
	}
	for _, words := range []string{"id", "id x", "addr x", "addr 10.0.0.0/99", "idle soon", "idle -1", "colour red", "id 7 user"} {
		if _, err := proxy.ParseClientFilter(strings.Fields(words)...); err == nil {
			t.Errorf("%s is taken", words)
		}
	}
}

func TestNobodyIsClosedWithoutAConditionAndAllWhoMatchAre(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Loops = 2
	p := proxytest.Proxy(t, cfg)
	var conns []*proxytest.Conn
	for i := range 10 {
		c := proxytest.Dial(t, p.Addr())
		c.Do("CLIENT", "SETNAME", fmt.Sprintf("c%d", i%2))
		conns = append(conns, c)
	}
	if n, err := p.Kill(t.Context(), proxy.ClientFilter{}, "me"); n != 0 || err == nil {
		t.Errorf("without a condition: %d, %v", n, err)
	}
	f, _ := proxy.ParseClientFilter("name", "c1")
	if n, err := p.Kill(t.Context(), f, "me"); n != 5 || err != nil {
		t.Errorf("killed %d, %v; want 5", n, err)
	}
	for i, c := range conns {
		if i%2 == 1 {
			c.ReadAll()
		} else if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("a client that is not meant is told %q", got)
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = p.Stop()
	if _, err := p.Clients(over, proxy.ClientFilter{}); err != nil {
		t.Errorf("a proxy that has ended has no clients to wait for: %v", err)
	}
}
