package proxy

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// The upstream counts a subscription that clients share once. The audience is what it does not count: with it, PUBLISH
// and PUBSUB NUMSUB tell how many clients there are, as from Redis itself. (Libraries rely on it: an application that
// waits for as many answers as there are subscribers.)

// audience is how many clients of all loops are subscribed to what, and by how many upstream subscriptions.
type audience struct {
	// Atomic.
	shared atomic.Int64 // clients that the upstream does not count

	// mu guards the following fields.
	mu    sync.Mutex
	heard [families]map[string]listeners
}

// listeners are the clients that are subscribed to something, and the upstream's subscriptions for them.
type listeners struct{ clients, links int }

// change takes note of clients and upstream subscriptions that have come or gone.
func (a *audience) change(f family, name string, clients, links int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.heard[f][name]
	l.clients += clients
	l.links += links
	a.shared.Add(int64(clients - links))
	switch {
	case l == listeners{}:
		delete(a.heard[f], name)
		return
	case a.heard[f] == nil:
		a.heard[f] = map[string]listeners{}
	}
	a.heard[f][name] = l
}

// extra returns how many clients hear of something that the upstream does not count: those that are subscribed to the name
// and, of a channel, those that are subscribed to a pattern that it matches, once for each.
func (a *audience) extra(f family, name []byte, patterns bool) int {
	if a.shared.Load() == 0 {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.heard[f][string(name)]
	n := l.clients - l.links
	if patterns {
		for pattern, l := range a.heard[toPatterns] {
			if more := l.clients - l.links; more != 0 && matches([]byte(pattern), name) {
				n += more
			}
		}
	}
	return n
}

// join takes a session into a channel.
func (ch *channel) join(s *session) {
	if _, in := ch.members[s]; in {
		return
	}
	ch.members[s] = struct{}{}
	links := 0
	if len(ch.members) == 1 {
		links = 1
	}
	s.w.srv.audience.change(ch.family, ch.name, 1, links)
}

// part takes a session out of a channel.
func (ch *channel) part(s *session) {
	if _, in := ch.members[s]; !in {
		return
	}
	delete(ch.members, s)
	links := 0
	if len(ch.members) == 0 {
		links = -1
	}
	s.w.srv.audience.change(ch.family, ch.name, -1, links)
}

// reached returns what becomes of the reply to PUBLISH or SPUBLISH; nil: nothing, as the upstream counts everybody.
func (s *session) reached(c command) func(reply []byte) []byte {
	if c.Len() != 3 || s.w.srv.audience.shared.Load() == 0 {
		return nil
	}
	f, name := toChannels, bytes.Clone(c.Arg(1))
	if c.row.name == "SPUBLISH" {
		f = toShards
	}
	return func(reply []byte) []byte {
		return addTo(reply, s.w.srv.audience.extra(f, name, f == toChannels))
	}
}

// addTo adds to an integer on the wire.
func addTo(reply []byte, extra int) []byte {
	if len(reply) < 4 || reply[0] != ':' || extra == 0 {
		return reply
	}
	n, ok := resp.ParseInt(reply[1 : len(reply)-2])
	if !ok {
		return reply
	}
	return fmt.Appendf(nil, ":%d\r\n", max(n+int64(extra), 0))
}

// publishes treats PUBLISH and SPUBLISH.
func (s *session) publishes(c command) bool {
	var sp *multiplex.Special
	if change := s.reached(c); change != nil {
		sp = s.collect(change)
	}
	return s.share(c, sp)
}

// numSub puts the clients that share subscriptions into the reply to PUBSUB NUMSUB or SHARDNUMSUB.
func (s *session) numSub(c command) func(reply []byte) []byte {
	f := toChannels
	if c.row.name == "PUBSUB|SHARDNUMSUB" {
		f = toShards
	}
	return func(reply []byte) []byte {
		if isErrorReply(reply) || s.w.srv.audience.shared.Load() == 0 {
			return reply
		}
		header, rest, _ := bytes.Cut(reply, []byte("\r\n"))
		out := append(bytes.Clone(header), '\r', '\n')
		for len(rest) > 0 {
			name, after := bulk(rest)
			number, next, ok := bytes.Cut(after, []byte("\n"))
			if name == nil || !ok {
				return reply
			}
			out = resp.AppendBulk(out, name)
			out = append(out, addTo(append(number, '\n'), s.w.srv.audience.extra(f, name, false))...)
			rest = next
		}
		return out
	}
}

// matches reports whether a name matches a pattern, as Redis matches them (util.c: stringmatchlen): * ? [a-z] [^a] and \.
// It is the last * that takes another byte when what follows does not match: to try those before it again could change
// nothing, and would take a time that grows exponentially with their number.
func matches(pattern, name []byte) bool {
	var star, taken []byte // what follows the last *, and the name from where that was tried last
	for {
		switch {
		case len(pattern) > 0 && pattern[0] == '*':
			pattern = bytes.TrimLeft(pattern, "*")
			if len(pattern) == 0 {
				return true
			}
			star, taken = pattern, name
			continue
		case len(pattern) > 0 && len(name) > 0:
			if ok, rest := matchesOne(pattern, name[0]); ok {
				pattern, name = rest, name[1:]
				continue
			}
		case len(pattern) == 0 && len(name) == 0:
			return true
		}
		if star == nil || len(taken) == 0 {
			return false
		}
		taken = taken[1:]
		pattern, name = star, taken
	}
}

// matchesOne reports whether a byte matches what is at the front of a pattern, which is no *, and returns what follows.
func matchesOne(pattern []byte, b byte) (ok bool, rest []byte) {
	switch {
	case pattern[0] == '?':
		return true, pattern[1:]
	case pattern[0] == '[':
		return inClass(pattern[1:], b)
	case pattern[0] == '\\' && len(pattern) > 1:
		pattern = pattern[1:]
	}
	return pattern[0] == b, pattern[1:]
}

// inClass reports whether b is in the class of characters at the front of a pattern, and returns what follows the class.
func inClass(class []byte, b byte) (in bool, rest []byte) {
	not := len(class) > 0 && class[0] == '^'
	if not {
		class = class[1:]
	}
	for len(class) > 0 && class[0] != ']' {
		switch {
		case class[0] == '\\' && len(class) > 1:
			in = in || class[1] == b
			class = class[2:]
		case len(class) > 2 && class[1] == '-':
			in = in || min(class[0], class[2]) <= b && b <= max(class[0], class[2])
			class = class[3:]
		default:
			in = in || class[0] == b
			class = class[1:]
		}
	}
	if len(class) > 0 {
		class = class[1:]
	}
	return in != not, class
}
