package proxy_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Before it has been greeted, nobody has been counted: who says nothing, or too much, must not keep others out.

func TestAHandshakeEndsInTime(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) { c.HandshakeTimeout = time.Second })
	var hello strings.Builder
	recorder := tls.Client(recording{&hello}, e.ca.ClientTLS(e.files))
	_ = recorder.Handshake()
	for what, begin := range map[string]string{"nothing": "", "half a greeting": hello.String()[:20]} {
		nc, err := net.Dial("tcp", e.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		start := time.Now()
		_, _ = nc.Write([]byte(begin))
		_, _ = io.Copy(io.Discard, nc) // an alert, or nothing
		if d := time.Since(start); d < 900*time.Millisecond || d > 5*time.Second {
			t.Errorf("%s: closed after %v", what, d)
		}
	}
	e.logs(t, "client refused: no TLS handshake in time")
	if got := string(e.as(t, "app").Do("PING")); got != "+PONG\r\n" {
		t.Errorf("afterwards: %q", got)
	}
}

// recording is a connection on which nothing comes and all that is written is kept.
type recording struct{ *strings.Builder }

func (recording) Read([]byte) (int, error)         { return 0, io.EOF }
func (recording) Close() error                     { return nil }
func (recording) LocalAddr() net.Addr              { return nil }
func (recording) RemoteAddr() net.Addr             { return nil }
func (recording) SetDeadline(time.Time) error      { return nil }
func (recording) SetReadDeadline(time.Time) error  { return nil }
func (recording) SetWriteDeadline(time.Time) error { return nil }

func TestAFloodOfSilentConnectionsKeepsNobodyOut(t *testing.T) {
	t.Run("of clients", func(t *testing.T) {
		floodSilently(t, encrypt(t, nil), "", "client refused: its TLS handshake took long, and others waited")
	})
	t.Run("of a balancer", func(t *testing.T) {
		e := encrypt(t, func(c *proxy.Config) { c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, "127.0.0.1") })
		floodSilently(t, e, headerV1("192.0.2.1:40001"), "client refused: its PROXY protocol header took long, and others waited")
	})
}

// floodSilently opens connections that say nothing, and sees whether somebody is let in who begins with header.
func floodSilently(t *testing.T, e *encrypted, header, logged string) {
	t.Helper()
	var flood []net.Conn
	defer func() {
		for _, nc := range flood {
			_ = nc.Close()
		}
	}()
	for range 2*proxy.MaxHandshakes + 50 {
		nc, err := net.DialTimeout("tcp", e.Addr(), patience)
		if err != nil {
			break // not even the kernel takes more
		}
		flood = append(flood, nc)
		if len(flood) > proxy.MaxHandshakes+100 {
			break
		}
	}
	if len(flood) <= proxy.MaxHandshakes {
		t.Fatalf("only %d connections", len(flood))
	}
	start := time.Now()
	nc, err := net.DialTimeout("tcp", e.Addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte(header)); err != nil {
		t.Fatal(err)
	}
	c, err := proxytest.OverTLS(t, nc, e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"})))
	if err != nil {
		t.Fatal(err)
	}
	if got := string(c.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("in a flood: %q", got)
	}
	t.Logf("let in after %v", time.Since(start))
	if d := time.Since(start); d > 5*time.Second { // a handshake may take 10 s
		t.Errorf("it had to wait for %v", d)
	}
	if n := e.Handshakes(); n > proxy.MaxHandshakes {
		t.Errorf("%d handshakes at once", n)
	}
	e.logs(t, logged)
}

func TestAStormOfHandshakesDoesNotHoldUpThoseWhoAreIn(t *testing.T) {
	e := encrypt(t, nil)
	config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
	calm := proxytest.DialTLS(t, e.Addr(), config)
	calm.Do("PING")
	ctx, stop := context.WithTimeout(context.Background(), time.Second)
	defer stop()
	var storm sync.WaitGroup
	for range 50 {
		storm.Go(func() {
			for ctx.Err() == nil {
				if got, err := pingWith(e.Addr(), config); got != "+PONG\r\n" {
					t.Errorf("in a storm: %q, %v", got, err)
				}
			}
		})
	}
	for ctx.Err() == nil {
		if got := string(calm.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("the one that is in: %q", got)
		}
	}
	storm.Wait()
	calm.Close()
	allGone(t, e.Running)
	if n := e.Handshakes(); n != 0 {
		t.Errorf("%d handshakes are left", n)
	}
}

func TestAProxyStopsUnderHandshakes(t *testing.T) {
	e := encrypt(t, nil)
	for range 20 {
		nc, err := net.Dial("tcp", e.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
	}
	eventually(t, "they are being greeted", func() string {
		if e.Handshakes() < 20 {
			return "not all"
		}
		return ""
	})
	start := time.Now()
	if err := e.Stop(); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
	if n := e.Handshakes(); n != 0 {
		t.Errorf("%d handshakes are left", n)
	}
}

func TestABalancersHeaderComesBeforeTLS(t *testing.T) {
	for _, words := range []string{"127.0.0.0/8", "10.0.0.0/8"} {
		e := encrypt(t, func(c *proxy.Config) {
			c.AcceptProxy, c.TrustedProxies = c.Listen, trusted(t, words)
			c.Limits = parseRules(t, "addr 192.0.2.1 maxclients 1")
		})
		through := func(header string) (*proxytest.Conn, error) {
			nc, err := net.Dial("tcp", e.Addr())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := nc.Write([]byte(header)); err != nil {
				return nil, err
			}
			return proxytest.OverTLS(t, nc, e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"})))
		}
		one, err := through(headerV1("192.0.2.1:40001"))
		if words != "127.0.0.0/8" {
			if err == nil {
				t.Errorf("a proxy that is not trusted gets through")
			}
			e.logs(t, "not among trusted-proxies", "source=127.0.0.1")
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := addrShown(t, one.Do("CLIENT", "INFO")); got != "192.0.2.1:40001" {
			t.Errorf("the client is at %s", got)
		}
		if two, err := through(headerV2("192.0.2.1:40002")); err != nil || string(two.Do("PING")) != refusalText {
			t.Errorf("one too many from there: %v", err)
		}
		if _, err := through("GET / HTTP/1.1\r\n"); err == nil {
			t.Error("without a header it gets through")
		}
		e.logs(t, "bad PROXY protocol header")
	}
}
