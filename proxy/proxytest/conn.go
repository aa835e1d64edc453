package proxytest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ReplyTimeout is how long a Conn waits for one reply, or for its bytes to be taken, unless SetTimeout says
// otherwise. It is only ever waited out by a test that fails.
const ReplyTimeout = 15 * time.Second

// Conn is a connection to a server or proxy that hides nothing: it sends what it is told and returns replies
// as the bytes they are. It is for one goroutine at a time.
//
// Methods without "Try" fail the test themselves and so must be called on the test's goroutine.
type Conn struct {
	t       testing.TB
	conn    net.Conn
	r       *bufio.Reader
	timeout time.Duration
}

// Dial connects to addr, a host:port or unix:/path, for as long as the test runs.
func Dial(t testing.TB, addr string) *Conn {
	t.Helper()
	c, err := TryDial(addr)
	if err != nil {
		t.Fatalf("connecting to %s: %v", addr, err)
	}
	c.t = t
	t.Cleanup(c.Close)
	return c
}

// DialFrom is Dial with a local address, such as 127.0.0.2, for a server on TCP.
func DialFrom(t testing.TB, local, addr string) *Conn {
	t.Helper()
	c, err := TryDialFrom(local, addr)
	if err != nil {
		t.Fatalf("connecting to %s from %s: %v", addr, local, err)
	}
	c.t = t
	t.Cleanup(c.Close)
	return c
}

// TryDial is Dial for goroutines: it returns its error, and the caller closes the connection. Only the Try
// methods, Close, CloseWrite and Reset may be called on it.
func TryDial(addr string) (*Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	nc, err := net.DialTimeout(network, addr, ReplyTimeout)
	if err != nil {
		return nil, err
	}
	return newConn(nc), nil
}

// TryDialFrom is to DialFrom what TryDial is to Dial.
func TryDialFrom(local, addr string) (*Conn, error) {
	d := net.Dialer{Timeout: ReplyTimeout, LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}}
	nc, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return newConn(nc), nil
}

func newConn(nc net.Conn) *Conn {
	return &Conn{conn: nc, r: bufio.NewReaderSize(nc, 4096), timeout: ReplyTimeout}
}

// SetTimeout sets how long the next calls wait.
func (c *Conn) SetTimeout(d time.Duration) { c.timeout = d }

// LocalAddr returns the client's address as the server sees it.
func (c *Conn) LocalAddr() string { return c.conn.LocalAddr().String() }

// Send sends one command.
func (c *Conn) Send(parts ...string) { c.t.Helper(); c.Write(Command(parts...)) }

// Write sends raw bytes.
func (c *Conn) Write(raw string) {
	c.t.Helper()
	if err := c.TryWrite([]byte(raw)); err != nil {
		c.t.Fatalf("writing %s: %v", Quote([]byte(raw)), err)
	}
}

// ReadReply returns the bytes of exactly one reply. A push counts as one, and so does an attribute together
// with the reply that it belongs to.
func (c *Conn) ReadReply() []byte {
	c.t.Helper()
	b, err := c.TryReadReply()
	if err != nil {
		c.t.Fatalf("reading a reply: %v, after %s", err, Quote(b))
	}
	return b
}

// Do sends one command and returns its reply.
func (c *Conn) Do(parts ...string) []byte {
	c.t.Helper()
	c.Send(parts...)
	b, err := c.TryReadReply()
	if err != nil {
		c.t.Fatalf("reading the reply to %s: %v, after %s", strings.Join(parts, " "), err, Quote(b))
	}
	return b
}

// ReadAll returns everything up to the end of the connection. A reset is an end like any other.
func (c *Conn) ReadAll() []byte {
	c.t.Helper()
	b, err := c.TryReadAll()
	if err != nil {
		c.t.Fatalf("waiting for the end of the connection: %v, after %s", err, Quote(b))
	}
	return b
}

// TryWrite sends raw bytes.
func (c *Conn) TryWrite(raw []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(raw)
	return err
}

// TryReadReply is ReadReply that returns its error, together with the bytes of the reply that came before it.
// The error is io.EOF only when nothing of a further reply came.
func (c *Conn) TryReadReply() ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	var b []byte
	err := c.appendReply(&b)
	if errors.Is(err, io.EOF) && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// Unread puts back the part of a reply that TryReadReply returned when its time was up: the next read begins with it.
func (c *Conn) Unread(part []byte) { c.r.Reset(io.MultiReader(bytes.NewReader(part), c.conn)) }

// TryReadAll is ReadAll that returns its error. The bytes before the error are returned with it.
func (c *Conn) TryReadAll() ([]byte, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(c.r)
	if IsClosed(err) {
		err = nil
	}
	return b, err
}

// Close ends the connection in the orderly way, with a FIN, if nothing is left unread. Closing twice is fine.
func (c *Conn) Close() { _ = c.conn.Close() }

// Reset ends the connection the way a crashed host does, with a RST that overtakes whatever was sent.
func (c *Conn) Reset() {
	if tc, ok := c.conn.(*net.TCPConn); ok {
		_ = tc.SetLinger(0)
	}
	_ = c.conn.Close()
}

// CloseWrite ends only the sending side, as `printf ... | nc` does.
func (c *Conn) CloseWrite() error {
	cw, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return fmt.Errorf("%T has no half to close", c.conn)
	}
	return cw.CloseWrite()
}

// IsClosed reports whether err says that the other side has closed or reset the connection.
func IsClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// IsTimeout reports whether err says that nothing came in time.
func IsTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// Command returns a command as an array of bulk strings, the form that every client library sends.
func Command(parts ...string) string { return string(AppendCommand(nil, parts...)) }

// AppendCommand appends Command(parts...) to b.
func AppendCommand(b []byte, parts ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(parts)), 10)
	b = append(b, "\r\n"...)
	for _, p := range parts {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(p)), 10)
		b = append(b, "\r\n"...)
		b = append(b, p...)
		b = append(b, "\r\n"...)
	}
	return b
}

// appendReply reads one reply and appends its bytes to b, also those of a reply that breaks off.
func (c *Conn) appendReply(b *[]byte) error {
	for todo := 1; todo > 0; todo-- {
		line, err := c.r.ReadBytes('\n')
		*b = append(*b, line...)
		if err != nil {
			return err
		}
		if len(line) < 3 || line[len(line)-2] != '\r' {
			return fmt.Errorf("%q is no reply line", line)
		}
		kind := line[0]
		switch kind {
		case '+', '-', ':', '_', '#', ',', '(':
			continue
		case '$', '!', '=', '*', '~', '>', '%', '|':
		default:
			return fmt.Errorf("%q begins no reply", line)
		}
		n, err := strconv.Atoi(string(line[1 : len(line)-2]))
		if err != nil {
			return fmt.Errorf("%q has no length", line)
		}
		switch kind {
		case '$', '!', '=':
			if n >= 0 {
				err = c.appendBulk(b, n+2)
			}
		case '%':
			todo += 2 * n
		case '|':
			todo += 2*n + 1 // an attribute counts neither as an element nor as the reply
		default:
			todo += max(n, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// appendBulk reads n bytes. The buffer grows with what arrives, not with what was announced.
func (c *Conn) appendBulk(b *[]byte, n int) error {
	if c.r.Buffered() >= n {
		part, err := c.r.Peek(n)
		*b = append(*b, part...)
		_, _ = c.r.Discard(n)
		return err
	}
	buf := bytes.NewBuffer(*b)
	_, err := io.CopyN(buf, c.r, int64(n))
	*b = buf.Bytes()
	return err
}

// Quote returns b as a conversation shows it: the line ends and everything unprintable escaped, and the middle
// left out if it is long.
func Quote(b []byte) string {
	const most = 2000
	if len(b) > most {
		return fmt.Sprintf("%s ... %d more bytes ... %s",
			Quote(b[:most/2]), len(b)-most, Quote(b[len(b)-most/2:]))
	}
	q := strconv.QuoteToASCII(string(b))
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}
