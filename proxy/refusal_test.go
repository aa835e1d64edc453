package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

const refusalText = "-ERR max number of clients reached\r\n"

// fullProxy starts a proxy that has as many clients as it may, and returns it with its log.
func fullProxy(t *testing.T, listen ...string) (*proxytest.Running, *lockedBuffer) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.Listen = append(cfg.Listen, listen...)
	cfg.MaxClients = 3
	cfg.LogInterval = time.Second
	log := &lockedBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	p := proxytest.Proxy(t, cfg)
	for range cfg.MaxClients {
		if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != "+PONG\r\n" {
			t.Fatalf("a client within the limit is told %q", got)
		}
	}
	return p, log
}

// Redis writes its refusal at accept and closes: a client that writes before it reads gets a reset, and many never see
// the text.
func TestARefusedClientReadsTheTextHoweverMuchItWroteBefore(t *testing.T) {
	t.Parallel() // it mostly waits
	socket := t.TempDir() + "/redbouncer.sock"
	p, log := fullProxy(t, "127.0.0.1:0", "unix:"+socket)
	var clients sync.WaitGroup
	limit := make(chan struct{}, 50)
	for i := range 300 {
		clients.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			network, addr := "tcp", p.Addr()
			if i%3 == 0 {
				network, addr = "unix", socket
			}
			c, err := net.Dial(network, addr)
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			for range i % 11 { // none: it never speaks
				if _, err := io.WriteString(c, "*1\r\n$4\r\nPING\r\n"); err != nil {
					t.Errorf("client %d cannot write: %v", i, err)
				}
			}
			if got, err := io.ReadAll(c); string(got) != refusalText || err != nil {
				t.Errorf("client %d reads %q, %v", i, got, err)
			}
		})
	}
	clients.Wait()
	if st := p.Stats(); st.Refused != 300 || st.Clients != 3 {
		t.Errorf("%d refused, %d clients, want 300 and 3", st.Refused, st.Clients)
	}
	eventually(t, "the suppressed refusals in the log", func() string {
		if text := log.String(); strings.Count(text, "client refused") != 2 || !strings.Contains(text, "suppressed=") {
			return "want one line a source, and one that counts the rest:\n" + text
		}
		return ""
	})
}

// A library that begins with HELLO takes an error for that of an old server, and goes on without. It shows what its
// own first command is told.
func TestALibraryShowsWhyItWasRefused(t *testing.T) {
	p, _ := fullProxy(t)
	for _, protocol := range []int{2, 3} {
		c := redis.NewClient(&redis.Options{Addr: p.Addr(), Protocol: protocol, MaxRetries: -1})
		err := c.Get(context.Background(), "k").Err()
		if err == nil || !strings.Contains(err.Error(), "max number of clients reached") {
			t.Errorf("go-redis, RESP%d: %v", protocol, err)
		}
		_ = c.Close()
	}
}

func TestAClientThatLeavesMakesRoomForTheNext(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.MaxClients = 1
	p := proxytest.Proxy(t, cfg)
	for i := range 20 {
		c := proxytest.Dial(t, p.Addr())
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Fatalf("client %d: %q", i, got)
		}
		c.Close()
		allGone(t, p)
	}
}

func TestALimitThatTheProcessCannotHaveIsLoweredAndSaid(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.MaxClients = 1 << 24
	log := &lockedBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	srv, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(running) }()
	if got := srv.Stats().MaxClients; got >= 1<<24 || !strings.Contains(log.String(), fmt.Sprintf("maxclients=%d", got)) {
		t.Errorf("maxclients in force is %d; the log says:\n%s", got, log)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
