package admin

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/redbouncer/redbouncer/proxy/handover"
)

// door is a listener that another program may take over, while the connections that it has brought go on: who serves them
// would close them if it were told that the listener is closed.
type door struct {
	net.Listener
	kept bool // it cannot be opened again by its address

	// Atomic.
	handedOver atomic.Bool

	closing sync.Once
	closed  chan struct{}
}

// open returns the listener that has been inherited for a setting, or a new one.
func (c *Config) open(setting, addr string) (*door, error) {
	if x, ok := c.Inherited[setting]; ok {
		return &door{Listener: x.Listener, kept: x.Kept, closed: make(chan struct{})}, nil
	}
	ln, err := listen(setting, addr)
	if err != nil {
		return nil, err
	}
	return &door{Listener: ln, closed: make(chan struct{})}, nil
}

// own has the path of a unix socket removed at the end, unless it is somebody else's.
func (d *door) own() {
	if unix, ok := d.Listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(!d.kept)
	}
}

// Accept implements net.Listener. When the listener has been handed over it waits until Close.
func (d *door) Accept() (net.Conn, error) {
	nc, err := d.Listener.Accept()
	if err != nil && errors.Is(err, net.ErrClosed) && d.handedOver.Load() {
		<-d.closed
	}
	return nc, err
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.closing.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// handOver has nobody accepted any more.
func (d *door) handOver() {
	d.handedOver.Store(true)
	if unix, ok := d.Listener.(*net.UnixListener); ok {
		unix.SetUnlinkOnClose(false)
	}
	_ = d.Listener.Close() // it is somebody else's
}

// Listeners returns the listening sockets, which the caller closes, and what they are.
func (s *Server) Listeners() ([]handover.Listener, []*os.File, error) {
	var (
		listeners []handover.Listener
		sockets   []*os.File
	)
	for setting, d := range s.doors {
		f, err := handover.Socket(d.Listener)
		if err != nil {
			return nil, sockets, err
		}
		addr := s.cfg.Listen
		if setting == "http-listen" {
			addr = s.cfg.HTTPListen
		}
		listeners = append(listeners, handover.Listener{Setting: setting, Addr: addr, Kept: d.kept})
		sockets = append(sockets, f)
	}
	return listeners, sockets, nil
}

// HandOver leaves the listeners to another program, which has them. Those who are connected to the console go on until Stop; the page
// and who asks for metrics come again, and are answered by the other. It is called once.
func (s *Server) HandOver() {
	for _, d := range s.doors {
		d.handOver()
	}
	if s.web != nil {
		s.web.handOver()
	}
}
