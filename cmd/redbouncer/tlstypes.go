package main

import (
	"cmp"
	"errors"
	"strings"
)

// Types of the settings that speak of TLS, as those in types.go.

// optionalFile names a file or a directory, or none. Whether it is any good is for those to say who read it.
type optionalFile string

func (f *optionalFile) UnmarshalText(text []byte) error {
	return readOptional((*string)(f), string(text), "want the name of a file, or "+noNames)
}

func (f optionalFile) String() string { return cmp.Or(string(f), noNames) }

// optionalName is a host's name or address, or none.
type optionalName string

func (n *optionalName) UnmarshalText(text []byte) error {
	return readOptional((*string)(n), string(text), "want a name such as redis.example, or "+noNames)
}

func (n optionalName) String() string { return cmp.Or(string(n), noNames) }

func readOptional(is *string, text, want string) error {
	switch {
	case text == "":
		return errors.New(want)
	case !strings.EqualFold(text, noNames):
		*is = text
	}
	return nil
}

// askForCert is whether clients are asked for a certificate. The proxy knows the words.
type askForCert string

func (a *askForCert) UnmarshalText(text []byte) error {
	*a = askForCert(strings.ToLower(string(text)))
	return nil
}

// certUser is the field of a certificate that names a user, or off. Redis takes both in any case.
type certUser string

func (u *certUser) UnmarshalText(text []byte) error {
	switch word := string(text); {
	case strings.EqualFold(word, "CN"):
		*u = "CN"
	case strings.EqualFold(word, "off"):
		*u = "off"
	default:
		return errors.New("want CN or off")
	}
	return nil
}

// protocols are versions of TLS, separated by spaces. The proxy knows which are good.
type protocols []string

func (p *protocols) UnmarshalText(text []byte) error {
	if *p = strings.Fields(string(text)); len(*p) == 0 {
		return errors.New("want TLSv1.2, TLSv1.3 or both, separated by a space")
	}
	return nil
}

func (p protocols) String() string { return strings.Join(p, " ") }
