package main

import (
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// settings is the one table of settings. A row is a setting: its name, its default, the word that stands for
// its value in the manual, and what it does. Flag, environment variable and file key all come from the name.
//
// Defaults belong to the proxy and are filled in by defaults below.
type settings struct {
	Config      value[filePath] `name:"config" placeholder:"FILE" group:"file" help:"Read settings from this YAML file."`
	WatchConfig value[yesNo]    `name:"watch-config" default:"yes" placeholder:"YES|NO" group:"file" help:"Read the file again when it has changed."`

	Listen                  value[addresses]    `name:"listen" default:"${listen}" placeholder:"ADDR" group:"clients" help:"Accept clients at host:port, tls://host:port or unix:/path."`
	MaxClients              value[count]        `name:"maxclients" default:"${maxclients}" placeholder:"N" group:"clients" help:"Clients connected at once. The next one is told so and closed."`
	AcceptProxy             value[listeners]    `name:"accept-proxy" default:"none" placeholder:"ADDR" group:"clients" help:"Expect the PROXY protocol at this address of listen. Repeatable."`
	TrustedProxies          value[proxies]      `name:"trusted-proxies" default:"none" placeholder:"ADDR" group:"clients" help:"Who may send a PROXY protocol header. Repeatable."`
	Suspect                 value[suspects]     `name:"suspect" default:"none" placeholder:"RULE" group:"clients" help:"Change the threshold of a leak rule, or switch it off."`
	Limit                   value[rules]        `name:"limit" default:"none" placeholder:"RULE" group:"clients" help:"Bound the clients of an address, a user or the like."`
	ProtectedMode           value[yesNo]        `name:"protected-mode" default:"${protected_mode}" placeholder:"YES|NO" group:"clients" help:"Refuse other hosts while the URL holds credentials."`
	AllowDangerous          value[names]        `name:"allow-dangerous" default:"none" placeholder:"NAME" group:"clients" help:"Let debug, module|load or the like through; or all. Repeatable."`
	DenyCommands            value[names]        `name:"deny-commands" default:"none" placeholder:"NAME" group:"clients" help:"Refuse keys, config|set or the like. Repeatable."`
	ProtoMaxBulkLen         value[size]         `name:"proto-max-bulk-len" default:"${proto_max_bulk_len}" placeholder:"SIZE" group:"clients" help:"Largest argument of a command. At most what the upstream takes."`
	ClientQueryBufferLimit  value[size]         `name:"client-query-buffer-limit" default:"${client_query_buffer_limit}" placeholder:"SIZE" group:"clients" help:"Bytes that one client may have waiting to be forwarded."`
	ClientOutputBufferLimit value[outputLimits] `name:"client-output-buffer-limit" default:"${client_output_buffer_limit}" placeholder:"LIMIT" group:"clients" help:"Unread output of a client, by class."`
	Resubscribe             value[yesNo]        `name:"resubscribe" default:"no" placeholder:"YES|NO" group:"clients" help:"Keep subscribers when the upstream connection breaks."`
	TCPKeepAlive            value[seconds]      `name:"tcp-keepalive" default:"${tcp_keepalive}" placeholder:"TIME" group:"clients" help:"Probe a client that has been idle for so long. 0 is never."`
	TCPBacklog              value[count]        `name:"tcp-backlog" default:"${tcp_backlog}" placeholder:"N" group:"clients" help:"Length of the queue of connections to accept."`
	MaxMemoryClients        value[sizeOrZero]   `name:"maxmemory-clients" default:"0" placeholder:"SIZE" group:"clients" help:"Bytes in the buffers of all clients. 0 is no bound."`
	AuthDelay               value[seconds]      `name:"auth-delay" default:"${auth_delay}" placeholder:"TIME" group:"clients" help:"How long who tries passwords waits at most. 0 is not."`
	HandshakeTimeout        value[seconds]      `name:"handshake-timeout" default:"${handshake_timeout}" placeholder:"TIME" group:"clients" help:"Close a client that has sent no command. 0 is never."`
	Timeout                 value[seconds]      `name:"timeout" default:"${timeout}" placeholder:"TIME" group:"clients" help:"Close a client that has been idle for so long. 0 is never."`
	TransactionTimeout      value[seconds]      `name:"transaction-timeout" default:"${transaction_timeout}" placeholder:"TIME" group:"clients" help:"Close a client silent for so long in a transaction. 0 is never."`

	TLSCertFile        value[optionalFile] `name:"tls-cert-file" default:"none" placeholder:"FILE" group:"tls" help:"The certificate of tls:// listeners, and its chain; PEM."`
	TLSKeyFile         value[optionalFile] `name:"tls-key-file" default:"none" placeholder:"FILE" group:"tls" help:"Its private key; PEM."`
	TLSCACertFile      value[optionalFile] `name:"tls-ca-cert-file" default:"none" placeholder:"FILE" group:"tls" help:"Authorities that sign the certificates of clients; PEM."`
	TLSCACertDir       value[optionalFile] `name:"tls-ca-cert-dir" default:"none" placeholder:"DIR" group:"tls" help:"A directory of such files."`
	TLSAuthClients     value[askForCert]   `name:"tls-auth-clients" default:"${tls_auth_clients}" placeholder:"HOW" group:"tls" help:"Ask clients for a certificate: no, optional or yes."`
	TLSAuthClientsUser value[certUser]     `name:"tls-auth-clients-user" default:"${tls_auth_clients_user}" placeholder:"FIELD" group:"tls" help:"The field of a certificate that names the ACL user: CN or off."`
	TLSProtocols       value[protocols]    `name:"tls-protocols" default:"TLSv1.2 TLSv1.3" placeholder:"LIST" group:"tls" help:"Versions that clients may speak, separated by spaces."`

	Upstream                value[upstreamURL] `name:"upstream" placeholder:"URL" group:"upstream" help:"redis[s]://, unix:// or redis[s]+sentinel:// URL, or embedded."`
	PoolSize                value[count]       `name:"pool-size" default:"${pool_size}" placeholder:"N" group:"upstream" help:"Upstream connections, all kinds together. Never exceeded."`
	PoolTimeout             value[seconds]     `name:"pool-timeout" default:"${pool_timeout}" placeholder:"TIME" group:"upstream" help:"How long a client waits for an upstream connection of its own."`
	UpstreamTimeout         value[seconds]     `name:"upstream-timeout" default:"${upstream_timeout}" placeholder:"TIME" group:"upstream" help:"How long a command waits for an upstream that is gone."`
	UpstreamResponseTimeout value[seconds]     `name:"upstream-response-timeout" default:"${upstream_response_timeout}" placeholder:"TIME" group:"upstream" help:"Silence with an answer due that breaks a connection. 0: none."`

	UpstreamTLSCACertFile value[optionalFile] `name:"upstream-tls-ca-cert-file" default:"none" placeholder:"FILE" group:"upstream" help:"Authorities that sign a rediss:// upstream's certificate."`
	UpstreamTLSCACertDir  value[optionalFile] `name:"upstream-tls-ca-cert-dir" default:"none" placeholder:"DIR" group:"upstream" help:"A directory of such files."`
	UpstreamTLSCertFile   value[optionalFile] `name:"upstream-tls-cert-file" default:"none" placeholder:"FILE" group:"upstream" help:"The certificate that the upstream is shown; PEM."`
	UpstreamTLSKeyFile    value[optionalFile] `name:"upstream-tls-key-file" default:"none" placeholder:"FILE" group:"upstream" help:"Its private key; PEM."`
	UpstreamTLSServerName value[optionalName] `name:"upstream-tls-server-name" default:"none" placeholder:"NAME" group:"upstream" help:"Whom the upstream's certificate is for, if not the URL's host."`

	AdminListen   value[address]      `name:"admin-listen" default:"${admin_listen}" placeholder:"ADDR" group:"operator" help:"Serve the console at host:port or unix:/path, or none."`
	AdminUsers    value[users]        `name:"admin-users" default:"none" placeholder:"USER" group:"operator" help:"ACL users who may use all of PROXY. Repeatable."`
	StatsUsers    value[users]        `name:"stats-users" default:"none" placeholder:"USER" group:"operator" help:"ACL users who may use PROXY SHOW. Repeatable."`
	HTTPListen    value[address]      `name:"http-listen" default:"${http_listen}" placeholder:"ADDR" group:"operator" help:"Serve a page, /metrics, /healthz, /readyz there, or none."`
	HTTPTokenFile value[optionalFile] `name:"http-token-file" default:"none" placeholder:"FILE" group:"operator" help:"A file with a token that opens the page and /api."`
	PauseTimeout  value[limit]        `name:"pause-timeout" default:"${pause_timeout}" placeholder:"TIME" group:"operator" help:"How long PROXY PAUSE holds commands back at most."`

	Loops           value[count]     `name:"loops" default:"${loops}" placeholder:"N" group:"process" help:"Event loops, each on a thread of its own."`
	ShutdownDelay   value[seconds]   `name:"shutdown-delay" default:"${shutdown_delay}" placeholder:"TIME" group:"process" help:"How long to go on when told to stop, while not ready."`
	ShutdownTimeout value[limit]     `name:"shutdown-timeout" default:"${shutdown_timeout}" placeholder:"TIME" group:"process" help:"How long to answer what is in flight before the end."`
	UpgradeTimeout  value[limit]     `name:"upgrade-timeout" default:"${upgrade_timeout}" placeholder:"TIME" group:"process" help:"How long a program that is to take over may take to start."`
	HandoverTimeout value[limit]     `name:"handover-timeout" default:"${handover_timeout}" placeholder:"TIME" group:"process" help:"How long to serve clients that cannot be handed over."`
	LogFormat       value[logFormat] `name:"log-format" default:"text" placeholder:"FORMAT" group:"process" help:"text or json. The log goes to standard error."`
	LogLevel        value[logLevel]  `name:"log-level" default:"info" placeholder:"LEVEL" group:"process" help:"debug, info, warn or error."`
}

// defaults are the proxy's defaults as the table writes them: a name's dashes are underscores here.
func defaults() kong.Vars {
	vars := kong.Vars{
		"listen":                proxy.DefaultListen,
		"admin_listen":          admin.DefaultListen,
		"http_listen":           admin.DefaultHTTPListen,
		"maxclients":            strconv.Itoa(proxy.DefaultMaxClients),
		"protected_mode":        proxy.DefaultProtectedMode,
		"tls_auth_clients":      proxy.DefaultTLSAuthClients,
		"tls_auth_clients_user": proxy.DefaultTLSAuthClientsUser,
		"pool_size":             strconv.Itoa(proxy.DefaultPoolSize),
		"loops":                 strconv.Itoa(proxy.DefaultLoops()),
		"tcp_backlog":           strconv.Itoa(proxy.DefaultTCPBacklog),
	}
	for name, d := range map[string]time.Duration{
		"auth_delay":                proxy.DefaultAuthDelay,
		"timeout":                   0,
		"handshake_timeout":         0,
		"transaction_timeout":       proxy.DefaultTransactionTimeout,
		"tcp_keepalive":             proxy.DefaultTCPKeepAlive,
		"pool_timeout":              proxy.DefaultPoolTimeout,
		"upstream_timeout":          proxy.DefaultUpstreamTimeout,
		"upstream_response_timeout": proxy.DefaultUpstreamResponseTimeout,
		"shutdown_delay":            0,
		"pause_timeout":             proxy.DefaultPauseTimeout,
		"upgrade_timeout":           proxy.DefaultUpgradeTimeout,
		"handover_timeout":          proxy.DefaultHandoverTimeout,
		"shutdown_timeout":          proxy.DefaultShutdownTimeout,
	} {
		vars[name] = seconds(d).String()
	}
	for name, n := range map[string]size{
		"proto_max_bulk_len":        proxy.DefaultProtoMaxBulkLen,
		"client_query_buffer_limit": proxy.DefaultClientQueryBufferLimit,
	} {
		vars[name] = n.String()
	}
	vars["client_output_buffer_limit"] = outputLimits(proxy.DefaultClientOutputBufferLimit).String()
	return vars
}

// groups are the sections of the manual, in its order.
var groups = []kong.Group{
	{Key: "file", Title: "Configuration file"},
	{Key: "clients", Title: "Clients"},
	{Key: "tls", Title: "TLS"},
	{Key: "upstream", Title: "Upstream"},
	{Key: "operator", Title: "Operator"},
	{Key: "process", Title: "Process"},
}

// config is what the settings mean to the proxy. Log is left to the caller.
func (s *settings) config() proxy.Config {
	keepAlive := time.Duration(s.TCPKeepAlive.is)
	if keepAlive == 0 {
		keepAlive = -1 // Redis says 0 for off; the zero of Config is its default.
	}
	return proxy.Config{
		Listen:             s.Listen.is,
		Upstream:           s.Upstream.is.upstream,
		MaxClients:         int(s.MaxClients.is),
		Limits:             s.Limit.is,
		Suspects:           s.Suspect.is.rules,
		AcceptProxy:        s.AcceptProxy.is,
		TrustedProxies:     s.TrustedProxies.is.trusted,
		PoolSize:           int(s.PoolSize.is),
		Loops:              int(s.Loops.is),
		TCPKeepAlive:       keepAlive,
		Timeout:            time.Duration(s.Timeout.is),
		TransactionTimeout: time.Duration(s.TransactionTimeout.is),
		HandshakeTimeout:   time.Duration(s.HandshakeTimeout.is),
		AuthDelay:          time.Duration(s.AuthDelay.is),
		MaxMemoryClients:   int64(s.MaxMemoryClients.is),
		TCPBacklog:         int(s.TCPBacklog.is),

		TLS: proxy.TLS{
			Files: certs.Files{
				Cert: string(s.TLSCertFile.is), Key: string(s.TLSKeyFile.is), CA: string(s.TLSCACertFile.is), CADir: string(s.TLSCACertDir.is),
			},
			AuthClients: string(s.TLSAuthClients.is), AuthClientsUser: string(s.TLSAuthClientsUser.is), Protocols: s.TLSProtocols.is,
		},
		UpstreamTLS: multiplex.UpstreamTLS{
			Files: certs.Files{
				Cert: string(s.UpstreamTLSCertFile.is), Key: string(s.UpstreamTLSKeyFile.is),
				CA: string(s.UpstreamTLSCACertFile.is), CADir: string(s.UpstreamTLSCACertDir.is),
			},
			ServerName: string(s.UpstreamTLSServerName.is),
		},

		PoolTimeout:             time.Duration(s.PoolTimeout.is),
		UpstreamTimeout:         time.Duration(s.UpstreamTimeout.is),
		UpstreamResponseTimeout: time.Duration(s.UpstreamResponseTimeout.is),
		PauseTimeout:            time.Duration(s.PauseTimeout.is),
		ShutdownDelay:           time.Duration(s.ShutdownDelay.is),
		ShutdownTimeout:         time.Duration(s.ShutdownTimeout.is),
		UpgradeTimeout:          time.Duration(s.UpgradeTimeout.is),
		HandoverTimeout:         time.Duration(s.HandoverTimeout.is),

		ProtectedMode:  s.ProtectedMode.is.String(),
		AllowDangerous: s.AllowDangerous.is,
		DenyCommands:   s.DenyCommands.is,

		ProtoMaxBulkLen:         int64(s.ProtoMaxBulkLen.is),
		ClientQueryBufferLimit:  int64(s.ClientQueryBufferLimit.is),
		ClientOutputBufferLimit: proxy.OutputLimits(s.ClientOutputBufferLimit.is),
		Resubscribe:             bool(s.Resubscribe.is),

		Version: programVersion().number,
	}
}

// adminConfig is what the settings mean to the operator's side. Log is left to the caller.
func (s *settings) adminConfig() admin.Config {
	return admin.Config{
		Listen: string(s.AdminListen.is), HTTPListen: string(s.HTTPListen.is),
		AdminUsers: s.AdminUsers.is, StatsUsers: s.StatsUsers.is,
		HTTPTokenFile: string(s.HTTPTokenFile.is), AuthDelay: time.Duration(s.AuthDelay.is),
		Version: programVersion().number,
	}
}

// shown is a setting's value on one line, secrets masked.
func shown(flag *kong.Flag) string { return strings.Join(row(flag).inForce(), separator(flag.Name)) }

// separator stands between the values of a setting that has several.
func separator(name string) string {
	if name == "limit" || name == "suspect" {
		return ";"
	}
	return ","
}

// reports returns the settings as check prints them, secrets masked.
func (inv *invocation) reports() []proxy.SettingReport {
	var out []proxy.SettingReport
	for _, flag := range inv.table {
		if flag.Name != "config" {
			out = append(out, proxy.SettingReport{Name: flag.Name, Value: shown(flag), From: row(flag).origin()})
		}
	}
	return out
}

// logger returns the log that the settings ask for, from a level on that may change.
func (s *settings) logger(w io.Writer, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if s.LogFormat.is == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
