package admin

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy"
)

// Config is what a Server needs to know. A field has the name of its setting; its zero value means its default.
type Config struct {
	// Listen is where the console is served: "host:port", "unix:/path", or "none". Default 127.0.0.1:6390.
	Listen string
	// HTTPListen is where metrics and probes are served, in the same forms. Default 127.0.0.1:9121.
	HTTPListen string
	// AdminUsers are the ACL users who may use all of the console. StatsUsers may look and change nothing. Without
	// either, nobody may on the port of the data, and everybody on Listen, which then has to be on this host.
	AdminUsers, StatsUsers []string
	// HTTPTokenFile is a file with a token that stands for all rights over HTTP. It is read each time that somebody shows one.
	// Empty, or "none": there is none.
	HTTPTokenFile string
	// AuthDelay is how long a source that has shown many wrong passwords or tokens over HTTP waits for the next check, at most.
	// Zero is not at all. See limits.Guesses.
	AuthDelay time.Duration

	// Inherited are listening sockets that somebody else has opened, by the setting that they are for: admin-listen or
	// http-listen. Listen and HTTPListen say what they are called. None by default.
	Inherited map[string]proxy.Inherited

	// Version is shown. Default "dev".
	Version string
	// Log receives the events. Default slog.Default().
	Log *slog.Logger
}

// Defaults of Config that other packages show to the user.
const (
	DefaultListen     = "127.0.0.1:6390"
	DefaultHTTPListen = "127.0.0.1:9121"
	// None in the place of an address switches a listener off, and is how a list without names is spelled.
	None = "none"
)

// Proxy is what the console shows and changes: a *proxy.Server.
type Proxy interface {
	Clients(context.Context, proxy.ClientFilter) ([]proxy.ClientReport, error)
	Lanes(context.Context) ([]proxy.LaneReport, error)
	Pins(context.Context) ([]proxy.PinReport, error)
	Pool(context.Context) (proxy.PoolReport, error)
	Stats() proxy.Stats
	Latency(context.Context) (multiplex.Latency, error)
	Settings() []proxy.SettingReport
	Info() string
	Set(name, value string) error
	Kill(ctx context.Context, filter proxy.ClientFilter, by string) (int, error)
	Authenticate(ctx context.Context, user, password string) (refusal []byte, err error)
	Ready(context.Context) error
	Pause(ctx context.Context, length time.Duration) (note string, err error)
	Resume(context.Context) error
	Reconnect(context.Context) error
	Drain() error
	State() string
}

// Limits are the rules in force, and the queue of those that wait for one.
type Limits interface {
	Rules() []limits.RuleReport
	SetRule(text string) error
	UnsetRule(head string) error
	Queue(context.Context) ([]proxy.WaiterReport, error)
}

// Ledger is the book of who holds what since when.
type Ledger interface {
	Sources(kind limits.IdentityKind) []limits.SourceReport
	BySource() []limits.SourceReport
	Suspects() []limits.Suspect
}

// Settings are those of the program around the proxy, and the file that they are read from.
type Settings interface {
	// Settings returns all of them, in the words of the manual, secrets masked. What operators have set since is asked of the
	// proxy.
	Settings() []proxy.SettingReport
	// Reload reads them again, and says what has come of it. After an error, nothing has been changed.
	Reload(context.Context) ([]SettingChange, error)
	// Rewrite writes what operators have set into the file, and says what has come of it. After an error, the file is as it was.
	Rewrite(context.Context) ([]SettingChange, error)
}

// Upgrader replaces the running program by another.
type Upgrader interface {
	// Upgrade returns the id of the process that serves from now on. After an error, this one goes on.
	Upgrade(ctx context.Context, by string) (pid int, err error)
}

// SettingChange is what has become of a setting.
type SettingChange struct {
	Name     string
	Was, Now string // secrets masked
	Outcome  string // why it is not what it was, or still is
}

// Backends are what the console speaks of. All but Proxy may be nil: then there is nothing of it to show, and of the settings
// the proxy's own are shown.
type Backends struct {
	Proxy    Proxy
	Limits   Limits
	Ledger   Ledger
	Settings Settings
	Upgrader Upgrader
}

func (c Config) withDefaults() Config {
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.HTTPListen = cmp.Or(c.HTTPListen, DefaultHTTPListen)
	if c.HTTPTokenFile == None {
		c.HTTPTokenFile = ""
	}
	c.Version = cmp.Or(c.Version, "dev")
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

// Validate reports the first setting whose value cannot be used, as a *proxy.ConfigError.
func (c Config) Validate() error {
	c = c.withDefaults()
	for _, l := range []struct{ setting, addr string }{{"admin-listen", c.Listen}, {"http-listen", c.HTTPListen}} {
		if err := validAddr(l.setting, l.addr); err != nil {
			return err
		}
	}
	for _, l := range []struct {
		setting string
		users   []string
	}{{"admin-users", c.AdminUsers}, {"stats-users", c.StatsUsers}} {
		if slices.ContainsFunc(l.users, func(user string) bool { return user == "" || strings.ContainsAny(user, " \t\r\n") }) {
			return &proxy.ConfigError{Setting: l.setting, Value: strings.Join(l.users, ","), Want: "want names of ACL users, or none"}
		}
	}
	if c.HTTPTokenFile != "" {
		if _, err := readToken(c.HTTPTokenFile); err != nil {
			return &proxy.ConfigError{Setting: "http-token-file", Value: c.HTTPTokenFile, Want: err.Error()}
		}
	}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && !isLoopbackHost(host) && !c.restricted() {
		return c.exposed()
	}
	return nil
}

// restricted reports whether the users who may use the console are named.
func (c Config) restricted() bool { return len(c.AdminUsers)+len(c.StatsUsers) > 0 }

// exposed says that a console for everybody is not for other hosts.
func (c Config) exposed() error {
	return &proxy.ConfigError{
		Setting: "admin-listen", Value: c.Listen,
		Want: "other hosts can reach it, and it asks for no password: set admin-users, or want an address such as " +
			DefaultListen + " or unix:/path, or " + None,
	}
}

func validAddr(setting, addr string) error {
	path, isUnix := strings.CutPrefix(addr, "unix:")
	if addr == None || isUnix && path != "" {
		return nil
	}
	wrong := &proxy.ConfigError{Setting: setting, Value: addr, Want: "want host:port, unix:/path or " + None}
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return wrong
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		wrong.Want = "want a port from 0 to 65535"
		return wrong
	}
	return nil
}

// isLoopbackHost reports whether a host is one that only this host can reach. A name is looked at when it has been
// listened on.
func isLoopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || err != nil && host != ""
}
