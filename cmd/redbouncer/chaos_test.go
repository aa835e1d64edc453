package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A primary with a replica and three sentinels, 100 clients that write and keep book, and everything breaks: the primary is
// killed, hangs, is restarted, is relieved, has no memory left, throws everybody out; the line to it breaks in the middle of
// replies, or hands them on in crumbs; the proxy is reloaded and replaced. What was acknowledged is there once, but for what
// Redis itself loses at a failover, as it passes writes on after it has acknowledged them.

const (
	chaosClients  = 100
	chaosPool     = 8
	chaosDown     = 2 * time.Second
	chaosMinimum  = 12 * time.Second // there is time for a failover
	chaosLong     = time.Minute      // from here on it is compared with what becomes of the same without a proxy
	chaosSettings = "pool-size: 8\nupstream-timeout: %d\nclient-query-buffer-limit: %dmb\n"
)

func TestNothingIsLostThroughTheProgramWhateverBreaks(t *testing.T) {
	duration, seed := max(proxytest.Duration(t), chaosMinimum), proxytest.Seed(t)
	t.Run("through the proxy", func(t *testing.T) {
		w := startChaos(t, duration, seed)
		file := writeFile(t, fmt.Sprintf(chaosSettings, 10, 1024))
		p := startReplaceable(t, w.servers, "--config", file, "--listen", "127.0.0.1:0")
		w.kinds = append(w.kinds,
			mishap{"reload", func() {
				replace(t, file, fmt.Sprintf(chaosSettings, 5+w.rnd.IntN(10), 64+w.rnd.IntN(1000)))
				p.signal(syscall.SIGHUP)
			}},
			mishap{"replacement", func() { p.gone(p.upgrade()) }},
		)
		before := p.gauges()
		w.run(proxytest.WritersConfig{Addr: func() (string, error) { return p.addr, nil }})
		p.clean(before)
		p.signal(syscall.SIGTERM)
		p.gone(p.pid)
		if log, err := os.ReadFile(p.log); err != nil || strings.Contains(string(log), "panic") {
			t.Errorf("%v: %s", err, log)
		}
	})
	if duration >= chaosLong {
		t.Run("without", func(t *testing.T) {
			w := startChaos(t, duration, seed)
			w.run(proxytest.WritersConfig{
				Addr:  w.servers.Ask,
				Leave: func(reply []byte) bool { return strings.HasPrefix(string(reply), "-READONLY") },
			})
		})
	}
}

// chaos is what breaks.
type chaos struct {
	t        *testing.T
	servers  *proxytest.Watched
	rnd      *rand.Rand
	seed     uint64
	duration time.Duration
	until    time.Time
	kinds    []mishap

	// Owned by run.
	events    map[string]int
	story     []string
	epoch     int       // how many failovers there had been when all was whole last
	began     time.Time // when the last mishap did
	failovers []period  // during which Redis may lose what it has acknowledged
}

// mishap is something that breaks, and is whole again when do returns, or soon afterwards.
type mishap struct {
	name string
	do   func()
}

type period struct{ from, to time.Time }

func startChaos(t *testing.T, duration time.Duration, seed uint64) *chaos {
	t.Helper()
	w := &chaos{
		t: t, rnd: rand.New(rand.NewPCG(seed, 0)), seed: seed, duration: duration, events: map[string]int{},
		servers: proxytest.WithSentinelsOnLines(t, chaosDown, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
	}
	w.kinds = []mishap{
		{"kill", func() {
			s, _ := w.servers.Primary()
			s.Kill()
			w.pause(300)
			s.Restart()
		}},
		{"kill for long", func() {
			s, other := w.servers.Primary()
			s.Kill()
			w.servers.AwaitPrimary(other)
			s.Restart()
		}},
		{"restart", func() {
			s, _ := w.servers.Primary()
			w.tell("SHUTDOWN", "NOSAVE", "NOW")
			s.Restart()
		}},
		{"standstill", func() {
			s, _ := w.servers.Primary()
			s.Freeze()
			time.Sleep(min(duration/10, 5*time.Second))
			s.Thaw()
		}},
		{"failover", func() {
			before, _ := w.servers.Primary()
			w.servers.Failover()
			for range 100 { // it may come to nothing, and then nobody tries again
				if after, _ := w.servers.Primary(); after != before {
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
		}},
		{"cut", func() { w.line().CutAfter(w.rnd.IntN(2000)) }},
		{"crumbs", func() {
			l := w.line()
			l.Worsen(time.Duration(w.rnd.IntN(2000))*time.Microsecond, true)
			w.pause(500)
			l.Worsen(0, false)
		}},
		{"no memory", func() {
			w.tell("CONFIG", "SET", "maxmemory", "1")
			w.pause(300)
			w.tell("CONFIG", "SET", "maxmemory", "0")
		}},
		{"thrown out", func() { w.tell("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes") }},
	}
	return w
}

// run has clients write while things break, and sees what came of it.
func (w *chaos) run(cfg proxytest.WritersConfig) {
	w.t.Helper()
	w.until = time.Now().Add(w.duration)
	cfg.Clients, cfg.Seed, cfg.Until = chaosClients, w.seed, w.until.Add(time.Second)
	bound := w.watchBound()
	w.epoch, w.began = w.servers.Epoch(), time.Now()
	writers := proxytest.StartWriters(cfg)
	for n := 0; time.Now().Before(w.until); n++ {
		w.breakOne()
	}
	writers.Wait()
	most := bound()
	primary := w.settle(w.began)
	w.judge(writers.Verify(proxytest.Dial(w.t, primary.Addr())), most)
}

// breakOne has something break, and returns when everything is whole again. The first time round everything has its turn.
func (w *chaos) breakOne() {
	var fresh []mishap
	for _, k := range w.kinds {
		if w.events[k.name] == 0 {
			fresh = append(fresh, k)
		}
	}
	if len(fresh) == 0 {
		fresh = w.kinds
	}
	k := fresh[w.rnd.IntN(len(fresh))]
	from := w.began.Add(-time.Second) // a failover may be found out, or come, behind what has led to it
	w.began = time.Now()
	k.do()
	w.events[k.name]++
	if time.Now().After(w.until) {
		w.line().CutAfter(-1)
	}
	w.pause(int(min(w.duration/20, 2*time.Second).Milliseconds()))
	w.story = append(w.story, fmt.Sprintf("%s %s: %s", w.began.Format(timeOfDay), k.name, w.settle(from).Addr()))
}

// settle waits until all is whole, notes whether there has been a failover since from, and returns the primary.
func (w *chaos) settle(from time.Time) *proxytest.Server {
	w.t.Helper()
	primary, _ := w.servers.AwaitSettled()
	if epoch := w.servers.Epoch(); epoch != w.epoch {
		w.failovers = append(w.failovers, period{from, time.Now()})
		w.epoch = epoch
	}
	return primary
}

// timeOfDay is how the story tells of times.
const timeOfDay = "15:04:05.000"

// judge says what must not be.
func (w *chaos) judge(v proxytest.Verdict, most int) {
	w.t.Helper()
	for _, problem := range v.Problems {
		w.t.Error(problem)
	}
	unexplained := slices.DeleteFunc(slices.Clone(v.Missing), func(at time.Time) bool {
		return slices.ContainsFunc(w.failovers, func(p period) bool { return at.After(p.from) && at.Before(p.to) })
	})
	if n := len(unexplained); n > 0 {
		slices.SortFunc(unexplained, time.Time.Compare)
		w.t.Errorf("%d writes were acknowledged when no failover was under way, from %s to %s, and are not there; what happened:\n%s",
			n, unexplained[0].Format(timeOfDay), unexplained[n-1].Format(timeOfDay), strings.Join(w.story, "\n"))
	}
	if most > chaosPool {
		w.t.Errorf("%d upstream connections were open, the bound is %d", most, chaosPool)
	}
	w.t.Logf("%d writes acknowledged, %d of them lost by Redis in %d times with failovers; %d of unknown outcome, %d refused; %d connections at most",
		v.Acknowledged, len(v.Missing), len(w.failovers), v.Unknown, v.Refused, most)
	for _, name := range slices.Sorted(maps.Keys(w.events)) {
		w.t.Logf("%s: %d times", name, w.events[name])
	}
	if v.Acknowledged < 1000 {
		w.t.Error("it has not tried what it is for")
	}
}

// watchBound counts the proxy's connections to each server until the returned function is called, which returns the highest
// number that was seen more than once in a row: a server that was not running sees the end of some late.
func (w *chaos) watchBound() (most func() int) {
	stop := make(chan struct{})
	highest := map[*proxytest.Server]int{}
	var mu sync.Mutex
	var watching sync.WaitGroup
	for _, s := range []*proxytest.Server{w.servers.A, w.servers.B} {
		watching.Go(func() {
			last := [2]int{}
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
				n := ours(s)
				mu.Lock()
				highest[s] = max(highest[s], min(n, last[0], last[1]))
				mu.Unlock()
				last = [2]int{n, last[0]}
			}
		})
	}
	return func() int {
		close(stop)
		watching.Wait()
		return max(highest[w.servers.A], highest[w.servers.B])
	}
}

// ours returns how many connections of the proxy a server has; 0 if it does not say so.
func ours(s *proxytest.Server) int {
	c, err := proxytest.TryDial(s.Addr())
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetTimeout(100 * time.Millisecond)
	if c.TryWrite(proxytest.AppendCommand(nil, "CLIENT", "LIST")) != nil {
		return 0
	}
	list, err := c.TryReadReply()
	if err != nil {
		return 0
	}
	return strings.Count(string(list), " name=redbouncer:")
}

// line returns the line to whoever is the primary.
func (w *chaos) line() *proxytest.Line {
	s, _ := w.servers.Primary()
	return w.servers.Line(s)
}

// pause lasts half of so many milliseconds at least.
func (w *chaos) pause(ms int) {
	time.Sleep(time.Duration(ms/2+w.rnd.IntN(ms/2+1)) * time.Millisecond)
}

// tell tells the primary something. Who shuts down does not answer.
func (w *chaos) tell(command ...string) {
	s, _ := w.servers.Primary()
	c, err := proxytest.TryDial(s.Addr())
	must(w.t, err)
	defer c.Close()
	must(w.t, c.TryWrite(proxytest.AppendCommand(nil, command...)))
	if _, err := c.TryReadReply(); err != nil && !proxytest.IsClosed(err) {
		w.t.Error(err)
	}
}

// gauges returns the gauges of /metrics.
func (r *replaceable) gauges() map[string]float64 {
	r.t.Helper()
	reply, err := http.Get("http://" + r.pages + "/metrics")
	must(r.t, err)
	defer func() { _ = reply.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(reply.Body)
	must(r.t, err)
	all := map[string]float64{}
	for name, f := range families {
		if m := f.GetMetric(); len(m) == 1 && m[0].GetGauge() != nil {
			all[name] = m[0].GetGauge().GetValue()
		}
	}
	return all
}

// clean waits until nothing is left of all clients: no place, no connection, no goroutine and no descriptor.
func (r *replaceable) clean(before map[string]float64) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		now := r.gauges()
		var wrong error
		for _, name := range []string{"redbouncer_clients", "redbouncer_in_flight", "redbouncer_waiting", "redbouncer_pins", "redbouncer_queue_waiting"} {
			if n, has := now[name]; !has || n != 0 {
				wrong = errors.Join(wrong, fmt.Errorf("%s is %v", name, n))
			}
		}
		// Connections to Redis stay, and what they need.
		for name, more := range map[string]float64{"go_goroutines": 3 * chaosPool, "process_open_fds": chaosPool + 4} {
			if now[name] > before[name]+more {
				wrong = errors.Join(wrong, fmt.Errorf("%s is %v, it was %v", name, now[name], before[name]))
			}
		}
		if wrong == nil {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatal(wrong)
		}
	}
}
