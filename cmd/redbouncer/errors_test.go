package main

import (
	"strconv"
	"strings"
	"testing"
)

// bad has values that each setting refuses, with what it says it wants.
var bad = []struct {
	setting, want string
	values        []string
}{
	{"listen", "want", []string{"6380", "host", "127.0.0.1:99999", "unix:", ":", ":6380,,:6381"}},
	{"protected-mode", "want yes or no", []string{"maybe", "1"}},
	{"watch-config", "want yes or no", []string{"maybe", "always"}},
	{"allow-dangerous", "want", []string{"get", "config|set", ",", "debug,none", "nosuch", "cluster|nosuch"}},
	{"deny-commands", "want", []string{"a b", "config|", "|", "get|x", "a|b|c", "*", "keys,none", "exec"}},
	{"accept-proxy", "want", []string{"127.0.0.1:1", ","}},
	{"trusted-proxies", "want", []string{"here", "10.0.0.0/33", ","}},
	{"suspect", "want", []string{"nosuch off", "churn opens many", "churn opens", "growing over 1s"}},
	{"limit", "want", []string{"addr", "colour red maxclients 1", "total maxclients 3", "addr each maxclients 0", "addr each maxclients 1;addr each maxclients 2"}},
	{"maxclients", "want", []string{"0", "-1", "many", "1e4", "10k", "99999999"}},
	{"proto-max-bulk-len", "want", []string{"0", "-1", "1tb", "big", "4gb"}},
	{"client-query-buffer-limit", "want", []string{"0", "1.5gb", "unlimited"}},
	{"resubscribe", "want yes or no", []string{"maybe", "2"}},
	{"client-output-buffer-limit", "want", []string{"0", "1gb", "normal 0 0", "slave 0 0 0", "pubsub 1 x 3"}},
	{"maxmemory-clients", "want", []string{"-1", "5%", "1tb"}},
	{"auth-delay", "want", []string{"-1", "25h"}},
	{"handshake-timeout", "want", []string{"-1", "25h"}},
	{"timeout", "want", []string{"-1", "never", "2147483648"}},
	{"transaction-timeout", "want", []string{"-1", "25h"}},
	{"tcp-keepalive", "want", []string{"-1", "soon", "5 minutes"}},
	{"tcp-backlog", "want", []string{"0", "x", "99999999"}},
	{"tls-cert-file", "tls://host:port", []string{"/none.pem"}},
	{"tls-key-file", "tls://host:port", []string{"/none.pem"}},
	{"tls-ca-cert-file", "tls://host:port", []string{"/none.pem"}},
	{"tls-ca-cert-dir", "tls://host:port", []string{"/none"}},
	{"tls-auth-clients", "want no, optional or yes", []string{"maybe", "true"}},
	{"tls-auth-clients-user", "want CN or off", []string{"SAN", "yes"}},
	{"tls-protocols", "TLSv1.2, TLSv1.3", []string{"SSLv3", "TLSv1.1", "tlsv1.3"}},
	{"upstream-tls-ca-cert-file", "rediss://", []string{"/none.pem"}},
	{"upstream-tls-ca-cert-dir", "rediss://", []string{"/none"}},
	{"upstream-tls-cert-file", "rediss://", []string{"/none.pem"}},
	{"upstream-tls-key-file", "rediss://", []string{"/none.pem"}},
	{"upstream-tls-server-name", "rediss://", []string{"redis.example"}},
	{"upstream", "redis://host:6379", []string{"127.0.0.1:6379", "http://127.0.0.1", "redis://host:port", "redis://host/db", "Embedded",
		"redis+sentinel://host:26379", "redis+sentinel://host:port/mymaster", "redis+sentinel://host/mymaster/db", "redis+sentinel://host/mymaster?db=1"}},
	{"pool-size", "want", []string{"0", "-4", "4.5", "99999999"}},
	{"pool-timeout", "want", []string{"-1", "-5s", "1 day", "25h"}},
	{"upstream-timeout", "want", []string{"-1", "never", "25h"}},
	{"upstream-response-timeout", "want", []string{"-1", "never", "25h"}},
	{"pause-timeout", "want", []string{"0", "-1", "forever", "25h"}},
	{"shutdown-delay", "want", []string{"-1", "soon", "25h"}},
	{"admin-listen", "want", []string{"6390", "localhost", "127.0.0.1:99999", "unix:", "off", "0.0.0.0:6390", ":6390", "[::]:6390"}},
	{"http-listen", "want", []string{"9121", "localhost", "127.0.0.1:99999", "unix:", "off"}},
	{"http-token-file", "want a file with a token", []string{"/none.token", "/dev/null"}},
	{"admin-users", "want", []string{",", "alice,none", "a b"}},
	{"stats-users", "want", []string{",", "none,bob", "a b"}},
	{"loops", "want", []string{"0", "auto", "99999999"}},
	{"shutdown-timeout", "want", []string{"0", "-1", "forever", "25h"}},
	{"upgrade-timeout", "want", []string{"0", "-1", "forever", "25h"}},
	{"handover-timeout", "want", []string{"0", "-1", "forever", "25h"}},
	{"log-format", "text or json", []string{"xml", "JSON"}},
	{"log-level", "debug, info, warn or error", []string{"loud", "notice", "INFO"}},
}

func TestEveryBadValueIsNamedWithItsSettingAndItsSource(t *testing.T) {
	unseen := settingNames(t)
	for _, row := range bad {
		delete(unseen, row.setting)
		for _, value := range row.values {
			t.Run(row.setting+"="+value, func(t *testing.T) {
				args := []string{"check"}
				if row.setting != "upstream" {
					args = append(args, base)
				}
				complains := func(source string, got outcome) {
					t.Helper()
					if got.status != exitUsage || got.stdout != "" {
						t.Errorf("status %d, stdout %q; want %d and nothing", got.status, got.stdout, exitUsage)
					}
					start := "redbouncer: " + row.setting + ": \"" + value + "\", from " + source + ", is not usable: "
					if !strings.HasPrefix(got.stderr, start) || !strings.Contains(got.stderr, row.want) {
						t.Errorf("stderr is  %sit lacks   %s... %s", got.stderr, start, row.want)
					}
					if strings.Count(got.stderr, "\n") != 1 {
						t.Errorf("want one line, got %q", got.stderr)
					}
				}
				complains("--"+row.setting, runProgram(append(args, "--"+row.setting, value)...))
				file := writeFile(t, "# settings\n"+row.setting+": \""+value+"\"\n")
				complains(file+":2", runProgram(append(args, "--config", file)...))
				t.Setenv(environmentName(row.setting), value)
				complains(environmentName(row.setting), runProgram(args...))
			})
		}
	}
	for name := range unseen {
		t.Errorf("the setting %s has no bad values", name)
	}
}

func TestServeRefusesWhatCheckRefuses(t *testing.T) {
	got := runProgram("serve", base, "--maxclients", "0")
	if want := runProgram("check", base, "--maxclients", "0"); got != want {
		t.Errorf("serve: %+v\ncheck: %+v", got, want)
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	file := writeFile(t, "maxclient: 5\nloops: all\n")
	got := runProgram("check", "--config", file, "--maxclients", "x", "--upstream", "y")
	for _, word := range []string{file + `:1: "maxclient"`, "loops:", "maxclients:", "upstream:"} {
		if !strings.Contains(got.stderr, "redbouncer: "+word) {
			t.Errorf("%q is missing from\n%s", word, got.stderr)
		}
	}
}

func TestAMissingUpstreamIsToldWithBothThatWouldDo(t *testing.T) {
	for _, command := range []string{"serve", "check"} {
		got := runProgram(command)
		if got.status != exitUsage {
			t.Errorf("%s: status %d, want %d", command, got.status, exitUsage)
		}
		for _, word := range []string{"--upstream", "REDBOUNCER_UPSTREAM", "redis://", "embedded"} {
			if !strings.Contains(got.stderr, word) {
				t.Errorf("%s: %q is missing from %s", command, word, got.stderr)
			}
		}
	}
}

func TestAFileThatIsNoConfigurationIsToldWhereAndWhy(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "pool-size: 4\nmaxclient: 5\n", `:2: "maxclient" is not a setting; want one of watch-config, listen, maxclients, `},
		{"underscores", "pool_size: 4\n", `:1: "pool_size" is not a setting`},
		{"capitals", "MaxClients: 4\n", `:1: "MaxClients" is not a setting`},
		{"nested", "redis:\n  maxclients: 5\n", `:1: "redis" is not a setting`},
		{"twice", "loops: 1\nloops: 2\n", ":2: loops: already given at "},
		{"another file", "config: other.yaml\n", ":1: config: a file cannot name another file"},
		{"a list for one value", "maxclients: [1, 2]\n", `maxclients: "1,2", from `},
		{"a mapping for a value", "maxclients: {a: 1}\n", "want a single value"},
		{"a mapping in a list", "listen: [{a: 1}]\n", "want a single value"},
		{"an empty list", "listen: []\n", "want a value"},
		{"nothing", "maxclients:\n", "want a value"},
		{"a truth value", "maxclients: true\n", `maxclients: "true", from `},
		{"a list", "- maxclients\n", ":1: want lines such as maxclients: 10000"},
		{"a word", "maxclients\n", ":1: want lines such as maxclients: 10000"},
		{"redis.conf", "maxclients 10000\ntcp-backlog 511\n", ":1: want lines such as maxclients: 10000"},
		{"bad YAML", "maxclients: [1\n", ": not YAML: "},
		{"two documents", "loops: 1\n---\nloops: 2\n", ": want one YAML document"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := writeFile(t, c.text)
			got := runProgram("check", base, "--config", file)
			if got.status != exitUsage || !strings.Contains(got.stderr, c.want) || !strings.Contains(got.stderr, file) {
				t.Errorf("status %d, stderr %q; want %d, %q and the file's name", got.status, got.stderr, exitUsage, c.want)
			}
		})
	}
}

func TestAFileMayUseAllOfYAML(t *testing.T) {
	for name, text := range map[string]string{
		"empty":    "",
		"comments": "# nothing yet\n",
		"quotes":   "pool-size: \"4\"\n",
		"anchors":  "pool-size: &n 4\nloops: *n\n",
		"list":     "listen:\n- 127.0.0.1:1\n- '[::1]:1'\n",
		"one word": "listen: 127.0.0.1:1\n",
		"flow":     "{pool-size: 4, loops: 2}\n",
		"json":     `{"pool-size": 4, "log-format": "json"}`,
		"crlf":     "pool-size: 4\r\nloops: 2\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			if got := runProgram("check", base, "--config", writeFile(t, text)); got.status != exitOK {
				t.Errorf("status %d, stderr %q", got.status, got.stderr)
			}
		})
	}
}

func TestAFileThatCannotBeReadIsNamed(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{dir + "/none.yaml": "no such file", dir: "is a directory"} {
		got := runProgram("check", base, "--config", path)
		if got.status != exitUsage || !strings.Contains(got.stderr, `config: "`+path+`", from --config, `) || !strings.Contains(got.stderr, want) {
			t.Errorf("status %d, stderr %q; want %d, the path and %q", got.status, got.stderr, exitUsage, want)
		}
	}
	t.Setenv("REDBOUNCER_CONFIG", dir+"/none.yaml")
	if got := runProgram("check", base); !strings.Contains(got.stderr, "from REDBOUNCER_CONFIG") {
		t.Errorf("stderr %q lacks the variable", got.stderr)
	}
}

func TestACommandLineThatMakesNoSenseIsRefused(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "serve, check, health, doctor or version"},
		{"server", `did you mean "serve"?`},
		{"serve --maxclient 5", `did you mean "--maxclients"?`},
		{"check " + base + " --maxclients", "--maxclients: say its value"},
		{"check " + base + " 5", "unexpected argument 5"},
		{"--maxclients 5", "unknown flag --maxclients"},
	} {
		got := runProgram(strings.Fields(c.args)...)
		if got.status != exitUsage || !strings.Contains(got.stderr, c.want) {
			t.Errorf("redbouncer %s: status %d, stderr %q; want %d and %q", c.args, got.status, got.stderr, exitUsage, c.want)
		}
	}
}

func TestAMisspelledVariableIsPointedOutAndKubernetessAreNot(t *testing.T) {
	t.Setenv("REDBOUNCER_MAXCLIENT", "5")
	t.Setenv("REDBOUNCER_PORT_6380_TCP_ADDR", "10.0.0.1")
	t.Setenv("REDBOUNCER_SERVICE_HOST", "10.0.0.1")
	got := runProgram("check", base)
	if want := "redbouncer: the environment has REDBOUNCER_MAXCLIENT, which is not a setting\n"; got.status != exitOK || got.stderr != want {
		t.Errorf("status %d, stderr %q; want 0 and %q", got.status, got.stderr, want)
	}
}

// A password is no less secret in a URL that cannot be used. Each of these has the pieces hun and ter2 in it.
func TestNoPasswordIsEverShown(t *testing.T) {
	for i, url := range []string{
		"redis://bob:hunter2@redis.example:6379/0",
		"redis://:hunter2@redis.example",
		"redis://hunter2@redis.example",
		"rediss://bob:hunter2@redis.example:port/0",
		"redis://bob:hun/ter2@redis.example",
		"redis://bob:hun?ter2@redis.example",
		"redis://bob:hun#ter2@redis.example",
		"redis://bob:hun@ter2@redis.example",
		"redis://bob:hun%zzter2@redis.example",
		"redis://bob:hun ter2@redis.example",
		"redis://:1/hunter2@redis.example",
		"redis://redis.example:6379/0?password=hunter2",
		"unix:///run/redis.sock?db=1&password=hunter2",
		"unix://bob:hunter2@/run/redis.sock",
		"http://bob:hunter2@redis.example",
		"bob:hunter2@redis.example:6379",
		"redis//bob:hunter2@redis.example",
	} {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			hidden := func(got outcome) {
				t.Helper()
				for _, piece := range []string{"hun", "ter2"} {
					if text := got.stdout + got.stderr; strings.Contains(text, piece) {
						t.Errorf("%s: %q is shown: %s", url, piece, text)
					}
				}
			}
			hidden(runProgram("check", "--upstream", url))
			hidden(runProgram("check", "--config", writeFile(t, "upstream: \""+url+"\"\n")))
			hidden(runProgram("check", "--config", writeFile(t, "upstream: [\""+url+"\", x]\n")))
			if strings.Contains(url, "://") && !strings.Contains(url, " ") {
				hidden(runProgram("check", url))
				hidden(runProgram("check", "--upstrem="+url))
				hidden(runProgram("check", "--config", writeFile(t, "\""+url+"\": upstream\n")))
			}
			t.Setenv("REDBOUNCER_UPSTREAM", url)
			hidden(runProgram("check"))
			hidden(runProgram("check", "--maxclients", "0"))
		})
	}
}
