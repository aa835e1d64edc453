package proxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who is not let in is told why by what TLS has for it, and the log has a line that one can act upon.

// pingWith sends a PING over TLS, and returns what comes of it. In TLS 1.3 a client hears only when it reads that its
// certificate was not accepted.
func pingWith(addr string, config *tls.Config) (string, error) {
	c, err := proxytest.TryDialTLS(addr, config)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.TryWrite([]byte(proxytest.Command("PING"))); err != nil {
		return "", err
	}
	reply, err := c.TryReadReply()
	return string(reply), err
}

func TestACertificateThatIsNoGoodIsRefusedWithTheReason(t *testing.T) {
	e := encrypt(t, nil)
	stranger := proxytest.NewCA(t)
	for _, c := range []struct {
		what  string
		files certs.Files
		told  string // by TLS
		log   []string
	}{
		{"expired", e.ca.Issue(proxytest.Identity{Name: "old-app", Expired: true}), "expired certificate",
			[]string{"client refused: its certificate has expired", "CN=old-app"}},
		{"of an unknown authority", stranger.Issue(proxytest.Identity{Name: "strange-app"}), "unknown certificate authority",
			[]string{"client refused: its certificate is signed by an unknown authority", "CN=strange-app"}},
		{"missing", certs.Files{}, "certificate required", []string{"client refused: it has shown no certificate"}},
	} {
		config := e.ca.ClientTLS(c.files)
		if reply, err := pingWith(e.Addr(), config); err == nil || !strings.Contains(err.Error(), c.told) {
			t.Errorf("%s: %q, %v; want %q", c.what, reply, err, c.told)
		}
		e.logs(t, append(c.log, "source=127.0.0.1", "listener=tls://127.0.0.1:0")...)
		config.MaxVersion = tls.VersionTLS12
		if reply, err := pingWith(e.Addr(), config); err == nil {
			t.Errorf("%s, in TLS 1.2: %q", c.what, reply)
		}
	}
	if st := e.Stats(); st.Refused != 6 || st.Admitted != 0 {
		t.Errorf("%d refused and %d let in, want 6 and none", st.Refused, st.Admitted)
	}
}

func TestAClientThatDoesNotAcceptTheProxysCertificateIsSeen(t *testing.T) {
	e := encrypt(t, nil)
	config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
	config.ServerName = "elsewhere.example"
	var wrong *tls.CertificateVerificationError
	if _, err := pingWith(e.Addr(), config); !errors.As(err, &wrong) {
		t.Errorf("a certificate for another name: %v", err)
	}
	e.logs(t, "client refused: it has broken off the TLS handshake", "bad certificate")
}

func TestTheUpstreamsCertificateIsChecked(t *testing.T) {
	ca, stranger := proxytest.NewCA(t), proxytest.NewCA(t)
	for _, c := range []struct {
		what   string
		redis  certs.Files
		change func(*proxy.Config)
		told   string
		log    string
	}{
		{"for another name", ca.Issue(proxytest.Identity{Name: "redis", Host: "redis.example"}), nil,
			"its certificate is not accepted", "doesn't contain any IP SANs"},
		{"for the name that is set", ca.Issue(proxytest.Identity{Name: "redis", Host: "redis.example"}), func(c *proxy.Config) {
			c.UpstreamTLS.ServerName = "redis.example"
		}, "", ""},
		{"expired", ca.Issue(proxytest.Identity{Name: "redis", Expired: true}), nil, "its certificate is not accepted", "has expired"},
		{"of an unknown authority", ca.Issue(proxytest.Identity{Name: "redis"}), func(c *proxy.Config) {
			c.UpstreamTLS.Files.CA = stranger.File
		}, "its certificate is not accepted", "unknown authority"},
		{"good, but ours is missing", ca.Issue(proxytest.Identity{Name: "redis"}), func(c *proxy.Config) {
			c.UpstreamTLS.Files.Cert, c.UpstreamTLS.Files.Key = "", ""
		}, "upstream is not available", "certificate required"},
		{"good, but ours is of an unknown authority", ca.Issue(proxytest.Identity{Name: "redis"}), func(c *proxy.Config) {
			ours := stranger.Issue(proxytest.Identity{Name: "the proxy"})
			c.UpstreamTLS.Files.Cert, c.UpstreamTLS.Files.Key = ours.Cert, ours.Key
		}, "upstream is not available", "unknown certificate authority"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel() // they mostly wait
			s, log := proxytest.RedisTLS(t, c.redis), &lockedBuffer{}
			cfg := proxytest.Config(t, s)
			cfg.Upstream, cfg.UpstreamTimeout = parseUpstream(t, s.TLSURL()), 0
			cfg.UpstreamTLS.Files = ca.Issue(proxytest.Identity{Name: "the proxy"})
			cfg.Log = slog.New(slog.NewTextHandler(log, nil))
			if c.change != nil {
				c.change(&cfg)
			}
			got := string(proxytest.Dial(t, proxytest.Proxy(t, cfg).Addr()).Do("PING"))
			if c.told == "" {
				c.told = "+PONG"
			}
			if !strings.Contains(got, c.told) || strings.Contains(got, "127.0.0.1") || strings.Contains(got, "redis.example") {
				t.Errorf("it is told %q, want %q and no address", got, c.told)
			}
			if !strings.Contains(log.String(), c.log) {
				t.Errorf("no %q in the log:\n%s", c.log, log)
			}
		})
	}
}

func TestARefusalIsReadOverTLS(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) { c.MaxClients = 1 })
	first := e.as(t, "first")
	first.Do("PING")
	for range 20 {
		c := e.as(t, "second")
		c.Write(strings.Repeat(proxytest.Command("PING"), 10))
		if got := string(c.ReadAll()); got != refusalText {
			t.Fatalf("one too many is told %q", got)
		}
	}
	silent := e.as(t, "silent")
	if got := string(silent.ReadAll()); got != refusalText {
		t.Errorf("one too many that says nothing is told %q", got)
	}
	library := redis.NewClient(&redis.Options{
		Addr: e.Addr(), MaxRetries: -1, TLSConfig: e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "library"})),
	})
	defer library.Close()
	if err := library.Ping(context.Background()).Err(); err == nil || !strings.Contains(err.Error(), "max number of clients") {
		t.Errorf("a library says %v", err)
	}
	if got := string(first.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the one that is in: %q", got)
	}
	first.Close()
	allGone(t, e.Running)
}

func TestARuleCountsByTheNameInTheCertificate(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) {
		c.Limits = parseRules(t, "cert each maxclients 2", "cert batch-* maxclients 1", "user ops reserved 1")
	})
	app := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
	var in []*proxytest.Conn
	for range 2 {
		c := proxytest.DialTLS(t, e.Addr(), app)
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Fatalf("app: %q", got)
		}
		in = append(in, c)
	}
	if got, err := pingWith(e.Addr(), app); got != refusalText {
		t.Errorf("the third app: %q, %v", got, err)
	}
	in = append(in, e.as(t, "batch-1"))
	if got := string(in[2].Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the first batch: %q", got)
	}
	if got := string(e.as(t, "batch-2").Do("PING")); got != refusalText {
		t.Errorf("the second batch, of another name: %q", got)
	}
	// Without a common name, the first of the other names counts.
	nameless := e.as(t, "")
	nameless.Do("PING")
	filter, err := proxy.ParseClientFilter("cert", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	if found, err := e.Clients(context.Background(), filter); err != nil || len(found) != 1 || found[0].Cert != "localhost" {
		t.Errorf("%+v, %v", found, err)
	}
	for _, c := range append(in, nameless) {
		c.Close()
	}
	allGone(t, e.Running)
}

func TestWhoSpeaksPlainTextToATLSListenerIsToldSo(t *testing.T) {
	e := encrypt(t, nil)
	for _, raw := range []string{proxytest.Command("PING"), "PING\r\n", "GET / HTTP/1.1\r\n\r\n"} {
		c := proxytest.Dial(t, e.Addr())
		c.Write(raw)
		if got := string(c.ReadAll()); !strings.HasPrefix(got, "-ERR this address is for TLS connections only") {
			t.Errorf("%q is answered with %q", raw, got)
		}
	}
	e.logs(t, "client refused: it does not speak TLS, and this listener does", "source=127.0.0.1", "listener=tls://")
}

func TestWhoSpeaksTLSToAPlainListenerIsToldSo(t *testing.T) {
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) })
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, err := pingWith(p.Addr(), &tls.Config{ServerName: "localhost", MaxVersion: version})
		var header tls.RecordHeaderError
		if !errors.As(err, &header) {
			t.Errorf("TLS %x: %v", version, err)
		}
	}
	eventually(t, "the log", func() string {
		if strings.Contains(log.String(), "client refused: it speaks TLS, and this listener does not") {
			return ""
		}
		return log.String()
	})
	allGone(t, p)
}

func TestOlderProtocolsAreRefused(t *testing.T) {
	for _, c := range []struct {
		protocols []string
		version   uint16
		ok        bool
	}{
		{nil, tls.VersionTLS11, false}, {nil, tls.VersionTLS12, true}, {nil, tls.VersionTLS13, true},
		{[]string{"TLSv1.3"}, tls.VersionTLS12, false}, {[]string{"TLSv1.3"}, tls.VersionTLS13, true},
		{[]string{"TLSv1.2"}, tls.VersionTLS12, true}, {[]string{"TLSv1.2"}, tls.VersionTLS13, false},
	} {
		e := encrypt(t, func(cfg *proxy.Config) { cfg.TLS.Protocols = c.protocols })
		config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
		config.MinVersion, config.MaxVersion = c.version, c.version
		if reply, err := pingWith(e.Addr(), config); (err == nil) != c.ok {
			t.Errorf("%s to %q: %q, %v", tls.VersionName(c.version), c.protocols, reply, err)
		}
		if !c.ok {
			e.logs(t, "client refused: the TLS handshake has failed", "unsupported versions")
		}
	}
}

func TestProtectedModeTrustsACertificate(t *testing.T) {
	host := outside(t)
	for _, ask := range []string{"optional", "yes"} {
		e := encrypt(t, func(c *proxy.Config) {
			c.Listen = []string{"tls://0.0.0.0:0"}
			c.Upstream = parseUpstream(t, "rediss://default:x@"+c.Upstream.String())
			c.TLS.AuthClients = ask
		})
		_, port, _ := net.SplitHostPort(e.Addr())
		addr := net.JoinHostPort(host, port)
		config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
		if reply, err := pingWith(addr, config); reply != "+PONG\r\n" {
			t.Errorf("%s: with a certificate: %q, %v", ask, reply, err)
		}
		config.Certificates = nil
		reply, err := pingWith(addr, config)
		if ask == "yes" && err == nil || ask == "optional" && !strings.HasPrefix(reply, "-DENIED") {
			t.Errorf("%s: without: %q, %v", ask, reply, err)
		}
	}
}
