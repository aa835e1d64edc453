package multiplex

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"

	"github.com/redbouncer/redbouncer/multiplex/certs"
)

// UpstreamTLS says how a connection to a rediss:// upstream is encrypted. Its zero value is TLS without a certificate of
// ours, to an upstream whose own one is signed by an authority that this system knows, and is for the host of the URL.
type UpstreamTLS struct {
	// Files are our certificate, if the upstream asks for one, and the authorities that may have signed the upstream's.
	Files certs.Files
	// ServerName is whom the upstream's certificate has to be for. Default: the host of the URL.
	ServerName string
}

// Encrypted reports whether connections to the upstream are TLS.
func (u *Upstream) Encrypted() bool { return u.tls != nil }

// WithTLS returns the upstream with connections that are encrypted in this way, those to its sentinels too; but for
// ServerName: their certificates are for the addresses in the URL, and those that the sentinels tell. The log is told when the files change. An
// error is a *certs.FileError.
func (u *Upstream) WithTLS(t UpstreamTLS, log *slog.Logger) (*Upstream, error) {
	if u.tls == nil {
		return u, nil
	}
	base := u.tls.Clone()
	base.MinVersion = tls.VersionTLS12
	if t.ServerName != "" {
		base.ServerName = t.ServerName
	}
	store, err := certs.Open(t.Files, base, log)
	if err != nil {
		return nil, err
	}
	secured := *u
	secured.certs = store
	if u.watched != nil {
		w := *u.watched
		w.certs, secured.watched = store, &w
	}
	return &secured, nil
}

// tlsConfig is the configuration for a connection that is to be opened now.
func (u *Upstream) tlsConfig() *tls.Config {
	if u.certs != nil {
		return u.certs.Config()
	}
	return u.tls
}

// withoutNames is err, or, if it says whom a certificate is for or where the upstream is, one that does not: clients are
// told it.
func withoutNames(err error) error {
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return errCertificate
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		return fmt.Errorf("it does not speak TLS: %s", header.Msg)
	}
	return err
}

var errCertificate = errors.New("its certificate is not accepted; the proxy's log says why")
