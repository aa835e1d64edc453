package admin_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func TestThePageKeepsOthersOut(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	files, err := os.ReadDir("page")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		path := "/" + strings.TrimSuffix(f.Name(), "index.html")
		body, h := r.ask("GET", path, nil, "")
		if !strings.HasPrefix(body, "200 ") || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") != "no-referrer" ||
			h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %.60s, %v", path, body, h)
		}
		policy := h.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy is %s", path, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: the policy is %s", path, policy)
		}
		// What a client has said never becomes HTML, and nobody else is asked for anything.
		body = strings.ReplaceAll(body, `"http://www.w3.org/2000/svg"`, "")
		if bad := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|https?:|//[a-z]+\.|\sstyle=|\son[a-z]+="`).FindString(body); bad != "" {
			t.Errorf("%s has %q in it", path, bad)
		}
	}
}

func TestANameOfHTMLIsDataInTheAPI(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	if got := string(c.Do("CLIENT", "SETNAME", "<script>alert(1)</script>")); got != "+OK\r\n" {
		t.Fatal(got)
	}
	body, h := r.ask("GET", "/api/clients", nil, "")
	if strings.Contains(body, "<script>") || !strings.Contains(body, `"name":"\u003cscript\u003ealert(1)\u003c/script\u003e"`) ||
		h.Get("Content-Type") != "application/json" || h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%s, %v", body, h)
	}
	// A * in a name is not a pattern: nobody can have others closed in their place.
	c.Do("CLIENT", "SETNAME", "*")
	other := proxytest.Dial(t, r.proxy.Addr())
	other.Do("CLIENT", "SETNAME", "other")
	found := regexp.MustCompile(`"source":"([^"]* \*)"`).FindStringSubmatch(func() string { b, _ := r.ask("GET", "/api/clients", nil, ""); return b }())
	if found == nil {
		t.Fatal("no source *")
	}
	if got, _ := r.ask("POST", "/api/kill", nil, `{"args": ["source", "`+found[1]+`"]}`); got != `200 {"answer":1}` {
		t.Errorf("%s", got)
	}
	if got := string(other.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the other is told %q", got)
	}
}

// watch opens a stream of events. Next returns the name of the next event; "" is the end.
func watch(t *testing.T, r *rig, headers map[string]string) (reply *http.Response, next func() string) {
	t.Helper()
	request, _ := http.NewRequest(http.MethodGet, "http://"+r.admin.HTTPAddr().String()+"/api/events", http.NoBody)
	if basic := headers["Basic"]; basic != "" {
		user, password, _ := strings.Cut(basic, ":")
		request.SetBasicAuth(user, password)
	}
	client := &http.Client{Transport: &http.Transport{}} // a connection of its own
	reply, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reply.Body.Close() })
	lines := bufio.NewScanner(reply.Body)
	lines.Buffer(nil, 1<<20)
	return reply, func() string {
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				return name
			}
		}
		return ""
	}
}

func TestThePageIsToldHowThingsStandEachSecond(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	_, next := watch(t, r, nil)
	var got []string
	begun := time.Now()
	for len(got) < 12 {
		got = append(got, next())
	}
	if !slices.Equal(got[:5], []string{"you", "history", "sources", "now", "second"}) || time.Since(begun) > patience {
		t.Errorf("the events are %v, after %v", got, time.Since(begun))
	}
	// A server that has nothing to tell yet says so, and goes on.
	s := newAdmin(t, admin.Config{})
	s.Start()
	_, next = watch(t, &rig{admin: s}, nil)
	got = []string{next(), next(), next(), next()}
	if !slices.Equal(got, []string{"you", "history", "trouble", "trouble"}) {
		t.Errorf("while it starts, the events are %v", got)
	}
}

func TestStreamsAreBoundedAndEndWithTheServer(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	var all []func() string
	for range 16 {
		_, next := watch(t, r, nil)
		if next() != "you" {
			t.Fatal("no stream")
		}
		all = append(all, next)
	}
	if got, h := r.ask("GET", "/api/events", nil, ""); got != "503 too many watch already: close a page" || h.Get("Retry-After") == "" {
		t.Errorf("the 17th: %s", got)
	}
	begun := time.Now()
	r.admin.Stop()
	for _, next := range all {
		for next() != "" {
		}
	}
	if took := time.Since(begun); took > patience/4 {
		t.Errorf("the streams ended after %v", took)
	}
}

func TestThePageAndPrometheusComeToTheProgramThatHasTakenOver(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	_, next := watch(t, r, nil)
	if next() != "you" {
		t.Fatal("no stream")
	}
	prometheus := &http.Client{Transport: &http.Transport{}} // which keeps its connection
	up := func() bool {
		reply, err := prometheus.Get("http://" + r.admin.HTTPAddr().String() + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = reply.Body.Close() }()
		_, _ = io.Copy(io.Discard, reply.Body)
		return reply.StatusCode == http.StatusOK
	}
	if !up() {
		t.Fatal("the proxy is not ready")
	}
	listeners, sockets, err := r.admin.Listeners()
	if err != nil {
		t.Fatal(err)
	}
	inherited := map[string]proxy.Inherited{}
	for i, l := range listeners {
		ln, err := net.FileListener(sockets[i])
		if err != nil {
			t.Fatal(err)
		}
		_ = sockets[i].Close()
		inherited[l.Setting] = proxy.Inherited{Listener: ln}
	}
	other := newAdmin(t, admin.Config{Inherited: inherited}) // which says that it starts: nobody tells it of a proxy
	other.Start()
	r.admin.HandOver()
	begun := time.Now()
	for next() != "" {
	}
	if took := time.Since(begun); took > patience/4 {
		t.Errorf("the stream ended after %v", took)
	}
	for deadline := time.Now().Add(patience); up(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program that was replaced is asked still")
		}
	}
	if _, next := watch(t, &rig{admin: other}, nil); next() != "you" || next() != "history" || next() != "trouble" {
		t.Error("the page is not told by the other")
	}
}

func TestAStreamThatSomebodyLeavesMakesRoom(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	for range 40 {
		reply, next := watch(t, r, nil)
		if next() != "you" {
			time.Sleep(50 * time.Millisecond) // the last ones are being noticed
		}
		_ = reply.Body.Close()
	}
	deadline := time.Now().Add(patience)
	for {
		if _, next := watch(t, r, nil); next() == "you" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room")
		}
	}
}

func TestWhoMayLookNoMoreIsNotToldAnyMore(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}, StatsUsers: []string{"watcher"}}, samples())
	_, next := watch(t, r, map[string]string{"Basic": "watcher:secret"})
	if next() != "you" {
		t.Fatal("no stream")
	}
	if err := r.admin.Reload(admin.Config{AdminUsers: []string{"operator"}}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	for next() != "" {
		if time.Since(begun) > patience {
			t.Fatal("the stream goes on")
		}
	}
}

func TestCommandsAreTimedAndCounted(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	c := proxytest.Dial(t, r.proxy.Addr())
	for range 100 {
		c.Do("ECHO", "x")
	}
	body, _ := r.ask("GET", "/api/latency", nil, "")
	if !regexp.MustCompile(`"window":"start","commands":100,"commands_per_s":[\d.]+,"measured":100,"mean_us":[1-9]`).MatchString(body) {
		t.Errorf("the latency is %s", body)
	}
	all := scrape(t, r.admin)
	h := all["redbouncer_command_latency_seconds"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 100 || h.GetSampleSum() <= 0 || len(h.GetBucket()) != 19 || h.GetBucket()[17].GetCumulativeCount() != 100 {
		t.Errorf("the histogram is %v", h)
	}
	if got := series(all["redbouncer_commands_total"]); got[""] != 100 {
		t.Errorf("the counter is %v", got)
	}
	// What blocks has a connection of its own, and is not timed.
	blocked := proxytest.Dial(t, r.proxy.Addr())
	blocked.Do("BLPOP", "nothing", "0.3")
	body, _ = r.ask("GET", "/api/latency", nil, "")
	if !strings.Contains(body, `"measured":100,`) || !strings.Contains(body, `"commands":101,`) {
		t.Errorf("after a command that blocks, the latency is %s", body)
	}
}
