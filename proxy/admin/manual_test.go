package admin_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// replyLines are the lines that the console answers, in the form of a table or a list.
func replyLines(c *proxytest.Conn, words string) (lines []string) {
	for line := range strings.SplitSeq(string(c.Do(strings.Fields(words)...)), "\r\n") {
		if text, ok := strings.CutPrefix(line, "+"); ok {
			lines = append(lines, text)
		}
	}
	return lines
}

// logIn opens a connection to the console, as a user who has that password in every rig.
func logIn(t *testing.T, r *rig, user string) *proxytest.Conn {
	t.Helper()
	c := proxytest.Dial(t, r.admin.Addr().String())
	if got := string(c.Do("AUTH", user, "secret")); got != "+OK\r\n" {
		t.Fatalf("AUTH %s: %s", user, got)
	}
	return c
}

// The verbs are those that HELP lists; their rights are what somebody is told who may only look.
func TestTheManualHasEveryVerbWithItsRights(t *testing.T) {
	cfg := admin.Config{AdminUsers: []string{"operator"}, StatsUsers: []string{"watcher"}}
	r := newRig(t, cfg, admin.Backends{})
	watcher, help := logIn(t, r, "watcher"), replyLines(logIn(t, r, "operator"), "HELP")
	var facts []proxytest.Fact
	for i, words := range admin.Verbs() {
		listed := help[1+2*i] // behind a line of introduction; under each stands what it does
		if !strings.HasPrefix(listed, words) {
			t.Fatalf("HELP lists %s in the place of %s", listed, words)
		}
		rights := "`stats-users`"
		if strings.HasPrefix(string(watcher.Do(strings.Fields(words)...)), "-NOPERM") {
			rights = "`admin-users`"
		}
		facts = append(facts, proxytest.Fact{proxytest.Code("PROXY " + listed), rights, proxytest.Prose})
	}
	proxytest.Manual(t, "docs/console.md").Has(t, "", "command", facts)
}

// The columns are those of the console's replies. VERSION answers a line, and has none.
func TestTheManualHasEveryColumnOfTheConsole(t *testing.T) {
	more := samples()
	more.Settings = &manual{}
	c := proxytest.Dial(t, newRig(t, admin.Config{}, more).admin.Addr().String())
	page := proxytest.Manual(t, "docs/console.md")
	var verbs []string
	for _, verb := range admin.Verbs() {
		if verb == "SHOW VERSION" || !strings.HasPrefix(verb, "SHOW ") && verb != "RELOAD" && verb != "CONFIG REWRITE" {
			continue
		}
		verbs = append(verbs, verb)
		few, all := replyLines(c, "PROXY "+verb), replyLines(c, "PROXY "+verb+" FORMAT WIDE")
		if len(few) == 0 || len(all) == 0 {
			t.Fatalf("%s answers nothing", verb)
		}
		columns := strings.Fields(all[0])
		if verb == "SHOW POOL" || verb == "SHOW STATS" { // rows of a name and a value
			var facts []proxytest.Fact
			for _, line := range all[1:] {
				facts = append(facts, proxytest.Fact{proxytest.Code(strings.Fields(line)[0]), proxytest.Prose})
			}
			page.Has(t, verb, "name", facts)
			continue
		}
		var facts []proxytest.Fact
		for _, column := range columns {
			in := "all"
			if !slices.Contains(strings.Fields(few[0]), column) {
				in = "wide"
			}
			facts = append(facts, proxytest.Fact{proxytest.Code(column), in, proxytest.Prose})
		}
		page.Has(t, verb, "column", facts)
	}
	for _, section := range append(page.Sections("column"), page.Sections("name")...) {
		if !slices.Contains(verbs, section) {
			t.Errorf("%s: section %s has columns, and is no verb that answers with a table", page.Name, section)
		}
	}
}

// The kinds by which clients and sources are chosen are those that HELP lists.
func TestTheManualHasEveryKindOfClientsAndSources(t *testing.T) {
	help := strings.Join(replyLines(proxytest.Dial(t, newRig(t, admin.Config{}, samples()).admin.Addr().String()), "HELP"), "\n")
	page := proxytest.Manual(t, "docs/console.md")
	for section, list := range map[string]*regexp.Regexp{
		"Choosing clients": regexp.MustCompile(`Kinds of clients: (.*)\.\n`),
		"SHOW SOURCES":     regexp.MustCompile(`Kinds of sources: (.*); source if none`),
	} {
		m := list.FindStringSubmatch(help)
		if m == nil {
			t.Fatalf("HELP has no %s:\n%s", list, help)
		}
		var facts []proxytest.Fact
		for kind := range strings.SplitSeq(m[1], ", ") {
			facts = append(facts, proxytest.Fact{proxytest.Code(kind), proxytest.Prose})
		}
		page.Has(t, section, "kind", facts)
	}
}

// The metrics are those that a proxy shows which has limits, a queue and a suspect. One that is not shown then is found by its
// name in the source, so that none can be left out here.
func TestTheManualHasEveryMetric(t *testing.T) {
	all := scrape(t, newRig(t, admin.Config{Version: "v9"}, samples()).admin)
	var facts []proxytest.Fact
	for name, family := range all {
		if strings.HasPrefix(name, "redbouncer_") {
			facts = append(facts, proxytest.Fact{
				proxytest.Code(name), strings.ToLower(family.GetType().String()), labelsInTheManual(family), proxytest.Prose, proxytest.Prose,
			})
		}
	}
	slices.SortFunc(facts, func(a, b proxytest.Fact) int { return strings.Compare(a[0], b[0]) })
	proxytest.Manual(t, "docs/metrics.md").Has(t, "", "metric", facts)

	described := regexp.MustCompile(`\bdesc\("([a-z_]+)"`)
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources (%v)", err)
	}
	found := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range described.FindAllStringSubmatch(string(text), -1) {
			found++
			if all["redbouncer_"+m[1]] == nil {
				t.Errorf("%s describes redbouncer_%s, which this proxy does not show: have samples() show it", file, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no source describes a metric")
	}
}

func labelsInTheManual(family *dto.MetricFamily) string {
	var names []string
	for _, m := range family.GetMetric() {
		for _, l := range m.GetLabel() {
			if name := proxytest.Code(l.GetName()); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
