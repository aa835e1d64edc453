package main

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex"
)

// embedded is the word that stands in the place of an upstream URL for the embedded server.
const embedded = "embedded"

// embeddedURL is where the embedded server is until it has been started and has a port.
const embeddedURL = "redis://127.0.0.1:0"

// upstreamURL is the setting upstream. It may hold a password, so nothing but mask and masked ever shows it.
type upstreamURL struct {
	text     string
	upstream *multiplex.Upstream
}

const wantUpstream = "want redis://host:6379, rediss://host:6379 or unix:///path, with user:password@ before " +
	"the host and /db behind it if need be; redis+sentinel://host:26379,host:26379/mymaster; or the word " + embedded

func (u *upstreamURL) UnmarshalText(text []byte) error {
	u.text = string(text)
	raw := u.text
	if u.embedded() {
		raw = embeddedURL
	}
	var err error
	if u.upstream, err = multiplex.ParseUpstream(raw); err == nil {
		return nil
	}
	if why := reasonWithoutSecrets(err, raw); why != "" {
		return fmt.Errorf("%s; %s", why, wantUpstream)
	}
	return errors.New(wantUpstream)
}

func (u *upstreamURL) embedded() bool { return u.text == embedded }

// String is the URL with its secrets masked.
func (u upstreamURL) String() string { return maskURL(u.text) }

func (u *upstreamURL) mask(text string) string { return maskURL(text) }

// reasonWithoutSecrets is why raw cannot be used, or nothing if that quotes what could be a piece of a password:
// one with an unescaped slash or question mark ends up where a port or an option is looked for.
func reasonWithoutSecrets(err error, raw string) string {
	why := reason(err)
	if !strings.Contains(raw, "@") && !secretQuery.MatchString(raw) {
		return why
	}
	for _, piece := range strings.FieldsFunc(raw, func(r rune) bool { return strings.ContainsRune(":/?#@&=", r) }) {
		if strings.Contains(why, piece) && !strings.HasPrefix(raw, piece+"://") {
			return ""
		}
	}
	return why
}

var secretQuery = regexp.MustCompile(`(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&#]*`)

// maskURL returns text without the password that it holds as a URL, or that it would hold if it were written
// properly: a password with an unescaped @, /, ? or # makes another URL or none, but is still secret. So is a
// user without a password, which is more often a password without its colon.
func maskURL(text string) string {
	text = secretQuery.ReplaceAllString(text, "${1}xxxxx")
	if u, err := url.Parse(text); err == nil && u.User != nil && strings.Count(text, "@") == 1 {
		if _, ok := u.User.Password(); ok {
			return u.Redacted()
		}
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if ok {
		scheme += "://"
	} else {
		scheme, rest = "", text
	}
	at := strings.LastIndex(rest, "@")
	if at < 0 {
		return text
	}
	if user, _, ok := strings.Cut(rest[:at], ":"); ok {
		scheme += user + ":"
	}
	return scheme + "xxxxx" + rest[at:]
}

var urls = regexp.MustCompile(`[A-Za-z][A-Za-z0-9+.-]*://[^\s"]+`)

// maskURLs masks every URL in a message.
func maskURLs(message string) string {
	return urls.ReplaceAllStringFunc(message, maskURL)
}
