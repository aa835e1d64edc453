package main

import (
	"net"
	"reflect"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/admin"
)

var operatorSamples = []struct {
	setting, words string
	change         func(*admin.Config)
}{
	{"admin-listen", "unix:/run/admin.sock", func(c *admin.Config) { c.Listen = "unix:/run/admin.sock" }},
	{"http-listen", "none", func(c *admin.Config) { c.HTTPListen = admin.None }},
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

func TestTheOperatorsSettingsThatAreNoUseAreNamedBeforeAnythingStarts(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--admin-listen 0.0.0.0:6390", "set admin-users"},
		{"--admin-listen :6390", "set admin-users"},
		{"--admin-listen [::]:6390", "set admin-users"},
		{"--admin-listen 6390", "want host:port, unix:/path or none"},
		{"--admin-listen unix:", "want host:port, unix:/path or none"},
		{"--http-listen 127.0.0.1:99999", "want a port from 0 to 65535"},
		{"--http-listen localhost", "want host:port, unix:/path or none"},
		{"--admin-users alice,none", "want ACL users"},
		{"--stats-users ,", "want ACL users"},
	} {
		got := runProgram(append([]string{"check", base}, strings.Fields(c.args)...)...)
		setting := strings.TrimPrefix(strings.Fields(c.args)[0], "--")
		if got.status != exitUsage || !strings.Contains(got.stderr, setting+":") || !strings.Contains(got.stderr, c.says) {
			t.Errorf("%s: status %d, stderr %q, want %q", c.args, got.status, got.stderr, c.says)
		}
	}
	if got := runProgram("check", base, "--admin-listen", "0.0.0.0:6390", "--admin-users", "alice"); got.status != exitOK {
		t.Errorf("with admin-users: %+v", got)
	}
}

func TestTheReadmeHasEveryVerbOfTheConsole(t *testing.T) {
	text := readme(t)
	for _, words := range admin.Verbs() {
		if !strings.Contains(text, "`PROXY "+words) {
			t.Errorf("README does not speak of PROXY %s", words)
		}
	}
}
