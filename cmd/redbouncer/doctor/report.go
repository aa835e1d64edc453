package doctor

import (
	"math"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// schema is the version of the JSON output. Fields are added without a new one; none is renamed or removed.
const schema = 1

// Report is what doctor has found out, and its JSON output. What is not known is null or left out.
type Report struct {
	Schema     int    `json:"schema"`
	Time       string `json:"time"` // RFC 3339
	Status     string `json:"status"`
	ExitStatus int    `json:"exit_status"`
	Target     string `json:"target"` // without the password

	Trouble *Trouble `json:"trouble,omitempty"` // why there is nothing else
	Refused int      `json:"refused_tries"`     // our own connections that were told "max number of clients reached"

	Server      *ServerReport      `json:"server,omitempty"`
	Connections *ConnectionsReport `json:"connections,omitempty"`
	Settings    *SettingsReport    `json:"settings,omitempty"`
	Sources     *SourcesReport     `json:"sources,omitempty"`
	Idlest      []ClientReport     `json:"idlest,omitempty"`
	Suspects    []SuspectReport    `json:"suspects,omitempty"`
	Findings    []Finding          `json:"findings"`
	Advice      []Advice           `json:"advice"`
	Blind       []Blind            `json:"blind,omitempty"`

	survey *survey
}

// Trouble is why there is no connection to look through.
type Trouble struct {
	Kind    string         `json:"kind"` // one of the Trouble constants
	Text    string         `json:"text"`
	Sockets *SocketsReport `json:"sockets,omitempty"`
}

// SocketsReport is what the kernel of this host knows of connections to the server, without asking it.
type SocketsReport struct {
	Server  bool     `json:"server_is_here"` // then these are all TCP connections to it; else those of this host
	Total   int      `json:"total"`
	Sources []Source `json:"sources,omitempty"` // by address
}

// ServerReport is who was looked at.
type ServerReport struct {
	Product        string `json:"product,omitempty"` // Redis or Valkey
	Version        string `json:"version,omitempty"`
	Mode           string `json:"mode"`
	Role           string `json:"role"`
	UptimeS        int    `json:"uptime_s"`
	Redbouncer     string `json:"redbouncer,omitempty"` // its version, if one is in front
	Upstream       string `json:"upstream,omitempty"`
	PoolSize       int    `json:"pool_size,omitempty"`
	UpstreamOpen   int    `json:"upstream_connections,omitempty"`
	Pins           int    `json:"pins,omitempty"`
	ClientsWaiting int    `json:"clients_waiting,omitempty"`
}

// ConnectionsReport is how many there are.
type ConnectionsReport struct {
	Used            *int     `json:"used"` // all that count against maxclients, ours among them
	Clients         *int     `json:"clients"`
	MaxClients      *int     `json:"maxclients"`
	Left            *int     `json:"left"`
	UsedPercent     *float64 `json:"used_percent"`
	HeadroomPercent *float64 `json:"headroom_percent"`
	Peak            *int     `json:"peak"` // while it was watched
	Grown           *int     `json:"grown"`
	Blocked         int      `json:"blocked"`
	PubSub          int      `json:"pubsub"`
	Replicas        int      `json:"replicas"`
	ClusterLinks    int      `json:"cluster_links"`
	Listed          *int     `json:"listed"`      // in CLIENT LIST, ours not counted; what follows is about these
	Idle            *int     `json:"idle"`        // for longer than idle_s
	NeverSpoke      *int     `json:"never_spoke"` // have sent no command
	Unnamed         *int     `json:"unnamed"`
	IdleS           int      `json:"idle_s"`

	WatchedS          float64 `json:"watched_s"`
	RejectedTotal     int     `json:"rejected_total"` // since the start
	Rejected          int     `json:"rejected"`       // while it was watched
	RejectedPerSecond float64 `json:"rejected_per_second"`
	Opened            int     `json:"opened"` // while it was watched
	OpenedPerSecond   float64 `json:"opened_per_second"`
}

// SettingsReport is how the server is set. Null is not known.
type SettingsReport struct {
	Timeout           *int   `json:"timeout"`
	TCPKeepAlive      *int   `json:"tcp_keepalive"`
	OpenFiles         *int   `json:"open_files"`
	OpenFilesFrom     string `json:"open_files_from,omitempty"`
	MaxClientsLowered bool   `json:"maxclients_lowered"`           // at the start, for want of open files
	MaxClientsInFile  int    `json:"maxclients_in_file,omitempty"` // of redis.conf, if it can be read from here
}

// SourcesReport is who holds the connections, those with the most first.
type SourcesReport struct {
	Addr []Source `json:"addr"`
	Name []Source `json:"name"`
	User []Source `json:"user"`
	Lib  []Source `json:"lib"`
}

// ClientReport is a connection.
type ClientReport struct {
	ID    int64  `json:"id"`
	Addr  string `json:"addr"`
	Name  string `json:"name"`
	User  string `json:"user"`
	Lib   string `json:"lib"`
	AgeS  int    `json:"age_s"`
	IdleS int    `json:"idle_s"`
	Last  string `json:"last"` // "": it has sent no command
}

// SuspectReport is a source that a leak rule names.
type SuspectReport struct {
	Source string `json:"source"`
	Rule   string `json:"rule"`
	Open   int    `json:"open"`
	Reason string `json:"reason"`
	Advice string `json:"advice"`
	Addr   string `json:"addr,omitempty"`
	Name   string `json:"name,omitempty"`
	User   string `json:"user,omitempty"`
	Lib    string `json:"lib,omitempty"`
	Last   string `json:"last,omitempty"`
	By     string `json:"by"` // doctor, or redbouncer if it has said so
}

// report puts a survey into a report.
func (v *survey) report() *Report {
	findings := v.findings()
	status := v.status(findings)
	r := &Report{
		Schema: schema, Time: time.Now().UTC().Format(time.RFC3339), Status: statusWord(status), ExitStatus: exitStatus(status),
		Target: v.cfg.Shown, Refused: v.tries.refused, Findings: findings, Advice: v.advice(), Blind: v.blind, survey: v,
	}
	if r.Findings == nil {
		r.Findings = []Finding{}
	}
	if r.Advice == nil {
		r.Advice = []Advice{}
	}
	r.Server, r.Connections, r.Settings = v.reportServer(), v.reportConnections(), v.reportSettings()
	if !v.listed {
		return r
	}
	r.Sources = &SourcesReport{v.sources(byAddr), v.sources(byName), v.sources(byUser), v.sources(byLib)}
	for _, list := range []*[]Source{&r.Sources.Addr, &r.Sources.Name, &r.Sources.User, &r.Sources.Lib} {
		*list = (*list)[:min(len(*list), max(v.cfg.Top, 1))]
	}
	idle := v.idleClients(v.cfg.Idle)
	for _, c := range idle[:min(len(idle), max(v.cfg.Top, 1))] {
		r.Idlest = append(r.Idlest, c.report())
	}
	r.Suspects = v.reportSuspects()
	return r
}

func (c *client) report() ClientReport {
	return ClientReport{c.id, c.addr, c.name, c.user, c.lib, int(c.age / time.Second), int(c.idle / time.Second), c.last}
}

func (v *survey) reportServer() *ServerReport {
	in := v.now
	s := &ServerReport{Mode: in.mode(), Role: in.role(), UptimeS: in.number("uptime_in_seconds")}
	if s.Role == "slave" {
		s.Role = "replica"
	}
	if in["redis_version"] != "" {
		s.Product, s.Version = in.product()
	}
	if in.isProxy() {
		s.Redbouncer, s.Upstream, s.PoolSize = in["redbouncer_version"], in["upstream"], in.number("pool_size")
		s.UpstreamOpen, s.Pins, s.ClientsWaiting = in.number("upstream_connections"), in.number("pins"), in.number("clients_waiting")
		s.UptimeS = in.number("redbouncer_uptime_in_seconds")
	}
	return s
}

// known returns a number that is not known if it is negative.
func known(n int) *int {
	if n < 0 {
		return nil
	}
	return &n
}

func (v *survey) reportConnections() *ConnectionsReport {
	in := v.now
	c := &ConnectionsReport{
		Used: known(v.used()), MaxClients: known(v.maxclients), Peak: known(v.peak), IdleS: int(v.cfg.Idle / time.Second),
		Blocked: in.number("blocked_clients"), PubSub: in.number("pubsub_clients"), Replicas: in.number("connected_slaves"),
		ClusterLinks: in.number("cluster_connections"), WatchedS: round(v.took.Seconds()), RejectedTotal: in.number("rejected_connections"),
		Rejected: v.since("rejected_connections"), Opened: v.since("total_connections_received"),
	}
	perSecond := func(n int) float64 { return round(float64(n) / max(v.took.Seconds(), 1)) }
	c.RejectedPerSecond, c.OpenedPerSecond = perSecond(c.Rejected), perSecond(c.Opened)
	if in["connected_clients"] != "" {
		c.Clients = known(in.number("connected_clients"))
		grown := v.used() - v.first.used()
		c.Grown = &grown
	}
	if p := v.percent(); p >= 0 {
		used, left := round(p), round(100-p)
		c.UsedPercent, c.HeadroomPercent = &used, &left
		c.Left = known(max(v.maxclients-v.used(), 0))
	}
	if !v.listed {
		return c
	}
	if in["pubsub_clients"] == "" { // Redis has it since 7.4 only
		c.PubSub = v.count((*client).isSubscribed)
	}
	if in["blocked_clients"] == "" {
		c.Blocked = v.count((*client).isBlocked)
	}
	c.Listed = known(len(v.clients))
	c.Idle = known(len(v.idleClients(v.cfg.Idle)))
	c.NeverSpoke = known(v.count(func(c *client) bool { return c.neverSpoke() && !c.isPeer() }))
	c.Unnamed = known(v.count(func(c *client) bool { return c.name == "" && !c.isPeer() }))
	return c
}

func (v *survey) reportSettings() *SettingsReport {
	s := &SettingsReport{
		Timeout: known(v.timeout), TCPKeepAlive: known(v.keepalive), OpenFilesFrom: v.files.from,
		MaxClientsLowered: v.files.lowered, MaxClientsInFile: v.files.configured,
	}
	if v.files.limit > 0 {
		s.OpenFiles = &v.files.limit
	}
	return s
}

func (v *survey) reportSuspects() (all []SuspectReport) {
	for _, s := range v.suspects() {
		ids := s.Identities
		all = append(all, SuspectReport{
			Source: s.Source, Rule: string(s.Rule), Open: s.Report.Open, Reason: s.Reason, Advice: s.Advice, Last: s.Report.Last, By: "doctor",
			Addr: ids[limits.ByAddr], Name: ids[limits.ByName], User: ids[limits.ByUser], Lib: ids[limits.ByLib],
		})
	}
	for _, s := range v.suspectsOfProxy {
		all = append(all, SuspectReport{Source: s.Source, Rule: s.Rule, Open: s.Open, Reason: s.Reason, Advice: s.Advice, By: "redbouncer"})
	}
	return all
}

// round keeps two digits behind the point.
func round(f float64) float64 { return math.Round(f*100) / 100 }
