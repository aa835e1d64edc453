package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
)

// The tables. Columns with a + in front are for wide tables and for programs. A time is in whole seconds, and its
// column ends in _s.

func whole(d time.Duration) int { return int(d / time.Second) }

// noArguments is for verbs that have none.
func (r *request) noArguments() error {
	if len(r.args) > 0 {
		return fmt.Errorf("%s is too much: this verb has no arguments but FORMAT", r.args[0])
	}
	return nil
}

func showClients(ctx context.Context, r *request) (any, error) {
	filter, err := proxy.ParseClientFilter(r.args...)
	if err != nil {
		return nil, err
	}
	all, err := r.Proxy.Clients(ctx, filter)
	if err != nil {
		return nil, err
	}
	t := &table{columns: []string{
		"id", "addr", "+listener", "user", "name", "lib", "+pid", "+process", "+container", "+cert", "state", "pin", "age_s", "idle_s",
		"db", "+resp", "commands", "in_flight", "+query_bytes", "+output_bytes", "+received_bytes", "+sent_bytes", "last", "+source",
	}}
	for _, c := range all {
		t.add(c.ID, c.Remote, c.Listener, c.User, c.Name, c.Lib, c.PID, c.Process, c.Container, c.Cert, c.State, c.Pin, whole(c.Age),
			whole(c.Idle), c.DB, c.RESP, c.Commands, c.InFlight, c.QueryBuffer, c.OutputBuffer, c.Received, c.Sent, c.LastCommand,
			c.Source)
	}
	return t, nil
}

func showSources(_ context.Context, r *request) (any, error) {
	said := strings.Join(r.args, " ")
	kind := strings.ToLower(cmp.Or(said, bySource))
	if !slices.Contains(sourceKinds(), kind) {
		return nil, fmt.Errorf("SHOW SOURCES %s: want one of %s", said, strings.Join(sourceKinds(), ", "))
	}
	t := &table{columns: []string{
		"source", "open", "in_use", "idle", "never_spoke", "subscribed", "opens_1m", "closes_1m", "slope",
		"commands_1m", "+commands_per_connection", "peak_in_use", "refused", "+ages", "+addr", "+process", "+command",
		"+container", "+cert", "+lib", "+name", "+user", "last", "+oldest", "+history",
	}}
	for _, s := range r.sources(kind) {
		t.add(s.Value, s.Open, s.InUse, s.Idle, s.NeverSpoke, s.Subscribed, s.Opens, s.Closes, s.Slope,
			s.CommandsPerMinute, s.CommandsPerConnection, s.PeakInUse, s.Refused, countsText(s.Ages[:]), s.Identities[limits.ByAddr],
			s.Identities[limits.ByProcess], s.Command, s.Identities[limits.ByContainer], s.Identities[limits.ByCert], s.Identities[limits.ByLib],
			s.Identities[limits.ByName], s.Identities[limits.ByUser], s.Last, oldestText(s.Oldest), countsText(s.History))
	}
	return t, nil
}

// bySource is how the console calls the sources themselves: a process or an address, and the name that it goes by.
const bySource = "source"

// sourceKinds are what sources can be shown by.
func sourceKinds() []string {
	kinds := []string{bySource}
	for kind := range limits.IdentityKinds {
		kinds = append(kinds, kind.String())
	}
	return kinds
}

// sources returns the sources of a kind, those with the most connections first.
func (b *Backends) sources(word string) []limits.SourceReport {
	if b.Ledger == nil {
		return nil
	}
	all := b.Ledger.BySource
	if kind, ok := limits.ParseIdentityKind(word); ok {
		all = func() []limits.SourceReport { return b.Ledger.Sources(kind) }
	}
	return sorted(all())
}

func sorted(all []limits.SourceReport) []limits.SourceReport {
	slices.SortStableFunc(all, func(x, y limits.SourceReport) int {
		return cmp.Or(cmp.Compare(y.Open, x.Open), cmp.Compare(x.Value, y.Value))
	})
	return all
}

func countsText(counts []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(counts), " ", "/"), "[]")
}

func oldestText(oldest []limits.Connection) string {
	var words []string
	for _, o := range oldest {
		words = append(words, fmt.Sprintf("%s age_s=%d idle_s=%d", o.Remote, whole(o.Age), whole(o.Idle)))
	}
	return strings.Join(words, ", ")
}

func showLimits(_ context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil || r.Limits == nil {
		return &table{columns: limitColumns}, err
	}
	t := &table{columns: limitColumns}
	for _, rule := range r.Limits.Rules() {
		groups := rule.Groups
		if len(groups) == 0 {
			groups = []limits.GroupReport{{}} // the rule is shown all the same
		}
		for _, g := range groups {
			t.add(rule.Rule, rule.Head, g.Value, g.Open, g.Max, g.Waiting, g.Refused, g.Queued, g.Evicted, g.WouldRefuse,
				g.Pins, g.MaxPins)
		}
	}
	return t, nil
}

var limitColumns = []string{
	"rule", "+head", "value", "open", "max", "waiting", "refused", "queued", "evicted", "would_refuse", "pins", "max_pins",
}

func showQueue(ctx context.Context, r *request) (any, error) {
	t := &table{columns: []string{"addr", "source", "rule", "value", "waiting_s", "bytes", "inside"}}
	if err := r.noArguments(); err != nil || r.Limits == nil {
		return t, err
	}
	queue, err := r.Limits.Queue(ctx)
	for _, w := range queue {
		t.add(w.Remote, w.Source, w.Rule, w.Value, w.Waited.Seconds(), w.Bytes, w.Inside)
	}
	return t, err
}

func showSuspects(_ context.Context, r *request) (any, error) {
	t := &table{columns: []string{"source", "rule", "since_s", "open", "in_use", "+idle", "+process", "+command",
		"+container", "+lib", "reason", "advice", "+oldest"}}
	if err := r.noArguments(); err != nil || r.Ledger == nil {
		return t, err
	}
	for _, s := range r.Ledger.Suspects() {
		x := s.Report
		t.add(s.Source, string(s.Rule), whole(time.Since(s.Since)), x.Open, x.InUse, x.Idle, x.Identities[limits.ByProcess],
			x.Command, x.Identities[limits.ByContainer], x.Identities[limits.ByLib], s.Reason, s.Advice, oldestText(x.Oldest))
	}
	return t, nil
}

func showLanes(ctx context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	all, err := r.Proxy.Lanes(ctx)
	t := &table{columns: []string{"loop", "upstream_id", "user", "db", "resp", "state", "sessions", "in_flight", "silent_s", "age_s", "+upstream"}}
	for _, l := range all {
		t.add(l.Loop, l.ID, l.User, l.DB, l.RESP, l.State, l.Sessions, l.InFlight, whole(l.Silence), whole(l.Age), l.Upstream)
	}
	return t, err
}

func showPins(ctx context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	all, err := r.Proxy.Pins(ctx)
	t := &table{columns: []string{
		"loop", "upstream_id", "user", "db", "resp", "state", "why", "client", "addr", "in_flight", "age_s", "+upstream",
	}}
	for _, p := range all {
		t.add(p.Loop, p.ID, p.User, p.DB, p.RESP, p.State, p.Why, p.Holder, p.Remote, p.InFlight, whole(p.Age), p.Upstream)
	}
	return t, err
}

// pairs is a table of names and values.
func pairs() *table { return &table{columns: []string{"name", "value"}, pairs: true} }

func showPool(ctx context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	p, err := r.Proxy.Pool(ctx)
	t := pairs()
	t.add("state", p.State)
	t.add("pause_left_s", whole(p.PauseLeft))
	t.add("upstream", p.Upstream)
	t.add("upstream_down_s", whole(p.Down))
	t.add("upstream_tries", p.Tries)
	t.add("upstream_error", p.Error)
	t.add("size", p.Size)
	t.add("lanes", p.Lanes)
	t.add("lanes_waiting", p.LanesWaiting)
	t.add("pins", p.Pins)
	t.add("pins_waiting", p.PinsWaiting)
	t.add("idle_pins", p.IdlePins)
	t.add("control", p.Control)
	t.add("control_waiting", p.ControlWait)
	t.add("pool_timeouts", p.PoolTimeouts)
	t.add("connects", p.Connects)
	t.add("lost", p.Lost)
	t.add("upstream_addr", p.Addr)
	t.add("failovers", p.Failovers)
	t.add("sentinels", p.Sentinels)
	t.add("sentinels_heard", p.SentinelsHeard)
	return t, err
}

func showStats(_ context.Context, r *request) (any, error) {
	if err := r.noArguments(); err != nil {
		return nil, err
	}
	st, t := r.Proxy.Stats(), pairs()
	for _, x := range statMetrics {
		t.add(x.column, int64(x.value(st)))
	}
	return t, nil
}

func showVersion(_ context.Context, r *request) (any, error) {
	return "redbouncer " + r.console.cfg.Version, r.noArguments()
}

func showConfig(_ context.Context, r *request) (any, error) {
	if len(r.args) > 1 {
		return nil, errors.New("want one pattern, as in SHOW CONFIG *timeout*")
	}
	pattern := "*"
	if len(r.args) == 1 {
		pattern = r.args[0]
	}
	t := &table{columns: []string{"name", "value", "from", "live"}}
	for _, s := range r.settings() {
		if matchName(pattern, s.Name) {
			t.add(s.Name, s.Value, s.From, s.Reloads)
		}
	}
	return t, nil
}

// settings returns all settings: in the words of the manual where they are known, with the values in force of those that
// operators can change, or that the proxy has had to lower.
func (r *request) settings() []proxy.SettingReport {
	inForce := r.Proxy.Settings()
	if r.Settings == nil {
		return inForce
	}
	out := r.Settings.Settings()
	for i, s := range out {
		for _, now := range inForce {
			if s.Name != now.Name {
				continue
			}
			out[i].Live, out[i].From = now.Live, cmp.Or(now.From, s.From)
			if now.Live || s.Name == "loops" || s.Name == "pool-size" {
				out[i].Value = now.Value
			}
		}
	}
	return out
}
