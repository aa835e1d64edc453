package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/redbouncer/redbouncer/proxy"
)

// usageError says that the program was not told something it can do. Nothing has been started.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// settingError is one setting that cannot be used.
type settingError struct {
	setting string
	value   string // as it was given, secrets masked
	origin  string // where it was given; empty if it was not
	want    string
}

func (e settingError) Error() string {
	if e.origin == "" {
		return fmt.Sprintf("%s is not set (--%[1]s, %s or the file): %s", e.setting, environmentName(e.setting), e.want)
	}
	return fmt.Sprintf("%s: %q, from %s, is not usable: %s", e.setting, e.value, e.origin, e.want)
}

// explain adds to a *proxy.ConfigError what the proxy cannot know: the words that were given, and where.
// It returns any other error as it is.
func (inv *invocation) explain(err error) error {
	var bad *proxy.ConfigError
	if !errors.As(err, &bad) {
		return err
	}
	for _, flag := range inv.table {
		if flag.Name != bad.Setting {
			continue
		}
		s := row(flag)
		value := s.said()
		if bad.Value != "" && strings.Contains(value, bad.Value) {
			value = bad.Value // the one address of several
		}
		return settingError{bad.Setting, value, s.origin(), bad.Want}
	}
	return err
}

// report is what an operator is shown of err, a line for each problem, no secrets in it.
func report(err error) []string {
	return strings.Split(maskURLs(err.Error()), "\n")
}

func exitStatus(err error) int {
	var usage usageError
	var own statusError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		return int(own)
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}
