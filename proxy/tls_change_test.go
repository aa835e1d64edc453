package proxy_test

import (
	"context"
	"crypto/tls"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A certificate lives for weeks, and a proxy for months.

// shown is the common name of the certificate that the proxy shows.
func (e *encrypted) shown(t *testing.T) string {
	t.Helper()
	nc, err := tls.Dial("tcp", e.Addr(), e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "looker"})))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	return nc.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func TestCertificatesAreRenewedUnderLoadWithoutAFailedCommand(t *testing.T) {
	e := encrypt(t, nil)
	config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients sync.WaitGroup
	var done atomic.Int64
	for i := range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				c := redis.NewClient(&redis.Options{Addr: e.Addr(), TLSConfig: config, PoolSize: 1, MaxRetries: -1})
				for range 20 + 10*i { // so that they connect all the time, and not all at once
					if err := c.Incr(context.Background(), "n").Err(); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
					done.Add(1)
				}
				_ = c.Close()
			}
		})
	}
	for _, name := range []string{"second", "third"} {
		e.ca.Renew(e.files, proxytest.Identity{Name: name})
		eventually(t, "the new certificate is shown", func() string {
			if got := e.shown(t); got != name {
				return "it is " + got
			}
			return ""
		})
	}
	e.logs(t, "TLS certificates have changed and are in use", "CN=third")

	// What cannot be used changes nothing, and is told once. (A key that does not fit yet may have been told of before.)
	told := func() int { return strings.Count(e.log.String(), "cannot be used") }
	before := told()
	if err := os.WriteFile(e.files.Cert, []byte("-----BEGIN NONSENSE-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // the files are looked at twice
	if got := e.shown(t); got != "third" {
		t.Errorf("with a broken file, the certificate of %s is shown", got)
	}
	if n := told() - before; n != 1 {
		t.Errorf("a broken file is told of %d times", n)
	}
	e.ca.Renew(e.files, proxytest.Identity{Name: "fourth"})
	eventually(t, "the file is mended", func() string {
		if got := e.shown(t); got != "fourth" {
			return "it is " + got
		}
		return ""
	})
	stop()
	clients.Wait()
	if got, err := e.redis.Client().Get(context.Background(), "n").Int64(); err != nil || got != done.Load() || got == 0 {
		t.Errorf("%d of %d commands have been carried out, %v", got, done.Load(), err)
	}
	allGone(t, e.Running)
}

func TestTheProxysOwnCertificateForTheUpstreamIsRenewed(t *testing.T) {
	ca := proxytest.NewCA(t)
	ours := ca.Issue(proxytest.Identity{Name: "the proxy", Expired: true})
	e := encrypt(t, func(c *proxy.Config) {
		c.UpstreamTLS.Files.Cert, c.UpstreamTLS.Files.Key = ours.Cert, ours.Key
		c.UpstreamTimeout = 0
	})
	c := e.as(t, "app")
	if got := string(c.Do("PING")); !strings.HasPrefix(got, "-ERR upstream is not available") {
		t.Errorf("with an expired certificate: %q", got)
	}
	e.logs(t, "the TLS certificate has expired", "level=WARN")
	e.ca.Renew(ours, proxytest.Identity{Name: "the proxy"})
	eventually(t, "the upstream accepts the new one", func() string {
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			return got
		}
		return ""
	})
}

func TestACertificateNamesTheUser(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) {
		c.TLS.AuthClientsUser, c.TLS.AuthClients = "CN", "optional"
		c.MaxClients, c.Limits = 2, parseRules(t, "user alice maxclients 1")
	})
	e.redis.Client().Do(context.Background(), "ACL", "SETUSER", "alice", "on", "nopass", "+@all", "-keys", "~alice:*")
	e.redis.Client().Do(context.Background(), "ACL", "SETUSER", "bob", "on", ">secret", "+@all", "~*")

	alice := e.as(t, "alice")
	alice.Write(proxytest.Command("SET", "alice:1", "x") + proxytest.Command("SET", "bob:1", "x") + proxytest.Command("ACL", "WHOAMI"))
	for _, want := range []string{"+OK\r\n", "-NOPERM", "$5\r\nalice\r\n"} {
		if got := string(alice.ReadReply()); !strings.HasPrefix(got, want) {
			t.Errorf("alice is answered %q, want %q", got, want)
		}
	}
	if got := string(e.as(t, "alice").Do("PING")); got != refusalText {
		t.Errorf("a second alice: %q", got)
	}
	// A user with a password is not to be had by a certificate, and a name that is nobody's is not the default user's.
	for _, name := range []string{"bob", "mallory", "", "default extra"} {
		c := e.as(t, name)
		c.Send("SET", "k", "by "+name)
		if got := string(c.ReadAll()); !strings.HasPrefix(got, "-WRONGPASS") {
			t.Errorf("%q: %q", name, got)
		}
	}
	e.logs(t, "client refused: its certificate names no ACL user without password", "cert=bob")
	if n := e.redis.Client().Exists(context.Background(), "k", "bob:1").Val(); n != 0 {
		t.Error("something was written that should not have been")
	}
	// Who shows none is who it says that it is.
	config := e.ca.ClientTLS(e.files)
	config.Certificates = nil
	c := proxytest.DialTLS(t, e.Addr(), config)
	if got := string(c.Do("AUTH", "bob", "secret")); got != "+OK\r\n" {
		t.Errorf("AUTH: %q", got)
	}
	c.Close()
	alice.Close()
	allGone(t, e.Running)
}

func TestRESETDoesNotLeadOutOfACertificatesUser(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) {
		c.TLS.AuthClientsUser, c.Limits = "CN", parseRules(t, "user alice maxclients 1")
	})
	direct, ctx := e.redis.Client(), context.Background()
	direct.Do(ctx, "ACL", "SETUSER", "alice", "on", "nopass", "+@all", "~alice:*")
	setUser(t, e.redis, "bob", ">pw")
	direct.Set(ctx, "secret", "x", 0)
	alice := e.as(t, "alice")
	for _, before := range []string{"PING", "AUTH bob pw", "WATCH alice:k", "SUBSCRIBE alice:ch", "MULTI", "CLIENT SETNAME a"} {
		alice.Do(strings.Fields(before)...)
		alice.Write(proxytest.Command("RESET") + proxytest.Command("GET", "secret") + proxytest.Command("ACL", "WHOAMI"))
		for _, want := range []string{"+RESET\r\n", "-NOPERM", "$5\r\nalice\r\n"} {
			if got := string(alice.ReadReply()); !strings.HasPrefix(got, want) {
				t.Errorf("after %s and RESET it is answered %q, want %q", before, got, want)
			}
		}
	}
	if got := string(e.as(t, "alice").Do("PING")); got != refusalText {
		t.Errorf("a second alice: %q", got)
	}
	direct.Do(ctx, "ACL", "SETUSER", "alice", "off")
	alice.Send("RESET")
	if got := string(alice.ReadAll()); !strings.HasPrefix(got, "-WRONGPASS your certificate") {
		t.Errorf("of a user who is no more, RESET makes %q", got)
	}
}

func TestWhoComesWithACertificateDuringAPauseWaits(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) { c.TLS.AuthClientsUser, c.UpstreamTimeout = "CN", 300*time.Millisecond })
	e.redis.Client().Do(context.Background(), "ACL", "SETUSER", "alice", "on", "nopass", "+@all", "~*")
	watching := e.as(t, "alice")
	expect(t, watching, "PING", "+PONG\r\n")
	pauses(t, e.Running, "")
	e.redis.Kill()
	late := e.as(t, "alice")
	late.Write(proxytest.Command("PING") + proxytest.Command("ACL", "WHOAMI"))
	gone := e.as(t, "alice")
	gone.Close()
	time.Sleep(1500 * time.Millisecond) // longer than the upstream is waited for
	silent(t, late)
	e.redis.Restart()
	e.redis.Client().Do(context.Background(), "ACL", "SETUSER", "alice", "on", "nopass", "+@all", "~*")
	resumes(t, e.Running)
	expectNext(t, late, "+PONG\r\n")
	expectNext(t, late, "$5\r\nalice\r\n")
	expect(t, watching, "PING", "+PONG\r\n")
}

// Whoever tries passwords beside them does not keep those out who need none.
func TestACertificateIsNoPasswordToBeGuessed(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) { c.TLS.AuthClientsUser, c.AuthDelay = "CN", 2*time.Second })
	e.redis.Client().Do(context.Background(), "ACL", "SETUSER", "alice", "on", "nopass", "+@all", "~*")
	setUser(t, e.redis, "bob", ">pw")
	guesser := e.as(t, "alice")
	time.Sleep(200 * time.Millisecond) // until its process is known
	for range 9 {
		guesser.Do("AUTH", "bob", "wrong")
	}
	begin := time.Now()
	for range 20 {
		expect(t, e.as(t, "alice"), "PING", "+PONG\r\n")
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("20 of them took %s", took)
	}
	guesser.Do("AUTH", "bob", "wrong")
	begin = time.Now()
	if guesser.Do("AUTH", "bob", "wrong"); time.Since(begin) < 400*time.Millisecond {
		t.Error("they have made the next guess free")
	}
}
