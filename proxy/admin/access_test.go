package admin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// ask makes a request with headers, of which Host is the host and Basic a name and a password. It returns the status and what is
// wrong, or else the body, on one line; and the header.
func (r *rig) ask(method, path string, headers map[string]string, body string) (string, http.Header) {
	return ask(r.admin, method, path, headers, body)
}

func ask(s *admin.Server, method, path string, headers map[string]string, body string) (string, http.Header) {
	_, port, _ := strings.Cut(strings.ReplaceAll(s.HTTPAddr().String(), "[::]", ""), ":")
	request, err := http.NewRequest(method, "http://127.0.0.1:"+port+path, strings.NewReader(body))
	if err != nil {
		return err.Error(), nil
	}
	if method == http.MethodPost {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range headers {
		switch name {
		case "Host":
			request.Host = value
		case "Basic":
			user, password, _ := strings.Cut(value, ":")
			request.SetBasicAuth(user, password)
		default:
			request.Header.Set(name, value)
		}
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return err.Error(), nil
	}
	defer func() { _ = reply.Body.Close() }()
	var text []byte
	if reply.Header.Get("Content-Type") != "text/event-stream" {
		text, _ = io.ReadAll(reply.Body)
	}
	var failed struct{ Error string }
	if json.Unmarshal(text, &failed) == nil && failed.Error != "" {
		text = []byte(failed.Error)
	}
	return fmt.Sprintf("%d %s", reply.StatusCode, strings.TrimSpace(string(text))), reply.Header
}

// guarded are requests that show or change something.
var guarded = [][2]string{
	{"GET", "/"}, {"GET", "/page.js"}, {"GET", "/page.css"}, {"GET", "/icon.svg"}, {"GET", "/api/overview"}, {"GET", "/api/events"},
	{"GET", "/api/clients"}, {"GET", "/api/nothing"}, {"POST", "/api/kill"}, {"POST", "/api/pause"},
}

func TestOtherHostsGetNothingButMetricsAndProbes(t *testing.T) {
	inside, outside := newRig(t, admin.Config{}, samples()), newRig(t, admin.Config{HTTPListen: "0.0.0.0:0"}, samples())
	for name, x := range map[string]struct {
		r       *rig
		headers map[string]string
	}{
		"a listener that other hosts can reach":      {outside, nil},
		"the same, with a password":                  {outside, map[string]string{"Basic": "operator:secret"}},
		"another name for this host (DNS rebinding)": {inside, map[string]string{"Host": "evil.example:9121"}},
		"a name that only looks like this host":      {inside, map[string]string{"Host": "127.0.0.1.evil.example"}},
		"no loopback address":                        {inside, map[string]string{"Host": "10.0.0.7:9121"}},
		"a reverse proxy":                            {inside, map[string]string{"X-Forwarded-For": "10.0.0.7"}},
		"a reverse proxy by the standard":            {inside, map[string]string{"Forwarded": "for=10.0.0.7"}},
	} {
		for _, g := range guarded {
			if got, h := x.r.ask(g[0], g[1], x.headers, "{}"); !strings.HasPrefix(got, "403 this is for who asks on the proxy's own host") ||
				h.Get("WWW-Authenticate") != "" {
				t.Errorf("%s: %s %s: %s", name, g[0], g[1], got)
			}
		}
		for _, path := range []string{"/metrics", "/healthz", "/readyz"} {
			if got, _ := x.r.ask("GET", path, x.headers, ""); !strings.HasPrefix(got, "200 ") {
				t.Errorf("%s: %s: %.100s", name, path, got)
			}
		}
	}
	for _, host := range []string{"localhost", "LOCALHOST:9999", "127.0.0.1", "127.9.9.9:1", "[::1]:9121", "[::1]"} {
		if got, _ := inside.ask("GET", "/api/overview", map[string]string{"Host": host}, ""); !strings.HasPrefix(got, "200 ") {
			t.Errorf("%s: %s", host, got)
		}
	}
}

func TestWhoMayDoWhatOverHTTPIsAsOnTheConsole(t *testing.T) {
	for _, lists := range []struct {
		name string
		cfg  admin.Config
		who  map[string][2]string // for looking, and for changing
	}{
		{"no lists", admin.Config{}, map[string][2]string{"": {"200", "200"}, "operator:wrong": {"200", "200"}}},
		{"both lists", admin.Config{AdminUsers: []string{"operator"}, StatsUsers: []string{"watcher"}}, map[string][2]string{
			"": {"401", "401"}, "operator:secret": {"200", "200"}, "watcher:secret": {"200", "403 User watcher has no permissions to run the 'proxy|set'"},
			"somebody:secret": {"403 User somebody has no permissions", "403"}, "operator:wrong": {"401", "401"}, "nobody:": {"401", "401"},
		}},
		{"lookers only, on all addresses", admin.Config{StatsUsers: []string{"watcher"}, HTTPListen: "0.0.0.0:0"}, map[string][2]string{
			"": {"401", "401"}, "operator:secret": {"403", "403"}, "watcher:secret": {"200", "403"},
		}},
	} {
		t.Run(lists.name, func(t *testing.T) {
			r := newRig(t, lists.cfg, samples())
			for who, want := range lists.who {
				headers := map[string]string{}
				if who != "" {
					headers["Basic"] = who
				}
				look, h := r.ask("GET", "/api/overview", headers, "")
				change, _ := r.ask("POST", "/api/set", headers, `{"args": ["timeout", "0"]}`)
				if !strings.HasPrefix(look, want[0]) || !strings.HasPrefix(change, want[1]) {
					t.Errorf("%q: looks %.200s; changes %.200s; want %v", who, look, change, want)
				}
				if asked := strings.HasPrefix(h.Get("WWW-Authenticate"), "Basic realm="); asked != !strings.HasPrefix(want[0], "200") {
					t.Errorf("%q is asked for a password: %t", who, asked)
				}
				if may := strings.Contains(look, `"may_change":true`); may != (want[1] == "200") {
					t.Errorf("%q is told that they may change something: %t", who, may)
				}
			}
			if strings.Contains(r.log.String(), "secret") {
				t.Errorf("the log is %s", r.log)
			}
		})
	}
}

func TestATokenOpensThePageAndIsReadEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("0123456789abcdef0")
	r := newRig(t, admin.Config{HTTPListen: "0.0.0.0:0", HTTPTokenFile: file}, samples())
	expect := func(want string, headers map[string]string) {
		t.Helper()
		if got, _ := r.ask("POST", "/api/set", headers, `{"args": ["timeout", "0"]}`); !strings.HasPrefix(got, want) {
			t.Errorf("%v: %s, want %s", headers, got, want)
		}
	}
	expect("401 want the name and the password", nil)
	expect("200", map[string]string{"Authorization": "Bearer 0123456789abcdef0"})
	expect("200", map[string]string{"Basic": "anybody:0123456789abcdef0"})
	expect("401 the name, the password or the token is wrong", map[string]string{"Authorization": "Bearer 0123456789abcdef"})
	expect("401", map[string]string{"Authorization": "Bearer "})
	expect("401", map[string]string{"Basic": "operator:secret"}) // no list names anybody
	write("another-token-of-20")
	expect("401", map[string]string{"Authorization": "Bearer 0123456789abcdef0"})
	expect("200", map[string]string{"Authorization": "Bearer another-token-of-20"})
	write("")
	expect("401", map[string]string{"Authorization": "Bearer "})
	if log := r.log.String(); strings.Contains(log, "0123456789") || strings.Contains(log, "another-token") || !strings.Contains(log, "user=http-token-file") ||
		!strings.Contains(log, "nobody gets in by token") {
		t.Errorf("the log is %s", log)
	}
}

func TestWhoTriesPasswordsOverHTTPWaits(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}, AuthDelay: 2 * time.Second}, samples())
	wrong := map[string]string{"Basic": "operator:guess"}
	for range 6 {
		if got, _ := r.ask("GET", "/api/pool", wrong, ""); !strings.HasPrefix(got, "401") {
			t.Errorf("a guess: %s", got)
		}
	}
	var tooMany atomic.Int32
	var all sync.WaitGroup
	begun := time.Now()
	for range 40 {
		all.Go(func() {
			if got, _ := r.ask("GET", "/api/pool", wrong, ""); strings.HasPrefix(got, "429 too many wrong passwords") {
				tooMany.Add(1)
			}
		})
	}
	all.Wait()
	if tooMany.Load() == 0 || time.Since(begun) < 200*time.Millisecond {
		t.Errorf("40 guesses took %v, and %d were told that they are too many", time.Since(begun), tooMany.Load())
	}
	if line := lineWith(r.log.String(), "wrong passwords over HTTP"); !strings.Contains(line, "source=127.0.0.1") {
		t.Errorf("the log says %s", line)
	}
}

// The page is needed most when Redis is away.
func TestWhoWasLetInStaysInWhileRedisCannotBeAsked(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}}, samples())
	right := map[string]string{"Basic": "operator:secret"}
	do := func(path, want string, headers map[string]string) {
		t.Helper()
		begun := time.Now()
		if got, _ := r.ask("POST", "/api/"+path, headers, "{}"); !strings.HasPrefix(got, want) || time.Since(begun) > patience/2 {
			t.Errorf("%s: %s after %v, want %s", path, got, time.Since(begun), want)
		}
	}
	do("pause", "200", right)
	r.redis.Kill()
	if got, _ := r.ask("GET", "/api/pool", right, ""); !strings.Contains(got, `"state":"paused"`) {
		t.Errorf("while it pauses: %s", got)
	}
	do("reconnect", "503 the password cannot be checked", map[string]string{"Basic": "operator:guess"})
	r.redis.Restart()
	do("resume", "200", right)
}

func TestOtherSitesChangeAndReadNothing(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	c.Do("PING")
	here := "http://" + r.admin.HTTPAddr().String()
	const everybody = `{"args": ["addr", "0.0.0.0/0"]}`
	for name, x := range map[string]struct {
		headers map[string]string
		want    string
	}{
		"another site":            {map[string]string{"Sec-Fetch-Site": "cross-site"}, "403"},
		"another port":            {map[string]string{"Sec-Fetch-Site": "same-site"}, "403"},
		"an old browser":          {map[string]string{"Origin": "http://evil.example"}, "403"},
		"a page of no origin":     {map[string]string{"Origin": "null"}, "403"},
		"a form":                  {map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, "415"},
		"a form of plain text":    {map[string]string{"Content-Type": "text/plain"}, "415"},
		"nothing said":            {map[string]string{"Content-Type": ""}, "415"},
		"this page":               {map[string]string{"Origin": here, "Sec-Fetch-Site": "same-origin"}, `200 {"answer":1}`},
		"this page, in a frame":   {map[string]string{"Origin": here, "Sec-Fetch-Site": "cross-site"}, "403"},
		"another, of this origin": {map[string]string{"Origin": here + "0", "Host": r.admin.HTTPAddr().String()}, "403"},
	} {
		if name == "this page" {
			continue // last, as it ends the client
		}
		if got, _ := r.ask("POST", "/api/kill", x.headers, everybody); !strings.HasPrefix(got, x.want) {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
	if got, _ := r.ask("GET", "/api/clients", map[string]string{"Sec-Fetch-Site": "cross-site"}, ""); !strings.HasPrefix(got, "403") {
		t.Errorf("another site reads: %.100s", got)
	}
	if got, _ := r.ask("GET", "/", map[string]string{"Sec-Fetch-Site": "cross-site"}, ""); !strings.HasPrefix(got, "200") {
		t.Errorf("a link from another site: %.100s", got)
	}
	if got := string(c.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the client is told %q", got)
	}
	if got, _ := r.ask("POST", "/api/kill", map[string]string{"Origin": here, "Sec-Fetch-Site": "same-origin"}, everybody); got != `200 {"answer":1}` {
		t.Errorf("this page: %s", got)
	}
}
