package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
)

func Example_check() {
	run([]string{"check", "--upstream", "redis://bob:secret@redis.example:6379/2", "--pool-size", "4", "--loops", "1"},
		os.Stdout, os.Stderr)
	// Output:
	// watch-config: yes # default
	// listen: 127.0.0.1:6380 # default
	// maxclients: 10000 # default
	// accept-proxy: none # default
	// trusted-proxies: none # default
	// suspect: none # default
	// limit: none # default
	// protected-mode: yes # default
	// allow-dangerous: none # default
	// deny-commands: none # default
	// proto-max-bulk-len: 512mb # default
	// client-query-buffer-limit: 1gb # default
	// client-output-buffer-limit: normal 1gb 0 0 pubsub 32mb 8mb 60 # default
	// resubscribe: no # default
	// tcp-keepalive: 300s # default
	// tcp-backlog: 511 # default
	// maxmemory-clients: 0 # default
	// auth-delay: 2s # default
	// handshake-timeout: 0s # default
	// timeout: 0s # default
	// transaction-timeout: 60s # default
	// tls-cert-file: none # default
	// tls-key-file: none # default
	// tls-ca-cert-file: none # default
	// tls-ca-cert-dir: none # default
	// tls-auth-clients: yes # default
	// tls-auth-clients-user: off # default
	// tls-protocols: TLSv1.2 TLSv1.3 # default
	// upstream: redis://bob:xxxxx@redis.example:6379/2 # --upstream
	// pool-size: 4 # --pool-size
	// pool-timeout: 5s # default
	// upstream-timeout: 5s # default
	// upstream-response-timeout: 30s # default
	// upstream-tls-ca-cert-file: none # default
	// upstream-tls-ca-cert-dir: none # default
	// upstream-tls-cert-file: none # default
	// upstream-tls-key-file: none # default
	// upstream-tls-server-name: none # default
	// admin-listen: 127.0.0.1:6390 # default
	// admin-users: none # default
	// stats-users: none # default
	// http-listen: 127.0.0.1:9121 # default
	// http-token-file: none # default
	// pause-timeout: 30s # default
	// loops: 1 # --loops
	// shutdown-delay: 0s # default
	// shutdown-timeout: 10s # default
	// upgrade-timeout: 30s # default
	// handover-timeout: 300s # default
	// log-format: text # default
	// log-level: info # default
}

func TestWhatCheckPrintsIsAFileThatMeansTheSame(t *testing.T) {
	var args []string
	for _, sample := range samples {
		words := strings.Replace(sample.words, "bob:secret@", "", 1) // a masked password cannot be read back
		args = append(args, "--"+sample.setting, words)
	}
	printed := runProgram(append([]string{"check"}, args...)...)
	if printed.status != exitOK || printed.stderr != "" {
		t.Fatalf("status %d, stderr %q", printed.status, printed.stderr)
	}
	want := mustParse(t, args...).config()
	if got := mustParse(t, "--config", writeFile(t, printed.stdout)).config(); !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v\nfrom\n%s", got, want, printed.stdout)
	}
}

func TestHelpGivesEverySettingOneLineWithItsDefault(t *testing.T) {
	got := runProgram("serve", "--help")
	if got.status != exitOK || got.stderr != "" {
		t.Fatalf("status %d, stderr %q", got.status, got.stderr)
	}
	for name, byDefault := range settingNames(t) {
		found := 0
		for line := range strings.Lines(got.stdout) {
			if !strings.HasPrefix(line, "  --"+name+" ") {
				continue
			}
			found++
			if len(line) > 120 {
				t.Errorf("%s: %d characters make it more than a line", name, len(line))
			}
			if !strings.Contains(line, " "+byDefault+" ") {
				t.Errorf("the default %s is missing from %q", byDefault, line)
			}
		}
		if found != 1 {
			t.Errorf("%s has %d lines, want 1", name, found)
		}
	}
}

func TestHelpIsHadWithoutAnythingElse(t *testing.T) {
	for _, args := range []string{"--help", "-h", "serve --help", "check -h", "health --help", "version --help", "serve --maxclients x --help"} {
		if got := runProgram(strings.Fields(args)...); got.status != exitOK || got.stdout == "" || got.stderr != "" {
			t.Errorf("redbouncer %s: %+v", args, got)
		}
	}
}

func TestTheVersionIsTheLinkersOrTheToolchains(t *testing.T) {
	vcs := []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}}
	for _, c := range []struct {
		linked build
		info   debug.BuildInfo
		want   string
	}{
		{build{number: "v1.2.3"}, debug.BuildInfo{Settings: vcs[:1]}, "redbouncer v1.2.3, commit abc, "},
		{build{number: "v1.2.3"}, debug.BuildInfo{Settings: vcs}, "redbouncer v1.2.3, commit abc+dirty, "},
		{build{}, debug.BuildInfo{Main: debug.Module{Version: "v1.0.0"}}, "redbouncer v1.0.0, commit unknown, "},
		{build{}, debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "redbouncer dev, commit unknown, "},
		{build{"v1.2.3", "def"}, debug.BuildInfo{Settings: vcs}, "redbouncer v1.2.3, commit def, "},
		{build{}, debug.BuildInfo{}, "redbouncer dev, commit unknown, "},
	} {
		if got := fmt.Sprint(versionOf(c.linked, &c.info)); !strings.HasPrefix(got, c.want) {
			t.Errorf("got %q, want %q...", got, c.want)
		}
	}
	if got, same := runProgram("version"), runProgram("--version"); same != got {
		t.Errorf("--version: %+v, version: %+v", same, got)
	}
	if got := runProgram("version"); got.status != exitOK || !strings.Contains(got.stdout, " go1.") {
		t.Errorf("redbouncer version: %+v", got)
	}
}
