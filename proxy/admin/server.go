package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
)

// Server has the console's listener and the one of metrics and probes. Create it with New, tell it of what with Attach,
// and then Start it. It outlives the proxy's Run, so that operators can see it drain.
type Server struct {
	// Static after construction.
	cfg     Config
	console *Console
	admin   *listener        // nil: there is none
	web     *web             // nil: there is none
	doors   map[string]*door // by setting
	cancel  context.CancelFunc
	ctx     context.Context // ends with Stop
	running sync.WaitGroup
}

// New checks the configuration and opens the listeners; nobody is served before Start. An error is a
// *proxy.ConfigError where a setting cannot be used.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, console: newConsole(cfg), doors: map[string]*door{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Listen != None {
		ln, err := cfg.open("admin-listen", cfg.Listen)
		if err != nil {
			return nil, err
		}
		s.doors["admin-listen"] = ln
		s.admin = newListener(s.console, ln)
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && !cfg.restricted() {
			_ = ln.Close()
			return nil, cfg.exposed() // it was a name
		}
	}
	if cfg.HTTPListen != None {
		ln, err := cfg.open("http-listen", cfg.HTTPListen)
		if err != nil {
			s.Stop()
			return nil, err
		}
		s.doors["http-listen"] = ln
		s.web = newWeb(s.console, ln, cfg.Log)
	}
	return s, nil
}

// listen opens a listener.
func listen(setting, addr string) (net.Listener, error) {
	network, at := "tcp", addr
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, at = "unix", path
		removeStale(path)
	}
	ln, err := net.Listen(network, at)
	if err != nil {
		return nil, &proxy.ConfigError{
			Setting: setting, Value: addr, Want: err.Error() + "; want another address, or " + None + " to do without",
		}
	}
	return ln, nil
}

// removeStale removes the socket that a process has left behind that is no more.
func removeStale(path string) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return
	}
	_ = os.Remove(path)
}

// Client answers PROXY on the port of the data: it is for proxy.Config.Console.
func (s *Server) Client(cmd proxy.ConsoleCommand) []byte { return s.console.Client(cmd) }

// Operates is Console.Operates.
func (s *Server) Operates(user string) bool { return s.console.Operates(user) }

// Reload changes who may use the console, and AuthDelay. Listen, HTTPListen, HTTPTokenFile, Version and Log stay as they are. After an error, which is
// Acceptable's, nothing has been changed.
func (s *Server) Reload(cfg Config) error {
	if err := s.Acceptable(cfg); err != nil {
		return err
	}
	s.console.users.Store(&users{cfg.AdminUsers, cfg.StatsUsers})
	if s.web != nil {
		s.web.api.access.guesses.SetMost(cfg.AuthDelay)
	}
	return nil
}

// Acceptable returns why Reload would not take a configuration, as a *proxy.ConfigError; nil: it would.
func (s *Server) Acceptable(cfg Config) error {
	now := s.cfg
	now.AdminUsers, now.StatsUsers = cfg.AdminUsers, cfg.StatsUsers
	if err := now.Validate(); err != nil {
		return err
	}
	if tcp, ok := s.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && !now.restricted() {
		return now.exposed()
	}
	return nil
}

// Attach says what the console speaks of. Until then it says that the proxy is starting.
func (s *Server) Attach(b Backends) { s.console.backends.Store(&b) }

// Addr returns where the console is served; nil: nowhere but on the port of the data.
func (s *Server) Addr() net.Addr {
	if s.admin == nil {
		return nil
	}
	return s.admin.ln.Addr()
}

// Start serves until Stop.
func (s *Server) Start() {
	for _, d := range s.doors {
		d.own()
	}
	s.running.Go(s.record)
	if s.admin != nil {
		s.running.Go(s.serveConsole)
		s.cfg.Log.Info("console is served", "admin-listen", s.admin.ln.Addr().String())
	}
	if s.web != nil {
		s.running.Go(s.serveHTTP)
		s.cfg.Log.Info("metrics and probes are served", "http-listen", s.web.ln.Addr().String())
	}
}

// record ends with Stop.
func (s *Server) record() { s.console.recorder.run(s.ctx, s.console) }

// serveConsole ends with Stop.
func (s *Server) serveConsole() {
	if err := s.admin.serve(); err != nil {
		s.cfg.Log.Error("the console is not served any more", "error", err)
	}
}

// serveHTTP ends with Stop.
func (s *Server) serveHTTP() {
	if err := s.web.serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		s.cfg.Log.Error("metrics and probes are not served any more", "error", err)
	}
}

// Stop closes the listeners and their connections, and waits until that is done.
func (s *Server) Stop() {
	s.cancel()
	if s.admin != nil {
		s.admin.stop()
	}
	if s.web != nil {
		s.web.stop()
	}
	s.running.Wait()
}
