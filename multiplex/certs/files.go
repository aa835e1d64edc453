package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Files names the files. What is empty is not used.
type Files struct {
	// Cert is a PEM file: our certificate, and behind it those that lead to an authority's. Key is its private key, which
	// may be in the same file, and is not encrypted.
	Cert, Key string
	// CA is a PEM file with certificates of authorities, and CADir a directory of such files.
	CA, CADir string
}

// Which is one of the names in Files, spelled as Redis's settings end.
type Which string

// The names in Files.
const (
	Cert  Which = "cert-file"
	Key   Which = "key-file"
	CA    Which = "ca-cert-file"
	CADir Which = "ca-cert-dir"
)

// FileError says which of the Files cannot be used, and why.
type FileError struct {
	Which Which
	Path  string
	Err   error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s %s: %v", e.Which, e.Path, e.Err) }
func (e *FileError) Unwrap() error { return e.Err }

// content is what the files hold.
type content struct {
	cert *tls.Certificate // nil: none is named
	pool *x509.CertPool   // nil: none is named
}

// Check reports, as a *FileError, why the files cannot be used.
func (f Files) Check() error {
	_, err := f.read()
	return err
}

func (f Files) read() (content, error) {
	var c content
	if f.Cert != "" || f.Key != "" {
		cert, err := f.readPair()
		if err != nil {
			return c, err
		}
		c.cert = cert
	}
	if f.CA != "" {
		c.pool = x509.NewCertPool()
		if err := addTo(c.pool, f.CA); err != nil {
			return c, &FileError{CA, f.CA, err}
		}
	}
	if f.CADir != "" {
		if c.pool == nil {
			c.pool = x509.NewCertPool()
		}
		if err := addAllTo(c.pool, f.CADir); err != nil {
			return c, &FileError{CADir, f.CADir, err}
		}
	}
	return c, nil
}

// readPair reads our certificate. Whatever is wrong with it, the error names the file to look at.
func (f Files) readPair() (*tls.Certificate, error) {
	switch {
	case f.Key == "":
		return nil, &FileError{Key, "", errors.New("want the private key of " + f.Cert)}
	case f.Cert == "":
		return nil, &FileError{Cert, "", errors.New("want the certificate that the key " + f.Key + " belongs to")}
	}
	certPEM, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, &FileError{Cert, f.Cert, cannotRead(err)}
	}
	keyPEM, err := os.ReadFile(f.Key)
	if err != nil {
		return nil, &FileError{Key, f.Key, cannotRead(err)}
	}
	if !x509.NewCertPool().AppendCertsFromPEM(certPEM) {
		return nil, &FileError{Cert, f.Cert, errNoCertificate}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, &FileError{Key, f.Key, err}
	}
	return &pair, nil
}

var errNoCertificate = errors.New("want certificates in PEM form (-----BEGIN CERTIFICATE-----)")

// cannotRead is the error without the file's name, which is told anyway.
func cannotRead(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("cannot read it: %w", err)
}

func addTo(pool *x509.CertPool, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return cannotRead(err)
	}
	if !pool.AppendCertsFromPEM(text) {
		return errNoCertificate
	}
	return nil
}

// addAllTo adds what certificates there are in the files of a directory. There may be other files in it; but one
// certificate at least is wanted, as without any nobody could connect.
func addAllTo(pool *x509.CertPool, dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return cannotRead(err)
	}
	found := false
	for _, file := range files {
		if addTo(pool, filepath.Join(dir, file.Name())) == nil {
			found = true
		}
	}
	if !found {
		return errNoCertificate
	}
	return nil
}

// stamp tells whether files have changed since. It compares with ==.
type stamp struct {
	cert, key, ca, dir fileStamp
	inDir              string // of the files in the directory
}

type fileStamp struct {
	modified time.Time
	size     int64
}

func (f Files) stamp() stamp {
	s := stamp{cert: stampOf(f.Cert), key: stampOf(f.Key), ca: stampOf(f.CA), dir: stampOf(f.CADir)}
	if f.CADir == "" {
		return s
	}
	files, err := os.ReadDir(f.CADir)
	if err != nil {
		return s
	}
	for _, file := range files {
		x := stampOf(filepath.Join(f.CADir, file.Name()))
		s.inDir += fmt.Sprintln(file.Name(), x.modified.UnixNano(), x.size)
	}
	return s
}

// stampOf follows links: Kubernetes and certbot change where one leads.
func stampOf(path string) fileStamp {
	if path == "" {
		return fileStamp{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{size: -1}
	}
	return fileStamp{info.ModTime(), info.Size()}
}
