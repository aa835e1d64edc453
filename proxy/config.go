package proxy

import (
	"cmp"
	"fmt"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// Config is everything a Server needs to know. Every field has the name of its setting; where Redis has a
// setting of that meaning, it is Redis's own name. The zero value of a field means its default, unless the
// field says otherwise.
type Config struct {
	// Listen holds the addresses to accept clients at: "host:port", "[::]:port" or "unix:/path"; or "tls://host:port" for
	// TLS, as TLS says.
	// Default 127.0.0.1:6380.
	Listen []string
	// Upstream is the Redis or Valkey to stand in front of, as multiplex.ParseUpstream reads it. Required.
	Upstream *multiplex.Upstream
	// Inherited are listening sockets that somebody else has opened, by the address in Listen that they are for. Other
	// addresses are opened. None by default.
	Inherited map[string]Inherited
	// UpstreamTLS says how connections to a rediss:// upstream are encrypted.
	UpstreamTLS multiplex.UpstreamTLS
	// TLS is for those of Listen that begin with tls://.
	TLS TLS

	// MaxClients is how many clients may be connected at once. Default 10000, as in Redis.
	MaxClients int
	// Limits are the rules that bound what clients of one identity may have; see limits.Rule. None by default.
	Limits []limits.Rule
	// Suspects are the thresholds of the leak rules. Zero fields stand for their defaults.
	Suspects limits.SuspectRules
	// AcceptProxy names those of Listen on which each connection begins with a PROXY protocol header, version 1 or 2, which
	// tells the client's address. None by default.
	AcceptProxy []string
	// TrustedProxies are the addresses that such a header is taken from; other connections to these listeners are closed.
	TrustedProxies peer.Trusted
	// AllowDangerous lists commands that are refused otherwise, because they end or rebuild the upstream or freeze it
	// for everybody: names as in ACL rules ("debug", "module|load"), a command for all its subcommands, or "all". None
	// by default.
	AllowDangerous []string
	// DenyCommands lists commands that are refused: names as in ACL rules, a command for all its subcommands. None by
	// default.
	DenyCommands []string
	// ProtectedMode is "yes" or "no": whether, while Upstream holds credentials or is shown a certificate, clients of other
	// hosts are refused that show none themselves. Whoever can connect acts with these credentials. Default yes, as in Redis.
	ProtectedMode string

	// PoolSize bounds the upstream connections, all kinds together. Default 16.
	PoolSize int
	// Loops is the number of event loops. Default: see DefaultLoops.
	Loops int

	// Timeout is how long a client may be idle before it is closed. One that waits for the upstream, for others
	// (blocked, subscribed) or in a queue is not idle. Zero means for ever, which is the default, as in Redis.
	Timeout time.Duration
	// HandshakeTimeout is how long a client may be connected before it has sent its first command. Zero means for ever,
	// which is the default.
	HandshakeTimeout time.Duration
	// TransactionTimeout is how long a client may send nothing while it keeps an upstream connection for a
	// transaction (MULTI or WATCH) that it has begun. Zero means for ever. The settings' default is 60 s.
	TransactionTimeout time.Duration
	// TCPKeepAlive is the time after which an idle TCP connection is probed. Default 300 s, as in Redis;
	// negative switches probing off.
	TCPKeepAlive time.Duration
	// TCPBacklog is the length of the listen queue. Default 511, as in Redis.
	TCPBacklog int

	// AuthDelay is how long a source that has given many wrong passwords waits at last until the next is checked. Zero means
	// not at all. See limits.Guesses.
	AuthDelay time.Duration
	// PoolTimeout is how long a session waits for an upstream connection of its own. Zero means that it does
	// not wait at all. The settings' default is 5 s.
	PoolTimeout time.Duration
	// UpstreamTimeout is how long a command that has not been sent yet waits for an upstream that is gone.
	// Zero means that it does not wait. The settings' default is 5 s.
	UpstreamTimeout time.Duration
	// UpstreamResponseTimeout is how long the upstream may be silent on a connection where it owes an answer to a command that
	// takes no time. Then the connection is broken. Zero means for ever. The settings' default is 30 s, which is when
	// Sentinel takes a Redis to be down.
	UpstreamResponseTimeout time.Duration
	// PauseTimeout is how long the operator's pause holds commands back, unless it is ended before. Default 30 s.
	PauseTimeout time.Duration
	// ShutdownDelay is how long clients are still let in after the order to stop, while Ready says no, so that whoever sends
	// them here learns of it first. Default 0.
	ShutdownDelay time.Duration
	// UpgradeTimeout is how long a program that is to take over may take until it is ready. Default 30 s.
	UpgradeTimeout time.Duration
	// HandoverTimeout is how long clients that cannot be handed over to it are served on, before they are closed as at the
	// end. Default 5 min.
	HandoverTimeout time.Duration
	// ShutdownTimeout bounds the time between the order to stop and the end. Default 10 s, as in Redis.
	ShutdownTimeout time.Duration

	// ProtoMaxBulkLen is the largest argument a client may send, in bytes. Default 512 MB, as in Redis. It
	// must not exceed what the upstream accepts: Redis would close the connection that clients share.
	ProtoMaxBulkLen int64
	// ClientQueryBufferLimit bounds the bytes of one client that wait to be forwarded. Default 1 GB, as in
	// Redis. A client above it is closed.
	ClientQueryBufferLimit int64
	// ClientOutputBufferLimit bounds what one client has not read yet, by the client's class. A client above it is
	// closed. Default: DefaultClientOutputBufferLimit.
	ClientOutputBufferLimit OutputLimits
	// MaxMemoryClients bounds what all clients together have in buffers, in bytes. Above it, those with the most are
	// closed, but for those that have sent CLIENT NO-EVICT ON. Zero is no bound, which is the default, as in Redis.
	MaxMemoryClients int64
	// Resubscribe keeps subscribers when the connection that carries their subscriptions breaks, and subscribes again.
	// Messages of the time between are lost, and nobody is told. Default: their connections are closed, as Redis's
	// would be.
	Resubscribe bool

	// Console answers the command PROXY, in a goroutine of its own; it bounds how long that takes. Nil, the default: the
	// upstream is asked, which does not know the command.
	Console func(ConsoleCommand) []byte
	// Operates reports whether Console does something for an ACL user. Those may log in during a PROXY PAUSE, to end it. It is
	// called on loops. Nil, the default: nobody may.
	Operates func(user string) bool

	// Serving is called when clients are served. Nil: nothing is called.
	Serving func()

	// LogInterval is how often the same source's refusals are logged again. Default 10 s.
	LogInterval time.Duration
	// Log receives the events. Default slog.Default().
	Log *slog.Logger
	// Version is shown in the log. Default "dev".
	Version string

	streams bool // for tests: no connection is polled
}

// Inherited is a listening socket that somebody else has opened.
type Inherited struct {
	net.Listener
	Kept bool // it cannot be opened again by its address, as somebody else has it too
}

// OutputLimits are the limits of a client's unread output, by class.
type OutputLimits struct {
	Normal OutputLimit
	PubSub OutputLimit // of clients that are subscribed
}

// String returns the limits as Redis writes them.
func (l OutputLimits) String() string {
	text := func(o OutputLimit) string {
		return fmt.Sprintf("%d %d %d", o.Hard, o.Soft, o.SoftTime/time.Second)
	}
	return "normal " + text(l.Normal) + " pubsub " + text(l.PubSub)
}

// OutputLimit is how much a client may leave unread: Hard bytes at most, and more than Soft bytes for less than SoftTime.
// Zero is no limit.
type OutputLimit struct {
	Hard, Soft int64
	SoftTime   time.Duration
}

// DefaultClientOutputBufferLimit has Redis's limits for subscribers. Normal clients are bounded at 1 GB: Redis does not
// bound them, but the proxy serves everybody from one memory.
var DefaultClientOutputBufferLimit = OutputLimits{
	Normal: OutputLimit{Hard: 1 << 30},
	PubSub: OutputLimit{Hard: 32 << 20, Soft: 8 << 20, SoftTime: time.Minute},
}

// Defaults of Config that other packages show to the user.
const (
	DefaultListen                  = "127.0.0.1:6380"
	DefaultMaxClients              = 10000
	DefaultProtectedMode           = "yes"
	DefaultPoolSize                = 16
	DefaultTransactionTimeout      = 60 * time.Second
	DefaultTCPKeepAlive            = 300 * time.Second
	DefaultTCPBacklog              = 511
	DefaultPoolTimeout             = 5 * time.Second
	DefaultAuthDelay               = 2 * time.Second
	DefaultUpstreamTimeout         = 5 * time.Second
	DefaultUpstreamResponseTimeout = 30 * time.Second
	DefaultPauseTimeout            = 30 * time.Second
	DefaultUpgradeTimeout          = 30 * time.Second
	DefaultHandoverTimeout         = 5 * time.Minute
	DefaultShutdownTimeout         = 10 * time.Second
	DefaultProtoMaxBulkLen         = 512 << 20
	DefaultClientQueryBufferLimit  = 1 << 30
	defaultLogInterval             = 10 * time.Second
)

// ConfigError names a setting, the value it was given, and what it would accept.
type ConfigError struct {
	Setting string // as the flag and the file key are spelled, without dashes in front
	Value   string
	Want    string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s: %q is not usable: %s", e.Setting, e.Value, e.Want)
}

// withDefaults returns the configuration with every zero field that has a default filled in.
func (c Config) withDefaults() Config {
	if len(c.Listen) == 0 {
		c.Listen = []string{DefaultListen}
	}
	def(&c.MaxClients, DefaultMaxClients)
	def(&c.ProtectedMode, DefaultProtectedMode)
	def(&c.TLS.AuthClients, DefaultTLSAuthClients)
	def(&c.TLS.AuthClientsUser, DefaultTLSAuthClientsUser)
	def(&c.PoolSize, DefaultPoolSize)
	def(&c.Loops, DefaultLoops())
	def(&c.TCPKeepAlive, DefaultTCPKeepAlive)
	def(&c.TCPBacklog, DefaultTCPBacklog)
	def(&c.PauseTimeout, DefaultPauseTimeout)
	def(&c.UpgradeTimeout, DefaultUpgradeTimeout)
	def(&c.HandoverTimeout, DefaultHandoverTimeout)
	def(&c.ShutdownTimeout, DefaultShutdownTimeout)
	def(&c.ProtoMaxBulkLen, DefaultProtoMaxBulkLen)
	def(&c.ClientQueryBufferLimit, DefaultClientQueryBufferLimit)
	def(&c.ClientOutputBufferLimit, DefaultClientOutputBufferLimit)
	def(&c.LogInterval, defaultLogInterval)
	def(&c.Version, "dev")
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports the first setting whose value cannot be used, as a *ConfigError. Zero fields stand for
// their defaults and are valid; Upstream alone is required.
func (c Config) Validate() error {
	for _, addr := range c.Listen {
		if err := validListen(addr); err != nil {
			return err
		}
	}
	if c.Upstream == nil {
		return &ConfigError{"upstream", "", "give the URL of a Redis or Valkey (redis://host:6379), or the word " +
			"embedded for an in-memory server to try things out with"}
	}
	for _, n := range []struct {
		setting  string
		value    int64
		min, max int64
	}{
		{"maxclients", int64(c.MaxClients), 0, 1 << 24},
		{"pool-size", int64(c.PoolSize), 0, 1 << 16},
		{"loops", int64(c.Loops), 0, 1 << 10},
		{"tcp-backlog", int64(c.TCPBacklog), 0, 1 << 16},
		{"proto-max-bulk-len", c.ProtoMaxBulkLen, 0, 1 << 31},
		{"client-query-buffer-limit", c.ClientQueryBufferLimit, 0, 1 << 31},
		{"maxmemory-clients", c.MaxMemoryClients, 0, 1 << 50},
	} {
		if n.value < n.min || n.value > n.max {
			return &ConfigError{n.setting, fmt.Sprint(n.value), fmt.Sprintf("want 1 to %d", n.max)}
		}
	}
	for _, d := range []struct {
		setting string
		value   time.Duration
	}{
		{"pool-timeout", c.PoolTimeout},
		{"upstream-timeout", c.UpstreamTimeout},
		{"pause-timeout", c.PauseTimeout},
		{"upstream-response-timeout", c.UpstreamResponseTimeout},
		{"shutdown-delay", c.ShutdownDelay},
		{"upgrade-timeout", c.UpgradeTimeout},
		{"handover-timeout", c.HandoverTimeout},
		{"shutdown-timeout", c.ShutdownTimeout},
		{"transaction-timeout", c.TransactionTimeout},
		{"handshake-timeout", c.HandshakeTimeout},
		{"auth-delay", c.AuthDelay},
	} {
		if d.value < 0 || d.value > 24*time.Hour {
			return &ConfigError{d.setting, d.value.String(), "want a duration from 0s to 24h"}
		}
	}
	whole := c.withDefaults()
	if err := cmp.Or(whole.validateTLS(), whole.validateUpstreamTLS()); err != nil {
		return err
	}
	listeners := whole.Listen
	for _, name := range c.AcceptProxy {
		if !slices.Contains(listeners, name) {
			return &ConfigError{"accept-proxy", name, "want one of the addresses of listen: " + strings.Join(listeners, ", ")}
		}
	}
	if len(c.AcceptProxy) > 0 && len(c.TrustedProxies) == 0 {
		return &ConfigError{"trusted-proxies", "none", "accept-proxy needs the addresses of those that may tell where a client " +
			"comes from, such as 10.0.0.0/8 or unix"}
	}
	switch c.ProtectedMode {
	case "", "yes", "no":
	default:
		return &ConfigError{"protected-mode", c.ProtectedMode, "want yes or no"}
	}
	if c.Timeout < 0 || c.Timeout > maxTimeout {
		return &ConfigError{"timeout", c.Timeout.String(), "want a duration from 0s to " + maxTimeout.String()}
	}
	return newTable().restrict(c.AllowDangerous, c.DenyCommands)
}

// maxTimeout is the longest Timeout, as in Redis.
const maxTimeout = math.MaxInt32 * time.Second

// validListen reports whether addr has one of the forms of Config.Listen. It opens nothing.
func validListen(addr string) error {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		if path == "" {
			return &ConfigError{"listen", addr, "want a path after unix:"}
		}
		return nil
	}
	_, port, err := net.SplitHostPort(strings.TrimPrefix(addr, tlsPrefix))
	if err != nil || port == "" {
		return &ConfigError{"listen", addr, "want host:port, [::]:port, tls://host:port or unix:/path"}
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return &ConfigError{"listen", addr, "want a port from 0 to 65535"}
	}
	return nil
}
