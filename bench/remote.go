package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// Rules for an address that is not ours:
//
//   - nothing is started, and only what --target and --direct name is connected to;
//   - connections and commands a second stay below --max-clients and --max-rate, whose defaults a server in use bears;
//   - every key and channel begins with a prefix of the run's own, and the keys are deleted at the end, by name;
//   - what will be done is printed before it is; --dry-run prints it and ends;
//   - an address of another host takes --allow-remote.

const (
	remoteMaxClients = 200
	remoteMaxRate    = 5000
	// remoteMaxBytes is how many bytes of values a second, where --max-rate bounds: a twentieth of a fast network.
	remoteMaxBytes = 64 << 20
)

// boundRate lowers a rate to what --max-rate allows. 0: as fast as answered, where nothing bounds it.
func (s *session) boundRate(l load, rate float64) float64 {
	if s.maxRate == 0 {
		return rate
	}
	if rate == 0 || rate > s.maxRate {
		rate = s.maxRate
	}
	if l.Value > 0 {
		rate = min(rate, remoteMaxBytes/float64(l.Value))
	}
	return rate
}

// parseTarget reads host:port or a redis:// URL.
func parseTarget(flag, text string) (target, error) {
	if !strings.Contains(text, "://") {
		text = "redis://" + text
	}
	opt, err := redis.ParseURL(text)
	if err != nil {
		return target{}, fmt.Errorf("%s: want host:port or redis://user:password@host:port", flag) // not with the password
	}
	if opt.TLSConfig != nil || opt.Network != "tcp" || opt.DB != 0 {
		return target{}, fmt.Errorf("%s: want TCP without TLS, and database 0", flag)
	}
	t := newTarget(contender{}, opt.Addr)
	t.user, t.password = opt.Username, opt.Password
	if t.password != "" {
		t.hello = batch{bytes: appendCommand(t.hello.bytes[:0:0], t.login()...), replies: 1}
		t.hello.bytes = appendCommand(t.hello.bytes, "PING")
		t.hello.replies++
	}
	return t, nil
}

// remoteTargets are those that --direct and --target name, in the order of the contenders.
func (set settings) remoteTargets() ([]target, error) {
	var targets []target
	for _, x := range []struct{ flag, name, text string }{{"--direct", direct, set.direct}, {"--target", redbouncer, set.target}} {
		if x.text == "" {
			continue
		}
		t, err := parseTarget(x.flag, x.text)
		if err != nil {
			return nil, err
		}
		t.name = x.name
		if !isLoopback(t.addr) && !set.allowRemote {
			return nil, fmt.Errorf("%s: %s is not on this host; --allow-remote says that you may load it", x.flag, t.addr)
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// isLoopback reports whether every address of the host is this host's.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ips, err := net.LookupIP(host)
	for _, ip := range ips {
		if !ip.IsLoopback() {
			return false
		}
	}
	return err == nil && len(ips) > 0
}

// remoteRig is the targets that were named.
func (s *session) remoteRig(ctx context.Context) (*rig, error) {
	targets, err := s.remoteTargets()
	if err != nil {
		return nil, err
	}
	r := &rig{targets: targets}
	for _, t := range targets {
		if _, err := t.ask(ctx, "PING"); err != nil {
			return nil, fmt.Errorf("%s at %s: %w", t.name, t.addr, err)
		}
		if t.name == direct {
			r.redisAddr = t.addr
		}
	}
	return r, nil
}

// bounded leaves out what would need too many connections of an address that is not ours.
func (s *session) bounded(loads []load) []load {
	if s.target == "" {
		return loads
	}
	var kept []load
	for _, l := range loads {
		if l.Clients+l.Slow <= s.maxClients && l.Value <= 8*megabytes {
			kept = append(kept, l)
		}
	}
	return kept
}

// printPlan says what a run will do.
func (s *session) printPlan(w io.Writer, chosen []scenario) {
	if s.target == "" {
		fmt.Fprintf(w, "starts redis-server, redbouncer and %s on free ports of 127.0.0.1, and ends them; nothing else is connected to\n",
			orNone(s.peers))
	} else {
		targets, _ := s.remoteTargets() // they have been parsed before
		for _, t := range targets {
			fmt.Fprintf(w, "loads %s as %q; starts nothing\n", t.addr, t.name)
		}
		fmt.Fprintf(w, "at most %d connections and %s commands/s\nkeys: %s, deleted at the end; channel: %s\n",
			s.maxClients, s.maxRateText(), strings.Join(s.names()[:3], ", ")+" to "+s.names()[len(s.names())-1], s.prefix+"channel")
	}
	fmt.Fprintln(w)
	t, rows, all := newTable(w, "scenario", "load", "connections", "commands/s", "commands", "rounds"), 0, 0
	for _, sc := range chosen {
		if sc.plan != nil {
			t.row(sc.name, sc.plan(s))
			continue
		}
		all += len(sc.loads)
		for _, l := range s.bounded(sc.loads) {
			rows++
			t.row(sc.name, l.Name, thousands(float64(l.Clients+l.Slow)), s.planRate(l), l.summary(sc), fmt.Sprintf("%d x %s", s.roundsOf(sc), s.duration))
		}
	}
	t.flush()
	if all > rows {
		fmt.Fprintf(w, "left out: %d loads that take more than %d connections or values above 8 MB\n", all-rows, s.maxClients)
	}
	fmt.Fprintln(w)
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "no peer"
	}
	return strings.Join(names, ", ")
}

func (s *session) maxRateText() string {
	if s.maxRate == 0 {
		return "any number of"
	}
	return thousands(s.maxRate)
}

func (s *session) planRate(l load) string {
	rate := l.Rate
	if l.Share > 0 && s.maxRate > 0 {
		rate = s.maxRate * float64(l.Share) / 100
	}
	switch {
	case rate > 0 && s.maxRate > 0:
		return thousands(s.boundRate(l, rate))
	case rate > 0:
		return thousands(rate)
	case l.Share > 0:
		return fmt.Sprintf("%d %% of the peak", l.Share)
	case s.maxRate > 0:
		return thousands(s.boundRate(l, s.maxRate))
	}
	return "as fast as answered"
}

// summary is what a load sends.
func (l load) summary(sc scenario) string {
	if len(l.Writes) == 0 {
		return sc.about
	}
	var names []string
	seen := map[string]bool{}
	for _, write := range l.Writes {
		for _, command := range write {
			name, _, _ := strings.Cut(command, " ")
			if !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	text := strings.Join(names, " ") + fmt.Sprintf(" of %s B", thousands(float64(l.Value)))
	if l.Slow > 0 {
		text += fmt.Sprintf("; %d leave %s unread each", l.Slow, asMegabytes(slowAsks*slowSize))
	}
	if l.Pipeline > 1 {
		text += fmt.Sprintf(", %d at once", l.Pipeline)
	}
	return text
}

// validateTarget checks what belongs together.
func (set settings) validateTarget() error {
	switch {
	case set.target == "" && set.direct != "":
		return errors.New("--direct: it is compared with --target, which is missing")
	case set.target == "":
		return nil
	case set.maxClients < 1 || set.maxClients > 15000:
		return fmt.Errorf("--max-clients %d: want 1 to 15000", set.maxClients)
	case set.maxRate < 0:
		return fmt.Errorf("--max-rate %g: want 0 or more", set.maxRate)
	}
	targets, err := set.remoteTargets()
	for _, t := range targets {
		if set.client == benchmarkTool && t.password != "" {
			return errors.New("--client redis-benchmark: it would show the password to every user of this host")
		}
	}
	return err
}
