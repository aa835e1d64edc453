package admin_test

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// fields adds the names of all members in a JSON value.
func fields(value any, to map[string]bool) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			to[name] = true
			fields(inner, to)
		}
	case []any:
		for _, inner := range v {
			fields(inner, to)
		}
	}
}

// documented returns the names in the first column of each section's table, by its heading.
func documented(t *testing.T) map[string]map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]map[string]bool{}
	for _, section := range strings.Split(string(text), "\n### /api/")[1:] {
		section, _, _ = strings.Cut(section, "\n## ")
		name, body, _ := strings.Cut(section, "\n")
		sections[name] = map[string]bool{}
		for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*) \\|").FindAllStringSubmatch(body, -1) {
			for _, field := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(row[1], -1) {
				sections[name][field[1]] = true
			}
		}
	}
	return sections
}

func TestTheDocumentOfTheAPINamesEveryFieldAndNoOther(t *testing.T) {
	b := samples()
	b.Ledger.(*book).own = []limits.SourceReport{{Value: "api[7]", Open: 2, History: []int{1, 2}}}
	r := newRig(t, admin.Config{}, b)
	pinned := proxytest.Dial(t, r.proxy.Addr())
	pinned.Do("PING")
	pinned.Do("WATCH", "k")
	var history string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && !strings.Contains(history, "time_ms"); time.Sleep(100 * time.Millisecond) {
		_, history = get(t, r.admin, "/api/overview")
	}
	sections := documented(t)
	for _, words := range admin.Verbs() {
		what, shows := strings.CutPrefix(words, "SHOW ")
		if !shows {
			continue
		}
		what = strings.ToLower(what)
		section, found := sections[what]
		if !found {
			t.Errorf("/api/%s is not documented", what)
			continue
		}
		compareFields(t, r, what, section)
		delete(sections, what)
	}
	overview := sections["overview"]
	status, body := get(t, r.admin, "/api/overview")
	if status != 200 {
		t.Fatalf("/api/overview: %d, %s", status, body)
	}
	var all struct{ You, History any }
	var members map[string]any
	if json.Unmarshal([]byte(body), &all) != nil || json.Unmarshal([]byte(body), &members) != nil {
		t.Fatalf("/api/overview: %s", body)
	}
	has := map[string]bool{}
	fields([]any{all.You, all.History}, has)
	for name := range members {
		has[name] = true
	}
	sameFields(t, "overview", has, overview)
}

func compareFields(t *testing.T, r *rig, what string, section map[string]bool) {
	t.Helper()
	status, body := get(t, r.admin, "/api/"+what)
	var value any
	if err := json.Unmarshal([]byte(body), &value); status != 200 || err != nil {
		t.Errorf("/api/%s: %d, %s", what, status, body)
		return
	}
	if _, isText := value.(string); isText {
		return
	}
	has := map[string]bool{}
	fields(value, has)
	sameFields(t, what, has, section)
}

func sameFields(t *testing.T, what string, has, section map[string]bool) {
	t.Helper()
	if len(has) == 0 {
		t.Errorf("/api/%s has nothing to compare", what)
	}
	for name := range has {
		if !section[name] {
			t.Errorf("/api/%s: the document does not name %s", what, name)
		}
	}
	for name := range section {
		if !has[name] {
			t.Errorf("/api/%s: the document names %s, which there is not", what, name)
		}
	}
}

func TestTheDocumentOfTheAPIHasEveryChange(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, words := range admin.Verbs() {
		if path := "`/api/" + strings.ToLower(strings.ReplaceAll(words, " ", "-")) + "`"; !strings.HasPrefix(words, "SHOW ") && words != "HELP" &&
			!strings.Contains(string(text), path) {
			t.Errorf("the document does not speak of POST %s", path)
		}
	}
}

// The console and the API tell the same, from the same tables.
func TestTheAPIShowsWhatTheConsoleShows(t *testing.T) {
	r := newRig(t, admin.Config{Version: "v9"}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	c.Do("CLIENT", "SETNAME", "web")
	console := proxytest.Dial(t, r.admin.Addr().String())
	for path, command := range map[string]string{
		"limits": "SHOW LIMITS", "queue": "SHOW QUEUE", "suspects": "SHOW SUSPECTS", "pool": "SHOW POOL", "stats": "SHOW STATS",
		"sources?kind=user": "SHOW SOURCES user", "clients?name=web&user=default": "SHOW CLIENTS name web user default",
		"config?pattern=*ti*e*out": "SHOW CONFIG *ti*e*out", "lanes": "SHOW LANES", "pins": "SHOW PINS",
	} {
		var body, said string
		for range 100 { // the proxy may be asking Redis something just then
			_, body = get(t, r.admin, "/api/"+path)
			_, said, _ = strings.Cut(string(console.Do(append(strings.Fields(command), "FORMAT", "JSON")...)), "\r\n")
			if body, said = strings.TrimSpace(body), strings.TrimSpace(said); body == said {
				break
			}
		}
		if body != said {
			t.Errorf("%s: %s\nAPI: %s", command, said, body)
		}
	}
	if _, body := get(t, r.admin, "/api/version"); body != "\"redbouncer v9\"\n" {
		t.Errorf("version: %s", body)
	}
}

func TestWrongQuestionsToTheAPIAreToldWhatIsWrong(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	for path, want := range map[string]string{
		"clients?colour=red":         "400 colour is nothing to choose clients by",
		"clients?most=0":             "400 most=0: want the number of rows, at least 1",
		"sources?kind=colour":        "400 SHOW SOURCES colour: want one of",
		"sources?kind=user&kind=lib": "400 kind is not known here, or given twice",
		"pool?most=few":              "400 most=few",
		"pool?loud=1":                "400 loud is not known here",
		"nothing":                    "404 there is no /api/nothing",
		"kill":                       "404 there is no /api/kill",
	} {
		got, _ := r.ask("GET", "/api/"+path, nil, "")
		if !strings.HasPrefix(got, want) {
			t.Errorf("/api/%s: %s, want %s", path, got, want)
		}
	}
	for path, x := range map[string]struct{ body, want string }{
		"kill":      {`{"args": []}`, "400 say whom: want a kind and a value"},
		"set":       {`{"args": ["maxclients", "0"]}`, "400 maxclients 0: argument must be between"},
		"pause":     {`{"args": ["soon"]}`, "400 PAUSE soon: want a number of milliseconds"},
		"set-limit": {`{"rule": "x"}`, "400 json: unknown field"},
		"reload":    {`[`, "400 "},
		"clients":   {`{}`, "404 there is no POST /api/clients"},
		"drain":     {`{"args": ["` + strings.Repeat("x", 100<<10) + `"]}`, "400 http: request body too large"},
	} {
		got, _ := r.ask("POST", "/api/"+path, nil, x.body)
		if !strings.HasPrefix(got, x.want) {
			t.Errorf("POST /api/%s: %.200s, want %s", path, got, x.want)
		}
	}
	if got, _ := r.ask("PUT", "/api/kill", nil, `{}`); !strings.HasPrefix(got, "405") {
		t.Errorf("PUT: %s", got)
	}
}

func TestWhatTheAPIChangesIsChangedAndLogged(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	c.Do("CLIENT", "SETNAME", "web")
	for _, step := range [][3]string{
		{"set", `{"args": ["maxclients", "500"]}`, `200 {"answer":"OK"}`},
		{"pause", `{"args": ["60000"]}`, `200 {"answer":"OK"}`},
		{"resume", `{}`, `200 {"answer":"OK"}`},
		{"resume", ``, `400 the proxy is neither paused nor draining`},
		{"reconnect", ``, `200 {"answer":"OK"}`},
		{"set-limit", `{"args": ["user:*", "max", "3"]}`, `200 {"answer":"OK"}`},
		{"unset-limit", `{"args": ["user:*"]}`, `200 {"answer":"OK"}`},
		{"reload", `{}`, `400 this proxy has no configuration file`},
		{"kill", `{"args": ["name", "web"]}`, `200 {"answer":1}`},
	} {
		if got, _ := r.ask("POST", "/api/"+step[0], nil, step[1]); got != step[2] {
			t.Errorf("%s %s: %s, want %s", step[0], step[1], got, step[2])
		}
	}
	proxytest.Converse(t, r.proxy.Addr(), nil, `
		a> CONFIG GET maxclients
		a< *2\r\n$10\r\nmaxclients\r\n$3\r\n500
	`)
	if line := lineWith(r.log.String(), `"PROXY KILL name web"`); !strings.Contains(line, "client=127.0.0.1:") || !strings.Contains(line, "clients=1") {
		t.Errorf("the log says %s", line)
	}
}
