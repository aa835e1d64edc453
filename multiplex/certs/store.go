package certs

import (
	"crypto/tls"
	"log/slog"
	"sync"
	"time"
)

// checkEvery is how long the files are not looked at again.
const checkEvery = time.Second

// Store is a *tls.Config whose certificates are those in files. It may be used from any goroutine.
type Store struct {
	// Static after construction.
	files Files
	base  *tls.Config
	log   *slog.Logger
	now   func() time.Time

	// mu guards the following fields.
	mu      sync.Mutex
	config  *tls.Config
	stamp   stamp     // of the files that config was made of
	looked  time.Time // when they were looked at last
	failed  stamp     // of those that could not be used
	failure string    // why; empty: the last that were read could be used
}

// Open reads the files. Base says the rest: it is not changed. An error is a *FileError.
func Open(files Files, base *tls.Config, log *slog.Logger) (*Store, error) {
	s := &Store{files: files, base: base, log: log, now: time.Now}
	s.stamp, s.looked = files.stamp(), s.now() // before they are read: a change meanwhile is seen later
	c, err := files.read()
	if err != nil {
		return nil, err
	}
	s.use(c)
	if c.cert != nil && s.now().After(c.cert.Leaf.NotAfter) {
		log.Warn("the TLS certificate has expired: others will not accept it", "file", files.Cert,
			"expired", c.cert.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return s, nil
}

// Config returns the configuration for a connection that is to be opened now. The caller must not change it. The files
// are looked at, once a second at most. If they have changed and cannot be used, the ones before stay in use.
func (s *Store) Config() *tls.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.looked) >= checkEvery {
		s.looked = now
		s.look()
	}
	return s.config
}

// look reads the files if they have changed. It is called with mu held. The files of a certificate are rarely replaced at
// the same instant: between the two, the key does not fit. So files that could not be used are read again even if they
// look the same, but told of once.
func (s *Store) look() {
	stamp := s.files.stamp()
	if stamp == s.stamp && s.failure == "" {
		return
	}
	c, err := s.files.read()
	if err != nil {
		if s.failed != stamp || s.failure != err.Error() {
			s.log.Warn("TLS certificates have changed and cannot be used; those before stay in use", "error", err)
		}
		s.failed, s.failure = stamp, err.Error()
		return
	}
	s.stamp, s.failure = stamp, ""
	s.use(c)
	args := []any{"ca", s.files.CA}
	if c.cert != nil {
		args = []any{"file", s.files.Cert, "subject", c.cert.Leaf.Subject.String(),
			"expires", c.cert.Leaf.NotAfter.UTC().Format(time.RFC3339)}
	}
	s.log.Info("TLS certificates have changed and are in use", args...)
}

// use makes a configuration of what the files hold. It is a new one each time, and so has new keys for its session tickets:
// who was accepted by the certificates before has to show its own again.
func (s *Store) use(c content) {
	s.config = s.base.Clone()
	if c.cert != nil {
		s.config.Certificates = []tls.Certificate{*c.cert}
	}
	if c.pool != nil {
		s.config.RootCAs, s.config.ClientCAs = c.pool, c.pool // of which one side uses the one, and the other the other
	}
}
