package admin

import (
	"context"
	"errors"
	"strings"

	"github.com/redbouncer/redbouncer/proxy"
)

// The verbs that change something. What they have done is logged: see Console.note.

// kill closes clients. Whoever asks stays, as with CLIENT KILL.
func kill(ctx context.Context, r *request) (any, error) {
	filter, err := proxy.ParseClientFilter(r.args...)
	if err != nil {
		return nil, err
	}
	return r.Proxy.Kill(ctx, filter.Sparing(r.who.Client), r.who.name())
}

// name is how the log calls somebody.
func (w Who) name() string {
	if w.User == "" {
		return w.Remote
	}
	return w.User + "@" + w.Remote
}

func set(_ context.Context, r *request) (any, error) {
	if len(r.args) != 2 {
		return nil, errors.New("want a setting and its value, as in PROXY SET maxclients 20000, or PROXY SET LIMIT and a rule")
	}
	return "OK", r.Proxy.Set(r.args[0], r.args[1])
}

var errNoSettings = errors.New("this proxy has no configuration file")

// reload reads the configuration file again.
func reload(ctx context.Context, r *request) (any, error) {
	if r.Settings == nil {
		return nil, errNoSettings
	}
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	return changesTable(r.Settings.Reload(ctx))
}

// rewrite writes the configuration file.
func rewrite(ctx context.Context, r *request) (any, error) {
	if r.Settings == nil {
		return nil, errNoSettings
	}
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	return changesTable(r.Settings.Rewrite(ctx))
}

// changesTable shows what has become of settings.
func changesTable(changes []SettingChange, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	t := &table{columns: []string{"name", "was", "now", "outcome"}}
	for _, c := range changes {
		t.add(c.Name, c.Was, c.Now, c.Outcome)
	}
	return t, nil
}

var errNoLimits = errors.New("this proxy has no limits but maxclients")

func setLimit(_ context.Context, r *request) (any, error) {
	switch {
	case len(r.args) == 0:
		return nil, errors.New("want a rule, as SHOW LIMITS shows them")
	case r.Limits == nil:
		return nil, errNoLimits
	}
	return "OK", r.Limits.SetRule(strings.Join(r.args, " "))
}

func unsetLimit(_ context.Context, r *request) (any, error) {
	switch {
	case len(r.args) == 0:
		return nil, errors.New("want the head of a rule, as SHOW LIMITS FORMAT WIDE shows them")
	case r.Limits == nil:
		return nil, errNoLimits
	}
	return "OK", r.Limits.UnsetRule(strings.Join(r.args, " "))
}
