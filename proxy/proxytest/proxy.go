package proxytest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
)

// Running is a proxy that runs for as long as the test does.
type Running struct {
	*proxy.Server

	t    testing.TB
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned
	err  error         // what it returned, valid after done
	once sync.Once
}

// Proxy starts a proxy in this process, on a free loopback port unless cfg names an address, and drains it
// when the test ends. A zero PoolTimeout or UpstreamTimeout stays zero: see Config for the settings' defaults.
func Proxy(t testing.TB, cfg proxy.Config) *Running {
	t.Helper()
	return ProxyWith(t, cfg, func(*proxy.Server) error { return nil })
}

// ProxyWith is Proxy with something that is to be done before it runs.
func ProxyWith(t testing.TB, cfg proxy.Config, before func(*proxy.Server) error) *Running {
	t.Helper()
	if len(cfg.Listen) == 0 {
		cfg.Listen = []string{"127.0.0.1:0"}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	srv, err := proxy.New(cfg)
	if err != nil {
		t.Fatalf("the proxy does not start: %v", err)
	}
	if err := before(srv); err != nil {
		t.Fatalf("the proxy does not run: %v", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Running{Server: srv, t: t, stop: stop, done: make(chan struct{})}
	go p.run(ctx)
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Errorf("the proxy ended with an error: %v", err)
		}
	})
	return p
}

// Config returns the configuration of a proxy in front of s, with the timeouts that the settings have by
// default.
func Config(t testing.TB, s *Server) proxy.Config {
	t.Helper()
	up, err := multiplex.ParseUpstream(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	return proxy.Config{
		Upstream:        up,
		PoolTimeout:     proxy.DefaultPoolTimeout,
		UpstreamTimeout: proxy.DefaultUpstreamTimeout,
	}
}

// run serves until ctx is cancelled and the proxy has drained.
func (p *Running) run(ctx context.Context) {
	defer close(p.done)
	p.err = p.Run(ctx)
}

// Stop orders the proxy to stop, waits until it has, and returns what Run returned. Stopping twice is fine.
func (p *Running) Stop() error {
	p.once.Do(p.stop)
	return p.Wait()
}

// Wait waits until the proxy has stopped, and returns what Run returned.
func (p *Running) Wait() error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(time.Minute):
		return errors.New("it was to stop a minute ago and still runs")
	}
}

// Addr returns the first address that the proxy listens on, as Dial takes it.
func (p *Running) Addr() string {
	a := p.Addrs()[0]
	if _, ok := a.(*net.UnixAddr); ok {
		return "unix:" + a.String()
	}
	return a.String()
}

// URL returns the address of a proxy on TCP as clients take it: redis://host:port.
func (p *Running) URL() string { return "redis://" + p.Addr() }

// Client returns a go-redis client that talks through the proxy, with its defaults but for opts. It is closed
// when the test ends.
func (p *Running) Client(opts redis.Options) *redis.Client {
	opts.Addr = p.Addr()
	c := redis.NewClient(&opts)
	p.t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			p.t.Errorf("closing the client: %v", err)
		}
	})
	return c
}
