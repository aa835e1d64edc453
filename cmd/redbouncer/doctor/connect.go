package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	dialTimeout  = 3 * time.Second
	replyTimeout = 5 * time.Second
	// knockEvery is how often a server that is full is asked again. Each time is one more of its rejected_connections.
	knockEvery = 250 * time.Millisecond
)

// TLSFiles are what rediss:// takes beside the URL. All may be empty.
type TLSFiles struct {
	CACert, Cert, Key string // PEM files
	ServerName        string // whom the certificate has to be for, if not the host of the URL
}

// config returns what a rediss:// URL means together with the files.
func (f TLSFiles) config(fromURL *tls.Config) (*tls.Config, error) {
	if fromURL == nil {
		if f != (TLSFiles{}) {
			return nil, errors.New("tls-ca-cert-file, tls-cert-file, tls-key-file and tls-server-name are for rediss:// URLs")
		}
		return nil, nil
	}
	c := fromURL.Clone()
	if f.ServerName != "" {
		c.ServerName = f.ServerName
	}
	if f.CACert != "" {
		pem, err := os.ReadFile(f.CACert)
		if err != nil {
			return nil, fmt.Errorf("tls-ca-cert-file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls-ca-cert-file: %s holds no certificate in PEM form", f.CACert)
		}
	}
	if f.Cert != "" || f.Key != "" {
		key := f.Key
		if key == "" {
			key = f.Cert
		}
		pair, err := tls.LoadX509KeyPair(f.Cert, key)
		if err != nil {
			return nil, fmt.Errorf("tls-cert-file and tls-key-file: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// errURL quotes nothing: what cannot be read may hold a password.
var errURL = errors.New("the URL cannot be read: want redis://host:6379, rediss://host:6379 for TLS or unix:///path, with " +
	"user:password@ before the host and /db behind it if need be; escape special characters in a password as %XX")

// server is the one that is examined, by one connection at a time.
type server struct {
	// Static after construction.
	options *redis.Options
	tls     *tls.Config // nil: none

	client *redis.Client
	id     int64 // of our own connection; 0: not known

	// mu guards the following field.
	mu    sync.Mutex
	heard *witness // of the connection that was dialed last
}

func newServer(cfg *Config) (*server, error) {
	if strings.Contains(cfg.URL, "+sentinel://") {
		return nil, errors.New("a sentinel URL names no server: ask a sentinel with SENTINEL GET-MASTER-ADDR-BY-NAME, and give the address that it says")
	}
	opts, err := redis.ParseURL(cfg.URL)
	if err != nil || opts.Addr == "" {
		return nil, errURL
	}
	s := &server{options: opts}
	if s.tls, err = cfg.TLS.config(opts.TLSConfig); err != nil {
		return nil, err
	}
	opts.Protocol, opts.DisableIdentity, opts.MaxRetries = 2, true, -1
	opts.PoolSize, opts.MinIdleConns, opts.MaxIdleConns = 1, 0, 1
	opts.DialTimeout, opts.ReadTimeout, opts.WriteTimeout = dialTimeout, replyTimeout, replyTimeout
	opts.DialerRetries = 1
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.Dialer = s.dial
	return s, nil
}

// dial connects, and keeps the beginning of what the server says. The library gets the rest.
func (s *server) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nc, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w := &witness{Conn: nc}
	s.mu.Lock()
	s.heard = w
	s.mu.Unlock()
	if s.tls == nil {
		return w, nil
	}
	t := tls.Client(w, s.tls)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, handshakeError{err}
	}
	return t, nil
}

// handshakeError is a TLS handshake that has failed.
type handshakeError struct{ err error }

func (e handshakeError) Error() string { return e.err.Error() }
func (e handshakeError) Unwrap() error { return e.err }

// witness is a connection that remembers the first bytes that were read. A server that is full says so in an unasked reply
// and hangs up: which command the library takes it as the answer to is chance.
type witness struct {
	net.Conn

	// mu guards the following field.
	mu    sync.Mutex
	first []byte
}

const witnessed = 128

func (w *witness) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	w.mu.Lock()
	if room := witnessed - len(w.first); room > 0 {
		w.first = append(w.first, b[:min(n, room)]...)
	}
	w.mu.Unlock()
	return n, err
}

// beginning is what the server has said first on the connection that was dialed last.
func (s *server) beginning() string {
	s.mu.Lock()
	w := s.heard
	s.mu.Unlock()
	if w == nil {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.first)
}

// The kinds of trouble there are with connecting. They are part of the JSON output.
const (
	TroubleFull        = "full"
	TroubleUnreachable = "unreachable"
	TroubleTLS         = "tls"
	TroublePassword    = "password"
	TroubleSilent      = "silent"
	TroubleProtocol    = "protocol"
)

// trouble is why there is no connection to look through.
type trouble struct {
	kind   string
	text   string // one sentence
	advice string
	again  bool // it is worth knocking again
}

func troubled(kind, text, advice string) *trouble {
	return &trouble{kind: kind, text: text, advice: advice, again: kind == TroubleFull}
}

func (t *trouble) Error() string { return t.text }

// connect opens the connection.
func (s *server) connect(ctx context.Context) error {
	if s.client != nil {
		_ = s.client.Close()
	}
	s.mu.Lock()
	s.heard = nil
	s.mu.Unlock()
	s.client = redis.NewClient(s.options)
	err := s.client.Ping(ctx).Err()
	if err == nil || isReply(err, "NOPERM", "LOADING", "BUSY", "MASTERDOWN") {
		s.id, _ = s.client.ClientID(ctx).Result()
		return nil
	}
	return s.explain(err)
}

// tries is what it took to get in.
type tries struct {
	refused int
	took    time.Duration
}

// enter opens the connection, and knocks again for as long as that while the server is full, or may be.
func (s *server) enter(ctx context.Context, patience time.Duration) (t tries, err error) {
	began := time.Now()
	for {
		err = s.connect(ctx)
		t.took = time.Since(began)
		var why *trouble
		if !errors.As(err, &why) || !why.again {
			return t, err
		}
		t.refused++
		if t.took+knockEvery > patience {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, err
		case <-time.After(knockEvery):
		}
	}
}

func isFull(err error) bool {
	var t *trouble
	return errors.As(err, &t) && t.kind == TroubleFull
}

func (s *server) close() {
	if s.client != nil {
		_ = s.client.Close()
	}
}

// isReply reports whether an error is a reply that begins with one of the words.
func isReply(err error, words ...string) bool {
	if err == nil {
		return false
	}
	for _, w := range words {
		if strings.HasPrefix(err.Error(), w) {
			return true
		}
	}
	return false
}

const fullText = "max number of clients"

// explain says what it is that keeps us out.
func (s *server) explain(err error) error {
	said := s.beginning()
	var shake handshakeError
	switch {
	case strings.Contains(said, fullText), strings.Contains(err.Error(), fullText), strings.Contains(said, "max + cluster"):
		return troubled(TroubleFull, "it refuses connections: max number of clients reached", "")
	case errors.As(err, &shake):
		return s.explainTLS(shake.err, said)
	case strings.HasPrefix(said, "\x15\x03"), s.tls == nil && said == "" && isHangUp(err) && s.greetsTLS():
		return troubled(TroubleTLS, "it speaks TLS, and the URL does not ask for it", "write rediss:// in the place of redis://")
	case isReply(err, "WRONGPASS", "ERR invalid password", "ERR AUTH"):
		return troubled(TroublePassword, "it refuses the user or the password: "+reply(err),
			"look at the URL: redis://user:password@host, or redis://:password@host for the user default; special "+
				"characters in a password are written as %XX")
	case isReply(err, "NOAUTH"):
		return troubled(TroublePassword, "it wants a password, and the URL has none",
			"write it as redis://user:password@host, or put the URL into REDBOUNCER_UPSTREAM so that it is not in the process list")
	case isReply(err, "DENIED"):
		return troubled(TroubleUnreachable, "it is in protected mode: it has no password, and lets in its own host only",
			"run doctor on the host of Redis")
	}
	return s.explainNetwork(err, said)
}

// isHangUp reports whether the other side has closed the connection.
func isHangUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// greetsTLS reports whether the server answers a TLS greeting. A Redis that has not been sent one hangs up without a word.
func (s *server) greetsTLS() bool {
	if s.options.Network == "unix" {
		return false
	}
	nc, err := net.DialTimeout("tcp", s.options.Addr, dialTimeout)
	if err != nil {
		return false
	}
	defer func() { _ = nc.Close() }()
	_ = nc.SetDeadline(time.Now().Add(dialTimeout))
	w := &witness{Conn: nc}
	host, _ := splitAddr(s.options.Addr)
	_ = tls.Client(w, &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}).Handshake() // what comes of it is of no interest
	return strings.HasPrefix(string(w.first), "\x16\x03")
}

func (s *server) explainTLS(err error, said string) error {
	var record tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.Is(err, context.DeadlineExceeded) && said == "":
		return troubled(TroubleTLS, "it does not answer the TLS greeting, as a Redis does not on a port without TLS",
			"write redis:// in the place of rediss://, or give the port for TLS (tls-port in redis.conf)")
	case errors.As(err, &record), strings.HasPrefix(said, "-"):
		return troubled(TroubleTLS, "it does not speak TLS on this port: "+err.Error(),
			"write redis:// in the place of rediss://, or give the port for TLS (tls-port in redis.conf)")
	case errors.As(err, &unknown):
		return troubled(TroubleTLS, "its certificate is signed by nobody we know: "+err.Error(),
			"give the authority with --tls-ca-cert-file FILE")
	case errors.As(err, &host):
		return troubled(TroubleTLS, "its certificate is for another name: "+err.Error(), "give the name with --tls-server-name NAME")
	case errors.As(err, &verify):
		return troubled(TroubleTLS, "its certificate is not good: "+err.Error(), "renew the certificate of Redis")
	case isHangUp(err):
		t := troubled(TroubleTLS, "it hung up during the TLS handshake, as a Redis does that has reached maxclients: over TLS it does not say why",
			"try again with --for 1m; on the host of Redis, a port without TLS or the unix socket says which it is")
		t.again = true
		return t
	}
	return troubled(TroubleTLS, "the TLS handshake failed: "+err.Error(),
		"it may want a certificate: --tls-cert-file FILE --tls-key-file FILE")
}

func (s *server) explainNetwork(err error, said string) error {
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case strings.Contains(err.Error(), "certificate required"), strings.Contains(err.Error(), "bad certificate"):
		return troubled(TroubleTLS, "it wants a certificate: "+err.Error(), "give --tls-cert-file FILE --tls-key-file FILE")
	case errors.As(err, &dns):
		return troubled(TroubleUnreachable, "its name is not known: "+err.Error(), "look at the host in the URL, and at the resolver of this host")
	case errors.As(err, &op) && op.Op == "dial":
		return troubled(TroubleUnreachable, "it cannot be reached: "+err.Error(),
			"see whether it runs, listens on this address (bind in redis.conf), and no firewall is between: nc -vz HOST PORT")
	case said != "" && !strings.ContainsRune("+-:$*_%", rune(said[0])):
		return troubled(TroubleProtocol, fmt.Sprintf("it is no Redis: it says %q", said), "look at the port in the URL")
	case isHangUp(err):
		return troubled(TroubleSilent, "it takes the connection and hangs up without a word",
			"see whether it is a port for TLS (rediss://), behind a load balancer that has no server, or about to stop")
	case isReply(err, "ERR", "-"):
		return troubled(TroubleProtocol, "it refuses: "+reply(err), "see what the server's log says")
	}
	return troubled(TroubleSilent, "it takes the connection and does not answer: "+err.Error(),
		"it may hang in a slow command or be out of memory: look at its processor and its log on its host, with SLOWLOG GET when it answers again")
}

// reply is an error reply on one line.
func reply(err error) string { return strings.TrimSpace(strings.SplitN(err.Error(), "\n", 2)[0]) }
