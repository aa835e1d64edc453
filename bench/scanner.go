package main

import "bytes"

// scanner counts the replies in a stream, however it is cut into pieces. It looks at lengths only, so that a value of
// 64 MB costs it next to nothing. The zero scanner is at the start of a reply.
type scanner struct {
	left int    // elements to come until the reply is complete; 0: at the start of one
	skip int    // bytes to come of a bulk string, with its line end
	line []byte // the beginning of a line that was cut
	// failure is the first error reply. It counts as a reply too.
	failure string
}

// maxLine bounds what is kept of a line that has not ended: a stream without one is no Redis's.
const maxLine = 4096

// feed takes what has been read and returns how many replies it completed.
func (s *scanner) feed(b []byte) (complete int) {
	for len(b) > 0 {
		if s.left == 0 {
			s.left = 1
		}
		if s.skip > 0 {
			n := min(s.skip, len(b))
			b = b[n:]
			if s.skip -= n; s.skip == 0 {
				complete += s.element()
			}
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			s.keep(b)
			return complete
		}
		line := b[:end]
		if len(s.line) > 0 {
			line = append(s.line, line...)
			s.line = line[:0]
		}
		b = b[end+1:]
		complete += s.header(line)
	}
	return complete
}

// keep remembers the beginning of a line.
func (s *scanner) keep(b []byte) {
	if len(s.line)+len(b) > maxLine {
		s.fail("a line of more than 4,096 bytes is no reply")
		return
	}
	s.line = append(s.line, b...)
}

// header takes the line that an element begins with, and returns 1 if that completed a reply.
func (s *scanner) header(line []byte) int {
	if len(line) == 0 {
		s.fail("an empty line is no reply")
		return s.element()
	}
	switch line[0] {
	case '-':
		s.fail(string(bytes.TrimRight(line[1:], "\r")))
	case '$', '=':
		if n := decimal(line[1:]); n >= 0 {
			s.skip = n + 2
			return 0
		}
	case '*', '~', '>':
		s.left += max(decimal(line[1:]), 0)
	case '%':
		s.left += 2 * max(decimal(line[1:]), 0)
	}
	return s.element()
}

// element notes the end of one, and returns 1 if it was the reply's last. An array is an element, and so is each in it.
func (s *scanner) element() int {
	if s.left--; s.left == 0 {
		return 1
	}
	return 0
}

func (s *scanner) fail(why string) {
	if s.failure == "" {
		s.failure = why
	}
}

// decimal reads a length. What is none is -1, as is a nil.
func decimal(digits []byte) int {
	n := 0
	for i, d := range digits {
		switch {
		case d >= '0' && d <= '9' && n < 1<<40:
			n = n*10 + int(d-'0')
		case d == '\r' && i > 0:
			return n
		default:
			return -1
		}
	}
	return n
}
