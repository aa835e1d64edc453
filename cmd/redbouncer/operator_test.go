package main

import (
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

var operatorSamples = []struct {
	setting, words string
	change         func(*admin.Config)
}{
	{"admin-listen", "unix:/run/admin.sock", func(c *admin.Config) { c.Listen = "unix:/run/admin.sock" }},
	{"http-listen", "none", func(c *admin.Config) { c.HTTPListen = admin.None }},
	{"http-token-file", "none", func(*admin.Config) {}},
	{"admin-users", "alice,bob", func(c *admin.Config) { c.AdminUsers = []string{"alice", "bob"} }},
	{"stats-users", "grafana", func(c *admin.Config) { c.StatsUsers = []string{"grafana"} }},
}

func TestTheOperatorsSettingsMeanTheSameByFlagEnvironmentAndFile(t *testing.T) {
	for _, sample := range operatorSamples {
		t.Run(sample.setting, func(t *testing.T) {
			want := mustParse(t, base).adminConfig()
			sample.change(&want)
			check := func(how string, args ...string) {
				t.Helper()
				if got := mustParse(t, append(args, base)...).adminConfig(); !reflect.DeepEqual(got, want) {
					t.Errorf("by %s:\n got %+v\nwant %+v", how, got, want)
				}
			}
			check("flag", "--"+sample.setting, sample.words)
			check("file", "--config", writeFile(t, fileText(sample.setting, sample.words)))
			t.Setenv(environmentName(sample.setting), sample.words)
			check("environment")
		})
	}
}

func TestAnOperatorsListenerThatCannotBeHadEndsTheProgramAndIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, setting := range []string{"admin-listen", "http-listen"} {
		args := []string{"serve", "--upstream", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "none",
			"--http-listen", "none", "--" + setting, l.Addr().String()}
		got := runProgram(args...)
		if got.status != exitFailed || !strings.Contains(got.stderr, setting) || !strings.Contains(got.stderr, "in use") ||
			!strings.Contains(got.stderr, "none") {
			t.Errorf("%s: status %d, stderr %q", setting, got.status, got.stderr)
		}
	}
}

func TestAConsoleForOtherHostsNeedsUsers(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:6390", ":6390", "[::]:6390", "10.0.0.7:6390"} {
		got := runProgram("check", base, "--admin-listen", addr)
		if got.status != exitUsage || !strings.Contains(got.stderr, "set admin-users") {
			t.Errorf("%s: status %d, stderr %q", addr, got.status, got.stderr)
		}
		for _, setting := range []string{"--admin-users", "--stats-users"} {
			if got := runProgram("check", base, "--admin-listen", addr, setting, "alice"); got.status != exitOK {
				t.Errorf("%s with %s: %+v", addr, setting, got)
			}
		}
	}
}

// The two doors of the console, and the page of metrics, as the program has them: no secret comes out of any.
func TestTheProgramHasAConsoleThatKeepsItsSecrets(t *testing.T) {
	upstream := proxytest.Redis(t)
	if err := upstream.Client().Do(t.Context(), "ACL", "SETUSER", "bob", "on", ">hunter2", "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	p := startProgram(t, "serve", "--upstream", "redis://bob:hunter2@"+upstream.Addr(), "--listen", "127.0.0.1:0",
		"--admin-users", "bob")
	console := p.logged("console is served")["admin-listen"].(string)
	pages := p.logged("metrics and probes are served")["http-listen"].(string)
	proxytest.Converse(t, p.logged("listening")["listen"].(string), map[string]string{"a": console}, `
		a> PROXY SHOW CONFIG
		a< -NOAUTH Authentication required.
		a> AUTH bob hunter2
		a< +OK
		a> SET timeout 60
		a< +OK
		c> PROXY SHOW CONFIG timeout
		c< *2\r\n+name     value  from      live\r\n+timeout  60s    run time  yes
	`)
	c := proxytest.Dial(t, console)
	c.Do("AUTH", "bob", "hunter2")
	reply, err := http.Get("http://" + pages + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	metrics, _ := io.ReadAll(reply.Body)
	_ = reply.Body.Close()
	shown := string(c.Do("SHOW", "CONFIG"))
	if !strings.Contains(shown, "redis://bob:xxxxx@") || !strings.Contains(string(metrics), "\nredbouncer_clients ") {
		t.Errorf("SHOW CONFIG: %s\n/metrics: %s", shown, metrics)
	}
	for _, words := range []string{"INFO", "CONFIG GET *", "SHOW CLIENTS FORMAT JSON", "SHOW PINS FORMAT WIDE", "HELP"} {
		shown += string(c.Do(strings.Fields(words)...))
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	status, log := p.wait()
	if status != exitOK {
		t.Errorf("status %d, log\n%s", status, log)
	}
	if strings.Contains(shown+string(metrics)+log, "hunter2") {
		t.Errorf("the password is in\n%s\n%s\n%s", shown, metrics, log)
	}
	if !strings.Contains(log, `"command":"PROXY SET timeout 60"`) || !strings.Contains(log, `"user":"bob"`) {
		t.Errorf("the log does not say who has changed what:\n%s", log)
	}
}
