package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ClientFilter says which clients are meant: those for which all of its conditions hold. The zero filter means all
// clients. It does not change once it has been made: loops share it.
type ClientFilter struct {
	conditions []func(*ClientReport) bool
	spare      int64
}

// FilterKinds are the kinds of conditions, in the order in which they are shown.
var FilterKinds = []string{
	"id", "addr", "listener", "user", "name", "lib", "pid", "process", "container", "cert", "idle", "state", "pin",
	"source",
}

// filterTexts are the kinds that compare a text with a pattern, in which * stands for any characters.
var filterTexts = map[string]func(*ClientReport) string{
	"listener":  func(r *ClientReport) string { return r.Listener },
	"user":      func(r *ClientReport) string { return r.User },
	"name":      func(r *ClientReport) string { return r.Name },
	"lib":       func(r *ClientReport) string { return r.Lib },
	"pid":       func(r *ClientReport) string { return r.PID },
	"process":   func(r *ClientReport) string { return r.Process },
	"container": func(r *ClientReport) string { return r.Container },
	"cert":      func(r *ClientReport) string { return r.Cert },
	"state":     func(r *ClientReport) string { return r.State },
	"pin":       func(r *ClientReport) string { return r.Pin },
}

// ParseClientFilter reads conditions: a kind and a value, a kind and a value, and so on.
func ParseClientFilter(words ...string) (ClientFilter, error) {
	var f ClientFilter
	if len(words)%2 != 0 {
		return f, fmt.Errorf("%s has no value: want a kind and a value, as in addr 10.0.0.7", words[len(words)-1])
	}
	for i := 0; i < len(words); i += 2 {
		condition, err := parseCondition(strings.ToLower(words[i]), words[i+1])
		if err != nil {
			return ClientFilter{}, err
		}
		f.conditions = append(f.conditions, condition)
	}
	return f, nil
}

func parseCondition(kind, value string) (func(*ClientReport) bool, error) {
	if text := filterTexts[kind]; text != nil {
		return func(r *ClientReport) bool { return GlobMatch(value, text(r)) }, nil
	}
	switch kind {
	case "id":
		id, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("id %s: want the number of a client", value)
		}
		return func(r *ClientReport) bool { return r.ID == id }, nil
	case "source": // has a name in it that a client chose: a * there must not stand for other sources
		return func(r *ClientReport) bool { return r.Source == value }, nil
	case "idle":
		d, ok := parseSpan(strings.TrimPrefix(value, ">="))
		if !ok {
			return nil, fmt.Errorf("idle %s: want a number of seconds, or a duration such as 5m: idle for so long or longer", value)
		}
		return func(r *ClientReport) bool { return r.Idle >= d }, nil
	case "addr":
		return parseAddrCondition(value)
	}
	return nil, fmt.Errorf("%s is nothing to choose clients by: want one of %s", kind, strings.Join(FilterKinds, ", "))
}

// parseAddrCondition reads an address: of a host, of a network, of one client, or the path of a unix socket.
func parseAddrCondition(value string) (func(*ClientReport) bool, error) {
	remoteIP := func(r *ClientReport) netip.Addr {
		ip, _ := netip.ParseAddr(hostOf(r.Remote))
		return ip.Unmap()
	}
	if ip, err := netip.ParseAddr(value); err == nil {
		return func(r *ClientReport) bool { return remoteIP(r) == ip.Unmap() }, nil
	}
	if network, err := netip.ParsePrefix(value); err == nil {
		network = network.Masked()
		return func(r *ClientReport) bool { return network.Contains(remoteIP(r)) }, nil
	}
	path, isPath := strings.CutPrefix(value, "unix:")
	if _, err := netip.ParseAddrPort(value); err != nil && !isPath && !strings.HasPrefix(value, "/") {
		return nil, fmt.Errorf("addr %s: want a host 10.0.0.7, a network 10.0.0.0/8, a client 10.0.0.7:51312 or the path "+
			"of a unix socket", value)
	}
	return func(r *ClientReport) bool { return r.Remote == path || hostOf(r.Remote) == path }, nil
}

// parseSpan reads a time span: a bare number counts seconds, as in the settings.
func parseSpan(word string) (time.Duration, bool) {
	if word != "" && strings.Trim(word, "0123456789.") == "" {
		word += "s"
	}
	d, err := time.ParseDuration(word)
	return d, err == nil && d >= 0
}

// GlobMatch reports whether text is what a pattern says, in which * stands for any characters.
func GlobMatch(pattern, text string) bool {
	first, rest, many := strings.Cut(pattern, "*")
	if !many {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	text = text[len(first):]
	parts := strings.Split(rest, "*")
	last := parts[len(parts)-1]
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text = text[i+len(part):]
	}
	return strings.HasSuffix(text, last)
}

// Sparing returns the filter without one client: the one who asks.
func (f ClientFilter) Sparing(id int64) ClientFilter {
	f.spare = id
	return f
}

// Empty reports whether the filter has no conditions.
func (f ClientFilter) Empty() bool { return len(f.conditions) == 0 }

// Matches reports whether a client is meant.
func (f ClientFilter) Matches(r *ClientReport) bool {
	return (f.spare == 0 || r.ID != f.spare) &&
		!slices.ContainsFunc(f.conditions, func(holds func(*ClientReport) bool) bool { return !holds(r) })
}

// Kill closes the clients that match, and returns how many they were. A filter without conditions is an error: that
// everybody is meant has to be said, as in addr 0.0.0.0/0. By is who did it, for the log. If the context ends first,
// some may have been closed.
func (s *Server) Kill(ctx context.Context, filter ClientFilter, by string) (int, error) {
	if filter.Empty() {
		return 0, errors.New("say whom: want a kind and a value, of " + strings.Join(FilterKinds, ", "))
	}
	var killed atomic.Int64
	err := s.visit(ctx, func(w *worker) {
		for s := range w.all {
			if r := s.report(); filter.Matches(&r) {
				w.log.Debug("client closed: PROXY KILL", "client", s.remote, "by", by)
				s.close()
				killed.Add(1)
			}
		}
	})
	return int(killed.Load()), err
}
