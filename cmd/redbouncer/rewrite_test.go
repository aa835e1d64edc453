package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What an entry becomes, and what stays as it is.
func TestAFileIsEditedEntryByEntry(t *testing.T) {
	for _, c := range []struct {
		name, text string
		entries    []entry
		want       string
	}{
		{"nothing", "", []entry{{"timeout", []string{"60s"}}}, "timeout: 60s\n"},
		{"comments alone", "# mine\n", []entry{{"timeout", []string{"60s"}}}, "# mine\ntimeout: 60s\n"},
		{
			"a value among others", "# top\n\nmaxclients: 10   # ten\n\n# the time\ntimeout: 0 # for ever\n\n# end",
			[]entry{{"timeout", []string{"60s"}}}, "# top\n\nmaxclients: 10   # ten\n\n# the time\ntimeout: 60s # for ever\n\n# end",
		},
		{"quotes", "timeout: '0'\nmaxclients: \"10\"\n", []entry{{"timeout", []string{"5s"}}, {"maxclients", []string{"11"}}}, "timeout: '5s'\nmaxclients: \"11\"\n"},
		{"no end of line", "maxclients: 10", []entry{{"timeout", []string{"60s"}}}, "maxclients: 10\ntimeout: 60s\n"},
		{"a new list", "maxclients: 10\n", []entry{{"limit", []string{"addr each maxclients 5", "total overflow queue"}}},
			"maxclients: 10\nlimit:\n  - addr each maxclients 5\n  - total overflow queue\n"},
		{
			"a list", "limit:\n  # workers\n  - name w* maxclients 5 # hot\n\n  - user bob maxclients 1\n  - addr each   maxclients 9 # kept\n# timeout\ntimeout: 0\n",
			[]entry{{"limit", []string{"addr each maxclients 9", "name w* maxclients 6", "user eve maxclients 2"}}},
			"limit:\n  # workers\n  - name w* maxclients 6 # hot\n  - addr each   maxclients 9 # kept\n  - user eve maxclients 2\n# timeout\ntimeout: 0\n",
		},
		{"a list that becomes empty", "limit: # mine\n  - addr each maxclients 5\ntimeout: 0\n", []entry{{"limit", []string{"none"}}}, "limit: none # mine\ntimeout: 0\n"},
		{"a flow list", "limit: [addr each maxclients 5]\n", []entry{{"limit", []string{"addr each maxclients 6", "user bob maxclients 1"}}},
			"limit: [addr each maxclients 6, user bob maxclients 1]\n"},
		{"a value that becomes a list", "limit: addr each maxclients 5 # x\n", []entry{{"limit", []string{"addr each maxclients 6", "user bob maxclients 1"}}},
			"limit:\n  # x\n  - addr each maxclients 6\n  - user bob maxclients 1\n"},
		{"rules on a line", "limit: addr each maxclients 5;user bob maxclients 1\n", []entry{{"limit", []string{"user bob maxclients 1"}}}, "limit: user bob maxclients 1\n"},
		{"an indented file", "  timeout: 0\n  maxclients: 1\n", []entry{{"timeout", []string{"5s"}}}, "  timeout: 5s\n  maxclients: 1\n"},
		{"Windows", "timeout: 0\r\nmaxclients: 1\r\n", []entry{{"timeout", []string{"5s"}}}, "timeout: 5s\nmaxclients: 1\r\n"},
		{"a document with marks", "---\ntimeout: 0\n...\n", []entry{{"timeout", []string{"5s"}}}, "---\ntimeout: 5s\n...\n"},
		{"a block", "timeout: >-\n  0\n\n# then\nmaxclients: 1\n", []entry{{"timeout", []string{"5s"}}}, "timeout: 5s\n\n# then\nmaxclients: 1\n"},
	} {
		got, err := rewritten([]byte(c.text), c.entries)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n%s\nbecomes\n%s\nwant\n%s", c.name, err, c.text, got, c.want)
		}
	}
}

func TestAFileWhoseFormIsNotUnderstoodIsLeftAlone(t *testing.T) {
	for _, text := range []string{
		"{timeout: 0}\n", "timeout: &t 0\ntcp-keepalive: *t\n", "maxclients: 1\n...\n", "? timeout\n: 0\n? maxclients\n: 1\n",
	} {
		got, err := rewritten([]byte(text), []entry{{"timeout", []string{"5s"}}})
		if err == nil {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// settingsOf are the settings that a program shows, without where they come from.
func settingsOf(t *testing.T, operator *proxytest.Conn) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.SplitSeq(spaces(string(operator.Do("SHOW", "CONFIG"))), "\n") {
		words := strings.Split(line, " ")
		if len(words) > 3 && !strings.HasSuffix(words[0], "listen") {
			out.WriteString(strings.Join(words[:len(words)-2], " ") + "\n")
		}
	}
	return out.String()
}

func TestWhatHasBeenRewrittenIsWhatTheNextStartHas(t *testing.T) {
	const text = `# Ours.
maxclients: 100   # enough

limit:
  # the workers leak
  - name worker:* maxclients 20 # hot
  - user bob maxclients 5

# The last line.
`
	file := writeFile(t, text)
	must(t, os.Chmod(file, 0o640))
	r := startReloadable(t, file)
	r.say("CONFIG REWRITE", "*1\n+name was now outcome\n") // nothing to write
	for _, words := range []string{
		"SET maxclients 120", "SET timeout 5m", "SET tcp-keepalive 0", "SET maxmemory-clients 64mb", "SET LIMIT name worker:* maxclients 30",
		"SET LIMIT total overflow queue queue-size 5", "UNSET LIMIT user bob",
	} {
		r.say(words, "+OK")
	}
	r.client.Do("CONFIG", "SET", "timeout", "290")
	r.unnoticed()
	r.say("PROXY CONFIG REWRITE", "\n+timeout 0s 290s written\n", "\n+maxclients 100 120 written\n")
	r.say("CONFIG REWRITE", "*1\n+name was now outcome\n")
	got, err := os.ReadFile(file)
	must(t, err)
	if want := `# Ours.
maxclients: 120 # enough

limit:
  # the workers leak
  - name worker:* maxclients 30 # hot
  - total overflow queue queue-size 5

# The last line.
tcp-keepalive: 0s
maxmemory-clients: 64mb
timeout: 290s
`; string(got) != want {
		t.Errorf("the file is\n%s\nwant\n%s", got, want)
	}
	info, err := os.Stat(file)
	must(t, err)
	if info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v", info.Mode())
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(file), ".redbouncer-*")); len(left) > 0 {
		t.Errorf("left behind: %s", left)
	}
	r.unnoticed()
	before := settingsOf(t, r.operator)
	must(t, r.cmd.Process.Signal(syscall.SIGTERM))
	r.wait()
	again := startReloadable(t, file)
	if after := settingsOf(t, again.operator); after != before || !strings.Contains(after, "timeout 290s") {
		t.Errorf("after a restart the settings are\n%s\nbefore\n%s", after, before)
	}
}

func TestRewriteWritesNothingThatIsNotTheFiles(t *testing.T) {
	dir := t.TempDir()
	target, file := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "link.yaml")
	must(t, os.WriteFile(target, []byte("maxclients: 10\n"), 0o600))
	must(t, os.Symlink("real.yaml", file))
	t.Setenv("REDBOUNCER_MAXMEMORY_CLIENTS", "1gb")
	t.Setenv("REDBOUNCER_UPSTREAM", "redis://bob:hunter2@127.0.0.1:1")
	p := startProgram(t, "serve", "--config", file, "--listen", "127.0.0.1:0", "--timeout", "10", "--watch-config", "no", "--shutdown-timeout", "1")
	r := &reloadable{process: p, file: file}
	r.operator = proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	p.logged("is ready")
	for _, words := range []string{"SET timeout 60", "SET maxmemory-clients 2gb", "SET maxclients 20"} {
		r.say(words, "+OK")
	}
	r.say("CONFIG REWRITE", "\n+maxclients 10 20 written\n", "\n+timeout 10s 60s not written: --timeout goes before the file\n",
		"\n+maxmemory-clients 1gb 2gb not written: REDBOUNCER_MAXMEMORY_CLIENTS goes before the file\n")
	if text, _ := os.ReadFile(target); string(text) != "maxclients: 20\n" {
		t.Errorf("the file is %q", text)
	}
	if info, err := os.Lstat(file); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symlink is %v, %v", info, err)
	}
	// Somebody else's change is not overwritten.
	r.say("SET maxclients 30", "+OK")
	r.write("maxclients: 20\npool-size: 7\n")
	r.say("CONFIG REWRITE", "-ERR the configuration file has changed since it was read: PROXY RELOAD first")
	r.say("RELOAD", "\n+pool-size 16 7 changed\n")
	r.say("CONFIG REWRITE", "\n+maxclients 20 30 written\n")
	if text, _ := os.ReadFile(target); string(text) != "maxclients: 30\npool-size: 7\n" {
		t.Errorf("the file is %q", text)
	}
	must(t, os.Remove(target))
	r.say("CONFIG REWRITE", "-ERR config: cannot read ", "no such file")
}

func TestAFileThatCannotBeReplacedIsLeftAlone(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has a directory that not even root can write to")
	}
	if err := replaceFile("/proc/self/status", []byte("x")); err == nil {
		t.Error("it has been replaced")
	}
}
