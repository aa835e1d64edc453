package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

func fixture(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// versions are those whose replies are kept: the same clients, as each version writes them.
func versions(t *testing.T) (names []string) {
	t.Helper()
	files, err := filepath.Glob("testdata/clients-*.txt")
	if err != nil || len(files) < 7 {
		t.Fatalf("lists of clients: %q, %v", files, err)
	}
	for _, f := range files {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "clients-"), ".txt"))
	}
	return names
}

func TestTheListOfClientsIsReadAsEveryVersionWritesIt(t *testing.T) {
	for _, version := range versions(t) {
		t.Run(version, func(t *testing.T) {
			all := parseClients(fixture(t, "clients-"+version+".txt"))
			if len(all) != 10 {
				t.Fatalf("%d clients, want 10", len(all))
			}
			web := all[0]
			if web.id != 11 || web.host != "10.0.0.7" || web.name != "web" || web.user != "app" || web.age != 900*time.Second ||
				web.idle != 2*time.Second || web.last != "get" {
				t.Errorf("the first client is %+v", web)
			}
			old := version == "redis-6.2" || version == "redis-7.0"
			if (web.lib == "go-redis/9.23.0") == old {
				t.Errorf("its library is %q", web.lib)
			}
			counts := version == "redis-8.4" || strings.HasPrefix(version, "valkey")
			if (web.commands == 812) != counts {
				t.Errorf("it has sent %d commands", web.commands)
			}
			if ip6 := all[8].host; ip6 != "fd00::7" {
				t.Errorf("the host of an IPv6 client is %q", ip6)
			}
			if s := all[9]; s.host != "unix" || s.addr != "/run/redis dir/redis.sock:0" || s.name != "cron" {
				t.Errorf("the client on a socket whose path has a space is %+v", s)
			}
			idle := map[int64]bool{}
			for _, c := range all {
				if c.isIdle(300 * time.Second) {
					idle[c.id] = true
				}
				if c.neverSpoke() != (c.id == 13) {
					t.Errorf("client %d has never spoken: %t", c.id, c.neverSpoke())
				}
			}
			if len(idle) != 3 || !idle[12] || !idle[13] || !idle[19] {
				t.Errorf("idle are %v, want 12, 13 and 19: not who is subscribed, blocked, in MULTI or a replica", idle)
			}
		})
	}
}

func TestOnlyConnectionsThatDoNothingAreToBeClosed(t *testing.T) {
	for _, version := range versions(t) {
		k := &KillReport{Spared: map[string]int{}}
		found := k.choose(parseClients(fixture(t, "clients-"+version+".txt")), 19, 20*time.Second)
		ids := map[int64]bool{}
		for _, c := range found {
			ids[c.id] = true
		}
		if len(ids) != 3 || !ids[12] || !ids[13] || !ids[20] {
			t.Errorf("%s: to be closed are %v, want 12, 13 and 20", version, ids)
		}
		if found[0].id != 12 {
			t.Errorf("%s: the first is %d, want the one idle the longest", version, found[0].id)
		}
		for why, n := range map[string]int{"pub/sub": 1, "blocked": 1, "transaction": 1, "replica, primary or monitor": 1, "own": 1} {
			if k.Spared[why] != n {
				t.Errorf("%s: %s: %d stay, want %d", version, why, k.Spared[why], n)
			}
		}
	}
}

func TestAConnectionWithAFlagThatNobodyKnowsStays(t *testing.T) {
	c, _ := parseClient("id=5 addr=1.2.3.4:5 name= age=99 idle=99 flags=NZ multi=-1 cmd=get")
	if why := c.whyNot(1); why != "flags NZ" {
		t.Errorf("it stays for %q", why)
	}
}

func TestInfoIsReadAsEveryVersionWritesIt(t *testing.T) {
	for _, version := range versions(t) {
		in := parseInfo(fixture(t, "info-"+version+".txt"))
		product, number := in.product()
		if want := strings.Split(version, "-"); !strings.EqualFold(product, want[0]) || !strings.HasPrefix(number, want[1]) {
			t.Errorf("%s is taken for %s %s", version, product, number)
		}
		if in.used() != 11 || in.number("maxclients") != 4064 || in.role() != "master" || in.mode() != "standalone" {
			t.Errorf("%s: %d of %d used, %s, %s", version, in.used(), in.number("maxclients"), in.role(), in.mode())
		}
	}
}

// played is a survey of the kept replies of a version, of another host.
func played(t *testing.T, version string) *survey {
	t.Helper()
	cfg := Config{URL: "redis://redis.example:6379", Shown: "redis://redis.example:6379"}
	cfg.fill()
	s, err := newServer(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	v := &survey{cfg: &cfg, server: s, maxclients: 4064, timeout: 0, keepalive: 0, took: 10 * time.Second}
	v.now = parseInfo(fixture(t, "info-"+version+".txt"))
	v.first = v.now
	v.list(parseClients(fixture(t, "clients-"+version+".txt")), time.Now())
	v.files = openFiles{limit: v.maxclients + spare, from: "inferred from maxclients", lowered: isUsualLimit(v.maxclients + spare)}
	return v
}

func TestWhatIsFoundIsTheSameForEveryVersion(t *testing.T) {
	for _, version := range versions(t) {
		r := played(t, version).report()
		codes := map[string]Level{}
		for _, f := range r.Findings {
			codes[f.Code] = f.Level
		}
		want := map[string]Level{
			"rejected-before": Notice, "open-files": Notice, "idle": Notice, "never-spoke": Notice, "unnamed": Notice, "timeout-off": Notice,
			"keepalive-off": Warning,
		}
		if len(codes) != len(want) {
			t.Errorf("%s: found %v, want %v", version, codes, want)
		}
		for code, level := range want {
			if got, ok := codes[code]; !ok || got != level {
				t.Errorf("%s: %s is %v, want %v", version, code, got, level)
			}
		}
		if c := r.Connections; *c.Listed != 10 || c.PubSub != 1 || c.Blocked != 1 || c.Replicas != 1 {
			t.Errorf("%s: %+v", version, c)
		}
		if r.ExitStatus != ExitWarning {
			t.Errorf("%s: status %d", version, r.ExitStatus)
		}
	}
}

func TestALimitOfOpenFilesIsInferredFromWhatItLeaves(t *testing.T) {
	for n, want := range map[int]bool{4064: true, 992: true, 65504: true, 9968: true, 10000: false, 4096: false, 5000: false} {
		if got := isUsualLimit(n + spare); got != want {
			t.Errorf("maxclients %d was lowered: %t, want %t", n, got, want)
		}
	}
}

func TestWhatClientsSayIsNotObeyedByATerminal(t *testing.T) {
	v := played(t, "redis-7.2")
	evil := "\x1b]0;owned\x07\u202e\x9b31m'; rm -rf /"
	for i := range 30 {
		v.clients = append(v.clients, client{id: int64(100 + i), addr: evil + ":1", host: evil, name: evil, user: evil, lib: evil,
			age: time.Hour, idle: time.Hour, flags: "N", last: evil, queued: -1})
	}
	v.book = newBook(v.clients, time.Now())
	v.maxclients = 40
	r := v.report()
	if len(r.Suspects) == 0 {
		t.Fatal("no suspect, so that its advice is not tried")
	}
	var out strings.Builder
	if err := r.writeText(&out, false); err != nil {
		t.Fatal(err)
	}
	for i, r := range out.String() {
		if r != '\n' && (r < ' ' || r == 0x7f || r == 0x9b || r == 0x202e || r == 0xfffd) {
			t.Fatalf("%q is in the output: %q", r, out.String()[max(0, i-40):i+1])
		}
	}
	if strings.Contains(out.String(), " name="+evil) {
		t.Error("a command has a name that is not quoted")
	}
}

func TestTextIsReadableInEightyColumns(t *testing.T) {
	for _, version := range versions(t) {
		v := played(t, version)
		v.maxclients = 12
		v.blind = []Blind{{"PROXY SHOW SUSPECTS", strings.Repeat("NOPERM and so on ", 9), "ACL SETUSER app +config|get"}}
		var out strings.Builder
		if err := v.report().writeText(&out, false); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > width {
				t.Errorf("%s: %d columns: %s", version, n, line)
			}
		}
		if strings.Contains(out.String(), "\x1b") {
			t.Error("there is colour that nobody has asked for")
		}
	}
}

func TestTheHintNamesTheSettingOfTheLibrary(t *testing.T) {
	for lib, want := range map[string]string{
		"go-redis/9.23.0": "PoolSize", "go-redis(,go1.26)/9.23.0": "PoolSize", "jedis/5.1.0": "maxTotal", "redis-py(celery_v5.3)/5.0.1": "max_connections",
	} {
		if hint := libraryHint(lib, limits.PoolTooLarge); !strings.Contains(hint, want) {
			t.Errorf("of %s: %q", lib, hint)
		}
	}
	if hint := libraryHint("unheard-of/1", limits.PoolTooLarge); hint != "" {
		t.Errorf("of a library that is not known: %q", hint)
	}
}
