package resp

import (
	"bytes"
	"math"
	"strconv"
)

// The limits of Redis's protocol that are not settings (server.h).
const (
	// MaxLine is the longest inline command or header line, in bytes (PROTO_INLINE_MAX_SIZE).
	MaxLine = 64 << 10
	// MaxArgs is the largest argument count of one command.
	MaxArgs = math.MaxInt32
	// DefaultMaxBulk is Redis's default of proto-max-bulk-len, in bytes.
	DefaultMaxBulk = 512 << 20

	// MaxArgsUnauthenticated and MaxBulkUnauthenticated are the most arguments, and the longest one in bytes, that a
	// client may send that has not authenticated. Redis applies them to arrays only.
	MaxArgsUnauthenticated = 10
	MaxBulkUnauthenticated = 16 << 10
)

// ProtocolError is what Redis tells a client that breaks the protocol, before it closes the connection. The text
// goes behind "-ERR " on the wire.
type ProtocolError string

func (e ProtocolError) Error() string { return string(e) }

const (
	errBigInline     ProtocolError = "Protocol error: too big inline request"
	errBigCount      ProtocolError = "Protocol error: too big mbulk count string"
	errBigBulkHeader ProtocolError = "Protocol error: too big bulk count string"
	errCount         ProtocolError = "Protocol error: invalid multibulk length"
	errBulk          ProtocolError = "Protocol error: invalid bulk length"
	errQuotes        ProtocolError = "Protocol error: unbalanced quotes in request"
	errCountNoAuth   ProtocolError = "Protocol error: unauthenticated multibulk length"
	errBulkNoAuth    ProtocolError = "Protocol error: unauthenticated bulk length"
)

// span is one argument: its bytes are base[from:to].
type span struct{ from, to uint32 }

// Reader finds the commands in what a client sends. The zero value is ready to use, with Redis's default limits.
//
// A command that is not there as a whole is resumed where the Reader stopped: the next call must get the same
// bytes again, at any address, with more behind them.
type Reader struct {
	// MaxBulk is the largest argument, in bytes; 0 means DefaultMaxBulk.
	MaxBulk int64
	// Unauthenticated applies the tighter limits that Redis has for clients that have not authenticated.
	Unauthenticated bool

	// The command that is being read.
	pos     int  // the next byte to look at
	scanned int  // how far the line at pos has been searched for its end
	left    int  // arguments that are still to come
	open    bool // the count has been read
	bulk    int  // length of the argument at pos, -1 while its header has not been read
	odd     bool // not in canonical form: to be encoded anew

	// The command that Next returned last.
	base  []byte // what spans index: the input, or scratch
	spans []span
	bytes []byte

	scratch []byte
}

// Next looks for a command at the front of buf and returns its length in buf. 0 without an error says that more
// input is needed. An error is a ProtocolError and final.
//
// Afterwards Len, Arg and Bytes describe the command, until the next call or until buf changes. A command of no
// arguments (an empty line, "*0") is returned like any other; Redis answers it with nothing.
func (r *Reader) Next(buf []byte) (int, error) {
	if !r.open {
		if len(buf) == 0 {
			return 0, nil
		}
		r.spans = r.spans[:0]
		if buf[0] != '*' {
			return r.inline(buf)
		}
		if ok, err := r.count(buf); !ok || err != nil {
			return 0, err
		}
	}
	for r.left > 0 {
		if r.bulk < 0 {
			if ok, err := r.bulkHeader(buf); !ok || err != nil {
				return 0, err
			}
		}
		end := r.pos + r.bulk
		if len(buf) < end+2 {
			return 0, nil
		}
		if buf[end] != '\r' || buf[end+1] != '\n' {
			r.odd = true // Redis skips these two bytes without a look
		}
		r.spans = append(r.spans, span{uint32(r.pos), uint32(end)})
		r.pos, r.scanned, r.bulk = end+2, 0, -1
		r.left--
	}
	n := r.pos
	r.base, r.bytes = buf, buf[:n]
	if r.odd {
		r.encode()
	}
	r.pos, r.scanned, r.open, r.odd = 0, 0, false, false
	return n, nil
}

// count reads the header of an array: "*3\r\n".
func (r *Reader) count(buf []byte) (bool, error) {
	end, ok := r.line(buf, '\r')
	if !ok {
		if end > MaxLine {
			return false, errBigCount
		}
		return false, nil
	}
	n, ok := parseInt(buf[1:end])
	switch {
	case !ok || n > MaxArgs:
		return false, errCount
	case n > MaxArgsUnauthenticated && r.Unauthenticated:
		return false, errCountNoAuth
	}
	r.odd = buf[end+1] != '\n'
	r.pos, r.scanned, r.open, r.bulk = end+2, 0, true, -1
	r.left = max(int(n), 0)
	return true, nil
}

// bulkHeader reads the header of one argument: "$5\r\n".
func (r *Reader) bulkHeader(buf []byte) (bool, error) {
	end, ok := r.line(buf, '\r')
	if !ok {
		if end-r.pos > MaxLine {
			return false, errBigBulkHeader
		}
		return false, nil
	}
	if c := buf[r.pos]; c != '$' {
		if c == '\r' || c == '\n' {
			c = ' ' // as Redis does, to keep its error on one line
		}
		return false, ProtocolError("Protocol error: expected '$', got '" + string([]byte{c}) + "'")
	}
	n, ok := parseInt(buf[r.pos+1 : end])
	limit := r.MaxBulk
	if limit == 0 {
		limit = DefaultMaxBulk
	}
	switch {
	case !ok || n < 0 || n > limit:
		return false, errBulk
	case n > MaxBulkUnauthenticated && r.Unauthenticated:
		return false, errBulkNoAuth
	}
	if buf[end+1] != '\n' {
		r.odd = true
	}
	r.pos, r.scanned, r.bulk = end+2, 0, int(n)
	return true, nil
}

// line searches the line at pos for its end. It returns the index of the terminator and true, if one further
// byte is there too; otherwise how far buf reaches and false.
func (r *Reader) line(buf []byte, terminator byte) (int, bool) {
	limit := min(len(buf), r.pos+MaxLine+1)
	for i := max(r.pos, r.scanned); i < limit; i++ {
		if buf[i] == terminator {
			if i+1 < len(buf) {
				return i, true
			}
			r.scanned = i
			return i, false
		}
	}
	r.scanned = limit
	return limit, false
}

// inline reads a command that is a line of words.
func (r *Reader) inline(buf []byte) (int, error) {
	limit := min(len(buf), MaxLine+1)
	i := bytes.IndexByte(buf[r.scanned:limit], '\n')
	if i < 0 {
		r.scanned = limit
		if limit > MaxLine {
			return 0, errBigInline
		}
		return 0, nil
	}
	end := r.scanned + i
	r.scanned = 0
	line := bytes.TrimSuffix(buf[:end], []byte{'\r'})
	args, ok := splitWords(line)
	if !ok {
		return 0, errQuotes
	}
	r.base, r.bytes = nil, nil
	if len(args) > 0 {
		r.encodeArgs(args)
	}
	return end + 1, nil
}

// encode puts the command that spans describe into canonical form.
func (r *Reader) encode() {
	args := make([][]byte, len(r.spans))
	for i := range args {
		args[i] = r.Arg(i)
	}
	r.encodeArgs(args)
}

// encodeArgs makes the canonical form of args the command that Next returns.
func (r *Reader) encodeArgs(args [][]byte) {
	b, spans := make([]byte, 0, 64), r.spans[:0]
	b = appendHeader(b, '*', len(args))
	for _, arg := range args {
		b = appendHeader(b, '$', len(arg))
		spans = append(spans, span{uint32(len(b)), uint32(len(b) + len(arg))})
		b = append(append(b, arg...), '\r', '\n')
	}
	r.scratch, r.base, r.bytes, r.spans = b, b, b, spans
}

// Len returns the number of arguments, the command's name included.
func (r *Reader) Len() int { return len(r.spans) }

// Arg returns the i-th argument; the command's name is the 0th. It points into the buffer that Next was given.
func (r *Reader) Arg(i int) []byte {
	s := r.spans[i]
	return r.base[s.from:s.to:s.to]
}

// Bytes returns the command as an array of bulk strings, which is how it may be sent on. It is the front of the
// buffer that Next was given, unless the client had written it in another form.
func (r *Reader) Bytes() []byte { return r.bytes }

// Missing returns how many bytes of the argument that is being received are not in the buffer of length have
// yet; 0 when that is not known.
func (r *Reader) Missing(have int) int {
	if !r.open || r.bulk < 0 {
		return 0
	}
	return max(r.pos+r.bulk+2-have, 0)
}

// parseInt reads a decimal integer in the one form that Redis accepts (util.c: string2ll): no plus sign, no
// leading zeros, no spaces.
func parseInt(b []byte) (int64, bool) {
	if len(b) == 1 && b[0] >= '0' && b[0] <= '9' {
		return int64(b[0] - '0'), true
	}
	digits := b
	if len(b) > 0 && b[0] == '-' {
		digits = b[1:]
	}
	if len(digits) == 0 || len(digits) > 18 || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	var n int64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if len(digits) != len(b) {
		n = -n
	}
	return n, true
}

// ParseInt reads a decimal integer in the one form that Redis accepts for integers of commands and of the
// protocol: no plus sign, no leading zeros, no spaces, at most 18 digits.
func ParseInt(b []byte) (int64, bool) { return parseInt(b) }

func appendHeader(b []byte, kind byte, n int) []byte {
	b = append(b, kind)
	b = strconv.AppendInt(b, int64(n), 10)
	return append(b, '\r', '\n')
}

// AppendCommand appends a command in canonical form: an array of bulk strings.
func AppendCommand[T ~string | ~[]byte](b []byte, args ...T) []byte {
	b = appendHeader(b, '*', len(args))
	for _, arg := range args {
		b = AppendBulk(b, arg)
	}
	return b
}

// AppendBulk appends one bulk string.
func AppendBulk[T ~string | ~[]byte](b []byte, s T) []byte {
	b = appendHeader(b, '$', len(s))
	b = append(b, s...)
	return append(b, '\r', '\n')
}

// Detach returns a Reader that goes on where r stands in an unfinished command, and sets r back to the start.
func (r *Reader) Detach() *Reader {
	d := *r
	d.spans = append([]span(nil), r.spans...)
	d.base, d.bytes, d.scratch = nil, nil, nil
	r.Reset()
	return &d
}

// Reset forgets an unfinished command.
func (r *Reader) Reset() { r.pos, r.scanned, r.left, r.open, r.odd = 0, 0, 0, false, false }
