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

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// What operators do by other ways than Redis's own commands: a console, probes of an orchestrator. All of it may be
// called from any goroutine but a loop.

// SettingReport is a setting and its value in force.
type SettingReport struct {
	Name, Value string
	From        string // where the value comes from; empty: from the configuration
	Live        bool   // an operator can change it while the server runs: see Set, and SetRule for limit
	Reloads     bool   // Reload changes it
}

// RunTime is where a value comes from that an operator has set while the server runs.
const RunTime = "run time"

// Settings returns the settings in force of what the server has been told, with no secrets in them.
func (s *Server) Settings() []SettingReport {
	c := s.current.Load()
	list := func(words []string) string {
		if len(words) == 0 {
			return "none"
		}
		return strings.Join(words, ",")
	}
	out := []SettingReport{
		{Name: "listen", Value: list(c.Listen)},
		{Name: "upstream", Value: c.Upstream.String()},
		{Name: "loops", Value: fmt.Sprint(len(s.workers))},
	}
	for _, x := range []struct{ name, value string }{
		{"accept-proxy", list(c.AcceptProxy)},
		{"trusted-proxies", cmp.Or(strings.ReplaceAll(c.TrustedProxies.String(), " ", ","), "none")},
		{"suspect", strings.ReplaceAll(s.ledger.Rules().String(), "\n", ";")},
		{"protected-mode", c.ProtectedMode},
		{"allow-dangerous", list(c.AllowDangerous)},
		{"deny-commands", list(c.DenyCommands)},
		{"proto-max-bulk-len", fmt.Sprint(c.ProtoMaxBulkLen)},
		{"client-query-buffer-limit", fmt.Sprint(c.ClientQueryBufferLimit)},
		{"client-output-buffer-limit", c.ClientOutputBufferLimit.String()},
		{"resubscribe", map[bool]string{true: "yes", false: "no"}[c.Resubscribe]},
		{"transaction-timeout", inSeconds(c.TransactionTimeout)},
		{"handshake-timeout", inSeconds(c.HandshakeTimeout)},
		{"tcp-backlog", fmt.Sprint(c.TCPBacklog)},
		{"pool-size", fmt.Sprint(s.budget.Size())},
		{"pool-timeout", inSeconds(c.PoolTimeout)},
		{"upstream-timeout", inSeconds(c.UpstreamTimeout)},
		{"auth-delay", inSeconds(c.AuthDelay)},
		{"upstream-response-timeout", inSeconds(c.UpstreamResponseTimeout)},
		{"pause-timeout", inSeconds(c.PauseTimeout)},
		{"shutdown-delay", inSeconds(c.ShutdownDelay)},
		{"upgrade-timeout", inSeconds(c.UpgradeTimeout)},
		{"handover-timeout", inSeconds(c.HandoverTimeout)},
		{"shutdown-timeout", inSeconds(c.ShutdownTimeout)},
	} {
		out = append(out, SettingReport{Name: x.name, Value: x.value, Reloads: true})
	}
	limit := SettingReport{Name: "limit", Value: cmp.Or(strings.Join(s.rulesInForce(), ";"), "none"), Live: true, Reloads: true}
	if s.rulesChanged() {
		limit.From = RunTime
	}
	out = append(out, limit)
	for _, p := range parameters {
		r := SettingReport{Name: p.name, Value: strconv.FormatInt(p.get(s), 10), Live: true, Reloads: true}
		switch n := p.get(s); {
		case p.isTime():
			r.Value += "s"
		case p.memory && n > 0:
			r.Value = limits.FormatSize(n)
		}
		if s.setSince(p.name) {
			r.From = RunTime
		}
		out = append(out, r)
	}
	return out
}

// rulesInForce are the limits, as the setting has them.
func (s *Server) rulesInForce() []string {
	var texts []string
	for _, r := range s.gate.Rules() {
		if r.Rule != "total" {
			texts = append(texts, r.Rule)
		}
	}
	return texts
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
		return fmt.Errorf("%s cannot be set this way: want one of %s", name, strings.Join(names, ", "))
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
	s.setAtRunTime(p, numbers[0])
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

// State says in a word where the server stands: starting, serving, draining, handing over or stopping; and while it serves, pausing, paused
// or resuming.
func (s *Server) State() string {
	switch {
	case s.phase.Load() == phaseStopping:
		return "stopping"
	case s.phase.Load() != phaseServing:
		return "starting"
	case s.op.isDraining():
		return "draining"
	case s.successor.Load() != nil:
		return "handing over"
	}
	return s.op.pauseState()
}

// Ready returns nil if clients are served: the listeners are open, the upstream answers, and the server has not been
// told to stop or to drain. Otherwise the error says why not. An upstream that is gone is an error only once it has been for
// upstream-timeout: until then commands wait for it, and whoever is told that nobody is ready would refuse clients at once, all
// of them, for a restart of a second. For the same reason, and as it is its purpose, a pause is none.
func (s *Server) Ready(ctx context.Context) error {
	switch state := s.State(); state {
	case "starting", "draining", "handing over", "stopping":
		return fmt.Errorf("the proxy is %s", state)
	case suspensions[notSuspended]:
	default:
		return nil
	}
	begun := time.Now().UnixNano()
	var err error
	if s.primary.Report().Addr == "" {
		err = errors.New("no primary is known: no sentinel says where it is")
	} else {
		err = s.askUpstream(ctx)
	}
	var refused *multiplex.ReplyError
	switch {
	case err == nil: // even an error is an answer: a script may run, or clients have to authenticate
		s.answered.Store(true)
		s.silent.Store(0)
		return nil
	case errors.As(err, &refused) && !errors.As(err, new(*multiplex.UnreachableError)):
		return fmt.Errorf("the upstream refuses the proxy: %w", err)
	case !s.answered.Load():
		return err
	}
	s.silent.CompareAndSwap(0, begun)
	if silent := time.Since(time.Unix(0, s.silent.Load())); silent < s.current.Load().UpstreamTimeout {
		return nil
	}
	return err
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
