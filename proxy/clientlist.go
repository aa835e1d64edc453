package proxy

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// CLIENT LIST and CLIENT INFO show the proxy's clients, in lines that look as the upstream's own: which fields there
// are, and in which order, differs from version to version, so that a line of the upstream's is the pattern.

// lineFormat is what a line of CLIENT LIST consists of. It is not changed once it has been made: loops share it.
type lineFormat []lineField

type lineField struct {
	key    string
	number bool // what the upstream shows there is one
}

// formatOf reads the format off a line.
func formatOf(line string) lineFormat {
	var f lineFormat
	for field := range strings.SplitSeq(line, " ") {
		key, value, ok := strings.Cut(field, "=")
		if !ok {
			continue // a part of a path with a space in it
		}
		_, err := strconv.ParseInt(value, 10, 64)
		f = append(f, lineField{key, err == nil})
	}
	return f
}

// plainLine is used where the upstream shows no line at all; it is Redis 7.0's.
const plainLine = "id=0 addr= laddr= fd=0 name= age=0 idle=0 flags=N db=0 sub=0 psub=0 ssub=0 multi=0 qbuf=0 qbuf-free=0 " +
	"argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd= user= redir=0 resp=2"

// lineIn returns the last line of a reply to CLIENT LIST or CLIENT INFO, or "" if there is none.
func lineIn(reply []byte) string {
	_, body := bulkBody(reply)
	body = bytes.TrimRight(body, "\r\n")
	return string(body[bytes.LastIndexByte(body, '\n')+1:])
}

// bulkBody returns the text of a bulk or verbatim string, and what is in front of it: "$", or "=" and "txt:". A reply of
// another kind has neither.
func bulkBody(reply []byte) (format string, body []byte) {
	header, body, ok := bytes.Cut(reply, []byte("\r\n"))
	if !ok || len(header) == 0 || header[0] != '$' && header[0] != '=' || len(body) < 2 {
		return "", nil
	}
	body = body[:len(body)-2]
	if header[0] == '=' {
		if len(body) < 4 {
			return "", nil
		}
		return "=" + string(body[:4]), body[4:]
	}
	return "$", body
}

// bulkReply is the reply that bulkBody takes apart.
func bulkReply(format string, body []byte) []byte {
	prefix := format[1:]
	return fmt.Appendf(make([]byte, 0, len(body)+32), "%c%d\r\n%s%s\r\n", format[0], len(prefix)+len(body), prefix, body)
}

// clientInfo answers CLIENT INFO, whose reply has been made for the connection that was asked on.
func (s *session) clientInfo(reply []byte) []byte {
	format, body := bulkBody(reply)
	if format == "" {
		return reply
	}
	line := s.appendLine(nil, formatOf(strings.TrimRight(string(body), "\r\n")))
	return bulkReply(format, append(line, '\n'))
}

// listClients says how CLIENT LIST is asked, and answered.
func (s *session) listClients(c command, link *multiplex.Link) question {
	filter := parseFilter(c, 2)
	// A line of the connection itself, as a pattern. In a transaction there is no place for it.
	sample := ""
	if id, ok := upstreamID(link); ok && (s.pin == nil || s.pin.tx == nil) {
		ask := resp.AppendCommand(nil, "CLIENT", "LIST", "ID", strconv.FormatInt(id, 10))
		link.SubmitSpecial(s, ask, multiplex.Safe|multiplex.Prompt, &multiplex.Special{
			Collect: true, Done: func(reply []byte) { sample = lineIn(reply) },
		})
	}
	return question{safe: true, answer: func(reply []byte, done func([]byte)) {
		format, _ := bulkBody(reply)
		switch {
		case format == "":
			done(reply)
			return
		case filter.unknown != "":
			done(filter.refusal())
			return
		}
		line := formatOf(cmp.Or(sample, lineIn(reply), plainLine))
		s.w.listLines(line, filter.of(s), func(lines []byte) { done(bulkReply(format, lines)) })
	}}
}

// listLines gives then a line for each session of all loops that matches, in the order of their ids.
func (w *worker) listLines(format lineFormat, filter *clientFilter, then func([]byte)) {
	type line struct {
		id   int64
		text []byte
	}
	gather(w, func(s *session, lines []line) []line {
		if !filter.matches(s) {
			return lines
		}
		return append(lines, line{s.id, append(s.appendLine(nil, format), '\n')})
	}, func(a, b line) int { return cmp.Compare(a.id, b.id) }, func(lines []line) {
		var out []byte
		for _, l := range lines {
			out = append(out, l.text...)
		}
		then(out)
	})
}

// appendLine appends the client's line of CLIENT LIST.
func (s *session) appendLine(b []byte, format lineFormat) []byte {
	for i, f := range format {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(append(b, f.key...), '=')
		n := len(b)
		if b = s.appendNumber(b, f.key); len(b) > n {
			continue
		}
		text, known := s.text(f.key)
		switch {
		case known:
			b = append(b, text...)
		case f.number:
			b = append(b, '0')
		}
	}
	return b
}

// text returns a field that is no number.
func (s *session) text(key string) (value string, known bool) {
	who := s.who
	if who == nil {
		who = &identity{}
	}
	switch key {
	case "addr":
		return s.remote, true
	case "laddr":
		return s.conn.LocalAddr(), true
	case "name":
		return who.name, true
	case "lib-name":
		return who.libName, true
	case "lib-ver":
		return who.libVer, true
	case "flags":
		return s.flags(), true
	case "user":
		return s.user(), true
	case "cmd":
		switch {
		case s.last == nil, s.last == unknownRow:
			return "NULL", true
		case s.last.full != "":
			return s.last.full, true
		}
		return strings.ToLower(s.last.name), true
	case "events":
		if s.out.size > 0 {
			return "rw", true
		}
		return "r", true
	}
	return "", false
}

// appendNumber appends a field that is a number, or nothing if it is none that is known.
func (s *session) appendNumber(b []byte, key string) []byte {
	now := s.w.clock()
	channels, patterns, shards := s.subscriptions()
	var n int
	switch key {
	case "id":
		return strconv.AppendInt(b, s.id, 10)
	case "fd":
		n = s.conn.FD()
	case "age":
		n = int((now - s.created) / time.Second)
	case "idle":
		n = int((now - s.active) / time.Second)
	case "db":
		n = s.db()
	case "sub":
		n = channels
	case "psub":
		n = patterns
	case "ssub":
		n = shards
	case "multi":
		n = -1
		if s.pin != nil && s.pin.tx != nil {
			n = s.pin.tx.queued
		}
	case "watch":
		if s.pin != nil && s.pin.watching {
			n = s.pin.watched
		}
	case "redir":
		n = -1
		if s.trackingMode() != trackingOff {
			n = 0
			if s.pin != nil {
				n = int(s.pin.redirect.client)
			}
		}
	case "resp":
		n = int(s.protocol())
	case "qbuf":
		n = len(s.in)
	case "qbuf-free":
		n = cap(s.in) - len(s.in)
	case "oll":
		n = s.out.count()
	case "omem":
		n = s.out.size
	case "tot-mem":
		n = int(unsafe.Sizeof(*s)) + cap(s.in) + s.out.size
	case "tot-net-in":
		return strconv.AppendUint(b, s.received, 10)
	case "tot-net-out":
		return strconv.AppendUint(b, s.sent, 10)
	case "tot-cmds":
		return strconv.AppendUint(b, s.commands, 10)
	default:
		return b
	}
	return strconv.AppendInt(b, int64(n), 10)
}

// flags are the letters that Redis has for what a client is (networking.c: catClientInfoString), in its order.
func (s *session) flags() string {
	var b []byte
	add := func(is bool, letter byte) {
		if is {
			b = append(b, letter)
		}
	}
	is := s.condition()
	add(s.relaying && s.last != nil && strings.EqualFold(s.last.name, "MONITOR"), 'O')
	add(is&isSubscribed != 0, 'P')
	add(s.pin != nil && s.pin.tx != nil, 'x')
	add(is&isBlocked != 0, 'b')
	add(is&isTracking != 0, 't')
	add(s.trackingMode() == trackingBroadcast, 'B')
	add(s.killed, 'c')
	add(strings.HasSuffix(s.remote, ":0"), 'U')
	add(s.ctx.ReadOnly, 'r')
	add(s.noEvict, 'e')
	add(s.ctx.NoTouch, 'T')
	if len(b) == 0 {
		return "N"
	}
	return string(b)
}

// user returns the ACL user that the client acts as.
func (s *session) user() string { return cmp.Or(s.ctx.User, s.w.cfg.Upstream.User()) }

// db returns the client's database.
func (s *session) db() int {
	if s.pin != nil && s.pin.selected {
		return s.pin.db
	}
	return s.ctx.DB
}

// upstreamID returns the id that the upstream has given a connection.
func upstreamID(link *multiplex.Link) (int64, bool) {
	const key = "$2\r\nid\r\n:"
	_, rest, ok := bytes.Cut(link.Hello(), []byte(key))
	digits, _, ended := bytes.Cut(rest, []byte("\r\n"))
	if !ok || !ended {
		return 0, false
	}
	return resp.ParseInt(digits)
}
