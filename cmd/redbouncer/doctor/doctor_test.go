package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// look runs doctor and returns what it says to programs. What it says to people has to be there as well, and no password in it.
func look(t *testing.T, cfg Config) *Report {
	t.Helper()
	cfg.JSON = true
	var out bytes.Buffer
	status, err := Run(t.Context(), masked(cfg), &out)
	if err != nil {
		t.Fatal(err)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if r.ExitStatus != status {
		t.Errorf("the exit status is %d, and in JSON %d", status, r.ExitStatus)
	}
	hidden(t, cfg, out.String())
	return &r
}

// masked has the password taken out of what is shown, as the program does.
func masked(cfg Config) Config {
	if u, err := url.Parse(cfg.URL); err == nil {
		cfg.Shown = u.Redacted()
	}
	return cfg
}

func hidden(t *testing.T, cfg Config, text string) {
	t.Helper()
	if u, err := url.Parse(cfg.URL); err == nil {
		if password, ok := u.User.Password(); ok && strings.Contains(text, password) {
			t.Errorf("the password is in the output:\n%s", text)
		}
	}
}

func (r *Report) finding(code string) *Finding {
	i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Code == code })
	if i < 0 {
		return nil
	}
	return &r.Findings[i]
}

func (r *Report) advises(code string) *Advice {
	i := slices.IndexFunc(r.Advice, func(a Advice) bool { return a.Code == code })
	if i < 0 {
		return nil
	}
	return &r.Advice[i]
}

// hold opens connections and keeps them until the test ends. Those with a name have said it.
func hold(t *testing.T, addr string, n int, name string) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		all = append(all, c)
		if name == "" {
			continue
		}
		if _, err := fmt.Fprintf(c, "CLIENT SETNAME %s\r\n", name); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 128)
		if k, err := c.Read(b); err != nil || string(b[:k]) != "+OK\r\n" {
			t.Fatalf("CLIENT SETNAME: %q, %v", b[:k], err)
		}
	}
	return all
}

func TestAHealthyRedisIsHealthy(t *testing.T) {
	s := proxytest.Redis(t)
	version := s.Version() // on a connection that stays
	hold(t, s.Addr(), 5, "web")
	for _, url := range []string{s.URL(), s.SocketURL()} {
		r := look(t, Config{URL: url, For: time.Second})
		if r.ExitStatus != ExitHealthy || r.Status != "healthy" {
			t.Errorf("%s: %s: %v", url, r.Status, r.Findings)
		}
		if *r.Connections.Used != 7 || *r.Connections.MaxClients != 15000 || *r.Connections.Listed != 6 {
			t.Errorf("%s: %d of %d used, %d listed", url, *r.Connections.Used, *r.Connections.MaxClients, *r.Connections.Listed)
		}
		if r.Server.Version != version || len(r.Blind) != 0 {
			t.Errorf("%s: %+v, blind %v", url, r.Server, r.Blind)
		}
	}
}

func TestARedisThatIsNearlyFullIsCriticalAndSaysWhoFillsIt(t *testing.T) {
	s := proxytest.Redis(t, "--maxclients", "100")
	hold(t, s.Addr(), 70, "shop")
	hold(t, s.Addr(), 24, "mail")
	r := look(t, Config{URL: s.URL(), For: time.Second})
	if r.ExitStatus != ExitCritical || r.finding("full") == nil {
		t.Errorf("%s: %v", r.Status, r.Findings)
	}
	if c := r.Connections; *c.UsedPercent != 95 || *c.HeadroomPercent != 5 || *c.Left != 5 {
		t.Errorf("%+v", c)
	}
	if top := r.Sources.Name; len(top) != 2 || top[0].Value != "shop" || top[0].Open != 70 {
		t.Errorf("by name: %v", top)
	}
	room := r.advises("raise-maxclients")
	if room == nil || r.Advice[0].Code != room.Code || !strings.HasSuffix(room.Commands[0], "CONFIG SET maxclients 200") {
		t.Errorf("advice: %+v", r.Advice)
	}
	if p := r.advises("proxy"); p == nil || !strings.Contains(p.Commands[0], "--upstream "+s.URL()+" --maxclients 200 --pool-size 16 --limit ") {
		t.Errorf("advice: %+v", p)
	}
}

func TestWithFewRightsItSaysWhatItCannotSeeAndWhichRuleIsMissing(t *testing.T) {
	s := proxytest.Redis(t)
	direct := s.Client()
	for _, rules := range [][]any{{"pings", "+ping"}, {"asks", "+ping", "+info"}} {
		args := append([]any{"ACL", "SETUSER", rules[0], "on", ">hush-hush"}, rules[1:]...)
		if err := direct.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	url := func(user string) string { return strings.Replace(s.URL(), "://", "://"+user+":hush-hush@", 1) }

	r := look(t, Config{URL: url("pings"), For: time.Second})
	if r.ExitStatus != ExitUnknown || len(r.Blind) != 3 || r.Connections.Used != nil {
		t.Errorf("with +ping: %s, blind %v, %+v", r.Status, r.Blind, r.Connections)
	}
	if a := r.advises("rights"); a == nil || a.Commands[0] != "redis-cli ACL SETUSER pings +client|list +client|id +config|get +info" {
		t.Errorf("advice: %+v", r.Advice)
	} else if err := direct.Do(t.Context(), words(strings.TrimPrefix(a.Commands[0], "redis-cli "))...).Err(); err != nil {
		t.Errorf("Redis does not take the rule: %v", err)
	}
	if r := look(t, Config{URL: url("pings"), For: time.Second}); r.ExitStatus != ExitHealthy || len(r.Blind) != 0 {
		t.Errorf("with the rule: %s, blind %v", r.Status, r.Blind)
	}

	r = look(t, Config{URL: url("asks"), For: time.Second})
	if r.ExitStatus != ExitHealthy || len(r.Blind) != 2 || *r.Connections.MaxClients != 15000 || r.Sources != nil {
		t.Errorf("with +info: %s, blind %v, %+v", r.Status, r.Blind, r.Connections)
	}
}

func words(text string) (all []any) {
	for _, w := range strings.Fields(text) {
		all = append(all, w)
	}
	return all
}

func TestAServerThatIsFullIsKnockedAtUntilThereIsAPlace(t *testing.T) {
	s := proxytest.Redis(t, "--maxclients", "20")
	conns := hold(t, s.Addr(), 20, "web")
	r := look(t, Config{URL: s.URL(), For: time.Second})
	if r.ExitStatus != ExitCritical || r.Trouble == nil || r.Trouble.Kind != TroubleFull || r.Refused < 3 {
		t.Fatalf("%s, refused %d: %+v", r.Status, r.Refused, r.Trouble)
	}
	if r.advises("wait-for-a-place") == nil || r.advises("count-by-address") == nil {
		t.Errorf("advice: %+v", r.Advice)
	}
	if k := r.Trouble.Sockets; k != nil && (!k.Server || k.Total != 20) {
		t.Errorf("the kernel knows of %+v, want 20 connections", k)
	}

	time.AfterFunc(700*time.Millisecond, func() { _ = conns[0].Close() })
	r = look(t, Config{URL: s.URL(), For: 5 * time.Second})
	if r.Trouble != nil || r.Refused < 2 || r.finding("refused-us") == nil || *r.Connections.Used != 20 {
		t.Errorf("a place was given up, and doctor has not taken it: %+v, refused %d, %v", r.Trouble, r.Refused, r.Findings)
	}
}

func TestAServerOverTLSThatIsFullIsKnockedAtToo(t *testing.T) {
	ca := proxytest.NewCA(t)
	files := ca.Issue(proxytest.Identity{Name: "redis"})
	s := proxytest.RedisTLS(t, files, "--maxclients", "5")
	hold(t, s.Addr(), 5, "web")
	cfg := Config{URL: s.TLSURL(), For: time.Second, TLS: TLSFiles{CACert: files.CA, Cert: files.Cert, Key: files.Key}}
	r := look(t, cfg)
	if r.ExitStatus != ExitUnknown || r.Trouble == nil || r.Trouble.Kind != TroubleTLS || !strings.Contains(r.Trouble.Text, "maxclients") || r.Refused < 2 {
		t.Errorf("%s, refused %d: %+v", r.Status, r.Refused, r.Trouble)
	}
	if r.advises("count-by-address") == nil {
		t.Errorf("advice: %+v", r.Advice)
	}
}

func TestWhatKeepsItOutIsNamed(t *testing.T) {
	s := proxytest.Redis(t, "--requirepass", "sesame-open")
	ca := proxytest.NewCA(t)
	secure := proxytest.RedisTLS(t, ca.Issue(proxytest.Identity{Name: "redis"}), "--tls-auth-clients", "no")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	free := closed.Addr().String()
	_ = closed.Close()
	for name, try := range map[string]struct{ url, kind, says string }{
		"a wrong password":       {strings.Replace(s.URL(), "://", "://:sesame-shut@", 1), TroublePassword, "WRONGPASS"},
		"no password":            {s.URL(), TroublePassword, "wants a password"},
		"nobody listens":         {"redis://u:hush-hush@" + free, TroubleUnreachable, "connection refused"},
		"TLS where there is not": {strings.Replace(s.URL(), "redis:", "rediss:", 1), TroubleTLS, "port without TLS"},
		"no TLS where there is":  {"redis://" + secure.TLSAddr(), TroubleTLS, "speaks TLS"},
		"a certificate that nobody knows": {
			secure.TLSURL(), TroubleTLS, "certificate",
		},
		"a name that nobody knows": {"redis://redis.invalid:6379", TroubleUnreachable, "redis.invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := look(t, Config{URL: try.url, For: time.Second})
			if r.ExitStatus != ExitUnknown || r.Trouble == nil || r.Trouble.Kind != try.kind || !strings.Contains(r.Trouble.Text, try.says) {
				t.Errorf("%s: %+v", r.Status, r.Trouble)
			}
			if len(r.Advice) == 0 || len(r.Advice[0].Why) < 10 {
				t.Errorf("advice: %+v", r.Advice)
			}
		})
	}
}

func TestAURLThatCannotBeReadIsNotQuoted(t *testing.T) {
	for _, url := range []string{"redis://u:pa/ss#word@host", "http://u:password@host", "redis+sentinel://u:password@a,b/m", "redis://u:p%ZZassword@h"} {
		var out bytes.Buffer
		status, err := Run(t.Context(), Config{URL: url}, &out)
		if err == nil || status != ExitUnknown || strings.Contains(err.Error(), "word") && !strings.Contains(err.Error(), "user:password@") {
			t.Errorf("%s: %d, %v", url, status, err)
		}
	}
}

func TestThroughTheProxyItLooksAtTheProxysClients(t *testing.T) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.MaxClients, cfg.Version = 40, "1.2.3"
	p := proxytest.Proxy(t, cfg)
	hold(t, p.Addr(), 35, "web")
	r := look(t, Config{URL: p.URL(), For: time.Second})
	if r.ExitStatus != ExitWarning || *r.Connections.Used != 36 || *r.Connections.MaxClients != 40 || *r.Connections.Listed != 35 {
		t.Errorf("%s: %+v %v", r.Status, r.Connections, r.Findings)
	}
	if r.Server.Redbouncer != "1.2.3" || r.Server.Upstream != s.Addr() || r.Server.PoolSize == 0 {
		t.Errorf("%+v", r.Server)
	}
	if r.advises("proxy") != nil {
		t.Error("it advises to put a proxy in front of the proxy")
	}
	if a := r.advises("raise-maxclients"); a == nil || len(a.Commands) != 1 {
		t.Errorf("advice: %+v", a)
	}
	if got := p.Client(redis.Options{}).Do(t.Context(), words(a0(r))...).Err(); got != nil {
		t.Errorf("the proxy does not take the command: %v", got)
	}
	if len(r.Blind) != 1 || r.Blind[0].What != "PROXY SHOW SUSPECTS" || r.Blind[0].ACL != "" || r.advises("rights") != nil {
		t.Errorf("the right to PROXY is for settings to give and not for an ACL, but %+v %+v", r.Blind, r.Advice)
	}
}

func TestWhatTheConsoleOfARedbouncerSaysIsUnderstood(t *testing.T) {
	for text, want := range map[string]int{"300": 300, "300s": 300, "5m0s": 300, "0s": 0, "0": 0} {
		if got := settingNumber(text); got != want {
			t.Errorf("%s is read as %d", text, got)
		}
	}
	v := played(t, "redis-7.2")
	v.now = parseInfo("redbouncer_version:1.2.3\r\nupstream:10.0.0.5:6379\r\n")
	var b strings.Builder
	if err := v.report().writeText(&b, false); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "\nredbouncer 1.2.3 in front of 10.0.0.5:6379, ") {
		t.Error(b.String())
	}
}

func TestWhatARedbouncerSaysOfItsSuspectsGoesBeforeWhatDoctorSees(t *testing.T) {
	v := played(t, "redis-7.2")
	for i := range 30 {
		v.clients = append(v.clients, client{id: int64(100 + i), addr: "10.0.0.9:1", host: "10.0.0.9", age: time.Hour, idle: time.Hour, flags: "N", queued: -1})
	}
	v.book = newBook(v.clients, time.Now())
	if all := v.reportSuspects(); len(all) != 1 || all[0].Rule != "never-spoke" || all[0].By != "doctor" {
		t.Fatalf("%+v", all)
	}
	v.suspectsOfProxy = []proxySuspect{{Source: "php-fpm[71]", Rule: "never-spoke", Open: 30, Reason: "30 of 30", Advice: "look", Command: "php-fpm pool www"}}
	r := v.report()
	if len(r.Suspects) != 1 || r.Suspects[0].Source != "php-fpm[71]" || r.Suspects[0].By != "redbouncer" {
		t.Errorf("%+v", r.Suspects)
	}
	if a := r.advises("fix-never-spoke"); a == nil || !strings.Contains(a.Why, "php-fpm pool www") {
		t.Errorf("advice: %+v", r.Advice)
	}
}

func TestALimitThatIsAdvisedLeavesRoomForOthersAtTheAddress(t *testing.T) {
	v := played(t, "redis-7.2")
	v.now = parseInfo("redbouncer_version:1.2.3\r\n")
	v.clients = nil
	for i := range 70 {
		c := client{id: int64(100 + i), addr: "10.0.0.9:1", host: "10.0.0.9", age: time.Hour, idle: time.Hour, flags: "N", queued: -1}
		if i >= 30 {
			c.name, c.last, c.idle = "web", "get", 0
		}
		v.clients = append(v.clients, c)
	}
	v.book = newBook(v.clients, time.Now())
	a := v.report().advises("fix-never-spoke")
	if a == nil || len(a.Commands) != 1 || !strings.Contains(a.Commands[0], "SET LIMIT addr 10.0.0.9 maxclients 80 ") {
		t.Errorf("40 others come from there: %+v", a)
	}
}

// a0 is the command of the first advice, without redis-cli and its flags.
func a0(r *Report) string {
	_, command, _ := strings.Cut(r.Advice[0].Commands[0], "CONFIG")
	return "CONFIG" + command
}

func TestEveryFieldOfTheJSONIsInTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	tag := regexp.MustCompile("`json:\"([a-z_]+)")
	seen := 0
	for _, file := range []string{"report.go", "findings.go", "advice.go", "survey.go", "kill.go", "size.go", "watch.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range tag.FindAllStringSubmatch(string(text), -1) {
			seen++
			if !strings.Contains(string(manual), "`"+m[1]+"`") {
				t.Errorf("%s: %s is not in docs/doctor.md", file, m[1])
			}
		}
	}
	if seen < 50 {
		t.Fatalf("%d fields were found", seen)
	}
}

func TestContradictionsAreNamed(t *testing.T) {
	for says, cfg := range map[string]Config{
		"say whom to look at":      {},
		"one at a time":            {URL: "redis://h", Watch: time.Second, KillIdle: time.Minute},
		"--yes is for --kill-idle": {URL: "redis://h", Yes: true},
		"--exec and --webhook":     {URL: "redis://h", Exec: "true"},
		"--watch 10ms":             {URL: "redis://h", Watch: 10 * time.Millisecond},
		"--kill-idle 1s":           {URL: "redis://h", KillIdle: time.Second},
		"--threshold 101":          {URL: "redis://h", Threshold: 101},
		"--webhook":                {URL: "redis://h", Watch: time.Second, Webhook: "ftp://x"},
		"or --maxclients N":        {Size: "pods=3"},
		"--maxclients is for":      {URL: "redis://h", MaxClients: 5},
		"are for rediss://":        {URL: "redis://h", TLS: TLSFiles{CACert: "x"}},
	} {
		status, err := Run(context.Background(), cfg, &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), says) || status != ExitUnknown {
			t.Errorf("want %q, got %d, %v", says, status, err)
		}
	}
}
