package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// What operators do by other ways than Redis's own commands: a console, probes of an orchestrator. All of it may be
// called from any goroutine but a loop.

// SettingReport is a setting and its value in force.
type SettingReport struct {
	Name, Value string
	Live        bool // it can be changed while the server runs: see Set, and SetRule for limit
}

// Settings returns the settings in force of what the server has been told, with no secrets in them.
func (s *Server) Settings() []SettingReport {
	c := &s.cfg
	list := func(words []string) string {
		if len(words) == 0 {
			return "none"
		}
		return strings.Join(words, ",")
	}
	out := []SettingReport{
		{"listen", list(c.Listen), false},
		{"accept-proxy", list(c.AcceptProxy), false},
		{"trusted-proxies", cmp.Or(strings.ReplaceAll(c.TrustedProxies.String(), " ", ","), "none"), false},
		{"suspect", strings.ReplaceAll(s.ledger.Rules().String(), "\n", ";"), false},
		{"limit", s.limitsInForce(), true},
		{"protected-mode", c.ProtectedMode, false},
		{"allow-dangerous", list(c.AllowDangerous), false},
		{"deny-commands", list(c.DenyCommands), false},
		{"proto-max-bulk-len", fmt.Sprint(c.ProtoMaxBulkLen), false},
		{"client-query-buffer-limit", fmt.Sprint(c.ClientQueryBufferLimit), false},
		{"resubscribe", map[bool]string{true: "yes", false: "no"}[c.Resubscribe], false},
		{"transaction-timeout", inSeconds(c.TransactionTimeout), false},
		{"handshake-timeout", inSeconds(c.HandshakeTimeout), false},
		{"tcp-backlog", fmt.Sprint(c.TCPBacklog), false},
		{"upstream", c.Upstream.String(), false},
		{"pool-size", fmt.Sprint(s.budget.Size()), false},
		{"pool-timeout", inSeconds(c.PoolTimeout), false},
		{"upstream-timeout", inSeconds(c.UpstreamTimeout), false},
		{"loops", fmt.Sprint(len(s.workers)), false},
		{"shutdown-timeout", inSeconds(c.ShutdownTimeout), false},
	}
	for _, p := range parameters {
		value := strconv.FormatInt(p.get(s), 10)
		if p.isTime() {
			value += "s"
		}
		out = append(out, SettingReport{p.name, value, true})
	}
	return out
}

// limitsInForce are the rules, as the setting limit has them.
func (s *Server) limitsInForce() string {
	var texts []string
	for _, r := range s.gate.Rules() {
		if r.Rule != "total" {
			texts = append(texts, r.Rule)
		}
	}
	return cmp.Or(strings.Join(texts, ";"), "none")
}

func inSeconds(d time.Duration) string {
	if d%time.Second != 0 {
		return d.String()
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// isTime reports whether the parameter is a number of seconds.
func (p *parameter) isTime() bool { return p.name != "maxclients" && !p.memory }

// Set changes a setting that can be changed while the server runs, until its end. The value is written as in the
// settings, or as CONFIG SET has it. Who has done it is for the caller to log.
func (s *Server) Set(name, value string) error {
	p := ourParameter([]byte(name))
	if p == nil {
		var names []string
		for _, p := range parameters {
			names = append(names, p.name)
		}
		return fmt.Errorf("%s cannot be set while the proxy runs: want one of %s", name, strings.Join(names, ", "))
	}
	if d, ok := parseSpan(value); ok && p.isTime() && d%time.Second == 0 {
		value = strconv.FormatInt(int64(d/time.Second), 10)
	}
	ch := configChange{ours: []*parameter{p}, values: []string{value}}
	numbers, refusal := ch.check(s)
	if refusal != nil {
		_, why, _ := strings.Cut(strings.TrimSpace(string(refusal)), " - ")
		return fmt.Errorf("%s %s: %s", p.name, value, why)
	}
	p.set(s, numbers[0])
	return nil
}

// Authenticate has the upstream check a user's password, now. The refusal is the upstream's error, or nil.
func (s *Server) Authenticate(ctx context.Context, user, password string) (refusal []byte, err error) {
	reply, err := s.askControl(ctx, func(done func([]byte, error)) bool {
		return s.control.Check(resp.AppendCommand(nil, "AUTH", user, password), done)
	})
	if err != nil || bytes.Equal(reply, replyOK) {
		return nil, err
	}
	if !isErrorReply(reply) {
		return nil, errors.New("the upstream answers AUTH in a way that is not understood")
	}
	return reply, nil
}

// askControl asks something on the control connection, and waits for the answer.
func (s *Server) askControl(ctx context.Context, submit func(done func([]byte, error)) bool) ([]byte, error) {
	type answer struct {
		reply []byte
		err   error
	}
	answered := make(chan answer, 1)
	if !submit(func(reply []byte, err error) { answered <- answer{bytes.Clone(reply), err} }) {
		return nil, errFull
	}
	select {
	case a := <-answered:
		return a.reply, a.err
	case <-ctx.Done():
		return nil, errors.New("the upstream cannot be reached, or does not answer in time")
	}
}

// Phases of a Server: it begins with none of them.
const (
	phaseServing  = 1 + iota // the listeners are open
	phaseStopping            // terminal
)

// Ready returns nil if clients are served: the listeners are open, the upstream answers, and the server has not been
// told to stop. Otherwise the error says why not.
func (s *Server) Ready(ctx context.Context) error {
	switch s.phase.Load() {
	case phaseServing:
	case phaseStopping:
		return errors.New("the proxy is stopping")
	default:
		return errors.New("the proxy is starting")
	}
	if s.primary.Report().Addr == "" {
		return errors.New("no primary is known: no sentinel says where it is")
	}
	reply, err := s.askControl(ctx, func(done func([]byte, error)) bool {
		return s.control.Do(s.cfg.Upstream.Actor(), resp.AppendCommand(nil, "PING"), done)
	})
	var refused *multiplex.ReplyError
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("the upstream refuses the proxy: %w", err)
	case err != nil:
		return err
	case bytes.HasPrefix(reply, []byte("-LOADING")):
		return errors.New("the upstream is loading its data")
	}
	return nil // even an error is an answer: a script may run, or clients have to authenticate
}

// Info returns what INFO shows of the proxy.
func (s *Server) Info() string {
	var b strings.Builder
	b.WriteString("# Clients\r\n")
	fields := s.infoFields()
	for _, key := range []string{
		"connected_clients", "maxclients", "blocked_clients", "pubsub_clients", "tracking_clients", "watching_clients",
	} {
		fmt.Fprintf(&b, "%s:%d\r\n", key, fields[key])
	}
	b.WriteString("\r\n# Stats\r\n")
	for _, key := range []string{"total_connections_received", "rejected_connections"} {
		fmt.Fprintf(&b, "%s:%d\r\n", key, fields[key])
	}
	b.WriteString("\r\n" + s.proxySection(nil))
	return b.String()
}
