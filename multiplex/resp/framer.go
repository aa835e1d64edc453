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
	skip  int64 // bytes of a payload, and its line end, that are still to come
	num   int64 // the number that is being read
	state framerState
	kind  byte // type byte of the element that is being read
	neg   bool
	top   byte
}

type framerState uint8

const (
	atType   framerState = iota // the next byte is a type
	atNumber                    // in a length or a count
	atLine                      // in a line without meaning to us, up to its '\n'
	atSkip                      // in a payload
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
	if f.need == 0 {
		f.need, f.top = 1, '|'
	}
	for i := 0; i < len(b); {
		switch f.state {
		case atType:
			if err := f.begin(b[i]); err != nil {
				return i, false, err
			}
			i++
		case atNumber:
			c := b[i]
			i++
			switch {
			case c >= '0' && c <= '9' && f.num < 1<<40:
				f.num = f.num*10 + int64(c-'0')
			case c == '-':
				f.neg = true
			case c == '\r':
			case c == '\n':
				f.counted()
			default:
				return i, false, &FrameError{c}
			}
		case atLine:
			end := bytes.IndexByte(b[i:], '\n')
			if end < 0 {
				return len(b), false, nil
			}
			i += end + 1
			f.element()
		case atSkip:
			k := min(f.skip, int64(len(b)-i))
			i += int(k)
			f.skip -= k
			if f.skip == 0 {
				f.element()
			}
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
	f.kind = kind
	switch kind {
	case '+', '-', ':', '_', '#', ',', '(':
		f.state = atLine
	case '$', '!', '=', '*', '~', '%', '>', '|':
		f.state, f.num, f.neg = atNumber, 0, false
	default:
		return &FrameError{kind}
	}
	return nil
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
		f.state, f.skip = atSkip, n+2
	case '%':
		f.need += 2 * n
		f.element()
	case '|': // attributes precede an element, they are none
		f.need += 2 * n
		f.state = atType
	case '>':
		f.need += n
		if f.need-n > 1 || f.top != '>' { // a push inside a reply is no element of it
			f.state = atType
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

// Between reports whether the stream stands between two replies.
func (f *Framer) Between() bool { return f.need == 0 }
