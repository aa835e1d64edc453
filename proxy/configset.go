package proxy

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Some parameters of CONFIG are the proxy's own: they speak of clients, and the clients are here. All others are the
// upstream's.

// parameter is one of them.
type parameter struct {
	name     string
	memory   bool // it is a number of bytes, and may have a unit
	min, max int64
	get      func(*Server) int64
	// ready checks whether the value can be had, and prepares it; nil: it always can.
	ready func(*Server, int64) error
	set   func(*Server, int64)
}

var parameters = []parameter{
	{
		"maxclients", false, 1, math.MaxUint32,
		func(s *Server) int64 { return int64(s.gate.Stats().Max) },
		readyForClients,
		func(s *Server, n int64) { s.gate.SetMax(int(n), time.Now()) },
	},
	{
		"timeout", false, 0, math.MaxInt32,
		func(s *Server) int64 { return wholeSeconds(s.timeout.Load()) },
		nil,
		func(s *Server, n int64) { s.timeout.Store(n * int64(time.Second)) },
	},
	{
		"tcp-keepalive", false, 0, math.MaxInt32,
		func(s *Server) int64 { return wholeSeconds(s.keepAlive.Load()) },
		nil,
		func(s *Server, n int64) {
			if n == 0 {
				n = -1 // Redis says 0 for off
			}
			s.setKeepAlive(time.Duration(n) * time.Second)
		},
	},
	{
		"maxmemory-clients", true, 0, math.MaxInt64,
		func(s *Server) int64 { return s.maxMemory.Load() },
		nil,
		func(s *Server, n int64) { s.maxMemory.Store(n); s.easeIfNeeded() },
	},
}

// readyForClients returns what Redis says if the process cannot have as many clients.
func readyForClients(s *Server, n int64) error {
	fits, ok := roomFor(s.current.Load(), int(n), s.gate.MostWaiting())
	if ok {
		return nil
	}
	return fmt.Errorf("The operating system is not able to handle the specified number of clients, try with %d", //nolint:staticcheck // Redis's words
		max(fits, 1))
}

// parse reads a value, or says what is wrong with it, in Redis's words.
func (p *parameter) parse(value string) (n int64, wrong string) {
	if p.memory {
		if n, ok := limits.ParseSize(value); ok || value == "0" {
			return n, ""
		}
		return 0, "argument must be a memory value" // a share of what Redis may have means nothing here
	}
	n, ok := resp.ParseInt([]byte(value))
	switch {
	case !ok:
		return 0, "argument couldn't be parsed into an integer"
	case n < p.min || n > p.max:
		return 0, fmt.Sprintf("argument must be between %d and %d inclusive", p.min, p.max)
	}
	return n, ""
}

// wholeSeconds rounds a duration up, so that what is on does not look off.
func wholeSeconds(d int64) int64 { return (max(d, 0) + int64(time.Second) - 1) / int64(time.Second) }

// ourParameter returns the proxy's own parameter of that name, or nil.
func ourParameter(name []byte) *parameter {
	for i := range parameters {
		if bytes.EqualFold(name, []byte(parameters[i].name)) {
			return &parameters[i]
		}
	}
	return nil
}

// configReply puts the proxy's values into a reply to CONFIG GET.
func (s *Server) configReply(reply []byte) []byte {
	if len(reply) == 0 || reply[0] != '*' && reply[0] != '%' {
		return reply
	}
	i := bytes.IndexByte(reply, '\n') + 1
	out, rest := append([]byte(nil), reply[:i]...), reply[i:]
	var f resp.Framer
	var name *parameter
	for n := 0; len(rest) > 0; n++ {
		size, done, err := f.Next(rest)
		if err != nil || !done {
			return reply
		}
		element := rest[:size]
		rest = rest[size:]
		if _, body := bulkBody(element); n%2 == 0 {
			name = ourParameter(body)
		} else if name != nil {
			element = resp.AppendBulk(nil, strconv.FormatInt(name.get(s), 10))
		}
		out = append(out, element...)
	}
	return out
}

// configChange is what a CONFIG SET asks of the proxy, and of the upstream.
type configChange struct {
	ours   []*parameter
	values []string
	others [][]byte // names and values
}

// parseConfigSet reads CONFIG SET. What does not have its form is the upstream's to refuse.
func parseConfigSet(c command) configChange {
	var ch configChange
	if c.Len() < 4 || c.Len()%2 != 0 {
		return ch
	}
	for i := 2; i < c.Len(); i += 2 {
		if p := ourParameter(c.Arg(i)); p != nil {
			ch.ours, ch.values = append(ch.ours, p), append(ch.values, string(c.Arg(i+1)))
			continue
		}
		ch.others = append(ch.others, bytes.Clone(c.Arg(i)), bytes.Clone(c.Arg(i+1)))
	}
	return ch
}

// onlyOurs reports whether all that a CONFIG SET sets is the proxy's.
func onlyOurs(c command) bool {
	ch := parseConfigSet(c)
	return len(ch.ours) > 0 && len(ch.others) == 0
}

// noParameter is a parameter that no upstream has. Whether a user may use CONFIG SET is asked by setting it: the refusal
// names it if he may.
const noParameter = "redbouncer-may-i"

// configQuestion says how CONFIG SET is asked, and answered. The proxy's values are checked before the upstream sets
// its own, and set after.
func (s *session) configQuestion(c command) question {
	ch, srv := parseConfigSet(c), s.w.srv
	if len(ch.ours) == 0 {
		return question{}
	}
	numbers, refusal := ch.check(srv)
	head := [][]byte{c.Arg(0), c.Arg(1)}
	if len(ch.others) > 0 && refusal == nil {
		return question{raw: resp.AppendCommand(nil, append(head, ch.others...)...), answer: atOnce(func(reply []byte) []byte {
			if !isErrorReply(reply) {
				ch.apply(srv, numbers)
			}
			return reply
		})}
	}
	raw := resp.AppendCommand(nil, append(head, []byte(noParameter), []byte("1"))...)
	return question{raw: raw, safe: true, answer: atOnce(func(reply []byte) []byte {
		switch {
		case !bytes.Contains(reply, []byte(noParameter)):
			return reply
		case refusal != nil:
			return refusal
		}
		ch.apply(srv, numbers)
		return replyOK
	})}
}

// check returns the values for the proxy's own parameters, or what Redis answers where one cannot be set.
func (ch *configChange) check(s *Server) (numbers []int64, refusal []byte) {
	fail := func(p *parameter, why string) []byte {
		return fmt.Appendf(nil, "-ERR CONFIG SET failed (possibly related to argument '%s') - %s\r\n", p.name, why)
	}
	seen := map[*parameter]bool{}
	for _, p := range ch.ours {
		if seen[p] {
			return nil, fail(p, "duplicate parameter")
		}
		seen[p] = true
	}
	for i, p := range ch.ours {
		n, wrong := p.parse(ch.values[i])
		if wrong != "" {
			return nil, fail(p, wrong)
		}
		if p.ready != nil {
			if err := p.ready(s, n); err != nil {
				return nil, fail(p, err.Error())
			}
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// apply sets the proxy's own parameters.
func (ch *configChange) apply(s *Server, numbers []int64) {
	var set []string
	for i, p := range ch.ours {
		s.setAtRunTime(p, numbers[i])
		set = append(set, p.name+"="+ch.values[i])
	}
	s.cfg.Log.Info("settings changed by CONFIG SET", "settings", strings.Join(set, " "))
}

// refusedInTransaction is what a CONFIG SET of the proxy's own is told between MULTI and EXEC: the proxy cannot know
// whether the transaction will be carried out, so that this one is not.
const refusedInTransaction = "-ERR CONFIG SET of maxclients, timeout, tcp-keepalive and maxmemory-clients is not possible in a transaction\r\n"
