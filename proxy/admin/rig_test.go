package admin_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// patience bounds every wait for something that takes no time on an idle machine.
const patience = 20 * time.Second

// rig is a Redis, a proxy in front of it, and the operator's side, for as long as the test runs.
type rig struct {
	redis *proxytest.Server
	proxy *proxytest.Running
	admin *admin.Server
	log   *lines
}

// lines is a log that can be looked at.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newRig starts it with a configuration, of which the addresses may be left out, and with more to speak of.
func newRig(t *testing.T, cfg admin.Config, more admin.Backends) *rig {
	t.Helper()
	r := &rig{redis: proxytest.Redis(t), log: &lines{}}
	for _, rule := range [][]any{
		{"ACL", "SETUSER", "operator", "on", ">secret", "~*", "+@all"},
		{"ACL", "SETUSER", "watcher", "on", ">secret", "~*", "+@all"},
		{"ACL", "SETUSER", "somebody", "on", ">secret", "~*", "+@all"},
	} {
		if err := r.redis.Client().Do(context.Background(), rule...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	cfg.Log = slog.New(slog.NewTextHandler(r.log, nil))
	r.admin = newAdmin(t, cfg)
	pc := proxytest.Config(t, r.redis)
	pc.Console = r.admin.Client
	r.proxy = proxytest.Proxy(t, pc)
	more.Proxy = r.proxy.Server
	r.admin.Attach(more)
	r.admin.Start()
	return r
}

// newAdmin opens the operator's side on free ports, and closes it when the test ends.
func newAdmin(t *testing.T, cfg admin.Config) *admin.Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.HTTPListen == "" {
		cfg.HTTPListen = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s, err := admin.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// converse plays a conversation, in which the names that begin with a speak to the admin listener and the others to the
// proxy.
func (r *rig) converse(t *testing.T, script string) {
	t.Helper()
	proxytest.Converse(t, r.proxy.Addr(), map[string]string{
		"a": r.admin.Addr().String(), "a2": r.admin.Addr().String(), "a3": r.admin.Addr().String(),
	}, pattern.ReplaceAllString(script, "$1(?s)"))
}

// pattern is the beginning of a line with a regular expression, in which a dot is to stand for line ends too.
var pattern = regexp.MustCompile(`(?m)^(\s*\w+~ )`)

// get returns the status and the body of a page.
func get(t *testing.T, s *admin.Server, path string) (int, string) {
	t.Helper()
	reply, err := http.Get("http://" + s.HTTPAddr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply.StatusCode, string(body)
}

// manual is settings that say what they are told, or fail.
type manual struct {
	settings []proxy.SettingReport
	changes  []admin.SettingChange
	err      error
}

func (m *manual) Settings() []proxy.SettingReport { return slices.Clone(m.settings) }

func (m *manual) Reload(context.Context) ([]admin.SettingChange, error) { return m.changes, m.err }

func (m *manual) Rewrite(context.Context) ([]admin.SettingChange, error) { return m.changes, m.err }

// book is a ledger that says what it is told.
type book struct {
	sources  map[limits.IdentityKind][]limits.SourceReport
	own      []limits.SourceReport
	suspects []limits.Suspect
}

func (b *book) Sources(kind limits.IdentityKind) []limits.SourceReport { return b.sources[kind] }
func (b *book) BySource() []limits.SourceReport                        { return b.own }
func (b *book) Suspects() []limits.Suspect                             { return b.suspects }

// rules are limits that say what they are told, and note what they are asked to change.
type rules struct {
	mu    sync.Mutex
	rules []limits.RuleReport
	queue []proxy.WaiterReport
}

func (r *rules) Rules() []limits.RuleReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rules
}

func (r *rules) Queue(context.Context) ([]proxy.WaiterReport, error) { return r.queue, nil }

func (r *rules) SetRule(text string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	head, _, ok := strings.Cut(text, " ")
	if !ok {
		return errWrong
	}
	r.rules = append(r.rules, limits.RuleReport{Rule: text, Head: head})
	return nil
}

func (r *rules) UnsetRule(head string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, rule := range r.rules {
		if rule.Head == head {
			r.rules = append(r.rules[:i], r.rules[i+1:]...)
			return nil
		}
	}
	return errWrong
}

type wrong struct{}

func (wrong) Error() string { return "want a rule" }

var errWrong = wrong{}

var (
	_ admin.Proxy  = (*proxy.Server)(nil)
	_ admin.Limits = (*proxy.Server)(nil)
	_ admin.Ledger = (*limits.Ledger)(nil)
)
