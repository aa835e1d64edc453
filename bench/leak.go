package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Rules of the scenario leak:
//
//   - 20 healthy clients ask all the time; beside them, leakers of several kinds, each under a name of its own, so that
//     the proxy can tell one from the other although all of them are this process;
//   - the rules of the proxy are its defaults, and what it says is read from its log;
//   - a kind is named as long after its beginning as the log line comes; a healthy client must not be;
//   - who never speaks has no name, and is told of with the process's others, the healthy ones here: the rule tells.

// leakPatience is how long the log is waited for.
var leakPatience = 150 * time.Second

const (
	leakHealthy = "bench-healthy"
	leakLine    = "connection leak suspected"
)

// leakKind is a way to leak.
type leakKind struct {
	name  string // by CLIENT SETNAME; empty: it never speaks
	about string
	every time.Duration // how often one more connection is opened
	keep  bool
	most  int // connections at once
}

var leakKinds = []leakKind{
	{"", "20 connections that never speak", 10 * time.Millisecond, true, 20},
	{"bench-growing", "a connection every half second, used once and not closed", 500 * time.Millisecond, true, 400},
	{"bench-churn", "a connection for each command, twice a second", 500 * time.Millisecond, false, 1},
}

// leakResult is when a kind was named. NamedAfter is 0 if it was not.
type leakResult struct {
	Kind       string        `json:"kind"`
	Rule       string        `json:"rule,omitempty"`
	NamedAfter time.Duration `json:"named_after_ns,omitempty"`
}

func planLeak(*session) string {
	return fmt.Sprintf("20 healthy clients and %d kinds of leakers, up to 400 connections, for at most %s", len(leakKinds), leakPatience)
}

func measureLeak(ctx context.Context, s *session, sc scenario) error {
	c, err := s.ourselves()
	if err != nil {
		return err
	}
	log := &leakLog{begin: time.Now(), named: map[string]leakResult{}}
	c.watch = log.line
	r, err := s.newRig(ctx, []contender{c}, rigMaxClients)
	if err != nil {
		return err
	}
	defer r.close()
	t := r.targets[0]
	ctx, cancel := context.WithTimeout(ctx, leakPatience)
	defer cancel()
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	clients.Go(func() { healthy(ctx, t) })
	log.begin = time.Now()
	for _, kind := range leakKinds {
		clients.Go(func() { kind.leak(ctx, t) })
	}
	for ctx.Err() == nil && !log.complete() {
		s.progress.say("%s: %d of %d kinds named", sc.name, log.count(), len(leakKinds))
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	if err := t.proxy.running(); err != nil {
		return err
	}
	s.report.Leaks = log.results()
	return nil
}

// ourselves is the enlisted row of the proxy under test.
func (s *session) ourselves() (contender, error) {
	i := slices.IndexFunc(s.contenders, func(c contender) bool { return c.name == redbouncer })
	if i < 0 {
		return contender{}, errors.New(redbouncer + " did not take part")
	}
	return s.contenders[i], nil
}

// healthy has 20 clients that ask all the time. It ends with ctx.
func healthy(ctx context.Context, t target) {
	var conns []net.Conn
	for range 20 {
		c, err := t.dial(ctx)
		if err != nil {
			break
		}
		conns = append(conns, c)
		_, _ = talk(c, "CLIENT", "SETNAME", leakHealthy)
	}
	for ctx.Err() == nil {
		for _, c := range conns {
			_, _ = talk(c, "PING")
		}
		time.Sleep(10 * time.Millisecond)
	}
	closeAll(conns)
}

// leak opens connections until ctx ends, and closes them then.
func (k leakKind) leak(ctx context.Context, t target) {
	var conns []net.Conn
	ticker := time.NewTicker(k.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			closeAll(conns)
			return
		case <-ticker.C:
		}
		if len(conns) >= k.most {
			continue
		}
		c, err := t.dial(ctx)
		if err != nil {
			continue
		}
		if k.name != "" {
			_, _ = talk(c, "CLIENT", "SETNAME", k.name)
			_, _ = talk(c, "PING")
		}
		if k.keep {
			conns = append(conns, c)
		} else {
			c.Close()
		}
	}
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// leakLog reads the proxy's log.
type leakLog struct {
	begin time.Time

	// mu guards the following fields.
	mu    sync.Mutex
	named map[string]leakResult // by the client's name
}

// line takes a line of the log, in the format text.
func (l *leakLog) line(text string) {
	if !strings.Contains(text, leakLine) {
		return
	}
	name := ""
	for _, known := range append(leakKinds, leakKind{name: leakHealthy}) {
		if known.name != "" && strings.Contains(text, " name="+known.name) {
			name = known.name
		}
	}
	rule := logValue(text, "rule")
	if rule == "never-spoke" {
		name = ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.named[name]; !ok {
		l.named[name] = leakResult{Rule: rule, NamedAfter: time.Since(l.begin)}
	}
}

// logValue is the value of a key of slog's text format, if it needs no quotes.
func logValue(text, key string) string {
	_, rest, _ := strings.Cut(text, " "+key+"=")
	value, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(value)
}

func (l *leakLog) count() (n int) {
	for _, x := range l.results() {
		if x.NamedAfter > 0 && x.Kind != leakHealthy {
			n++
		}
	}
	return n
}

func (l *leakLog) complete() bool { return l.count() == len(leakKinds) }

// results has a row for each kind, and one for the healthy clients if they were named.
func (l *leakLog) results() (all []leakResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, kind := range leakKinds {
		x := l.named[kind.name]
		x.Kind = kind.about
		all = append(all, x)
	}
	if x, ok := l.named[leakHealthy]; ok {
		x.Kind = leakHealthy
		all = append(all, x)
	}
	return all
}

func printLeak(w io.Writer, r *report, _ scenario) {
	if len(r.Leaks) == 0 {
		return
	}
	fmt.Fprint(w, "\nleak: how long after its beginning each leak was named in the log\n\n")
	leakGrid(r).print(w)
}

func leakGrid(r *report) grid {
	g := grid{{"", "named after", "rule"}}
	for _, x := range r.Leaks {
		after := "not named"
		if x.NamedAfter > 0 {
			after = fmt.Sprintf("%.0f s", x.NamedAfter.Seconds())
		}
		if x.Kind == leakHealthy {
			x.Kind = "the healthy clients: WRONGLY"
		}
		g = append(g, []string{x.Kind, after, x.Rule})
	}
	return g
}
