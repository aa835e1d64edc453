// Package certs keeps what TLS needs that is in files: a certificate with its key, and the certificates of the authorities
// whose word is taken. The files are read again when they have changed, so that a certificate can be renewed while
// connections come and go.
package certs
