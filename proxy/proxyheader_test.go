package proxy_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/peer"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Behind a balancer, a client is who the PROXY protocol header says it is, for everything: what is shown, what is limited,
// what is refused. Whatever is no header, or nobody's to send, gets nowhere.

// headerV1 is a header of the first version.
func headerV1(source string) string {
	src := netip.MustParseAddrPort(source)
	dst, family := netip.MustParseAddr("192.0.2.200"), "TCP4"
	if src.Addr().Is6() {
		dst, family = netip.MustParseAddr("2001:db8::200"), "TCP6"
	}
	return fmt.Sprintf("PROXY %s %s %s %d 6379\r\n", family, src.Addr(), dst, src.Port())
}

// headerV2 is a header of the second version, with a value behind the addresses that a balancer may add.
func headerV2(source string) string {
	src := netip.MustParseAddrPort(source)
	family, dst := byte(0x11), netip.MustParseAddr("192.0.2.200")
	if src.Addr().Is6() {
		family, dst = 0x21, netip.MustParseAddr("2001:db8::200")
	}
	body := append(src.Addr().AsSlice(), dst.AsSlice()...)
	body = binary.BigEndian.AppendUint16(body, src.Port())
	body = binary.BigEndian.AppendUint16(body, 6379)
	body = append(body, 0xEA, 0, 3, 'v', 'p', 'c')
	return rawV2(0x21, family, body)
}

func rawV2(versionAndCommand, family byte, body []byte) string {
	h := []byte("\r\n\r\n\x00\r\nQUIT\n")
	h = append(h, versionAndCommand, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(body)))
	return string(append(h, body...))
}

// balanced starts a proxy whose clients come by a balancer on this host: on one loop and on two, with connections that are
// polled and with such as cannot be.
func balanced(t *testing.T, change func(*proxy.Config), test func(*testing.T, *proxytest.Server, *proxytest.Running)) {
	t.Helper()
	for _, loops := range []int{1, 2} {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d loops, streams %t", loops, streams), func(t *testing.T) {
				t.Parallel()
				s, p := redisAndProxy(t, func(c *proxy.Config) {
					c.Loops = loops
					c.Listen = []string{"127.0.0.1:0"}
					c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, "127.0.0.0/8")
					if streams {
						proxy.UseStreams(c)
					}
					change(c)
				})
				t.Cleanup(func() { allGone(t, p) })
				test(t, s, p)
			})
		}
	}
}

func trusted(t *testing.T, words ...string) peer.Trusted {
	t.Helper()
	list, err := peer.ParseTrusted(words)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// through connects by the balancer for a client at an address.
func through(t *testing.T, p *proxytest.Running, source string) *proxytest.Conn {
	t.Helper()
	c := proxytest.Dial(t, p.Addr())
	c.Write(headerV1(source))
	return c
}

var shownAddr = regexp.MustCompile(` addr=(\S+) `)

func addrShown(t *testing.T, reply []byte) string {
	t.Helper()
	m := shownAddr.FindSubmatch(reply)
	if m == nil {
		t.Fatalf("no address in %s", proxytest.Quote(reply))
	}
	return string(m[1])
}

func TestAClientIsWhereItsHeaderSays(t *testing.T) {
	balanced(t, func(*proxy.Config) {}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		for _, tt := range []struct{ name, header, want string }{
			{"version 1, TCP4", headerV1("192.0.2.7:40001"), "192.0.2.7:40001"},
			{"version 1, TCP6", headerV1("[2001:db8::7]:40002"), "[2001:db8::7]:40002"},
			{"version 1, UNKNOWN", "PROXY UNKNOWN\r\n", ""},
			{"version 1, UNKNOWN with more", "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", ""},
			{"version 2, TCP4", headerV2("192.0.2.7:40003"), "192.0.2.7:40003"},
			{"version 2, TCP6", headerV2("[2001:db8::7]:40004"), "[2001:db8::7]:40004"},
			{"version 2, IPv4 written as IPv6", headerV2("[::ffff:192.0.2.9]:40005"), "192.0.2.9:40005"},
			{"version 2, LOCAL", rawV2(0x20, 0, nil), ""},
			{"version 2, LOCAL with an address", rawV2(0x20, 0x11, make([]byte, 12)), ""},
			{"version 2, UNSPEC", rawV2(0x21, 0, nil), ""},
		} {
			c := proxytest.Dial(t, p.Addr())
			c.Write(tt.header + proxytest.Command("CLIENT", "INFO")) // in one piece, as a balancer may
			want := tt.want
			if want == "" {
				want = c.LocalAddr() // the balancer's
			}
			if got := addrShown(t, c.ReadReply()); got != want {
				t.Errorf("%s: CLIENT INFO has %s, want %s", tt.name, got, want)
			}
			if got := addrShown(t, c.Do("CLIENT", "LIST")); got != want {
				t.Errorf("%s: CLIENT LIST has %s, want %s", tt.name, got, want)
			}
			c.Do("QUIT")
			c.ReadAll()
		}
	})
}

func TestAHeaderMayComeInAnyPieces(t *testing.T) {
	balanced(t, func(*proxy.Config) {}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		for version, header := range map[string]string{"1": headerV1("[2001:db8::7]:40002"), "2": headerV2("[2001:db8::7]:40002")} {
			all := header + proxytest.Command("CLIENT", "INFO")
			for i := 1; i < len(all); i++ {
				c := proxytest.Dial(t, p.Addr())
				c.Write(all[:i])
				time.Sleep(time.Millisecond)
				c.Write(all[i:])
				if got := addrShown(t, c.ReadReply()); got != "[2001:db8::7]:40002" {
					t.Fatalf("version %s, split at %d: %s", version, i, got)
				}
				c.Close()
			}
			c := proxytest.Dial(t, p.Addr())
			for i := range len(all) {
				c.Write(all[i : i+1])
			}
			if got := addrShown(t, c.ReadReply()); got != "[2001:db8::7]:40002" {
				t.Fatalf("version %s, byte by byte: %s", version, got)
			}
			c.Close()
		}
	})
}

func TestWhatIsNoHeaderGetsNowhere(t *testing.T) {
	balanced(t, func(c *proxy.Config) { c.MaxClients = 1 }, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		bad := []string{
			proxytest.Command("PING"), "PING\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01\x02\x00", "\x00",
			"PROXY TCP4 192.0.2.7 192.0.2.8 40001 6379", // and never ends
			"PROXY TCP4 192.0.2.999 192.0.2.8 40001 6379\r\n", "PROXY TCP4 192.0.2.7 192.0.2.8 99999 6379\r\n",
			"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n", "PROXY TCP4\r\n", "PROXY \r\n", "PROXY " + strings.Repeat("x", 200),
			"\r\n\r\n\x00\r\nQUIX\n", rawV2(0x31, 0x11, make([]byte, 12)), rawV2(0x21, 0x11, make([]byte, 3)),
			rawV2(0x2f, 0x11, make([]byte, 12)), rawV2(0x21, 0x12, make([]byte, 12)), rawV2(0x21, 0x11, make([]byte, 60000)),
		}
		refused := 0
		for _, b := range bad {
			c := proxytest.Dial(t, p.Addr())
			c.Write(b)
			if strings.HasSuffix(b, "6379") {
				if err := c.CloseWrite(); err != nil {
					t.Fatal(err)
				}
			} else {
				refused++
			}
			if said := c.ReadAll(); len(said) > 0 {
				t.Errorf("%q was told %s", b, proxytest.Quote(said))
			}
			c.Close()
		}
		st := p.Stats()
		if st.Admitted != 0 || st.Clients != 0 || int(st.Refused) != refused {
			t.Errorf("%+v, want nobody admitted and %d refused", st, refused)
		}
		if got := string(through(t, p, "192.0.2.7:1").Do("PING")); got != "+PONG\r\n" {
			t.Errorf("a client after all that: %q", got)
		}
	})
}

func TestAHeaderThatIsTooSlowIsNotWaitedFor(t *testing.T) {
	balanced(t, func(*proxy.Config) {}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		start := time.Now()
		silent, trickle := proxytest.Dial(t, p.Addr()), proxytest.Dial(t, p.Addr())
		header := headerV1("192.0.2.7:40001")
		for i := range len(header) - 1 {
			if err := trickle.TryWrite([]byte{header[i]}); err != nil {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		for _, c := range []*proxytest.Conn{silent, trickle} {
			if said := c.ReadAll(); len(said) > 0 {
				t.Errorf("it was told %s", proxytest.Quote(said))
			}
		}
		if d := time.Since(start); d < 4*time.Second {
			t.Errorf("closed after %v", d)
		}
		if st := p.Stats(); st.Refused != 2 || st.Admitted != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestAHeaderFromWhoIsNotTrustedIsNotRead(t *testing.T) {
	log := &lockedBuffer{}
	balanced(t, func(c *proxy.Config) {
		c.TrustedProxies = trusted(t, "10.0.0.0/8", "unix")
		c.Log = slog.New(slog.NewTextHandler(log, nil))
	}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		for _, header := range []string{headerV1("10.0.0.7:40001"), headerV2("10.0.0.7:40001"), ""} {
			c := proxytest.Dial(t, p.Addr())
			_ = c.TryWrite([]byte(header + proxytest.Command("PING"))) // it may be closed already
			if said := c.ReadAll(); len(said) > 0 {
				t.Errorf("it was told %s", proxytest.Quote(said))
			}
		}
		if st := p.Stats(); st.Refused != 3 || st.Admitted != 0 {
			t.Errorf("%+v", st)
		}
		if !strings.Contains(log.String(), "not among trusted-proxies") {
			t.Errorf("the log:\n%s", log)
		}
	})
}

func TestRulesCountTheAddressInTheHeader(t *testing.T) {
	balanced(t, func(c *proxy.Config) {
		c.Limits = parseRules(t, "addr each maxclients 1", "addr 2001:db8::/32 maxclients 2 overflow queue queue-timeout 10s")
	}, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		one, other := through(t, p, "192.0.2.1:1"), through(t, p, "192.0.2.2:1")
		for _, c := range []*proxytest.Conn{one, other} {
			if got := string(c.Do("PING")); got != "+PONG\r\n" {
				t.Errorf("the first of its address: %q", got)
			}
		}
		// Header and commands in one write, and the refusal is the reply to the first command.
		second := proxytest.Dial(t, p.Addr())
		second.Write(headerV2("192.0.2.1:2") + proxytest.Command("PING") + proxytest.Command("PING"))
		if got := string(second.ReadAll()); got != refusalText {
			t.Errorf("one too many: %q", got)
		}
		hello := proxytest.Dial(t, p.Addr())
		hello.Write(headerV1("192.0.2.1:3") + proxytest.Command("HELLO", "3"))
		if got := string(hello.ReadReply()); got != refusalText {
			t.Errorf("one too many that begins with HELLO: %q", got)
		}
		silent := through(t, p, "192.0.2.1:4")
		if got := string(silent.ReadAll()); got != refusalText {
			t.Errorf("one too many that says nothing: %q", got)
		}

		// Those of the network wait, and what they have sent behind the header is served in order.
		six := []*proxytest.Conn{through(t, p, "[2001:db8::1]:1"), through(t, p, "[2001:db8::2]:1")}
		for _, c := range six {
			c.Do("PING")
		}
		waits := proxytest.Dial(t, p.Addr())
		waits.Write(headerV1("[2001:db8::3]:1") + proxytest.Command("SET", "k", "v") + proxytest.Command("APPEND", "k", "w"))
		eventually(t, "it waits", func() string {
			if n := p.Stats().Queued; n != 1 {
				return fmt.Sprint(n, " wait")
			}
			return ""
		})
		waits.Write(proxytest.Command("GET", "k"))
		six[0].Close()
		for _, want := range []string{"+OK\r\n", ":2\r\n", "$2\r\nvw\r\n"} {
			if got := string(waits.ReadReply()); got != want {
				t.Errorf("after it has waited: %q, want %q", got, want)
			}
		}
		for _, r := range p.Rules() {
			for _, x := range r.Groups {
				if x.Max > 0 && x.Open > x.Max {
					t.Errorf("%s %s: %d of %d", r.Head, x.Value, x.Open, x.Max)
				}
			}
		}
		for _, c := range append(six, one, other, waits) {
			c.Close()
		}
		eventually(t, "all is zero", func() string { return stillCounted(p) })
	})
}

func TestABalancerMayComeByAUnixSocket(t *testing.T) {
	for _, words := range []string{"unix", "127.0.0.1"} {
		t.Run("trusted "+words, func(t *testing.T) {
			log := &lockedBuffer{}
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Log = slog.New(slog.NewTextHandler(log, nil))
				c.Listen = []string{"unix:" + t.TempDir() + "/r.sock"}
				c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, words)
				c.Limits = parseRules(t, "addr 192.0.2.0/24 each maxclients 1")
			})
			if words != "unix" {
				c := proxytest.Dial(t, p.Addr())
				_ = c.TryWrite([]byte(headerV1("192.0.2.1:1") + proxytest.Command("PING")))
				if said := c.ReadAll(); len(said) > 0 {
					t.Errorf("it was told %s", proxytest.Quote(said))
				}
				return
			}
			c := through(t, p, "192.0.2.1:1")
			if got := addrShown(t, c.Do("CLIENT", "INFO")); got != "192.0.2.1:1" {
				t.Errorf("the client is at %s", got)
			}
			if got := string(through(t, p, "192.0.2.1:2").Do("PING")); got != refusalText {
				t.Errorf("one too many: %q", got)
			}
			if text := log.String(); !strings.Contains(text, "source=192.0.2.1 ") || strings.Contains(text, "pid=") {
				t.Errorf("the log takes the balancer for its client:\n%s", text)
			}
			local := proxytest.Dial(t, p.Addr())
			local.Write("PROXY UNKNOWN\r\n" + proxytest.Command("CLIENT", "INFO"))
			if got := addrShown(t, local.ReadReply()); got != p.Addrs()[0].String()+":0" {
				t.Errorf("the balancer itself is at %s", got)
			}
			c.Close()
			local.Close()
			allGone(t, p)
		})
	}
}

// Protected mode asks where a client is, and not where its balancer is.

func TestProtectedModeIsAboutTheClientBehindTheBalancer(t *testing.T) {
	guardedBehindBalancer(t, 1, nil, `
		outside> CLIENT SETNAME me
		outside~ ^-DENIED
		outside< (end)
		outside2> HELLO 3
		outside2~ ^-DENIED
		outside2> CLIENT SETNAME ops:1
		outside2~ ^-DENIED
		outside2< (end)
		inside> CLIENT SETNAME me
		inside< +OK
		# who would be refused anyway is told that
		outside3> PING
		outside3< -ERR max number of clients reached
	`)
}

func TestProtectedModeIsNotGotAroundByWaiting(t *testing.T) {
	for _, tt := range []struct {
		name   string
		inside int // clients, which is as many as there may be
		rules  []string
		script string
	}{
		{"in the queue", 1, []string{"total overflow queue queue-timeout 10s"}, `
			inside> PING
			inside< +PONG
			outside> SET k v
			inside> BLPOP nothing 0.2
			inside< *-1
			inside: close
			outside~ ^-DENIED|^-ERR max number
			outside< (end)
		`},
		{"for an idle client to be closed", 2, []string{"total overflow evict-idle"}, `
			idle> PING
			idle< +PONG
			inside> BLPOP nothing 1.2
			inside< *-1
			outside> SET k v
			outside~ ^-DENIED|^-ERR max number
			outside< (end)
			idle> PING
			idle< +PONG
		`},
		{"for a place that is reserved", 1, []string{"name ops:* reserved 1"}, `
			outside> CLIENT SETNAME ops:1
			outside~ ^-DENIED|^-ERR max number
			outside< (end)
			outside2+ CLIENT SETNAME ops:1
			outside2> GET k
			outside2~ ^-DENIED|^-ERR max number
			outside2< (end)
			inside> CLIENT SETNAME ops:1
			inside< +OK
			outside3> CLIENT SETNAME ops:1
			outside3~ ^-DENIED|^-ERR max number
			outside3< (end)
		`},
	} {
		t.Run(tt.name, func(t *testing.T) { guardedBehindBalancer(t, tt.inside, tt.rules, tt.script) })
	}
}

// guardedBehindBalancer plays a conversation of clients inside, and of such whose header says that they come from another
// host. The proxy holds credentials.
func guardedBehindBalancer(t *testing.T, maxclients int, rules []string, script string) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			s := proxytest.Redis(t, "--requirepass", "secret")
			cfg := proxytest.Config(t, s)
			var err error
			if cfg.Upstream, err = multiplex.ParseUpstream("redis://:secret@" + s.Addr()); err != nil {
				t.Fatal(err)
			}
			cfg.Loops, cfg.MaxClients, cfg.Limits = loops, maxclients, parseRules(t, rules...)
			cfg.Listen = []string{"127.0.0.1:0"}
			cfg.AcceptProxy, cfg.TrustedProxies = cfg.Listen, trusted(t, "127.0.0.1")
			p := proxytest.Proxy(t, cfg)
			inside, outside := forwarder(t, p.Addr(), headerV1("127.0.0.5:1")), forwarder(t, p.Addr(), headerV2("192.0.2.1:1"))
			proxytest.Converse(t, inside, map[string]string{"outside": outside, "outside2": outside, "outside3": outside}, script)
			if n := int(p.Stats().Admitted); n > maxclients {
				t.Errorf("%d clients were admitted", n)
			}
		})
	}
}
