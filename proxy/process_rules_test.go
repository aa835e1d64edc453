//go:build linux

package proxy_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Rules about processes, with processes: on a unix socket the kernel tells at once whose a connection is, on TCP it is found
// out a moment after the client has been let in.

func TestAProcessOnAUnixSocketIsKnownAtOnce(t *testing.T) {
	for _, loops := range []int{1, 2} {
		t.Run(fmt.Sprintf("%d loops", loops), func(t *testing.T) {
			_, p := redisAndProxy(t, func(c *proxy.Config) {
				c.Loops, c.Listen = loops, []string{"unix:" + t.TempDir() + "/r.sock"}
				c.Limits = parseRules(t, "process worker maxclients 2", "process batch each maxclients 1 overflow queue queue-timeout 20s",
					"pid each maxclients 3")
			})
			worker, batch, web := startProcess(t, "worker", p.Addr()), startProcess(t, "batch", p.Addr()), startProcess(t, "web", p.Addr())
			via := map[string]string{}
			for name, proc := range map[string]*process{"worker": worker, "batch": batch, "web": web} {
				for i := range 5 {
					via[name+strconv.Itoa(i)] = proc.addr
				}
			}
			t.Cleanup(func() { eventually(t, "all is zero", func() string { return stillCounted(p) }) })
			proxytest.Converse(t, p.Addr(), via, `
				worker1> PING
				worker1< +PONG
				worker2> PING
				worker2< +PONG
				worker3> SET k v
				worker3< -ERR max number of clients reached
				worker3< (end)
				batch1> PING
				batch1< +PONG
				batch2+ INCR n
				batch2> INCR n
				web1> GET n
				web1< $-1
				web2> PING
				web2< +PONG
				web3> PING
				web3< +PONG
				web4> PING
				web4< -ERR max number of clients reached
				batch1: close
				batch2< :1
				batch2< :2
				worker1: reset
				worker2: close
				own> PING
				own< +PONG
			`)
			list, err := p.Clients(t.Context(), proxy.ClientFilter{})
			if err != nil {
				t.Fatal(err)
			}
			pids := map[string]int{}
			for _, x := range list {
				pids[x.Process+" "+x.PID]++
			}
			if n := pids[fmt.Sprintf("web %d", web.Process.Pid)]; n != 3 {
				t.Errorf("of the web process there are %d clients: %v", n, pids)
			}
		})
	}
}

func TestAProcessOnTCPIsFoundAMomentLater(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, loops := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, %d loops", listen, loops), func(t *testing.T) {
				_, p := redisAndProxy(t, func(c *proxy.Config) {
					c.Loops, c.Listen = loops, []string{listen}
					c.Limits = parseRules(t, "process worker maxclients 1", "process batch each maxclients 1 overflow queue queue-timeout 20s")
				})
				worker, batch := startProcess(t, "worker", p.Addr()), startProcess(t, "batch", p.Addr())
				inGroup := func(head string, open, waiting int) {
					t.Helper()
					eventually(t, head, func() string {
						for _, r := range p.Rules() {
							for _, x := range r.Groups {
								if r.Head == head && x.Open == open && x.Waiting == waiting {
									return ""
								}
							}
						}
						return fmt.Sprintf("%+v", p.Rules())
					})
				}
				first := worker.client(t)
				first.Do("PING")
				inGroup("process worker", 1, 0)
				// One too many may be served until its process is found, and then never.
				second := worker.client(t)
				refused := 0
				for i := 0; ; i++ {
					if err := second.TryWrite([]byte(proxytest.Command("INCR", "n"))); err != nil {
						break
					}
					got, err := second.TryReadReply()
					switch {
					case err != nil:
					case string(got) == refusalText:
						refused++
						continue
					case refused == 0 && string(got) == fmt.Sprintf(":%d\r\n", i+1):
						continue
					default:
						t.Errorf("reply %d is %q, after %d refusals", i, got, refused)
					}
					break
				}
				if refused == 0 {
					t.Error("it was not told why it was closed")
				}

				b1 := batch.client(t)
				b1.Do("PING")
				inGroup("process batch each", 1, 0)
				b2 := batch.client(t)
				inGroup("process batch each", 1, 1)
				b2.Send("DBSIZE")
				if n := p.Stats().InFlight; n != 0 {
					t.Errorf("%d commands are in flight, and it waits", n)
				}
				b1.Close()
				inGroup("process batch each", 1, 0)
				if got := string(b2.ReadReply()); got != ":0\r\n" && got != ":1\r\n" {
					t.Errorf("after it has waited: %q", got)
				}
				list, err := p.Clients(t.Context(), proxy.ClientFilter{})
				if err != nil {
					t.Fatal(err)
				}
				host := strings.TrimSuffix(strings.TrimSuffix(listen, "0"), ":")
				for _, x := range list {
					if !strings.HasPrefix(x.Remote, host+":") {
						t.Errorf("a client is at %s", x.Remote)
					}
				}
				first.Close()
				b2.Close()
				eventually(t, "all is zero", func() string { return stillCounted(p) })
			})
		}
	}
}

func TestClientsOverIPv6AreCountedByTheirAddress(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.Loops, c.Listen = 2, []string{"[::1]:0"}
		c.Limits = parseRules(t, "addr ::/64 each maxclients 1")
	})
	a := proxytest.Dial(t, p.Addr())
	if got := addrShown(t, a.Do("CLIENT", "INFO")); got != a.LocalAddr() || !strings.HasPrefix(got, "[::1]:") {
		t.Errorf("it is at %s", got)
	}
	if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != refusalText {
		t.Errorf("one too many: %q", got)
	}
	if got := string(a.Do("CLIENT", "KILL", "ADDR", a.LocalAddr(), "SKIPME", "no")); got != ":1\r\n" {
		t.Errorf("CLIENT KILL: %q", got)
	}
	a.ReadAll()
	if got := string(proxytest.Dial(t, p.Addr()).Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the next: %q", got)
	}
}
