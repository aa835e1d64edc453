package main

import (
	"io"
	"log/slog"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// samples has a row for each setting: words, none of them the default, and what they make of the Config.
// A row whose setting means nothing to the proxy changes nothing in it.
var samples = []struct {
	setting string
	words   string
	change  func(*proxy.Config)
}{
	{"listen", "[::1]:7000,unix:/run/r.sock", func(c *proxy.Config) { c.Listen = []string{"[::1]:7000", "unix:/run/r.sock"} }},
	{"watch-config", "no", func(*proxy.Config) {}},
	{"maxclients", "20000", func(c *proxy.Config) { c.MaxClients = 20000 }},
	{"accept-proxy", "none", func(*proxy.Config) {}},
	{"trusted-proxies", "10.0.0.0/8,unix", func(c *proxy.Config) {
		c.TrustedProxies = peer.Trusted{netip.MustParsePrefix("10.0.0.0/8"), {}}
	}},
	{"suspect", "churn off;growing over 60s", func(c *proxy.Config) {
		c.Suspects.Churn.Off = true
		c.Suspects.Growing.Over = time.Minute
	}},
	{"limit", "addr each maxclients 7;total overflow queue", func(c *proxy.Config) {
		c.Limits = []limits.Rule{{Kind: limits.ByAddr, Each: true, MaxClients: 7}, {Total: true, Overflow: limits.Queue}}
	}},
	{"protected-mode", "no", func(c *proxy.Config) { c.ProtectedMode = "no" }},
	{"allow-dangerous", "debug,Module|Load", func(c *proxy.Config) { c.AllowDangerous = []string{"debug", "Module|Load"} }},
	{"deny-commands", "keys,config|set", func(c *proxy.Config) { c.DenyCommands = []string{"keys", "config|set"} }},
	{"proto-max-bulk-len", "64mb", func(c *proxy.Config) { c.ProtoMaxBulkLen = 64 << 20 }},
	{"client-query-buffer-limit", "1g", func(c *proxy.Config) { c.ClientQueryBufferLimit = 1e9 }},
	{"client-output-buffer-limit", "normal 1mb 0 0 pubsub 0 64kb 5", func(c *proxy.Config) {
		c.ClientOutputBufferLimit = proxy.OutputLimits{
			Normal: proxy.OutputLimit{Hard: 1 << 20}, PubSub: proxy.OutputLimit{Soft: 64 << 10, SoftTime: 5 * time.Second},
		}
	}},
	{"maxmemory-clients", "64mb", func(c *proxy.Config) { c.MaxMemoryClients = 64 << 20 }},
	{"auth-delay", "250ms", func(c *proxy.Config) { c.AuthDelay = 250 * time.Millisecond }},
	{"handshake-timeout", "30", func(c *proxy.Config) { c.HandshakeTimeout = 30 * time.Second }},
	{"resubscribe", "yes", func(c *proxy.Config) { c.Resubscribe = true }},
	{"timeout", "300", func(c *proxy.Config) { c.Timeout = 5 * time.Minute }},
	{"transaction-timeout", "1m30s", func(c *proxy.Config) { c.TransactionTimeout = 90 * time.Second }},
	{"tcp-keepalive", "60", func(c *proxy.Config) { c.TCPKeepAlive = time.Minute }},
	{"tcp-backlog", "128", func(c *proxy.Config) { c.TCPBacklog = 128 }},
	{"upstream", "rediss://bob:secret@redis.example:6390/3", func(c *proxy.Config) {
		c.Upstream, _ = multiplex.ParseUpstream("rediss://bob:secret@redis.example:6390/3")
	}},
	// Of files there are none to name here: see TestTheFilesOfTLSAreRead.
	{"tls-cert-file", "none", func(*proxy.Config) {}},
	{"tls-key-file", "none", func(*proxy.Config) {}},
	{"tls-ca-cert-file", "none", func(*proxy.Config) {}},
	{"tls-ca-cert-dir", "none", func(*proxy.Config) {}},
	{"tls-auth-clients", "optional", func(c *proxy.Config) { c.TLS.AuthClients = "optional" }},
	{"tls-auth-clients-user", "cn", func(c *proxy.Config) { c.TLS.AuthClientsUser = "CN" }},
	{"tls-protocols", "TLSv1.3", func(c *proxy.Config) { c.TLS.Protocols = []string{"TLSv1.3"} }},
	{"upstream-tls-ca-cert-file", "none", func(*proxy.Config) {}},
	{"upstream-tls-ca-cert-dir", "none", func(*proxy.Config) {}},
	{"upstream-tls-cert-file", "none", func(*proxy.Config) {}},
	{"upstream-tls-key-file", "none", func(*proxy.Config) {}},
	{"upstream-tls-server-name", "redis.example", func(c *proxy.Config) { c.UpstreamTLS.ServerName = "redis.example" }},
	{"pool-size", "4", func(c *proxy.Config) { c.PoolSize = 4 }},
	{"pool-timeout", "250ms", func(c *proxy.Config) { c.PoolTimeout = 250 * time.Millisecond }},
	{"upstream-timeout", "0", func(c *proxy.Config) { c.UpstreamTimeout = 0 }},
	{"upstream-response-timeout", "0", func(c *proxy.Config) { c.UpstreamResponseTimeout = 0 }},
	{"pause-timeout", "1m", func(c *proxy.Config) { c.PauseTimeout = time.Minute }},
	{"shutdown-delay", "5", func(c *proxy.Config) { c.ShutdownDelay = 5 * time.Second }},
	{"loops", "3", func(c *proxy.Config) { c.Loops = 3 }},
	{"shutdown-timeout", "1.5", func(c *proxy.Config) { c.ShutdownTimeout = 1500 * time.Millisecond }},
	{"upgrade-timeout", "45", func(c *proxy.Config) { c.UpgradeTimeout = 45 * time.Second }},
	{"handover-timeout", "1m", func(c *proxy.Config) { c.HandoverTimeout = time.Minute }},
	{"log-format", "json", func(*proxy.Config) {}},
	{"log-level", "debug", func(*proxy.Config) {}},
}

// mustParse returns the settings of a check with args, which must be good.
func mustParse(t *testing.T, args ...string) *settings {
	t.Helper()
	inv, err := parse(append([]string{"check"}, args...), io.Discard)
	if err != nil {
		t.Fatalf("check %v: %v", args, err)
	}
	return inv.settings
}

// base is what every sample is given besides itself: without an upstream nothing is valid.
const base = "--upstream=redis://127.0.0.1:6379"

// baseOf is base for what means something to an upstream of TLS only.
func baseOf(setting string) string {
	if strings.HasPrefix(setting, "upstream-tls-") {
		return "--upstream=rediss://127.0.0.1:6379"
	}
	return base
}

// fileText spells words as the file has them: several as a list.
func fileText(setting, words string) string {
	if list := strings.Split(words, ","); len(list) > 1 {
		return setting + ":\n  - \"" + strings.Join(list, "\"\n  - \"") + "\"\n"
	}
	return setting + ": " + words + "\n"
}

func TestEverySettingMeansTheSameByFlagEnvironmentAndFile(t *testing.T) {
	unseen := settingNames(t)
	for _, sample := range operatorSamples {
		delete(unseen, sample.setting)
	}
	for _, sample := range samples {
		delete(unseen, sample.setting)
		t.Run(sample.setting, func(t *testing.T) {
			var rest []string
			base := baseOf(sample.setting)
			if sample.setting != "upstream" {
				rest = []string{base}
			}
			want := mustParse(t, base).config()
			sample.change(&want)

			check := func(how string, s *settings) {
				t.Helper()
				if got := s.config(); !reflect.DeepEqual(got, want) {
					t.Errorf("by %s:\n got %+v\nwant %+v", how, got, want)
				}
				if sample.setting == "log-format" && s.LogFormat.is != "json" {
					t.Errorf("by %s: log-format is %s", how, s.LogFormat.is)
				}
				if sample.setting == "log-level" && slog.Level(s.LogLevel.is) != slog.LevelDebug {
					t.Errorf("by %s: log-level is %s", how, s.LogLevel.is)
				}
			}
			check("flag", mustParse(t, append(rest, "--"+sample.setting, sample.words)...))
			check("flag with =", mustParse(t, append(rest, "--"+sample.setting+"="+sample.words)...))
			check("file", mustParse(t, append(rest, "--config", writeFile(t, fileText(sample.setting, sample.words)))...))
			t.Setenv(environmentName(sample.setting), sample.words)
			check("environment", mustParse(t, rest...))
		})
	}
	for name := range unseen {
		t.Errorf("the setting %s has no sample", name)
	}
}

// settingNames are the names in the table with their defaults, config not among them.
func settingNames(t *testing.T) map[string]string {
	t.Helper()
	inv, err := parse([]string{"check", base}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, flag := range inv.table {
		if flag.Name != "config" {
			names[flag.Name] = flag.Default
		}
	}
	if len(names) == 0 {
		t.Fatal("there are no settings")
	}
	return names
}

func TestTheDefaultsAreTheProxysOwn(t *testing.T) {
	got := mustParse(t, base).config()
	want := proxy.Config{
		Listen: []string{proxy.DefaultListen}, Upstream: got.Upstream,
		MaxClients: proxy.DefaultMaxClients, ProtectedMode: proxy.DefaultProtectedMode, PoolSize: proxy.DefaultPoolSize, Loops: proxy.DefaultLoops(),
		TCPKeepAlive: proxy.DefaultTCPKeepAlive, TCPBacklog: proxy.DefaultTCPBacklog,
		TransactionTimeout: proxy.DefaultTransactionTimeout,
		AuthDelay:          proxy.DefaultAuthDelay,
		TLS:                proxy.TLS{AuthClients: proxy.DefaultTLSAuthClients, AuthClientsUser: proxy.DefaultTLSAuthClientsUser, Protocols: []string{"TLSv1.2", "TLSv1.3"}},
		PoolTimeout:        proxy.DefaultPoolTimeout, UpstreamTimeout: proxy.DefaultUpstreamTimeout,
		UpstreamResponseTimeout: proxy.DefaultUpstreamResponseTimeout, PauseTimeout: proxy.DefaultPauseTimeout,
		UpgradeTimeout: proxy.DefaultUpgradeTimeout, HandoverTimeout: proxy.DefaultHandoverTimeout,
		ShutdownTimeout: proxy.DefaultShutdownTimeout, ProtoMaxBulkLen: proxy.DefaultProtoMaxBulkLen,
		ClientQueryBufferLimit:  proxy.DefaultClientQueryBufferLimit,
		ClientOutputBufferLimit: proxy.DefaultClientOutputBufferLimit,
		Version:                 got.Version,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
}

func TestAFlagGoesBeforeTheEnvironmentAndTheEnvironmentBeforeTheFile(t *testing.T) {
	file := writeFile(t, "maxclients: 1\npool-size: 1\nloops: 1\n")
	t.Setenv("REDBOUNCER_MAXCLIENTS", "2")
	t.Setenv("REDBOUNCER_POOL_SIZE", "2")
	s := mustParse(t, base, "--config", file, "--maxclients", "3")
	for _, c := range []struct {
		setting string
		got     int
		want    int
		origin  string
		from    string
	}{
		{"maxclients", int(s.MaxClients.is), 3, s.MaxClients.origin(), "--maxclients"},
		{"pool-size", int(s.PoolSize.is), 2, s.PoolSize.origin(), "REDBOUNCER_POOL_SIZE"},
		{"loops", int(s.Loops.is), 1, s.Loops.origin(), file + ":3"},
		{"tcp-backlog", int(s.TCPBacklog.is), proxy.DefaultTCPBacklog, s.TCPBacklog.origin(), "default"},
	} {
		if c.got != c.want || c.origin != c.from {
			t.Errorf("%s is %d from %s, want %d from %s", c.setting, c.got, c.origin, c.want, c.from)
		}
	}
}

func TestWhatWinsIsAllThatHasToBeGood(t *testing.T) {
	file := writeFile(t, "maxclients: many\n")
	t.Setenv("REDBOUNCER_POOL_SIZE", "few")
	mustParse(t, base, "--config", file, "--maxclients", "3", "--pool-size", "4")
}

func TestTheEnvironmentCanNameTheFile(t *testing.T) {
	t.Setenv("REDBOUNCER_CONFIG", writeFile(t, "pool-size: 7\n"))
	if s := mustParse(t, base); s.PoolSize.is != 7 {
		t.Errorf("pool-size is %d, want 7", s.PoolSize.is)
	}
	if s := mustParse(t, base, "--config", writeFile(t, "pool-size: 8\n")); s.PoolSize.is != 8 {
		t.Errorf("with --config as well pool-size is %d, want 8", s.PoolSize.is)
	}
}

func TestAnEmptyVariableSaysNothing(t *testing.T) {
	t.Setenv("REDBOUNCER_POOL_SIZE", "")
	t.Setenv("REDBOUNCER_CONFIG", "")
	if s := mustParse(t, base); s.PoolSize.origin() != "default" {
		t.Errorf("pool-size comes from %s, want default", s.PoolSize.origin())
	}
}

func TestListenMayBeRepeated(t *testing.T) {
	s := mustParse(t, base, "--listen", ":1", "--listen=:2,:3")
	if want := (addresses{":1", ":2", ":3"}); !reflect.DeepEqual(s.Listen.is, want) {
		t.Errorf("listen is %q, want %q", s.Listen.is, want)
	}
}

func TestTheLastOfARepeatedFlagCounts(t *testing.T) {
	if s := mustParse(t, base, "--pool-size", "x", "--pool-size", "5"); s.PoolSize.is != 5 {
		t.Errorf("pool-size is %d, want 5", s.PoolSize.is)
	}
}

func TestZeroMeansWhatItMeansToRedis(t *testing.T) {
	cfg := mustParse(t, base, "--tcp-keepalive", "0", "--pool-timeout", "0").config()
	if cfg.TCPKeepAlive >= 0 {
		t.Errorf("tcp-keepalive 0 is %v, want it negative: off", cfg.TCPKeepAlive)
	}
	if cfg.PoolTimeout != 0 {
		t.Errorf("pool-timeout 0 is %v, want 0: do not wait", cfg.PoolTimeout)
	}
}

func TestTimesAreSecondsOrGoDurations(t *testing.T) {
	for word, want := range map[string]time.Duration{
		"300": 5 * time.Minute, "0": 0, "0.5": 500 * time.Millisecond, "5s": 5 * time.Second, "1m30s": 90 * time.Second,
	} {
		var s seconds
		if err := s.UnmarshalText([]byte(word)); err != nil || time.Duration(s) != want {
			t.Errorf("%q is %v, %v; want %v", word, time.Duration(s), err, want)
		}
		var again seconds
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q is written %q, which reads as %v, %v", word, s, again, err)
		}
	}
}

func TestSizesAreInRedissUnits(t *testing.T) {
	for word, want := range map[string]int64{
		"1": 1, "1b": 1, "1k": 1000, "1kb": 1024, "1m": 1e6, "1mb": 1 << 20, "1g": 1e9, "1gb": 1 << 30,
		"512MB": 512 << 20, "1000kb": 1024000, "1001": 1001,
	} {
		var s size
		if err := s.UnmarshalText([]byte(word)); err != nil || int64(s) != want {
			t.Errorf("%q is %d, %v; want %d", word, int64(s), err, want)
		}
		var again size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%q is written %q, which reads as %d, %v", word, s, again, err)
		}
	}
	for _, word := range []string{"", "b", "gb", "1kk", "1bk", "1 gb", "-1", "0", "1.5gb", "1tb", "9223372036854775807k"} {
		var s size
		if err := s.UnmarshalText([]byte(word)); err == nil {
			t.Errorf("%q is %d, want an error", word, s)
		}
	}
}
