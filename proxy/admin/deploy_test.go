package admin_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// ours are the metrics that deploy/ may ask for by a fixed name: the proxy's and those of its process.
var ours = regexp.MustCompile(`\b(?:redbouncer_[a-z_]+|(?:process|go)_[a-z]+_[a-z_]+)\b`)

// A misspelled metric makes no error: the alert never fires, and the panel is empty. So is one with a label that is not there.
func TestAlertsAndDashboardAskForMetricsThatThereAre(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	proxytest.Dial(t, r.proxy.Addr()).Do("PING")
	all := scrape(t, r.admin)
	asked := map[string]bool{}
	for _, file := range []string{"prometheus/alerts.yaml", "prometheus/alerts_test.yaml", "grafana/redbouncer.json"} {
		text, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		names := ours.FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s asks for nothing", file)
		}
		for _, name := range names {
			name = familyOf(name)
			asked[name] = true
			if all[name] == nil {
				t.Errorf("%s asks for %s, which the proxy does not have", file, name)
			}
		}
	}
	for name := range all {
		if strings.HasPrefix(name, "redbouncer_") && !asked[name] && !slices.Contains(unasked, name) {
			t.Errorf("nobody asks for %s: put it into the dashboard", name)
		}
	}
}

// familyOf returns the metric that a name asks for, which may be that of a histogram's classes.
func familyOf(name string) string { return strings.TrimSuffix(name, "_bucket") }

// unasked are metrics that others in the dashboard tell of too.
var unasked = []string{
	"redbouncer_pool_open",          // lanes and pins have their own
	"redbouncer_clients_queued",     // queue_waiting
	"redbouncer_limit_queued_total", // queue_waiting
}

// labelled is a metric with labels that pick series, or by which an expression sums up.
var labelled = regexp.MustCompile(`(redbouncer_[a-z_]+)\{([^}]*)\}`)

func TestAlertsPickByLabelsThatTheMetricsHave(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	all := scrape(t, r.admin)
	picked := 0
	for _, file := range []string{"prometheus/alerts.yaml", "grafana/redbouncer.json"} {
		text, err := os.ReadFile("../../deploy/" + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range labelled.FindAllStringSubmatch(string(text), -1) {
			has := []string{"job", "instance"} // Prometheus's own
			for _, l := range all[familyOf(m[1])].GetMetric()[0].GetLabel() {
				has = append(has, l.GetName())
			}
			for matcher := range strings.SplitSeq(m[2], ",") {
				name := regexp.MustCompile(`^\s*\w+`).FindString(matcher)
				if picked++; !slices.Contains(has, strings.TrimSpace(name)) {
					t.Errorf("%s: %s has no label %q", file, m[0], name)
				}
			}
		}
	}
	if picked == 0 {
		t.Error("nothing is picked by a label")
	}
}
