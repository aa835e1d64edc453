package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func killIdle(t *testing.T, cfg Config) *KillReport {
	t.Helper()
	cfg.JSON = true
	var out bytes.Buffer
	if _, err := Run(t.Context(), masked(cfg), &out); err != nil {
		t.Fatal(err)
	}
	var k KillReport
	if err := json.Unmarshal(out.Bytes(), &k); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return &k
}

func TestIdleConnectionsAreClosedOnlyWhenThatWasSaid(t *testing.T) {
	t.Parallel()
	s := proxytest.Redis(t)
	hold(t, s.Addr(), 7, "batch")
	blocked, subscribed, multi := hold(t, s.Addr(), 1, "blocked")[0], hold(t, s.Addr(), 1, "sub")[0], hold(t, s.Addr(), 1, "multi")[0]
	fmt.Fprint(blocked, "BLPOP q 0\r\n")
	fmt.Fprint(subscribed, "SUBSCRIBE news\r\n")
	fmt.Fprint(multi, "MULTI\r\n")
	time.Sleep(12 * time.Second)
	hold(t, s.Addr(), 2, "web")

	direct := s.Client()
	cfg := Config{URL: s.URL(), KillIdle: 10 * time.Second}
	k := killIdle(t, cfg)
	if !k.DryRun || k.Found != 7 || len(k.Killed) != 7 || !strings.Contains(k.Command, "--yes") {
		t.Fatalf("dry run: %+v", k)
	}
	if n := len(parseClients(direct.ClientList(t.Context()).Val())); n != 13 {
		t.Fatalf("%d clients are there after the dry run, want 13", n)
	}
	if k.Spared["blocked"] != 1 || k.Spared["pub/sub"] != 1 || k.Spared["transaction"] != 1 {
		t.Errorf("those that stay: %v", k.Spared)
	}

	cfg.Yes = true
	if k = killIdle(t, cfg); k.DryRun || len(k.Killed) != 7 || len(k.Errors) != 0 {
		t.Errorf("%+v", k)
	}
	left := parseClients(direct.ClientList(t.Context()).Val())
	for _, c := range left {
		if c.name == "batch" {
			t.Errorf("%+v is still there", c)
		}
	}
	if len(left) != 6 {
		t.Errorf("%d clients are left, want 6", len(left))
	}
}

func TestWhoWasUsedSinceStays(t *testing.T) {
	s := proxytest.Redis(t)
	hold(t, s.Addr(), 3, "web")
	cfg := Config{URL: s.URL()}
	cfg.fill()
	sv, err := newServer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer sv.close()
	if err := sv.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := parseClients(sv.client.ClientList(t.Context()).Val())
	found = slices.DeleteFunc(found, func(c client) bool { return c.name != "web" })
	found = append(found, client{id: 99999})
	k := &KillReport{Spared: map[string]int{}}
	k.kill(t.Context(), sv, found, time.Minute) // they looked idle when they were listed, and are not now
	if k.Used != 3 || k.Gone != 1 || len(k.Killed) != 0 || len(k.Errors) != 0 {
		t.Errorf("%+v", k)
	}
}

func TestKillingWithoutTheRightNamesTheRule(t *testing.T) {
	s := proxytest.Redis(t)
	s.Client().Do(t.Context(), "ACL", "SETUSER", "viewer", "on", ">hush-hush", "+ping")
	k := killIdle(t, Config{URL: strings.Replace(s.URL(), "://", "://viewer:hush-hush@", 1), KillIdle: time.Minute})
	if k.ExitStatus != ExitUnknown || len(k.Errors) != 1 || !strings.Contains(k.Errors[0], "ACL SETUSER viewer +client|list +client|id +client|kill") {
		t.Errorf("%+v", k)
	}
}

func TestSizesAreWorkedOutWithAndWithoutAServer(t *testing.T) {
	size := func(cfg Config) *SizeReport {
		t.Helper()
		cfg.JSON = true
		var out bytes.Buffer
		if _, err := Run(t.Context(), masked(cfg), &out); err != nil {
			t.Fatal(err)
		}
		var r SizeReport
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		return &r
	}
	r := size(Config{Size: "workers=8,threads=4,pods=30", MaxClients: 1000})
	if r.Pool != 4 || r.Total != 960 || r.WithSurge != 1216 || r.LargestFit != 2 || r.ExitStatus != ExitCritical || r.Needed != 1600 {
		t.Errorf("%+v", r)
	}
	if r := size(Config{Size: "pods=10,workers=2,threads=4,connections=2,surge=0", MaxClients: 180}); r.Total != 160 || r.ExitStatus != ExitWarning {
		t.Errorf("%+v", r)
	}
	s := proxytest.Redis(t)
	if r := size(Config{URL: s.URL(), Size: "workers=8,threads=4,pods=30"}); r.MaxClients != 15000 || r.ExitStatus != ExitHealthy || r.Others != 1 {
		t.Errorf("%+v", r)
	}
	for _, bad := range []string{"pods=x", "pods", "pods=0", "pods=-1", "cats=3", "pods=1,pods=2", ""} {
		if _, err := parseSize(bad); err == nil || !strings.Contains(err.Error(), "want pods=30") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// events is an output that can be read while it is written.
type events struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (e *events) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.buf.Write(b)
}

func (e *events) all(t *testing.T) (all []Event) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for line := range strings.Lines(e.buf.String()) {
		var one Event
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, one)
	}
	return all
}

func (e *events) await(t *testing.T, event string) Event {
	t.Helper()
	for range 100 {
		for _, x := range e.all(t) {
			if x.Event == event {
				return x
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("there was no event %s: %+v", event, e.all(t))
	return Event{}
}

func TestAThresholdIsToldOnceWhenItIsReachedAndOnceWhenItIsOver(t *testing.T) {
	t.Parallel()
	s := proxytest.Redis(t, "--maxclients", "50")
	var posted []string
	var mu sync.Mutex
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		posted = append(posted, string(body))
		if strings.Contains(string(body), `"calm"`) {
			w.WriteHeader(http.StatusTeapot)
		}
	}))
	defer hook.Close()
	ran := filepath.Join(t.TempDir(), "ran")
	out := &events{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		status, _ := Run(ctx, Config{
			URL: s.URL(), Shown: s.URL(), Watch: time.Second, Threshold: 80, JSON: true, Webhook: hook.URL + "/s3cr3t",
			Exec: `echo "$DOCTOR_EVENT $DOCTOR_USED $(cat | head -c 1)" >> ` + ran + `; test $DOCTOR_EVENT != calm || { echo broken; exit 3; }`,
		}, out)
		ended <- status
	}()
	out.await(t, EventWatching)
	conns := hold(t, s.Addr(), 41, "rush")
	if e := out.await(t, EventThreshold); *e.Used != 42 || e.Level != Warning || e.Top[0].Open != 41 {
		t.Errorf("%+v", e)
	}
	time.Sleep(2500 * time.Millisecond) // it is not told again
	for _, c := range conns {
		_ = c.Close()
	}
	out.await(t, EventCalm)
	out.await(t, EventFailed)
	s.Kill()
	out.await(t, EventLost)
	s.Restart()
	out.await(t, EventBack)
	stop()
	if status := <-ended; status != ExitHealthy {
		t.Errorf("at the end the status is %d", status)
	}
	count := map[string]int{}
	failures := ""
	for _, e := range out.all(t) {
		count[e.Event]++
		if e.Event == EventFailed {
			failures += e.Text + "\n"
		}
	}
	for _, event := range []string{EventWatching, EventThreshold, EventCalm, EventLost, EventBack} {
		if count[event] != 1 {
			t.Errorf("%s was told %d times", event, count[event])
		}
	}
	if !strings.Contains(failures, "418") || !strings.Contains(failures, "exit status 3: broken") || strings.Contains(failures, "s3cr3t") {
		t.Errorf("failures: %s", failures)
	}
	if text, err := os.ReadFile(ran); err != nil || !strings.HasPrefix(string(text), "threshold 42 {\ncalm ") {
		t.Errorf("the command was run so: %q, %v", text, err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(posted) < 2 || !strings.Contains(posted[0], `"event":"threshold"`) {
		t.Errorf("posted: %q", posted)
	}
}

func TestRefusalsAreToldWhileTheyLast(t *testing.T) {
	t.Parallel()
	s := proxytest.Redis(t, "--maxclients", "10")
	out := &events{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		status, _ := Run(ctx, Config{URL: s.URL(), Watch: time.Second, JSON: true}, out)
		ended <- status
	}()
	out.await(t, EventWatching)
	hold(t, s.Addr(), 9, "web")
	for range 3 {
		hold(t, s.Addr(), 1, "")
	}
	if e := out.await(t, EventRejecting); e.Level != Critical {
		t.Errorf("%+v", e)
	}
	out.await(t, EventAdmitting)
	stop()
	if status := <-ended; status != ExitCritical {
		t.Errorf("it is full, and the status is %d", status)
	}
}
