package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
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

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"gb", 1 << 30}, {"mb", 1 << 20}, {"kb", 1 << 10}, {"g", 1e9}, {"m", 1e6}, {"k", 1e3}, {"b", 1}, {"", 1},
}

func (s *size) UnmarshalText(text []byte) error {
	digits := strings.TrimRight(strings.ToLower(string(text)), "bkmg")
	unit := strings.ToLower(string(text[len(digits):]))
	for _, u := range sizeUnits {
		if u.name != unit {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err == nil && n >= 1 && n <= math.MaxInt64/u.bytes {
			*s = size(n * u.bytes)
			return nil
		}
	}
	return errors.New("want a size such as 512mb, 1gb or a number of bytes, at least 1")
}

func (s size) String() string {
	for _, u := range sizeUnits {
		if n := int64(s); n >= u.bytes && n%u.bytes == 0 && u.name != "b" {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
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
