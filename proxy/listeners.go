package proxy

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// open returns a listener: the one that has been inherited, or a new one. If it cannot be opened again by its address, its
// socket is returned too.
func (c *Config) open(addr string) (net.Listener, *os.File, error) {
	inherited, ok := c.Inherited[addr]
	if !ok {
		ln, err := listen(addr, c.TCPBacklog)
		return ln, nil, err
	}
	if err := eventloop.SetBacklog(inherited, c.TCPBacklog); err != nil {
		return nil, nil, &ConfigError{"tcp-backlog", fmt.Sprint(c.TCPBacklog), err.Error()}
	}
	if !inherited.Kept {
		return inherited.Listener, nil, nil
	}
	socket, err := handover.Socket(inherited.Listener)
	if err != nil {
		return nil, nil, &ConfigError{"listen", addr, err.Error()}
	}
	return inherited.Listener, socket, nil
}

// listen opens one listener.
func listen(name string, backlog int) (net.Listener, error) {
	network, addr := "tcp", strings.TrimPrefix(name, tlsPrefix)
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
		removeStale(path)
	}
	ln, err := net.Listen(network, addr)
	if err != nil {
		return nil, &ConfigError{"listen", name, err.Error()}
	}
	if err := eventloop.SetBacklog(ln, backlog); err != nil {
		_ = ln.Close()
		return nil, &ConfigError{"tcp-backlog", fmt.Sprint(backlog), err.Error()}
	}
	return ln, nil
}

// removeStale removes the socket that a process has left behind that is no more. One that answers is left alone:
// opening the listener will fail and say so.
func removeStale(path string) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = c.Close()
		return
	}
	_ = os.Remove(path)
}

func (s *Server) closeListeners() {
	s.listening.Lock()
	defer s.listening.Unlock()
	for _, ln := range s.listeners {
		_ = ln.Close()
	}
	for _, f := range s.sockets {
		if f != nil {
			_ = f.Close()
		}
	}
	s.listeners = nil
}

// listenersNow returns the listeners that are open.
func (s *Server) listenersNow() []net.Listener {
	s.listening.Lock()
	defer s.listening.Unlock()
	return slices.Clone(s.listeners)
}

// Addrs returns the addresses that clients are accepted at.
func (s *Server) Addrs() []net.Addr { return slices.Clone(s.addrs) }

// accept opens the doors, on the first worker's loop.
func (s *Server) accept() error {
	w := s.workers[0]
	for i, ln := range s.listenersNow() {
		name := s.cfg.Listen[i]
		if isTLS(name) {
			s.acceptTLS(ln, name)
			s.stopAccept = append(s.stopAccept, func() { _ = ln.Close() })
			continue
		}
		stop, err := w.loop.Listen(ln, func(in eventloop.Incoming) { s.incoming(in, name) })
		if err != nil {
			return err
		}
		s.stopAccept = append(s.stopAccept, stop)
	}
	return nil
}
