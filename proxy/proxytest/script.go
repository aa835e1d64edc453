package proxytest

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// Converse plays a conversation and fails the test at the first line that does not hold. Every name is a
// connection, opened when it first speaks: to the address that direct holds for that name, or else to addr.
//
//	# Two clients, one key.             a comment
//	a> SET k "two words"                a sends a command: words, quoted as in redis-cli
//	a< +OK                              and reads one reply, exactly this; the last \r\n goes without saying
//	a+ MULTI                            a sends this in one write with the next a> line
//	a~ ^\*2\r\n                         a reads one reply that matches a regular expression
//	a>> *1\r\n$4\r\nPI                  a sends raw bytes, with Go's escapes
//	a< (end)                            the connection ends here, with nothing more to read
//	a: close                            a hangs up; also "reset" (RST) and "half" (closes its sending side)
func Converse(t testing.TB, addr string, direct map[string]string, script string) {
	t.Helper()
	s := &conversation{t: t, addr: addr, direct: direct, conns: map[string]*Conn{}, held: map[string]string{}}
	lines := 0
	for n, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		lines++
		if err := s.play(line); err != nil {
			t.Fatalf("line %d, %s\n%v", n+1, line, err)
		}
	}
	if lines == 0 {
		t.Fatal("this conversation has no lines")
	}
}

type conversation struct {
	t      testing.TB
	addr   string
	direct map[string]string
	conns  map[string]*Conn
	held   map[string]string // what a+ lines have queued, by name
}

var scriptLine = regexp.MustCompile(`^(\w+)(>>|>|\+|<|~|:)(?: (.*))?$`)

func (s *conversation) play(line string) error {
	m := scriptLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("want a name and one of > + < ~ >> : in front")
	}
	name, verb, rest := m[1], m[2], m[3]
	c := s.conn(name)
	switch verb {
	case ">", "+":
		parts, err := Words(rest)
		if err != nil {
			return err
		}
		s.held[name] += Command(parts...)
		if verb == "+" {
			return nil
		}
		raw := s.held[name]
		delete(s.held, name)
		return c.TryWrite([]byte(raw))
	case ">>":
		raw, err := unescape(rest)
		if err != nil {
			return err
		}
		return c.TryWrite([]byte(raw))
	case "<", "~":
		return s.expect(c, verb, rest)
	}
	switch rest {
	case "close":
		c.Close()
	case "reset":
		c.Reset()
	case "half":
		return c.CloseWrite()
	default:
		return fmt.Errorf("want close, reset or half after the colon")
	}
	return nil
}

func (s *conversation) conn(name string) *Conn {
	c := s.conns[name]
	if c == nil {
		addr := s.addr
		if d, ok := s.direct[name]; ok {
			addr = d
		}
		c = Dial(s.t, addr)
		s.conns[name] = c
	}
	return c
}

func (s *conversation) expect(c *Conn, verb, rest string) error {
	if rest == "(end)" {
		b, err := c.TryReadAll()
		if err != nil {
			return fmt.Errorf("got  %s %w", Quote(b), err)
		}
		if len(b) > 0 {
			return fmt.Errorf("got  %s", Quote(b))
		}
		return nil
	}
	got, err := c.TryReadReply()
	if err != nil {
		return fmt.Errorf("got  %s %w", Quote(got), err)
	}
	if verb == "~" {
		re, err := regexp.Compile(rest)
		if err != nil {
			return err
		}
		if !re.Match(got) {
			return fmt.Errorf("got  %s", Quote(got))
		}
		return nil
	}
	want, err := unescape(rest)
	if err != nil {
		return err
	}
	if string(got) != want && string(got) != want+"\r\n" {
		return fmt.Errorf("got  %s", Quote(got))
	}
	return nil
}

// Words splits a line into arguments as redis-cli does: blanks separate, 'single' and "double" quotes hold
// together, and inside double quotes \r \n \t \" \\ and \xHH mean what they mean in Go.
func Words(line string) ([]string, error) {
	var words []string
	for {
		line = strings.TrimLeft(line, " \t")
		if line == "" {
			return words, nil
		}
		var end int
		switch line[0] {
		case '"':
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("%s: quotes that do not end", line)
			}
			w, err := strconv.Unquote(q)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", q, err)
			}
			words, end = append(words, w), len(q)
		case '\'':
			n := strings.IndexByte(line[1:], '\'')
			if n < 0 {
				return nil, fmt.Errorf("%s: quotes that do not end", line)
			}
			words, end = append(words, line[1:1+n]), n+2
		default:
			end = strings.IndexAny(line, " \t")
			if end < 0 {
				end = len(line)
			}
			words = append(words, line[:end])
		}
		line = line[end:]
	}
}

// unescape reads Go's escapes in a line that has no quotes around it.
func unescape(s string) (string, error) {
	u, err := strconv.Unquote(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`)
	if err != nil {
		return "", fmt.Errorf("%s: escapes as in a Go string, please: %w", s, err)
	}
	return u, nil
}
