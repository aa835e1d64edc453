package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// The types of settings. Each reads a word, says what it wants when the word is no use, and writes itself in
// the shortest way that reads back as the same.

// count is a number of things, at least one.
type count int

func (c *count) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 {
		return errors.New("want a whole number of at least 1")
	}
	*c = count(n)
	return nil
}

// size is a number of bytes in Redis's units: k, m and g are powers of 1000; kb, mb and gb of 1024.
type size int64

func (s *size) UnmarshalText(text []byte) error {
	n, ok := limits.ParseSize(string(text))
	if !ok {
		return errors.New("want a size such as 512mb, 1gb or a number of bytes, at least 1")
	}
	*s = size(n)
	return nil
}

func (s size) String() string { return limits.FormatSize(int64(s)) }

// sizeOrZero is a size, of which zero is no bound.
type sizeOrZero int64

func (s *sizeOrZero) UnmarshalText(text []byte) error {
	if !readLimit(string(text), (*int64)(s)) {
		return errors.New("want a size such as 512mb, 1gb or a number of bytes, or 0")
	}
	return nil
}

func (s sizeOrZero) String() string {
	if s == 0 {
		return "0"
	}
	return size(s).String()
}

// seconds is a time span: a bare number counts seconds, as in Redis; anything else is a Go duration.
type seconds time.Duration

func (s *seconds) UnmarshalText(text []byte) error {
	word := string(text)
	if word != "" && strings.Trim(word, "0123456789.") == "" {
		word += "s"
	}
	d, err := time.ParseDuration(word)
	if err != nil || d < 0 {
		return errors.New("want a number of seconds such as 5, or a duration such as 500ms, 5s or 2m; not negative")
	}
	*s = seconds(d)
	return nil
}

func (s seconds) String() string {
	if d := time.Duration(s); d%time.Second != 0 {
		return d.String()
	}
	return fmt.Sprintf("%ds", time.Duration(s)/time.Second)
}

// limit is a time span that ends: zero would be none at all.
type limit seconds

func (l *limit) UnmarshalText(text []byte) error {
	var s seconds
	if err := s.UnmarshalText(text); err != nil {
		return err
	}
	if s == 0 {
		return errors.New("want more than 0s")
	}
	*l = limit(s)
	return nil
}

func (l limit) String() string { return seconds(l).String() }

// addresses are where to listen. The proxy knows which are good.
type addresses []string

func (a *addresses) UnmarshalText(text []byte) error {
	for addr := range strings.SplitSeq(string(text), ",") {
		addr = strings.TrimSpace(addr)
		if addr == "" {
			return errors.New("want host:port, [::]:port or unix:/path, several separated by commas")
		}
		*a = append(*a, addr)
	}
	return nil
}

func (a *addresses) list() []string { return *a }

// address is where to listen, or none. The operator's side knows which are good.
type address string

func (a *address) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("want host:port, unix:/path or " + noNames)
	}
	*a = address(text)
	return nil
}

// users are ACL users.
type users []string

func (u *users) UnmarshalText(text []byte) error {
	return appendNames((*[]string)(u), string(text), "ACL users")
}

func (u *users) list() []string { return (*names)(u).list() }

// names are commands, in the spelling of ACL rules. The proxy knows which are good.
type names []string

// noNames is how a list without names is spelled.
const noNames = "none"

func (n *names) UnmarshalText(text []byte) error {
	return appendNames((*[]string)(n), string(text), "names such as debug or config|set")
}

// appendNames reads names that are separated by commas, or none.
func appendNames(list *[]string, text, want string) error {
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		switch {
		case strings.EqualFold(name, noNames) && text == name:
			return nil
		case name == "" || strings.EqualFold(name, noNames):
			return errors.New("want " + want + ", several separated by commas, or " + noNames)
		}
		*list = append(*list, name)
	}
	return nil
}

func (n *names) list() []string {
	if len(*n) == 0 {
		return []string{noNames}
	}
	return *n
}

// rules bound what clients of one identity may have.
type rules []limits.Rule

func (r *rules) UnmarshalText(text []byte) error {
	if strings.EqualFold(string(text), noNames) {
		return nil
	}
	for word := range strings.SplitSeq(string(text), ";") {
		rule, err := limits.ParseRule(word)
		if err != nil {
			return fmt.Errorf("want a rule such as addr each maxclients 100, several separated by semicolons, or none: %w", err)
		}
		for i := range *r {
			if (*r)[i].Head() == rule.Head() {
				return fmt.Errorf("%s has two rules; want one", rule.Head())
			}
		}
		*r = append(*r, rule)
	}
	return nil
}

func (r *rules) list() []string {
	if len(*r) == 0 {
		return []string{noNames}
	}
	texts := make([]string, len(*r))
	for i := range *r {
		texts[i] = (*r)[i].String()
	}
	return texts
}

// suspects are changes to the thresholds of the leak rules.
type suspects struct {
	rules limits.SuspectRules
	texts []string
}

func (s *suspects) UnmarshalText(text []byte) error {
	if strings.EqualFold(string(text), noNames) {
		return nil
	}
	for word := range strings.SplitSeq(string(text), ";") {
		if err := limits.ParseSuspectRule(word, &s.rules); err != nil {
			return fmt.Errorf("%w, several separated by semicolons", err)
		}
		s.texts = append(s.texts, strings.Join(strings.Fields(word), " "))
	}
	return nil
}

func (s *suspects) list() []string {
	if len(s.texts) == 0 {
		return []string{noNames}
	}
	return s.texts
}

// listeners are addresses of the setting listen. The proxy knows which are good.
type listeners []string

func (l *listeners) UnmarshalText(text []byte) error {
	if strings.EqualFold(string(text), noNames) {
		return nil
	}
	return (*addresses)(l).UnmarshalText(text)
}

func (l *listeners) list() []string {
	if len(*l) == 0 {
		return []string{noNames}
	}
	return *l
}

// proxies are addresses and networks.
type proxies struct {
	trusted peer.Trusted
	words   []string
}

func (p *proxies) UnmarshalText(text []byte) error {
	if strings.EqualFold(string(text), noNames) {
		return nil
	}
	for word := range strings.SplitSeq(string(text), ",") {
		p.words = append(p.words, strings.TrimSpace(word))
	}
	var err error
	if p.trusted, err = peer.ParseTrusted(p.words); err != nil {
		return errors.New("want addresses such as 192.168.1.5, networks such as 10.0.0.0/8, or unix, several separated by commas")
	}
	return nil
}

func (p *proxies) list() []string {
	if len(p.words) == 0 {
		return []string{noNames}
	}
	return p.words
}

// filePath names a file.
type filePath string

func (p *filePath) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("want the name of a file")
	}
	*p = filePath(text)
	return nil
}

// logFormat is text or json.
type logFormat string

func (f *logFormat) UnmarshalText(text []byte) error {
	switch string(text) {
	case "text", "json":
		*f = logFormat(text)
		return nil
	}
	return errors.New("want text or json")
}

// logLevel is the least important level that is logged.
type logLevel slog.Level

var logLevels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

func (l *logLevel) UnmarshalText(text []byte) error {
	level, ok := logLevels[string(text)]
	if !ok {
		return errors.New("want debug, info, warn or error")
	}
	*l = logLevel(level)
	return nil
}

func (l logLevel) String() string { return strings.ToLower(slog.Level(l).String()) }
