//go:build !linux

package eventloop

import (
	"net"
	"net/netip"
	"time"
)

// poller does not exist on this system: every connection is a stream.
type poller struct{}

type event struct{}

func (event) deliver()            {}
func newPoller() (*poller, error) { return nil, nil }
func (*poller) close()            {}
func (*poller) wake()             {}
func (*poller) turn(*Loop)        {}

func (*poller) turnAside(*Loop) {}

func (l *Loop) attachFD(Conn) (*Conn, error) { panic("bug: a socket without a poller") }
func (c *Conn) joinFD()                      {}
func (c *Conn) updateInterest()              {}
func (c *Conn) writeFD([]byte) (int, error)  { return 0, errClosed }
func (c *Conn) writeLastFD([]byte) error     { return errClosed }
func (c *Conn) closeWriteFD()                {}
func (c *Conn) closeFD()                     {}
func (c *Conn) detachFD() int                { return -1 }
func (c *Conn) localAddrFD() string          { return "" }

func (Incoming) addrsFD() (local, remote netip.AddrPort) { return local, remote }

func takeFD(net.Conn) (int, bool) { return 0, false }

func (l *Loop) listenPolled(net.Listener, func(Incoming)) (func(), bool, error) {
	return nil, false, nil
}

// Close drops a connection that nobody took.
func (in Incoming) Close() { _ = in.nc.Close() }

// KeepAlive has the kernel probe the connection when it has been silent for idle; zero or less: never.
func (in Incoming) KeepAlive(idle time.Duration) {
	if tcp, ok := plain(in.nc).(*net.TCPConn); ok {
		setKeepAlive(tcp, idle)
	}
}

// SetBacklog is not available on this system, which uses its own default.
func SetBacklog(net.Listener, int) error { return nil }

// SetKeepAlive does nothing on this system, where Incoming.KeepAlive does it.
func SetKeepAlive(net.Listener, time.Duration) error { return nil }
