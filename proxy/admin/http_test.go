package admin_test

import (
	"fmt"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// scrape returns the metrics by name.
func scrape(t *testing.T, s *admin.Server) map[string]*dto.MetricFamily {
	t.Helper()
	status, body := get(t, s, "/metrics")
	if status != 200 {
		t.Fatalf("/metrics: %d, %s", status, body)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil {
		t.Fatalf("%v in\n%s", err, body)
	}
	return families
}

// labels returns a metric's labels in one line.
func labels(m *dto.Metric) string {
	var words []string
	for _, l := range m.GetLabel() {
		words = append(words, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(words, " ")
}

// series returns the values of a family by labels.
func series(f *dto.MetricFamily) map[string]float64 {
	out := map[string]float64{}
	for _, m := range f.GetMetric() {
		out[labels(m)] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
	}
	return out
}

func TestTheMetricsAreThoseOfTheProxy(t *testing.T) {
	r := newRig(t, admin.Config{Version: "v9"}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	c.Do("PING")
	all := scrape(t, r.admin)
	for name, want := range map[string]map[string]float64{
		"redbouncer_clients":                         {"": 1},
		"redbouncer_clients_admitted_total":          {"": 1},
		"redbouncer_maxclients":                      {"": 10000},
		"redbouncer_pool_size":                       {"": 16},
		"redbouncer_pool_open":                       {"kind=lane": 1, "kind=pin": 0, "kind=control": 0},
		"redbouncer_build_info":                      {"version=v9": 1},
		"redbouncer_queue_waiting":                   {"": 1},
		"redbouncer_queue_bytes":                     {"": 31},
		"redbouncer_queue_oldest_seconds":            {"": 1.5},
		"redbouncer_limit_open":                      {"rule=addr value=10.0.0.7": 9},
		"redbouncer_limit_max":                       {"rule=addr value=10.0.0.7": 10},
		"redbouncer_limit_refused_total":             {"rule=addr": 3},
		"redbouncer_source_connections":              {"kind=user source=many": 7, "kind=user source=few": 1},
		"redbouncer_suspect":                         {"rule=growing source=api[7]": 1},
		"redbouncer_upstream_connections_lost_total": {"": 0},
	} {
		if got := series(all[name]); !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{"go_goroutines", "process_open_fds"} {
		if all[name] == nil && (name != "process_open_fds" || runtime.GOOS == "linux") {
			t.Errorf("%s is missing", name)
		}
	}
	for name, f := range all {
		if strings.HasPrefix(name, "redbouncer_") && f.GetHelp() == "" {
			t.Errorf("%s has no help", name)
		}
	}
}

func TestEveryCounterOfTheProxyIsAMetricAndALineOfTheConsole(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	got := string(proxytest.Dial(t, r.admin.Addr().String()).Do("SHOW", "STATS"))
	if lines := strings.Count(got, "\r\n+") - 1; lines != reflect.TypeFor[proxy.Stats]().NumField() {
		t.Errorf("SHOW STATS has %d lines, proxy.Stats has %d fields", lines, reflect.TypeFor[proxy.Stats]().NumField())
	}
	got = string(proxytest.Dial(t, r.admin.Addr().String()).Do("SHOW", "POOL"))
	if lines := strings.Count(got, "\r\n+") - 1; lines != reflect.TypeFor[proxy.PoolReport]().NumField() {
		t.Errorf("SHOW POOL has %d lines, proxy.PoolReport has %d fields", lines, reflect.TypeFor[proxy.PoolReport]().NumField())
	}
}

// However many sources there are, and whatever they call themselves, the metrics are bounded and can be read.
func TestTenThousandSourcesAreTwentySeriesAndOneForTheRest(t *testing.T) {
	b := &book{sources: map[limits.IdentityKind][]limits.SourceReport{}}
	var groups []limits.GroupReport
	for i := range 10_000 {
		name := fmt.Sprintf("source \"%d\"\n\xff", i)
		for kind := range limits.IdentityKinds {
			b.sources[kind] = append(b.sources[kind], limits.SourceReport{Value: name, Open: i})
		}
		b.own = append(b.own, limits.SourceReport{Value: name, Open: i})
		b.suspects = append(b.suspects, limits.Suspect{Source: name, Rule: "growing"})
		groups = append(groups, limits.GroupReport{Value: strings.Repeat("x", 1000) + name, Open: i, Max: 10, Refused: 1})
	}
	r := newRig(t, admin.Config{}, admin.Backends{Ledger: b, Limits: &rules{rules: []limits.RuleReport{
		{Rule: "r", Head: "r", Groups: groups}, {Rule: "r", Head: "r", Groups: groups},
	}}})
	all := scrape(t, r.admin)
	got := series(all["redbouncer_source_connections"])
	if want := 21 * (1 + int(limits.IdentityKinds)); len(got) != want {
		t.Errorf("%d series of sources, want %d", len(got), want)
	}
	if got["kind=addr source=source \"9999\"\n?"] != 9999 || got["kind=addr source=other sources"] != 9979*9980/2 {
		t.Errorf("the series are %v", got)
	}
	if n := len(series(all["redbouncer_suspect"])); n != 100 {
		t.Errorf("%d suspects, want 100", n)
	}
	if got := series(all["redbouncer_limit_open"]); len(got) > 21 {
		t.Errorf("%d groups of a rule", len(got))
	}
	if got := series(all["redbouncer_limit_refused_total"]); got["rule=r"] != 10_000 {
		t.Errorf("the rule has refused %v", got)
	}
}

func TestReadyMeansThatClientsAreServed(t *testing.T) {
	redis := proxytest.Redis(t)
	s := newAdmin(t, admin.Config{})
	s.Start()
	probe := func(path string, status int, says string) {
		t.Helper()
		var got int
		var body string
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			if got, body = get(t, s, path); got == status && strings.Contains(body, says) {
				return
			}
		}
		t.Errorf("%s: %d, %q; want %d, %q", path, got, body, status, says)
	}
	probe("/healthz", 200, "ok")
	probe("/readyz", 503, "the proxy is starting")
	cfg := proxytest.Config(t, redis)
	cfg.UpstreamTimeout = 100 * time.Millisecond
	p := proxytest.Proxy(t, cfg)
	s.Attach(admin.Backends{Proxy: p.Server})
	probe("/readyz", 200, "ok")
	if _, err := p.Pause(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	redis.Restart()
	probe("/readyz", 200, "ok, paused")
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.Drain(); err != nil {
		t.Fatal(err)
	}
	probe("/readyz", 503, "the proxy is draining")
	if err := p.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	probe("/readyz", 200, "ok")
	redis.Kill()
	probe("/readyz", 503, "upstream")
	probe("/healthz", 200, "ok")
	redis.Restart()
	probe("/readyz", 200, "ok")
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	probe("/readyz", 503, "the proxy is stopping")
	if status, _ := get(t, s, "/nothing"); status != 404 {
		t.Errorf("/nothing: %d", status)
	}
	if status, _ := get(t, s, "/metrics"); status != 200 {
		t.Errorf("/metrics of a proxy that has ended: %d", status)
	}
}

// Nobody may use up the files that clients need.
func TestConnectionsForMetricsAreBounded(t *testing.T) {
	s := newAdmin(t, admin.Config{Listen: admin.None})
	s.Start()
	var conns []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", s.HTTPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		conns = append(conns, c)
	}
	closed := 0
	for _, c := range conns[64:] {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); proxytest.IsClosed(err) {
			closed++
		}
	}
	if closed != 36 {
		t.Errorf("%d of 36 too many have been closed", closed)
	}
}

func TestAnAddressThatCannotBeHadNamesItsSetting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for setting, cfg := range map[string]admin.Config{
		"admin-listen": {Listen: l.Addr().String(), HTTPListen: admin.None},
		"http-listen":  {Listen: "127.0.0.1:0", HTTPListen: l.Addr().String()},
	} {
		_, err := admin.New(cfg)
		if err == nil || !strings.HasPrefix(err.Error(), setting+": ") || !strings.Contains(err.Error(), "in use; want another address, or none") {
			t.Errorf("%s: %v", setting, err)
		}
	}
}
