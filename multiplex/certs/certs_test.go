package certs_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func Example() {
	dir, _ := os.MkdirTemp("", "certs")
	defer func() { _ = os.RemoveAll(dir) }()
	files := certs.Files{Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem")}
	_, err := certs.Open(files, &tls.Config{MinVersion: tls.VersionTLS12}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	var bad *certs.FileError
	if errors.As(err, &bad) {
		fmt.Println(bad.Which, bad.Err)
	}
	// Output: cert-file cannot read it: no such file or directory
}

// watched is a store whose clock the test moves.
type watched struct {
	*certs.Store
	t     *testing.T
	files certs.Files
	log   strings.Builder
	now   time.Time
}

func watch(t *testing.T, files certs.Files) *watched {
	t.Helper()
	w := &watched{t: t, files: files}
	log := slog.New(slog.NewTextHandler(&w.log, nil))
	var err error
	if w.Store, err = certs.Open(files, &tls.Config{MinVersion: tls.VersionTLS12}, log); err != nil {
		t.Fatal(err)
	}
	w.now = time.Now()
	certs.SetClock(w.Store, func() time.Time { return w.now })
	return w
}

// name is the common name of the certificate in use, once the clock has moved.
func (w *watched) name(later time.Duration) string {
	w.t.Helper()
	w.now = w.now.Add(later)
	return w.Config().Certificates[0].Leaf.Subject.CommonName
}

func (w *watched) expect(want, got string) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("the certificate is that of %q, want %q; the log:\n%s", got, want, w.log.String())
	}
}

// touch makes sure that a file that has just been written is seen to differ, whatever the file system's clock.
func touch(t *testing.T, file string, later time.Duration) {
	t.Helper()
	at := time.Now().Add(later)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreLookedAtOnceASecond(t *testing.T) {
	ca := proxytest.NewCA(t)
	w := watch(t, ca.Issue(proxytest.Identity{Name: "first"}))
	first := w.Config()
	ca.Renew(w.files, proxytest.Identity{Name: "second"})
	touch(t, w.files.Cert, time.Minute)
	w.expect("first", w.name(900*time.Millisecond))
	w.expect("second", w.name(100*time.Millisecond))
	if w.Config() == first {
		t.Error("the configuration is the same, and with it the keys of session tickets")
	}
	if again := w.Config(); again != w.Config() {
		t.Error("files that have not changed make a new configuration")
	}
}

func TestWhatCannotBeUsedIsToldOnceAndChangesNothing(t *testing.T) {
	ca := proxytest.NewCA(t)
	w := watch(t, ca.Issue(proxytest.Identity{Name: "first"}))
	told := func() int { return strings.Count(w.log.String(), "level=WARN") }
	write := func(file, text string, later time.Duration) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		touch(t, file, later)
	}
	write(w.files.Cert, "nonsense", time.Minute)
	for range 5 {
		w.expect("first", w.name(time.Second))
	}
	if told() != 1 || !strings.Contains(w.log.String(), "cert-file") || !strings.Contains(w.log.String(), w.files.Cert) {
		t.Errorf("told %d times:\n%s", told(), w.log.String())
	}
	write(w.files.Cert, "other nonsense", 2*time.Minute)
	w.expect("first", w.name(time.Second))
	if told() != 2 {
		t.Errorf("of another broken file it is told %d times in all", told())
	}
	// The certificate and its key are rarely replaced at the same instant.
	other := ca.Issue(proxytest.Identity{Name: "second"})
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	move(other.Cert, w.files.Cert)
	w.expect("first", w.name(time.Second))
	move(other.Key, w.files.Key)
	w.expect("second", w.name(time.Second))
	// A file that is gone is one that cannot be used.
	if err := os.Remove(w.files.Key); err != nil {
		t.Fatal(err)
	}
	w.expect("second", w.name(time.Second))
}

func TestALinkThatLeadsElsewhereIsAChange(t *testing.T) {
	ca := proxytest.NewCA(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "current")
	lead := func(files certs.Files) {
		if err := os.Symlink(filepath.Dir(files.Cert), link+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link+".new", link); err != nil {
			t.Fatal(err)
		}
	}
	first, second := ca.Issue(proxytest.Identity{Name: "first"}), ca.Issue(proxytest.Identity{Name: "second"})
	touch(t, second.Cert, time.Minute)
	lead(first)
	w := watch(t, certs.Files{Cert: filepath.Join(link, "cert.pem"), Key: filepath.Join(link, "key.pem"), CA: ca.File})
	lead(second)
	w.expect("second", w.name(time.Second))
}

func TestAnAuthorityThatComesIntoTheDirectoryIsTrusted(t *testing.T) {
	ca, other := proxytest.NewCA(t), proxytest.NewCA(t)
	dir := t.TempDir()
	add := func(ca *proxytest.CA, name string) {
		text, err := os.ReadFile(ca.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add(ca, "one.pem")
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := ca.Issue(proxytest.Identity{Name: "proxy"})
	files.CA, files.CADir = "", dir
	w := watch(t, files)
	before := w.Config()
	add(other, "two.pem")
	w.name(time.Second)
	if after := w.Config(); after.ClientCAs.Equal(before.ClientCAs) || !after.RootCAs.Equal(after.ClientCAs) {
		t.Error("the second authority is not known")
	}
}

func TestAnExpiredCertificateIsToldOfAtTheStart(t *testing.T) {
	w := watch(t, proxytest.NewCA(t).Issue(proxytest.Identity{Name: "old", Expired: true}))
	if !strings.Contains(w.log.String(), "the TLS certificate has expired") {
		t.Errorf("the log:\n%s", w.log.String())
	}
}
