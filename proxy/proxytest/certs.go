package proxytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/certs"
)

// CA is an authority of the test's own, which signs certificates.
type CA struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey

	// File is the authority's own certificate, in PEM form.
	File string
}

// Identity is who a certificate is for.
type Identity struct {
	Name    string // its common name; may be empty
	Host    string // a host's name or address, if it is for a server. Default: 127.0.0.1 and localhost
	Expired bool
}

// NewCA returns an authority that nobody knows yet.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := &CA{t: t, dir: t.TempDir(), key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &ca.key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	ca.File = filepath.Join(ca.dir, "ca.pem")
	writePEM(t, ca.File, "CERTIFICATE", der)
	return ca
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// writePEM replaces a file at once, as one does with files that somebody may be reading.
func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(file+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

// Issue signs a certificate for servers and clients alike, and returns its files together with the authority's.
func (ca *CA) Issue(who Identity) certs.Files {
	ca.t.Helper()
	dir, err := os.MkdirTemp(ca.dir, "issued")
	if err != nil {
		ca.t.Fatal(err)
	}
	files := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), CA: ca.File}
	ca.Renew(files, who)
	return files
}

// Renew writes another certificate, with another key, over the files of one.
func (ca *CA) Renew(files certs.Files, who Identity) {
	ca.t.Helper()
	key := newKey(ca.t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		ca.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: who.Name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if who.Expired {
		template.NotAfter = time.Now().Add(-time.Hour)
	}
	switch ip := net.ParseIP(who.Host); {
	case who.Host == "":
		template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	case ip != nil:
		template.IPAddresses = []net.IP{ip}
	default:
		template.DNSNames = []string{who.Host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		ca.t.Fatal(err)
	}
	writePEM(ca.t, files.Cert, "CERTIFICATE", der)
	writePEM(ca.t, files.Key, "PRIVATE KEY", keyDER)
}

// ClientTLS returns the configuration of a client that trusts this authority, and shows the certificate in files if it has
// one.
func (ca *CA) ClientTLS(files certs.Files) *tls.Config {
	ca.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	config := &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if files.Cert != "" {
		pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err != nil {
			ca.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}

// RedisTLS starts a server as Redis does, which also serves TLS: see TLSURL. It shows the certificate in files, and asks
// clients for one that the same authority has signed.
func RedisTLS(t testing.TB, files certs.Files, args ...string) *Server {
	t.Helper()
	addr := freeAddr(t)
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	s := Redis(t, append([]string{
		"--tls-port", port, "--tls-cert-file", files.Cert, "--tls-key-file", files.Key, "--tls-ca-cert-file", files.CA,
	}, args...)...)
	s.tlsAddr = addr
	return s
}

// TLSAddr returns the host:port at which a server of RedisTLS serves TLS.
func (s *Server) TLSAddr() string { return s.tlsAddr }

// TLSURL returns its address there as clients and the proxy's upstream setting take it: rediss://host:port.
func (s *Server) TLSURL() string { return "rediss://" + s.tlsAddr }

// DialTLS is Dial over TLS.
func DialTLS(t testing.TB, addr string, config *tls.Config) *Conn {
	t.Helper()
	c, err := TryDialTLS(addr, config)
	if err != nil {
		t.Fatalf("connecting to %s: %v", addr, err)
	}
	c.t = t
	t.Cleanup(c.Close)
	return c
}

// TryDialTLS is TryDial over TLS.
func TryDialTLS(addr string, config *tls.Config) (*Conn, error) {
	nc, err := tls.DialWithDialer(&net.Dialer{Timeout: ReplyTimeout}, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	return newConn(nc), nil
}

// OverTLS makes a Conn of a connection whose owner goes on with TLS. It is closed when the test ends.
func OverTLS(t testing.TB, nc net.Conn, config *tls.Config) (*Conn, error) {
	t.Helper()
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(ReplyTimeout))
	over := tls.Client(nc, config)
	if err := over.Handshake(); err != nil {
		return nil, err
	}
	c := newConn(over)
	c.t = t
	return c, nil
}
