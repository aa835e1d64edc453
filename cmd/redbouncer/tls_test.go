package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// tlsArgs are the flags that name files: those of the listeners, or with the prefix upstream- those of the upstream.
func tlsArgs(prefix string, f certs.Files) []string {
	var args []string
	for setting, path := range map[string]string{
		"tls-cert-file": f.Cert, "tls-key-file": f.Key, "tls-ca-cert-file": f.CA, "tls-ca-cert-dir": f.CADir,
	} {
		if path != "" {
			args = append(args, "--"+prefix+setting, path)
		}
	}
	return args
}

func TestTheFilesOfTLSAreRead(t *testing.T) {
	ca := proxytest.NewCA(t)
	clients, upstream := ca.Issue(proxytest.Identity{Name: "proxy"}), ca.Issue(proxytest.Identity{Name: "client"})
	clients.CADir = filepath.Dir(ca.File)
	upstream.CADir = clients.CADir
	args := []string{"--listen", "tls://127.0.0.1:0", "--upstream", "rediss://127.0.0.1:6379"}
	got := mustParse(t, append(append(args, tlsArgs("", clients)...), tlsArgs("upstream-", upstream)...)...).config()
	if got.TLS.Files != clients || got.UpstreamTLS.Files != upstream {
		t.Errorf("\n got %+v, %+v\nwant %+v, %+v", got.TLS.Files, got.UpstreamTLS.Files, clients, upstream)
	}
}

func TestWhatIsWrongWithAFileOfTLSIsSaid(t *testing.T) {
	ca := proxytest.NewCA(t)
	good, other := ca.Issue(proxytest.Identity{Name: "proxy"}), ca.Issue(proxytest.Identity{Name: "other"})
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what    string
		setting string
		change  func(*certs.Files)
		want    string
	}{
		{"a certificate that is not there", "tls-cert-file", func(f *certs.Files) { f.Cert = "/none.pem" }, "no such file"},
		{"a key that is not there", "tls-key-file", func(f *certs.Files) { f.Key = "/none.pem" }, "no such file"},
		{"an authority that is not there", "tls-ca-cert-file", func(f *certs.Files) { f.CA = "/none.pem" }, "no such file"},
		{"a directory that is not there", "tls-ca-cert-dir", func(f *certs.Files) { f.CADir = "/none" }, "no such file"},
		{"a certificate that is none", "tls-cert-file", func(f *certs.Files) { f.Cert = empty }, "PEM"},
		{"a key that is none", "tls-key-file", func(f *certs.Files) { f.Key = empty }, "PEM"},
		{"an authority that is none", "tls-ca-cert-file", func(f *certs.Files) { f.CA = empty }, "PEM"},
		{"a directory without one", "tls-ca-cert-dir", func(f *certs.Files) { f.CADir = filepath.Dir(empty) }, "PEM"},
		{"the key of another", "tls-key-file", func(f *certs.Files) { f.Key = other.Key }, "does not match"},
		{"no key", "tls-key-file", func(f *certs.Files) { f.Key = "" }, "private key"},
	} {
		for prefix, args := range map[string][]string{
			"":          {"check", base, "--listen", "tls://127.0.0.1:0"},
			"upstream-": {"check", "--upstream", "rediss://127.0.0.1:6379"},
		} {
			files := good
			c.change(&files)
			got := runProgram(append(args, tlsArgs(prefix, files)...)...)
			if got.status != exitUsage || !strings.HasPrefix(got.stderr, "redbouncer: "+prefix+c.setting) ||
				!strings.Contains(got.stderr, c.want) || strings.Count(got.stderr, "\n") != 1 {
				t.Errorf("%s, %s%s: status %d, %s", c.what, prefix, c.setting, got.status, got.stderr)
			}
		}
	}
}

func TestAListenerForTLSNeedsWhatItTakes(t *testing.T) {
	files := proxytest.NewCA(t).Issue(proxytest.Identity{Name: "proxy"})
	for _, c := range []struct {
		want string
		args []string
	}{
		{"tls-cert-file", nil},
		{"tls-cert-file", []string{"--tls-key-file", files.Key}},
		{"tls-ca-cert-file", []string{"--tls-cert-file", files.Cert, "--tls-key-file", files.Key}},
		{"tls-ca-cert-file", []string{"--tls-cert-file", files.Cert, "--tls-key-file", files.Key, "--tls-auth-clients", "optional"}},
	} {
		got := runProgram(append([]string{"check", base, "--listen", "tls://127.0.0.1:0"}, c.args...)...)
		if got.status != exitUsage || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%q: status %d, %s", c.args, got.status, got.stderr)
		}
	}
	got := runProgram("check", base, "--listen", "tls://127.0.0.1:0", "--tls-cert-file", files.Cert, "--tls-key-file", files.Key,
		"--tls-auth-clients", "no")
	if got.status != exitOK {
		t.Errorf("clients without certificates: %s", got.stderr)
	}
}

func TestTheProgramServesOverTLS(t *testing.T) {
	ca := proxytest.NewCA(t)
	redis := proxytest.RedisTLS(t, ca.Issue(proxytest.Identity{Name: "redis"}))
	args := append([]string{"serve", "--listen", "tls://127.0.0.1:0", "--upstream", redis.TLSURL()},
		tlsArgs("", ca.Issue(proxytest.Identity{Name: "proxy"}))...)
	p := startProgram(t, append(args, tlsArgs("upstream-", ca.Issue(proxytest.Identity{Name: "client"}))...)...)
	addr := p.logged("listening")["listen"].(string)
	c := proxytest.DialTLS(t, addr, ca.ClientTLS(ca.Issue(proxytest.Identity{Name: "app"})))
	if got := string(c.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("PING: %q", got)
	}
}
