package proxy_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/handover"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Two proxies in this process, of which the second takes over from the first. That of whole programs is tested in cmd.

// takeOver has a proxy with another configuration take over from p, and returns when it serves.
func takeOver(t *testing.T, p *proxytest.Running, cfg proxy.Config) *proxytest.Running {
	t.Helper()
	listeners, sockets, err := p.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Inherited = map[string]proxy.Inherited{}
	for i, l := range listeners {
		ln, err := net.FileListener(sockets[i])
		if err != nil {
			t.Fatal(err)
		}
		_ = sockets[i].Close()
		cfg.Listen = append(cfg.Listen, l.Addr)
		cfg.Inherited[l.Addr] = proxy.Inherited{Listener: ln}
	}
	here, f, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	there, err := handover.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	given := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), proxytest.ReplyTimeout)
		defer cancel()
		_, err := here.Expect(handover.ReadyKind, &handover.Ready{})
		if err == nil {
			err = p.HandOver(ctx, here)
		}
		given <- err
	}()
	next := proxytest.ProxyWith(t, cfg, func(s *proxy.Server) error { return s.Succeed(there) })
	if err := <-given; err != nil {
		t.Fatal(err)
	}
	return next
}

func TestClientsAreHandedOverOneByOne(t *testing.T) {
	for name, change := range map[string]func(*proxy.Config){"polled": func(*proxy.Config) {}, "streams": proxy.UseStreams} {
		t.Run(name, func(t *testing.T) {
			s := proxytest.Redis(t)
			cfg := proxytest.Config(t, s)
			change(&cfg)
			p := proxytest.Proxy(t, cfg)
			var clients []*proxytest.Conn
			for i := range 100 {
				c := proxytest.Dial(t, p.Addr())
				c.Do("SELECT", fmt.Sprint(i%16))
				c.Do("CLIENT", "SETNAME", fmt.Sprint("c", i))
				clients = append(clients, c)
			}
			half := clients[0]
			half.Write("*2\r\n$3\r\nGET\r\n$1") // goes on later: it stays until then
			clients[1].Do("MULTI")
			time.Sleep(20 * time.Millisecond)
			next := takeOver(t, p, cfg)
			eventually(t, "two clients are left", func() string {
				if n := p.Stats().Clients; n != 2 {
					return fmt.Sprintf("there are %d", n)
				}
				return ""
			})
			if n := next.Stats().Clients; n != 100 {
				t.Errorf("the next proxy counts %d clients, want those of both: 100", n)
			}
			for i, c := range clients[2:] {
				if got := string(c.Do("CLIENT", "GETNAME")); !strings.Contains(got, fmt.Sprint("c", i+2)) {
					t.Errorf("client %d is called %q", i+2, got)
				}
			}
			half.Write("\r\nk\r\n")
			if got := string(half.ReadReply()); got != "$-1\r\n" {
				t.Errorf("the reply to a command in two parts is %q", got)
			}
			if got := string(clients[1].Do("EXEC")); got != "*0\r\n" {
				t.Errorf("the reply to EXEC is %q", got)
			}
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
			for _, c := range clients[:2] {
				if got := string(c.Do("PING")); got != "+PONG\r\n" {
					t.Errorf("a> PING\na< %q", got)
				}
			}
			if n := next.Stats().Clients; n != 100 {
				t.Errorf("at the end the next proxy counts %d clients, want 100", n)
			}
		})
	}
}

func TestWhoWaitsForAPlaceUnderARuleWaitsForItInTheNextProgram(t *testing.T) {
	for name, change := range map[string]func(*proxy.Config){"polled": func(*proxy.Config) {}, "streams": proxy.UseStreams} {
		t.Run(name, func(t *testing.T) {
			s := proxytest.Redis(t)
			cfg := proxytest.Config(t, s)
			cfg.Loops = 2
			cfg.Limits = parseRules(t, "name worker maxclients 3 overflow queue queue-timeout 60s")
			change(&cfg)
			p := proxytest.Proxy(t, cfg)
			var workers []*proxytest.Conn
			for i := range 6 {
				c := proxytest.Dial(t, p.Addr())
				c.Do("CLIENT", "SETNAME", "worker")
				switch {
				case i < 3:
					c.Do("PING")
				case i < 5: // the last one says nothing yet
					c.Write(fmt.Sprintf("*2\r\n$4\r\nECHO\r\n$1\r\n%d\r\n", i))
				}
				workers = append(workers, c)
			}
			holds := func(p *proxytest.Running, open, waiting int) {
				t.Helper()
				eventually(t, fmt.Sprintf("%d workers are in and %d wait", open, waiting), func() string {
					if g := p.Rules()[1].Groups[0]; g.Open != open || g.Waiting != waiting {
						return fmt.Sprintf("%+v", g)
					}
					return ""
				})
			}
			holds(p, 3, 3)
			next := takeOver(t, p, cfg)
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
			holds(next, 3, 3)
			for left := range 3 {
				workers[left].Close()
				holds(next, 3, 2-left)
			}
			for i, c := range workers[3:5] {
				if got, want := string(c.ReadReply()), fmt.Sprintf("$1\r\n%d\r\n", i+3); got != want {
					t.Errorf("worker %d is answered %q, want %q", i+3, got, want)
				}
			}
			if got := string(workers[5].Do("PING")); got != "+PONG\r\n" {
				t.Errorf("a> PING\na< %q", got)
			}
			if n := next.Stats().Clients; n != 3 {
				t.Errorf("%d clients are connected, want 3", n)
			}
		})
	}
}

func TestAHandOverThatBreaksOffLeavesTheDoorsOpen(t *testing.T) {
	s := proxytest.Redis(t)
	p := proxytest.Proxy(t, proxytest.Config(t, s))
	c := proxytest.Dial(t, p.Addr())
	here, f, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	_ = f.Close() // nobody is there
	if err := p.HandOver(t.Context(), here); err == nil {
		t.Error("nobody has taken over, and that is no error")
	}
	for range 2 {
		if got := string(c.Do("PING")); got != "+PONG\r\n" {
			t.Errorf("a> PING\na< %q", got)
		}
		c = proxytest.Dial(t, p.Addr())
	}
	if state := p.State(); state != "serving" {
		t.Errorf("the proxy is %s", state)
	}
}
