package admin_test

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/admin"
)

// openMetrics returns the page that a scraper gets that asks for OpenMetrics.
func openMetrics(t *testing.T, s *admin.Server) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.HTTPAddr().String()+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = reply.Body.Close() }()
	if kind := reply.Header.Get("Content-Type"); !strings.HasPrefix(kind, "application/openmetrics-text; version=1.0.0") {
		t.Errorf("the page is %s", kind)
	}
	page, err := io.ReadAll(reply.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

// suffixes are what a sample's name has behind that of its family, by type.
var suffixes = map[string]string{"gauge": "^$", "counter": "^_total$", "summary": "^(_sum|_count)?$", "histogram": "^(_bucket|_sum|_count)$"}

// word is a metric's name. OpenMetrics keeps colons for rules.
var word = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// What OpenMetrics asks of names: each family once, with its samples right behind it, and their ending that of its type.
func TestTheMetricsAreOpenMetrics(t *testing.T) {
	page := openMetrics(t, newRig(t, admin.Config{}, samples()).admin)
	body, ok := strings.CutSuffix(page, "# EOF\n")
	if !ok {
		t.Errorf("the page ends with %q", page[max(0, len(page)-40):])
	}
	seen := map[string]bool{}
	var family, kind string
	for line := range strings.Lines(body) {
		words := strings.Fields(line)
		switch {
		case words[0] == "#" && words[1] == "TYPE":
			family, kind = words[2], words[3]
			if seen[family] || !word.MatchString(family) || suffixes[kind] == "" {
				t.Errorf("%s: told before, not a name, or not a type", strings.TrimSpace(line))
			}
			seen[family] = true
		case words[0] == "#" && words[1] == "UNIT" && !strings.HasSuffix(family, "_"+words[3]):
			t.Errorf("%s has the unit %s", family, words[3])
		case words[0] != "#":
			name, _, _ := strings.Cut(words[0], "{")
			end, ok := strings.CutPrefix(name, family)
			if !ok || !regexp.MustCompile(suffixes[kind]).MatchString(end) {
				t.Errorf("%s is under the %s %s", name, kind, family)
			}
		}
	}
	if !seen["redbouncer_clients_refused"] || !seen["redbouncer_suspect"] {
		t.Errorf("the page has only %v", seen)
	}
}
