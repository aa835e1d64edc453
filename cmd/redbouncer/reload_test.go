package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The settings are read again while the program runs. Each conversation has a client that was there before, and is served
// after: nobody is disconnected by a reload.

func TestSIGHUPAndTheVerbReadTheFileAgain(t *testing.T) {
	r := startReloadable(t, writeFile(t, "maxclients: 10\n"), "--watch-config", "no")
	for i, again := range []struct {
		by   string
		read func()
	}{
		{"SIGHUP", func() { must(t, r.cmd.Process.Signal(syscall.SIGHUP)) }},
		{"PROXY RELOAD", func() { r.say("PROXY RELOAD", "\n+maxclients 11 12 changed\n") }},
		{"PROXY RELOAD", func() { r.say("RELOAD", "\n+maxclients 12 1 changed\n") }},
	} {
		r.write(fmt.Sprintf("maxclients: %d\nlimit: addr each maxclients %d\n", []int{11, 12, 1}[i], 50+i))
		r.say("SHOW CONFIG maxclients", fmt.Sprintf("\n+maxclients %d ", 10+i)) // nobody has asked for it yet
		again.read()
		if event := r.read(); event["by"] != again.by || !strings.Contains(event["changed"].(string), "maxclients=") {
			t.Errorf("the log says %v", event)
		}
		r.say("SHOW CONFIG limit", fmt.Sprintf("addr each maxclients %d", 50+i), "redbouncer.yaml:2 yes")
		r.unnoticed()
	}
	proxytest.Converse(t, r.addr, nil, `
		b> PING
		b< -ERR max number of clients reached
	`)
}

func TestAFileThatChangesIsReadAgainHoweverItDoes(t *testing.T) {
	r := startReloadable(t, writeFile(t, "maxclients: 10\n"))
	n := 10
	text := func() string { n++; return fmt.Sprintf("maxclients: %d\n", n) }
	dir := t.TempDir()
	elsewhere := filepath.Join(dir, "elsewhere.yaml")
	for _, way := range []struct {
		name   string
		change func()
	}{
		{"in place", func() { r.write(text()) }},
		{"by an editor that renames", func() { replace(t, r.file, text()) }},
		{"by an editor that keeps the old one", func() {
			must(t, os.Rename(r.file, r.file+"~"))
			r.write(text())
		}},
		{"in two pieces", func() {
			full := text()
			r.write(full[:8])
			r.write(full)
		}},
		{"by a symlink in its place", func() {
			must(t, os.WriteFile(elsewhere, []byte(text()), 0o600))
			must(t, os.Symlink(elsewhere, r.file+".link"))
			must(t, os.Rename(r.file+".link", r.file))
		}},
		{"where the symlink leads", func() { replace(t, elsewhere, text()) }},
	} {
		way.change()
		if event := r.read(); event["by"] != "the file has changed" || event["changed"] != fmt.Sprintf("maxclients=%d", n) {
			t.Errorf("%s: %v", way.name, event)
		}
		r.say("SHOW CONFIG maxclients", fmt.Sprintf("\n+maxclients %d ", n))
		r.unnoticed()
	}
}

// A ConfigMap is a directory of symlinks to ..data, which is a symlink to a directory with the files, and is replaced.
func TestAConfigMapThatChangesIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	publish := func(name, text string) {
		t.Helper()
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, name, "redbouncer.yaml"), []byte(text), 0o600))
		before, _ := os.Readlink(filepath.Join(dir, "..data"))
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		if before != "" {
			must(t, os.RemoveAll(filepath.Join(dir, before)))
		}
	}
	publish("..2026_01", "maxclients: 10\n")
	file := filepath.Join(dir, "redbouncer.yaml")
	must(t, os.Symlink(filepath.Join("..data", "redbouncer.yaml"), file))
	r := startReloadable(t, file)
	for n := 11; n < 14; n++ {
		publish(fmt.Sprint("..2026_", n), fmt.Sprintf("maxclients: %d\n", n))
		if event := r.read(); event["changed"] != fmt.Sprintf("maxclients=%d", n) {
			t.Errorf("%v", event)
		}
		r.unnoticed()
	}
}

func TestABadFileChangesNothingAndIsToldOfByNameAndValue(t *testing.T) {
	r := startReloadable(t, writeFile(t, "maxclients: 10\n"), "--watch-config", "no")
	for _, bad := range []struct {
		text string
		want []string
	}{
		{"maxclients: many\n", []string{"maxclients", "many", "redbouncer.yaml:1"}},
		{"maxclients: 0\n", []string{"maxclients", `"0"`}},
		{"maxclients: 20\ntimeout: soon\n", []string{"timeout", "soon", "redbouncer.yaml:2"}},
		{"maxclients: 20\nlimit: addr each maxclient 5\n", []string{"limit", "maxclient"}},
		{"maxclients: 20\ntimeout: soon\npool-size: -1\n", []string{"timeout", "soon", "pool-size", "-1"}},
		{"maxclients: 20\nmaxclient: 30\n", []string{"maxclient", "is not a setting"}},
		{"maxclients: 20\ndeny-commands: auth\n", []string{"deny-commands", "auth", "redbouncer.yaml:2"}},
		{"maxclients: 20\nclient-output-buffer-limit: lots\n", []string{"client-output-buffer-limit", "lots"}},
		{"maxclients: 16777215\n", []string{"maxclients", "16777215", "open as many files"}},
		{"maxclients: 20\nupstream: redis://bob:hunter2@:x/\n", nil}, // a flag goes before it
		{"maxclients: 20: 30\n", []string{"not YAML"}},
		{"- maxclients\n", []string{"want lines such as"}},
	} {
		r.write(bad.text)
		if bad.want == nil {
			continue
		}
		r.say("PROXY RELOAD", append(bad.want, "-ERR ")...)
		event := r.logged("cannot be read again")
		for _, want := range bad.want {
			if !strings.Contains(event["error"].(string), want) || event["level"] != "ERROR" {
				t.Errorf("%s: the log says %v, want %s", bad.text, event, want)
			}
		}
		r.say("SHOW CONFIG maxclients", "\n+maxclients 10 ")
		r.unnoticed()
	}
	must(t, os.Remove(r.file))
	r.say("PROXY RELOAD", "-ERR config: ", "cannot read it")
	r.unnoticed()
	r.write("maxclients: 30\n")
	r.say("PROXY RELOAD", "maxclients 10 30 changed")
	r.unnoticed()
}

func TestWhatCannotBeChangedIsSaidByNameAndKept(t *testing.T) {
	file := writeFile(t, "maxclients: 10\nloops: 1\n")
	t.Setenv("REDBOUNCER_STATS_USERS", "grafana")
	p := startProgram(t, "serve", "--config", file, "--watch-config", "no", "--upstream", "embedded", "--listen", "127.0.0.1:0",
		"--admin-users", "default", "--timeout", "70")
	r := &reloadable{process: p, file: file}
	r.addr = p.logged("listening")["listen"].(string)
	r.client = proxytest.Dial(t, r.addr)
	r.operator = proxytest.Dial(t, r.addr) // the console on the port of the data
	r.unnoticed()
	r.write("maxclients: 11\nloops: 3\nlog-format: text\ntimeout: 80\nstats-users: bob\nupstream: redis://bob:hunter2@redis.example:6379\n")
	r.say("PROXY RELOAD", "\n+maxclients 10 11 changed\n", "\n+loops 1 1 kept: 3 takes effect at the next start\n",
		"\n+timeout 70s 70s kept: --timeout goes before the file\n",
		"\n+stats-users grafana grafana kept: REDBOUNCER_STATS_USERS goes before the file\n",
		"\n+upstream embedded embedded kept: --upstream goes before the file\n")
	event := r.read()
	for _, want := range []string{"loops (kept: 3 takes effect at the next start)", "timeout (kept: --timeout goes before the file)"} {
		if !strings.Contains(event["kept"].(string), want) {
			t.Errorf("the log says %v, want %s", event, want)
		}
	}
	if event["changed"] != "maxclients=11" || strings.Contains(fmt.Sprint(event), "hunter2") {
		t.Errorf("the log says %v", event)
	}
	r.say("PROXY SHOW CONFIG loops", "\n+loops 1 "+file+":2 no\n")
	r.say("PROXY SHOW CONFIG timeout", "\n+timeout 70s --timeout yes\n")
	r.say("PROXY SHOW CONFIG stats-users", "\n+stats-users grafana REDBOUNCER_STATS_USERS yes\n")
	r.say("PROXY SHOW CONFIG pool-size", "\n+pool-size 16 default yes\n")
	r.unnoticed()
}

func TestAPasswordOfTheFileIsNotShownByAReload(t *testing.T) {
	file := writeFile(t, "upstream: redis://bob:hunter2@127.0.0.1:1\n")
	p := startProgram(t, "serve", "--config", file, "--listen", "127.0.0.1:0", "--shutdown-timeout", "1", "--upstream-timeout", "0")
	operator := proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	p.logged("is ready")
	var said strings.Builder
	for _, password := range []string{"hunter3", "hunter4@", "hunter5 maxclients: x"} {
		replace(t, file, "upstream: redis://bob:"+password+"@127.0.0.1:1\n")
		said.Write(operator.Do("RELOAD"))
		said.Write(operator.Do("SHOW", "CONFIG", "upstream"))
		said.Write(operator.Do("CONFIG", "REWRITE"))
	}
	if !strings.Contains(said.String(), "takes effect at the next start") {
		t.Errorf("another password is not told of: %s", said.String())
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if _, log := p.wait(); strings.Contains(said.String()+log, "hunter") {
		t.Errorf("a password is in\n%s\n%s", said.String(), log)
	}
}

func TestWhatWasSetAtRunTimeStandsUntilTheFileSaysOtherwise(t *testing.T) {
	r := startReloadable(t, writeFile(t, "timeout: 10\nlimit:\n - addr each maxclients 50\n - user bob maxclients 5\n"))
	r.say("SET timeout 60", "+OK")
	r.say("SET LIMIT addr each maxclients 40", "+OK")
	r.say("SHOW CONFIG timeout", "\n+timeout 60s run time yes\n")
	r.say("RELOAD", "\n+timeout 60s 60s kept: set at run time; configured is 10s\n", "\n+limit addr each maxclients 40;user bob maxclients 5 ")
	r.read()
	replace(t, r.file, "timeout: 10\nlog-level: debug\nlimit:\n - addr each maxclients 50\n - user eve maxclients 6\n")
	r.read()
	r.say("SHOW CONFIG timeout", "\n+timeout 60s run time yes\n")
	r.say("SHOW CONFIG limit", "\n+limit addr each maxclients 40;user eve maxclients 6 run time yes\n")
	replace(t, r.file, "timeout: 20\nlog-level: debug\nlimit:\n - addr each maxclients 30\n - user eve maxclients 6\n")
	if event := r.read(); event["kept"] != "none" {
		t.Errorf("the log says %v", event)
	}
	r.say("SHOW CONFIG timeout", "\n+timeout 20s "+r.file+":1 yes\n")
	r.say("SHOW CONFIG limit", "\n+limit addr each maxclients 30;user eve maxclients 6 "+r.file+":4 yes\n")
	r.unnoticed()
}

func TestTheLevelOfTheLogAndTheUsersOfTheConsoleChange(t *testing.T) {
	r := startReloadable(t, writeFile(t, "log-level: info\n"))
	replace(t, r.file, "log-level: error\nadmin-users: bob\n")
	eventually(t, "the operator is a stranger", func() bool { return strings.HasPrefix(string(r.operator.Do("PING")), "-NOAUTH") })
	replace(t, r.file, "log-level: debug\n")
	eventually(t, "everybody may", func() bool { return string(r.operator.Do("PING")) == "+PONG\r\n" })
	r.say("SHOW CONFIG log-level", "\n+log-level debug ")
	r.read() // it is logged again
	r.unnoticed()
}

func TestWithoutAFileThereIsNothingToReadAgain(t *testing.T) {
	p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0")
	operator := proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	client := proxytest.Dial(t, p.logged("listening")["listen"].(string))
	for _, verb := range [][]string{{"RELOAD"}, {"CONFIG", "REWRITE"}} {
		if got := string(operator.Do(verb...)); !strings.HasPrefix(got, "-ERR no configuration file is in use: start the program with --config") {
			t.Errorf("%s: %s", verb, got)
		}
	}
	must(t, p.cmd.Process.Signal(syscall.SIGHUP))
	if event := p.logged("cannot be read again"); !strings.Contains(event["error"].(string), "no configuration file") {
		t.Errorf("%v", event)
	}
	if got := string(client.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("after SIGHUP: %q", got)
	}
}

// Every setting in turn, under clients that are at work.
func TestClientsAreServedWhileEverySettingChanges(t *testing.T) {
	r := startReloadable(t, writeFile(t, ""), "--watch-config", "no")
	done := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 8 {
		c := proxytest.Dial(t, r.addr)
		clients.Go(func() {
			key := fmt.Sprint("k", i)
			for n := 1; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				err := c.TryWrite([]byte(proxytest.Command("INCR", key)))
				got, _ := c.TryReadReply()
				if err != nil || string(got) != fmt.Sprintf(":%d\r\n", n) {
					t.Errorf("%d> INCR %s\n%d< %q, want %d; %v", i, key, i, got, n, err)
					return
				}
			}
		})
	}
	unknown := settingNames(t)
	delete(unknown, "log-format") // the test gives it as it is in the sample
	delete(unknown, "watch-config")
	reloads := func(setting, words string) {
		delete(unknown, setting)
		if slices.Contains([]string{"maxclients", "limit", "pool-size"}, setting) {
			words = map[string]string{"maxclients": "500", "limit": "addr each maxclients 600", "pool-size": "5"}[setting]
		}
		r.write(fileText(setting, words))
		outcome := " changed"
		switch setting {
		case "accept-proxy", "log-format", "watch-config", "http-token-file": // in the sample they are as they are
			return
		case "listen", "upstream", "admin-listen", "http-listen", "shutdown-timeout":
			outcome = " goes before the file" // given as flags by the test
		case "loops", "tls-auth-clients", "tls-auth-clients-user", "tls-protocols":
			outcome = " takes effect at the next start"
		default:
			if strings.Contains(setting, "tls-") { // in the sample they are as they are, or for an upstream that this is not
				return
			}
		}
		r.say("RELOAD", outcome, "\n+"+setting+" ")
		r.unnoticed()
	}
	for _, s := range samples {
		reloads(s.setting, s.words)
	}
	for _, s := range operatorSamples {
		if !strings.HasSuffix(s.setting, "-users") { // would shut the operator out
			reloads(s.setting, s.words)
		}
		delete(unknown, s.setting)
	}
	for name := range unknown {
		t.Errorf("%s has not been tried", name)
	}
	close(done)
	clients.Wait()
}
