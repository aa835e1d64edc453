package multiplex

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Sentinels may be behind, and clients may make a server say anything. Whom to believe is decided in one place.

func parse(t *testing.T, url string) *Upstream {
	t.Helper()
	up, err := ParseUpstream(url)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

func TestAURLOfSentinelsIsRead(t *testing.T) {
	for _, tt := range []struct {
		url, addr      string
		user, password string
		db             int
		sentinelUser   string
		sentinelPass   string
		secure         bool
	}{
		{url: "redis+sentinel://a:1,b:2/m", addr: "m@a:1,b:2"},
		{url: "redis+sentinel://a/m", addr: "m@a:26379"},
		{url: "redis+sentinel://a,[::1],[::2]:7/m/", addr: "m@a:26379,[::1]:26379,[::2]:7"},
		{url: "redis+sentinel://me:p%40w@a,b/m/3", addr: "m@a:26379,b:26379", user: "me", password: "p@w", db: 3},
		{url: "redis+sentinel://:pw@a/m?sentinel-password=s%26", addr: "m@a:26379", password: "pw", sentinelPass: "s&"},
		{url: "redis+sentinel://a/m?sentinel-user=u&sentinel-password=s", addr: "m@a:26379", sentinelUser: "u", sentinelPass: "s"},
		{url: "rediss+sentinel://a/m", addr: "m@a:26379", secure: true},
	} {
		up := parse(t, tt.url)
		w := up.watched
		if up.addr != tt.addr || up.user != tt.user || up.password != tt.password || up.db != tt.db ||
			w.user != tt.sentinelUser || w.password != tt.sentinelPass || (up.tls != nil) != tt.secure || (w.tls != nil) != tt.secure {
			t.Errorf("%s is read as %+v, %+v", tt.url, up, w)
		}
	}
}

func TestWhatIsWrongWithAURLOfSentinelsIsSaidWithoutItsPassword(t *testing.T) {
	for url, want := range map[string]string{
		"redis+sentinel://me:secret@a:1":                          "name of the master is missing",
		"redis+sentinel://me:secret@a:1/":                         "name of the master is missing",
		"redis+sentinel://me:secret@/m":                           "host:port, with commas",
		"redis+sentinel://me:secret@a:1,,b/m":                     "host:port, with commas",
		"redis+sentinel://me:secret@a:x/m":                        "host:port, with commas",
		"redis+sentinel://me:secret@a:70000/m":                    "host:port, with commas",
		"redis+sentinel://me:secret@::1/m":                        "host:port, with commas",
		"redis+sentinel://me:secret@a/m/x":                        "not a number",
		"redis+sentinel://me:secret@a/m/-1":                       "not a number",
		"redis+sentinel://me:secret@a/m/1/2":                      "nothing else",
		"redis+sentinel://me:se%cret@a/m":                         "escape",
		"redis+sentinel://me:secret@a/m?db=1":                     "no such option",
		"redis+sentinel://a/m?sentinel-password=se%zzcret":        "the query is not written as in a URL",
		"redis+sentinel://me:secret@a/m?sentinel-user=u":          "needs sentinel-password",
		"redis+sentinel://me:secret@a/m?sentinel_password=secret": "no such option",
	} {
		up, err := ParseUpstream(url)
		if err == nil {
			t.Errorf("%s is taken as %s", url, up)
			continue
		}
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "cret@") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestASentinelThatIsBehindIsNotBelieved(t *testing.T) {
	changes := 0
	p := NewPrimary(PrimaryConfig{Upstream: parse(t, "redis+sentinel://s/m"), Changed: func() { changes++ }})
	say := func(addr string, epoch int64, known bool, want string) {
		t.Helper()
		if got := p.heard(answer{addr, epoch}, "s"); got != known {
			t.Errorf("%s, failover %d: known %t", addr, epoch, got)
		}
		if got := p.Report().Addr; got != want {
			t.Errorf("%s, failover %d: now at %s, want %s", addr, epoch, got, want)
		}
	}
	say("a:1", 4, true, "a:1")
	say("b:1", 3, false, "a:1") // it was cut off
	say("b:1", 4, false, "a:1") // no failover, so no reason
	say("b:1", 5, true, "b:1")
	say("a:1", 4, false, "b:1")
	say("b:1", 5, true, "b:1")
	if got := p.Report().Failovers; got != 1 || changes != 2 {
		t.Errorf("%d failovers, %d changes", got, changes)
	}
	// All who are to be had say so, for long.
	say("a:1", 0, false, "b:1")
	p.disputed = p.disputed.Add(-disputeTime)
	say("a:1", 0, true, "a:1")
}

func TestTheConnectionsOfAnEarlierPlaceAreOverAtOnce(t *testing.T) {
	p := NewPrimary(PrimaryConfig{Upstream: parse(t, "redis+sentinel://s/m")})
	p.heard(answer{"a:1", 1}, "s")
	at, _ := p.place()
	p.doubt(at.term, "READONLY")
	if now, _ := p.place(); now.term != at.term+1 || at.over.Err() != nil {
		t.Errorf("after a doubt, term %d follows %d; over: %v", now.term, at.term, at.over.Err())
	}
	p.doubt(at.term, "READONLY")   // of a connection that is on its way out
	p.doubt(at.term+1, "READONLY") // too soon
	if got := p.term.Load(); got != at.term+1 {
		t.Errorf("term %d", got)
	}
	p.heard(answer{"b:1", 2}, "s")
	if !errors.Is(context.Cause(at.over), errMoved) {
		t.Errorf("over: %v", context.Cause(at.over))
	}
}

func TestWhileAReplicaIsMadeThePrimaryWhoeverNeedsAConnectionWaits(t *testing.T) {
	// Nothing listens at the sentinel's address, so that nobody but the test says where the primary is.
	p := NewPrimary(PrimaryConfig{Upstream: parse(t, "redis+sentinel://127.0.0.1:1/m")})
	p.heard(answer{"a:1", 1}, "s")
	for what, end := range map[string]func(){
		"a:1": p.resume,
		"b:1": func() { p.heard(answer{"b:1", p.epoch + 1}, "s") },
	} {
		p.heard(answer{"a:1", p.epoch + 1}, "s")
		p.hold()
		got := make(chan string, 1)
		go func() {
			at, _ := p.where()
			got <- at.addr
		}()
		select {
		case addr := <-got:
			t.Fatalf("it does not wait, and goes to %s", addr)
		case <-time.After(50 * time.Millisecond):
		}
		end()
		if addr := <-got; addr != what {
			t.Errorf("it goes to %s, want %s", addr, what)
		}
	}
}

// nameserver answers every question for an address, and says how many there were.
type nameserver struct {
	conn    net.PacketConn
	address atomic.Pointer[[4]byte]
	asked   atomic.Int32
}

// serve ends when the connection is closed.
func (n *nameserver) serve() {
	b := make([]byte, 512)
	for {
		size, from, err := n.conn.ReadFrom(b)
		if err != nil {
			return
		}
		q := b[:size]
		end := 12
		for q[end] != 0 {
			end += int(q[end]) + 1
		}
		kind := binary.BigEndian.Uint16(q[end+1:])
		reply := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, q[12:end+5]...)
		if kind == 1 { // A
			n.asked.Add(1)
			reply[7] = 1
			reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			reply = append(reply, n.address.Load()[:]...)
		}
		_, _ = n.conn.WriteTo(reply, from)
	}
}

// A cloud's endpoint is a name that leads to another server after a failover.
func TestAnUpstreamThatIsANameIsLookedUpForEachConnection(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	names := &nameserver{conn: conn}
	served := make(chan struct{})
	go func() { defer close(served); names.serve() }()
	up := parse(t, "redis://primary.example:1")
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	up.resolver = func() *net.Resolver { return resolver }
	p := NewPrimary(PrimaryConfig{Upstream: up, Log: slog.New(slog.DiscardHandler)})
	for _, address := range [][4]byte{{127, 0, 0, 1}, {127, 0, 0, 2}} {
		names.address.Store(&address)
		_, err := p.dial(Key{RESP: 2}, up.credential(), limits.Lane)
		if want := net.IP(address[:]).String() + ":1"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an attempt at %s", err, want)
		}
	}
	_ = conn.Close()
	<-served
	if got := names.asked.Load(); got != 2 {
		t.Errorf("it was looked up %d times", got)
	}
}
