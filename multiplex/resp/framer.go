package resp

import (
	"bytes"
	"fmt"
)

// Framer finds the end of each reply in what a server sends. The zero value is ready to use.
//
// It keeps no bytes: a reply may be forwarded as it arrives. Nesting needs no stack, only the number of elements
// that are still to come.
type Framer struct {
	need  int64 // elements that are still to come; 0 between replies
	skip  int64 // bytes of a payload that are still to come
	num   int64 // the number that is being read; noDigit before its first digit
	state framerState
	kind  byte // type byte of the element that is being read
	neg   bool
	cr    bool // the byte before was a '\r'
	inner bool // there was a push inside the reply
	top   byte
}

type framerState uint8

const (
	atType   framerState = iota // the next byte is a type
	atNumber                    // in a length or a count
	atLine                      // in a line without meaning to us, up to its "\r\n"; a '\n' alone belongs to it
	atSkip                      // in a payload
	atEnd                       // in the "\r\n" behind a payload
)

const (
	noDigit = -1
	// maxNumber bounds a length or a count, far beyond what Redis sends and far below what overflows.
	maxNumber = 1 << 40
)

// FrameError says that a server sent something that is not a reply. The stream is out of step from there on, and
// the connection is of no further use.
type FrameError struct{ Byte byte }

func (e *FrameError) Error() string {
	return fmt.Sprintf("not a reply: unexpected byte %q", e.Byte)
}

// Next consumes b up to the end of the reply that is under way, or all of it. It returns how much that was, and
// whether the reply is complete.
func (f *Framer) Next(b []byte) (n int, done bool, err error) {
	if f.need == 0 && len(b) > 0 {
		f.need, f.top, f.inner = 1, '|', false
	}
	for i := 0; i < len(b); {
		switch f.state {
		case atType:
			if err := f.begin(b[i]); err != nil {
				return i, false, err
			}
			i++
		case atNumber:
			if err := f.digit(b[i]); err != nil {
				return i, false, err
			}
			i++
		case atLine:
			end := f.lineEnd(b[i:])
			if end == 0 {
				return len(b), false, nil
			}
			i += end
			f.element()
		case atSkip:
			k := min(f.skip, int64(len(b)-i))
			i += int(k)
			f.skip -= k
			if f.skip == 0 {
				f.state = atEnd
			}
		case atEnd:
			switch {
			case b[i] == '\r' && !f.cr:
				f.cr = true
			case b[i] == '\n' && f.cr:
				f.element()
			default:
				return i, false, &FrameError{b[i]}
			}
			i++
		}
		if f.need == 0 {
			return i, true, nil
		}
	}
	return len(b), false, nil
}

// begin starts an element of the given type.
func (f *Framer) begin(kind byte) error {
	if f.top == '|' && f.need == 1 {
		f.top = kind
	}
	f.kind, f.cr = kind, false
	switch kind {
	case '+', '-', ':', '_', '#', ',', '(':
		f.state = atLine
	case '$', '!', '=', '*', '~', '%', '>', '|':
		f.state, f.num, f.neg = atNumber, noDigit, false
	default:
		return &FrameError{kind}
	}
	return nil
}

// digit reads one byte of the number behind a type byte, or of the line end behind that.
func (f *Framer) digit(c byte) error {
	switch {
	case f.cr && c == '\n':
		f.counted()
	case f.cr:
		return &FrameError{c}
	case c >= '0' && c <= '9' && f.num < maxNumber:
		f.num = max(f.num, 0)*10 + int64(c-'0')
	case c == '-' && f.num == noDigit && !f.neg:
		f.neg = true
	case c == '\r' && f.num != noDigit:
		f.cr = true
	default:
		return &FrameError{c}
	}
	return nil
}

// lineEnd returns the length of what is left of a line, its end included, or 0 if the end is not in b.
func (f *Framer) lineEnd(b []byte) int {
	for from := 0; ; {
		i := bytes.IndexByte(b[from:], '\n')
		if i < 0 {
			f.cr = b[len(b)-1] == '\r'
			return 0
		}
		i += from
		if i > 0 && b[i-1] == '\r' || i == 0 && f.cr {
			return i + 1
		}
		if from = i + 1; from == len(b) {
			f.cr = false
			return 0
		}
	}
}

// counted ends the number behind a type byte.
func (f *Framer) counted() {
	n := f.num
	if f.neg {
		n = 0 // a null: nothing follows
	}
	switch f.kind {
	case '$', '!', '=':
		if f.neg {
			f.element()
			return
		}
		f.state, f.skip, f.cr = atSkip, n, false
		if n == 0 {
			f.state = atEnd
		}
	case '%':
		f.need += 2 * n
		f.element()
	case '|': // attributes precede an element, they are none
		f.need += 2 * n
		f.state = atType
	case '>':
		f.need += n
		if f.need-n > 1 || f.top != '>' { // a push inside a reply is no element of it
			f.state, f.inner = atType, true
			return
		}
		f.element()
	default:
		f.need += n
		f.element()
	}
}

// element ends an element.
func (f *Framer) element() {
	f.need--
	f.state = atType
}

// Top returns the type byte of the reply that Next has begun or completed last, attributes left aside: '-' for an
// error, '>' for a push, which is nobody's reply.
func (f *Framer) Top() byte { return f.top }

// HasPush reports whether there was a push inside the reply that Next has begun or completed last.
func (f *Framer) HasPush() bool { return f.inner }

// Between reports whether the stream stands between two replies.
func (f *Framer) Between() bool { return f.need == 0 }
