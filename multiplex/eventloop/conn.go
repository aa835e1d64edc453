package eventloop

import (
	"errors"
	"net"
	"net/netip"
	"os"
)

// Handler is told what happens to a Conn. All calls come from the loop; a handler may call any method of the
// Conn, Close included, and is not called any more once it has closed it.
type Handler interface {
	// Data delivers what the peer sent. b is valid during the call only, unless it lies in the buffer of
	// ReadInto.
	Data(b []byte)
	// EOF says that the peer will send nothing more. Writing may still be possible.
	EOF()
	// HungUp says that the peer of a connection whose reading is paused has closed its side, or all of it. What it
	// sent before is still to be read.
	HungUp()
	// Writable says that there is room again, after Write took less than it was given.
	Writable()
	// Failed says that the connection broke. It has been closed.
	Failed(err error)
}

// Conn is a connection on a loop. It belongs to that loop.
type Conn struct {
	loop   *Loop
	h      Handler
	stream *stream // nil for a socket that the loop reads itself

	fd        int32
	gen       int32 // tells this Conn's events from those of an earlier one with the same descriptor
	interest  uint32
	unwatched bool // epoll has been told to forget it
	late      bool
	aside     bool
	paused    bool
	eof       bool
	closed    bool

	into *[]byte // nil: the loop's own buffer
}

// Incoming is a connection that has been accepted and belongs to no loop yet. Whoever receives it passes it to
// Attach, on any loop, or closes it.
type Incoming struct {
	nc     net.Conn // nil for a plain socket
	fd     int
	tcp    bool           // fd is a TCP socket
	peer   netip.AddrPort // of a TCP socket
	local  netip.AddrPort // of a TCP socket, where the listener knows it
	remote string
}

// Remote returns the peer's address as Redis shows it: "ip:port", or the path of a unix socket with ":0".
func (in Incoming) Remote() string { return in.remote }

// Accepted makes an Incoming of a connection that was accepted elsewhere.
func Accepted(nc net.Conn) Incoming {
	return Incoming{nc: nc, fd: -1, remote: redisAddr(nc.RemoteAddr(), nc.LocalAddr())}
}

// Received makes an Incoming of a socket whose descriptor somebody has handed over. It takes ownership of fd.
func Received(fd int) (Incoming, error) {
	f := os.NewFile(uintptr(fd), "client")
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return Incoming{}, err
	}
	return Accepted(nc), nil
}

// redisAddr formats a client's address as CLIENT LIST does.
func redisAddr(remote, local net.Addr) string {
	if local.Network() == "unix" {
		return local.String() + ":0"
	}
	return remote.String()
}

// Attach puts an accepted connection on the loop and takes ownership of it.
func (l *Loop) Attach(in Incoming, h Handler) (*Conn, error) {
	if in.nc != nil {
		return l.Adopt(in.nc, h, false)
	}
	return l.attachFD(Conn{loop: l, h: h, fd: int32(in.fd)})
}

// AttachAside is Attach for a connection that is not to hold up the others: what it has to say is heard when all that came
// from them in a turn has been dealt with, and only for so long a turn, as is who connects. See Conn.Join.
func (l *Loop) AttachAside(in Incoming, h Handler) (*Conn, error) {
	if in.nc != nil {
		return l.Adopt(in.nc, h, false)
	}
	return l.attachFD(Conn{loop: l, h: h, fd: int32(in.fd), aside: true})
}

// Join makes a connection one like the others that was set aside.
func (c *Conn) Join() {
	if c.aside && !c.closed {
		c.joinFD()
	}
}

// Adopt puts a connection on the loop and takes ownership of it; on an error, nc has been closed. Late
// connections are read after the others of a turn.
func (l *Loop) Adopt(nc net.Conn, h Handler, late bool) (*Conn, error) {
	if l.poller != nil {
		if fd, ok := takeFD(nc); ok {
			return l.attachFD(Conn{loop: l, h: h, fd: int32(fd), late: late})
		}
	}
	return l.attachStream(nc, h, late), nil
}

// errClosed is returned by Write on a connection that has been closed.
var errClosed = errors.New("connection is closed")

// SetHandler hands the connection's events to another handler from now on.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// Closed reports whether the connection has been closed, by its owner or because it broke.
func (c *Conn) Closed() bool { return c.closed }

// ReadInto has each of the next reads land at the front of buf instead of in the loop's own buffer: for large
// values, which are not copied then. Data is called with the part of buf that a read has filled, and sets what comes
// next. Nil ends it, and so does a buf without room.
func (c *Conn) ReadInto(buf []byte) {
	switch {
	case len(buf) == 0:
		c.into = nil
	case c.into == nil:
		into := buf // a variable that is made in this case alone
		c.into = &into
	default:
		*c.into = buf
	}
}

// Write writes as much of b as can be written without waiting and returns how much that was. If it was less than
// all of it, Writable will be called. An error is final; the caller closes.
func (c *Conn) Write(b []byte) (int, error) {
	switch {
	case c.closed:
		return 0, errClosed
	case c.stream != nil:
		return c.stream.write(b)
	}
	return c.writeFD(b)
}

// PauseRead has the peer's bytes wait in the kernel. HungUp is called if the peer hangs up meanwhile.
func (c *Conn) PauseRead() { c.setPaused(true) }

// ResumeRead ends PauseRead.
func (c *Conn) ResumeRead() { c.setPaused(false) }

func (c *Conn) setPaused(paused bool) {
	if c.closed || c.paused == paused {
		return
	}
	c.paused = paused
	if c.stream != nil {
		c.stream.setPaused(paused)
		return
	}
	c.updateInterest()
}

// WriteLast writes what is the last that the peer gets, and then does what CloseWrite does, which is less work in one go.
// B is to fit the socket's buffer: what does not is lost. It may be empty.
func (c *Conn) WriteLast(b []byte) error {
	var err error
	switch {
	case c.closed:
		return errClosed
	case c.stream != nil:
		_, err = c.stream.write(b)
	case len(b) > 0:
		err = c.writeLastFD(b)
	}
	if err == nil {
		c.CloseWrite()
	}
	return err
}

// CloseWrite tells the peer that nothing more will come, after what has been written.
func (c *Conn) CloseWrite() {
	switch {
	case c.closed:
	case c.stream != nil:
		c.stream.closeWrite()
	default:
		c.closeWriteFD()
	}
}

// Close closes the connection. What has been written is still delivered as far as the kernel can. It may be
// called more than once.
func (c *Conn) Close() {
	if c.closed {
		return
	}
	c.closed, c.into = true, nil
	if c.stream != nil {
		c.stream.close()
		return
	}
	c.closeFD()
}

// LocalAddr returns the address that the peer connected to, in Redis's form.
func (c *Conn) LocalAddr() string {
	if c.closed {
		return ""
	}
	if c.stream != nil {
		return redisAddr(c.stream.nc.LocalAddr(), c.stream.nc.LocalAddr())
	}
	return c.localAddrFD()
}

// FD returns the connection's descriptor, or -1 where there is none to speak of.
func (c *Conn) FD() int { return int(c.fd) }

// Detachable reports whether Detach may take the connection: it is a plain socket that is being read.
func (c *Conn) Detachable() bool {
	if c.closed || c.eof || c.unwatched {
		return false
	}
	return c.stream == nil || c.stream.detachable()
}

// Detach takes a connection that is Detachable off the loop, and leaves it open: take gets its descriptor, and owns it.
// What the peer has sent and nobody has read stays in the socket. A stream is asked for what it has read first, so that take
// is called later then, and only if still holds by that time; otherwise the connection goes on as before. Its handler is
// not called any more once take has been.
func (c *Conn) Detach(still func() bool, take func(fd int)) {
	if c.stream != nil {
		c.stream.detach(still, take)
		return
	}
	if still() {
		c.closed, c.into = true, nil
		take(c.detachFD())
	}
}

// fail closes the connection and tells its handler why.
func (c *Conn) fail(err error) {
	if c.closed {
		return
	}
	c.Close()
	c.h.Failed(err)
}
