package proxy

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// What is encrypted, and who is asked for a certificate. How a connection is is in greet.go.

// tlsPrefix marks an address of Config.Listen as one for TLS.
const tlsPrefix = "tls://"

// TLS is what the listeners whose address begins with tls:// have in common.
type TLS struct {
	// Files are the certificate that clients are shown, which is required, and the authorities that may have signed theirs.
	Files certs.Files
	// AuthClients is "no", "optional" or "yes": whether clients are asked for a certificate, and closed if they have none.
	// One that is shown has to be good. Default yes, as in Redis.
	AuthClients string
	// AuthClientsUser is "off", or "CN": whoever shows a certificate acts as the ACL user whom its common name names. The
	// upstream is asked, with an empty password, as nobody shows one: so it has to be a user without (nopass). Default off,
	// as in Redis.
	AuthClientsUser string
	// Protocols are the versions that clients may speak: "TLSv1.2" and "TLSv1.3". Default both.
	Protocols []string
}

// DefaultTLSAuthClients is the default of TLS.AuthClients.
const DefaultTLSAuthClients = "yes"

// DefaultTLSAuthClientsUser is the default of TLS.AuthClientsUser.
const DefaultTLSAuthClientsUser = "off"

// authClients are the values of TLS.AuthClients.
var authClients = map[string]tls.ClientAuthType{
	"no": tls.NoClientCert, "optional": tls.VerifyClientCertIfGiven, "yes": tls.RequireAndVerifyClientCert,
}

// tlsVersions are the words of TLS.Protocols.
var tlsVersions = map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

// isTLS reports whether an address of Config.Listen is one for TLS.
func isTLS(listener string) bool { return strings.HasPrefix(listener, tlsPrefix) }

// listensTLS reports whether there is such a listener.
func (c *Config) listensTLS() bool { return slices.ContainsFunc(c.Listen, isTLS) }

// base is the configuration of the listeners without what is in files.
func (t *TLS) base() *tls.Config {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: authClients[t.AuthClients]}
	if len(t.Protocols) > 0 {
		config.MinVersion, config.MaxVersion = tls.VersionTLS13, tls.VersionTLS12
		for _, p := range t.Protocols {
			config.MinVersion = min(config.MinVersion, tlsVersions[p])
			config.MaxVersion = max(config.MaxVersion, tlsVersions[p])
		}
	}
	return config
}

// validateTLS reports the first setting of TLS that cannot be used. C has its defaults.
func (c *Config) validateTLS() error {
	t := &c.TLS
	if _, ok := authClients[t.AuthClients]; !ok {
		return &ConfigError{"tls-auth-clients", t.AuthClients, "want no, optional or yes"}
	}
	switch {
	case t.AuthClientsUser != "CN" && t.AuthClientsUser != "off":
		return &ConfigError{"tls-auth-clients-user", t.AuthClientsUser, "want CN or off"}
	case t.AuthClientsUser == "CN" && t.AuthClients == "no":
		return &ConfigError{"tls-auth-clients-user", "CN", "want tls-auth-clients to be optional or yes: without, nobody shows a certificate"}
	}
	for _, p := range t.Protocols {
		if tlsVersions[p] == 0 {
			return &ConfigError{"tls-protocols", p, "want TLSv1.2, TLSv1.3 or both; what is older is not safe"}
		}
	}
	asked := t.AuthClients != "no"
	switch {
	case !c.listensTLS():
		return c.noTLSWithout(t.Files)
	case t.Files.Cert == "":
		return &ConfigError{"tls-cert-file", "none", "want the certificate for the addresses of listen that begin with " + tlsPrefix}
	case asked && t.Files.CA == "" && t.Files.CADir == "":
		return &ConfigError{"tls-ca-cert-file", "none", "want the authorities that sign the certificates of clients, here or in " +
			"tls-ca-cert-dir; or set tls-auth-clients to no"}
	}
	return fileProblem("tls-", t.Files.Check())
}

// noTLSWithout reports a certificate that nothing would use: whoever has named it does not expect plain connections.
func (c *Config) noTLSWithout(f certs.Files) error {
	return unused("tls-", f, "no address of listen is for TLS; write "+tlsPrefix+"host:port there")
}

// unused reports the first of the files that is named, though nothing would read it.
func unused(prefix string, f certs.Files, why string) error {
	for _, x := range []struct {
		which certs.Which
		path  string
	}{{certs.Cert, f.Cert}, {certs.Key, f.Key}, {certs.CA, f.CA}, {certs.CADir, f.CADir}} {
		if x.path != "" {
			return &ConfigError{prefix + string(x.which), x.path, why}
		}
	}
	return nil
}

// validateUpstreamTLS reports the first setting of the upstream's TLS that cannot be used.
func (c *Config) validateUpstreamTLS() error {
	t := &c.UpstreamTLS
	if c.Upstream.Encrypted() {
		return fileProblem("upstream-tls-", t.Files.Check())
	}
	const why = "the upstream is not one for TLS; its URL has to begin with rediss://"
	if t.ServerName != "" {
		return &ConfigError{"upstream-tls-server-name", t.ServerName, why}
	}
	return unused("upstream-tls-", t.Files, why)
}

// fileProblem turns a *certs.FileError into a *ConfigError.
func fileProblem(prefix string, err error) error {
	var file *certs.FileError
	if !errors.As(err, &file) {
		return err
	}
	value := file.Path
	if value == "" {
		value = "none"
	}
	return &ConfigError{prefix + string(file.Which), value, file.Err.Error()}
}

// certName is who a certificate says that its owner is: its common name, or else the first of its other names. It is shown to
// people and kept by programs, and so has no bytes that are no text.
func certName(cert *x509.Certificate) string {
	names := append([]string{cert.Subject.CommonName}, cert.DNSNames...)
	names = append(names, cert.EmailAddresses...)
	for _, uri := range cert.URIs {
		names = append(names, uri.String())
	}
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	return strings.ToValidUTF8(cmp.Or(names...), "?")
}

// tlsRefusal is why a handshake has failed, in words that are the same for all to whom it happens, so that the log counts
// them together; and whether that is worth a line at all.
func tlsRefusal(err error) (why string, worth bool) {
	var (
		header  tls.RecordHeaderError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		op      *net.OpError
		timeout net.Error
	)
	switch {
	case errors.As(err, &header):
		return "it does not speak TLS, and this listener does", true
	case errors.As(err, &unknown):
		return "its certificate is signed by an unknown authority", true
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet", true
	case errors.As(err, &invalid):
		return "its certificate is not accepted", true
	case strings.Contains(err.Error(), "didn't provide a certificate"):
		return "it has shown no certificate", true
	case errors.As(err, &op) && op.Op == "remote error":
		return "it has broken off the TLS handshake", true
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no TLS handshake in time", true
	case strings.HasPrefix(err.Error(), "tls: "):
		return "the TLS handshake has failed", true
	}
	return "it has hung up during the TLS handshake", false
}

// loginByCertificate makes the session that of the ACL user whom its certificate names, before it is heard. Redis would go
// on with a client whose certificate names nobody, as its default user. Here that might be the user of the upstream's URL, of
// whom that client knows nothing: so it is refused. Then is run when the client is who it is to be.
func (s *session) loginByCertificate(then func()) {
	user := s.who.certUser
	s.check(nil, resp.AppendCommand(nil, "AUTH", user, ""), func(reply []byte) {
		switch {
		case bytes.Equal(reply, replyOK):
			key := s.ctx.Key
			key.User = user
			s.login(key, "")
			then()
			return
		case !isWrongPassword(reply):
			s.condemn(reply) // it says nothing of the certificate
			return
		}
		s.w.srv.tell(limits.Refusal{Source: s.ticket.Identities().Source(), Reason: "its certificate names no ACL user without password"},
			s.remote, "cert", user, "upstream_says", strings.TrimSpace(string(reply)))
		s.condemn(replyNoCertUser)
	})
}

var replyNoCertUser = []byte("-WRONGPASS your certificate names no user whom the upstream accepts without a password\r\n")

// greetsTLS reports whether a client begins as one of TLS does: a record of a handshake, with a ClientHello in it. As a
// command it would be an inline one, of which the end may never come.
func greetsTLS(b []byte) bool { return len(b) > 5 && b[0] == 0x16 && b[1] == 3 && b[5] == 1 }

// refuseTLS ends a client that speaks TLS where we do not. It can only be told so in plain text: TLS libraries then say that
// the other side does not speak TLS, as they do of Redis.
func (s *session) refuseTLS() {
	s.w.srv.tell(limits.Refusal{Source: s.ticket.Identities().Source(), Reason: "it speaks TLS, and this listener does not"},
		s.remote, "listener", s.ticket.Identities()[limits.ByListener])
	s.condemn(replyNoTLS)
}

var replyNoTLS = []byte("-ERR this address is not for TLS connections\r\n")

// describe is what a log line has of the certificate that was not accepted.
func describe(err error) string {
	var bad *tls.CertificateVerificationError
	if !errors.As(err, &bad) || len(bad.UnverifiedCertificates) == 0 {
		return ""
	}
	c := bad.UnverifiedCertificates[0]
	return fmt.Sprintf("%s, issued by %s", c.Subject, c.Issuer)
}
