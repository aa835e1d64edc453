package proxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// With TLS on one side or on both, a client must not be able to tell, but for who is let in.

// encrypted is a proxy whose clients and whose upstream speak TLS.
type encrypted struct {
	*proxytest.Running
	redis *proxytest.Server
	ca    *proxytest.CA
	files certs.Files // the proxy's own certificate
	log   *lockedBuffer
}

// encrypt starts a proxy in front of a Redis that asks for a certificate. The client's side is for TLS only.
func encrypt(t *testing.T, change func(*proxy.Config)) *encrypted {
	t.Helper()
	ca := proxytest.NewCA(t)
	e := &encrypted{ca: ca, files: ca.Issue(proxytest.Identity{Name: "redbouncer"}), log: &lockedBuffer{}}
	e.redis = proxytest.RedisTLS(t, ca.Issue(proxytest.Identity{Name: "redis"}))
	cfg := proxytest.Config(t, e.redis)
	cfg.Listen = []string{"tls://127.0.0.1:0"}
	cfg.TLS.Files = e.files
	cfg.Upstream = parseUpstream(t, e.redis.TLSURL())
	cfg.UpstreamTLS.Files = ca.Issue(proxytest.Identity{Name: "the proxy"})
	cfg.Log = slog.New(slog.NewTextHandler(e.log, nil))
	if change != nil {
		change(&cfg)
	}
	e.Running = proxytest.Proxy(t, cfg)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log:\n%s", e.log)
		}
	})
	return e
}

func parseUpstream(t *testing.T, url string) *multiplex.Upstream {
	t.Helper()
	up, err := multiplex.ParseUpstream(url)
	if err != nil {
		t.Fatal(err)
	}
	return up
}

// as connects with a certificate for a name.
func (e *encrypted) as(t *testing.T, name string) *proxytest.Conn {
	t.Helper()
	return proxytest.DialTLS(t, e.Addr(), e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: name})))
}

// logs waits for a line of the log that holds all of the words.
func (e *encrypted) logs(t *testing.T, words ...string) {
	t.Helper()
	eventually(t, "the log", func() string {
		for line := range strings.Lines(e.log.String()) {
			missing := 0
			for _, w := range words {
				if !strings.Contains(line, w) {
					missing++
				}
			}
			if missing == 0 {
				return ""
			}
		}
		return fmt.Sprintf("no line with %q", words)
	})
}

func TestALibraryUsesEverythingThroughTLSOnBothSides(t *testing.T) {
	e := encrypt(t, func(c *proxy.Config) { c.PoolSize = 4 })
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	config := e.ca.ClientTLS(e.ca.Issue(proxytest.Identity{Name: "app"}))

	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			c := redis.NewClient(&redis.Options{Addr: e.Addr(), TLSConfig: config, Protocol: 2 + i%2, PoolSize: 1, DB: i % 2})
			defer c.Close()
			if err := useEverything(ctx, c, i); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	clients.Wait()
	allGone(t, e.Running)

	// The control connection is encrypted too, and so is a pin.
	c := e.as(t, "app")
	for _, step := range []struct{ command, want string }{
		{"AUTH default anything", "+OK\r\n"},
		{"WATCH k", "+OK\r\n"},
		{"SCRIPT KILL", "-NOTBUSY No scripts in execution right now.\r\n"},
	} {
		if got := string(c.Do(strings.Fields(step.command)...)); got != step.want {
			t.Errorf("%s: %q, want %q", step.command, got, step.want)
		}
	}
	for line := range strings.SplitSeq(e.redis.Client().ClientList(ctx).Val(), "\n") {
		if strings.Contains(line, "name=redbouncer:") && !strings.Contains(line, "laddr="+e.redis.TLSAddr()) {
			t.Errorf("a connection of the proxy is not encrypted: %s", line)
		}
	}
}

func TestRedisCLISpeaksTLSToTheProxy(t *testing.T) {
	e := encrypt(t, nil)
	files := e.ca.Issue(proxytest.Identity{Name: "operator"})
	_, port, _ := strings.Cut(e.Addr(), ":")
	cli := func(args ...string) string {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		args = append([]string{"-h", "127.0.0.1", "-p", port, "--tls", "--cacert", files.CA}, args...)
		out, _ := exec.CommandContext(ctx, "redis-cli", args...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	with := []string{"--cert", files.Cert, "--key", files.Key}
	for _, step := range []struct{ command, want string }{
		{"SET greeting hello", "OK"}, {"GET greeting", "hello"}, {"CLIENT GETNAME", ""},
	} {
		if got := cli(append(with, strings.Fields(step.command)...)...); got != step.want {
			t.Errorf("%s: %q, want %q", step.command, got, step.want)
		}
	}
	if got := cli("PING"); strings.Contains(got, "PONG") {
		t.Errorf("without a certificate: %s", got)
	}
	e.logs(t, "it has shown no certificate", "source=127.0.0.1")
}
