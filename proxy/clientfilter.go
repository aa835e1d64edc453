package proxy

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// clientFilter is what CLIENT LIST and CLIENT KILL are told of whom they are meant for. It does not change once it has
// been made: loops share it. That it is well formed is for the upstream to say, in its version's words.
type clientFilter struct {
	conditions map[string]func(*session) bool // by option: of one that is given twice, the last counts, as in Redis
	skipMe     *bool
	unknown    string // an option that we do not know
	asker      *session
}

// parseFilter reads the options from the given argument on. Every option has one value, but ID and NOT-ID have as
// many as there are numbers.
func parseFilter(c command, from int) *clientFilter {
	f := &clientFilter{conditions: map[string]func(*session) bool{}}
	for i := from; i < c.Len(); {
		option := string(upper(nil, c.Arg(i)))
		i++
		if i == c.Len() {
			break // it will be refused
		}
		value := string(c.Arg(i))
		i++
		positive, isNot := strings.CutPrefix(option, "NOT-")
		var condition func(*session) bool
		if positive == "ID" {
			var ids []int64
			for i--; i < c.Len(); i++ {
				id, ok := resp.ParseInt(c.Arg(i))
				if !ok {
					break
				}
				ids = append(ids, id)
			}
			if len(ids) == 0 {
				i++ // it is none, or larger than any
			}
			condition = func(s *session) bool { return slices.Contains(ids, s.id) }
		} else {
			condition = f.condition(positive, value)
		}
		switch {
		case option == "SKIPME":
			skip := strings.EqualFold(value, "yes")
			f.skipMe = &skip
		case condition == nil:
			f.unknown = option
		case isNot:
			f.conditions[option] = func(s *session) bool { return !condition(s) }
		default:
			f.conditions[option] = condition
		}
	}
	return f
}

// condition returns what an option with one value asks of a client; nil if there is no such option.
func (f *clientFilter) condition(option, value string) func(*session) bool {
	number, _ := resp.ParseInt([]byte(value))
	switch option {
	case "ADDR":
		return func(s *session) bool { return s.remote == value }
	case "LADDR":
		return func(s *session) bool { return s.conn.LocalAddr() == value }
	case "IP":
		return func(s *session) bool { return hostOf(s.remote) == value }
	case "USER":
		return func(s *session) bool { return s.user() == value }
	case "NAME":
		return func(s *session) bool { return s.who != nil && s.who.name == value || value == "" && s.who == nil }
	case "LIB-NAME":
		return func(s *session) bool { return s.who != nil && s.who.libName == value }
	case "LIB-VER":
		return func(s *session) bool { return s.who != nil && s.who.libVer == value }
	case "MAXAGE": // the name says what a client may have; this finds those that have more
		return func(s *session) bool { return int64((s.w.clock()-s.created)/time.Second) >= number }
	case "IDLE":
		return func(s *session) bool { return int64((s.w.clock()-s.active)/time.Second) >= number }
	case "DB":
		return func(s *session) bool { return int64(s.db()) == number }
	case "CAPA":
		return func(*session) bool { return value == "" } // nobody's are kept
	case "FLAGS":
		return func(s *session) bool {
			flags := s.flags()
			return !strings.ContainsFunc(value, func(letter rune) bool { return !strings.ContainsRune(flags, letter) })
		}
	case "TYPE":
		return func(s *session) bool {
			kind := "normal"
			if s.condition()&isSubscribed != 0 {
				kind = "pubsub"
			}
			return strings.EqualFold(value, kind)
		}
	}
	return nil
}

// of returns the filter as it is when a session asks.
func (f *clientFilter) of(asker *session) *clientFilter {
	g := *f
	g.asker = asker
	return &g
}

// matches reports whether the filter is meant for a session.
func (f *clientFilter) matches(s *session) bool {
	if f.skipMe != nil && *f.skipMe && s == f.asker {
		return false
	}
	for _, condition := range f.conditions {
		if !condition(s) {
			return false
		}
	}
	return true
}

// refusal answers a command with an option that the upstream knows and the proxy does not.
func (f *clientFilter) refusal() []byte {
	return fmt.Appendf(nil, "-ERR the proxy does not know the filter '%s'\r\n", strings.Map(printable, f.unknown))
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return '?'
	}
	return r
}

// hostOf returns an address without its port, and an IPv6 one without its brackets.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}
