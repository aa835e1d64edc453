package proxy_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Sentinels that speak TLS are asked with the same authorities and the same certificate as the primary that they name.

func TestSentinelsAreAskedThroughTLSAsTheirPrimaryIs(t *testing.T) {
	ca, stranger := proxytest.NewCA(t), proxytest.NewCA(t)
	primary := proxytest.RedisTLS(t, ca.Issue(proxytest.Identity{Name: "redis"}), "--tls-replication", "yes")
	url := proxytest.SentinelTLS(t, primary, ca.Issue(proxytest.Identity{Name: "sentinel"}))
	cfg := watchedConfig(t, url)
	cfg.UpstreamTLS.Files = ca.Issue(proxytest.Identity{Name: "the proxy"})
	p := proxytest.Proxy(t, cfg)
	c := proxytest.Dial(t, p.Addr())
	if got := string(c.Do("SET", "k", "v")); got != "+OK\r\n" {
		t.Errorf("SET: %q", got)
	}
	if got := string(proxytest.Dial(t, primary.Addr()).Do("GET", "k")); got != "$1\r\nv\r\n" {
		t.Errorf("the primary has %q", got)
	}

	told := func(what, want string, change func(*proxy.Config)) {
		log := &lockedBuffer{}
		cfg := watchedConfig(t, url)
		cfg.UpstreamTLS.Files = ca.Issue(proxytest.Identity{Name: "the proxy"})
		cfg.Log = slog.New(slog.NewTextHandler(log, nil))
		change(&cfg)
		proxytest.Proxy(t, cfg)
		eventually(t, what+" is told of", func() string {
			if strings.Contains(log.String(), want) {
				return ""
			}
			return log.String()
		})
	}
	told("a sentinel with the certificate of another authority", "signed by unknown authority", func(c *proxy.Config) {
		c.UpstreamTLS.Files.CA = stranger.File
	})
	told("a sentinel that asks for a certificate", "certificate required", func(c *proxy.Config) {
		c.UpstreamTLS.Files.Cert, c.UpstreamTLS.Files.Key = "", ""
	})
}
