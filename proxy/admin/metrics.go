package admin

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
)

// Metrics are collected when they are asked for; nothing is counted twice. However many sources and groups there are,
// the series are bounded: those with the most connections have their own, the rest share one.

const (
	topSources  = 20  // of each kind, and of each rule
	topSuspects = 100 // those that have been suspects for longest come first
	maxLabel    = 128 // bytes of a label's value
)

// metric is a figure that has no labels.
type metric[T any] struct {
	column  string // the word of SHOW
	name    string // without redbouncer_ in front
	help    string
	counter bool
	value   func(T) float64
}

var statMetrics = []metric[proxy.Stats]{
	{"clients", "clients", "Clients connected.", false, func(s proxy.Stats) float64 { return float64(s.Clients) }},
	{"maxclients", "maxclients", "The limit in force.", false, func(s proxy.Stats) float64 { return float64(s.MaxClients) }},
	{"upstream", "upstream_connections", "Upstream connections open or being opened.", false, func(s proxy.Stats) float64 { return float64(s.Upstream) }},
	{"pool_size", "pool_size", "The bound on upstream connections.", false, func(s proxy.Stats) float64 { return float64(s.PoolSize) }},
	{"lanes", "lanes", "Upstream connections that clients share.", false, func(s proxy.Stats) float64 { return float64(s.Lanes) }},
	{"pins", "pins", "Upstream connections that are lent.", false, func(s proxy.Stats) float64 { return float64(s.Pins) }},
	{"idle_pins", "idle_pins", "Upstream connections kept for lending.", false, func(s proxy.Stats) float64 { return float64(s.IdlePins) }},
	{"in_flight", "in_flight", "Commands sent upstream whose replies are not complete.", false, func(s proxy.Stats) float64 { return float64(s.InFlight) }},
	{"waiting", "waiting", "Sessions and connections that wait for something.", false, func(s proxy.Stats) float64 { return float64(s.Waiting) }},
	{"queued", "clients_queued", "Clients that wait in the queue of a rule.", false, func(s proxy.Stats) float64 { return float64(s.Queued) }},
	{"client_memory", "client_buffers_bytes", "What clients have in buffers.", false, func(s proxy.Stats) float64 { return float64(s.ClientMemory) }},
	{"evicted", "clients_evicted_total", "Clients closed to make room for others, or because all had too much in buffers.", true, func(s proxy.Stats) float64 { return float64(s.Evicted) }},
	{"commands", "commands_total", "Commands that clients have sent.", true, func(s proxy.Stats) float64 { return float64(s.Commands) }},
	{"admitted", "clients_admitted_total", "Clients let in.", true, func(s proxy.Stats) float64 { return float64(s.Admitted) }},
	{"refused", "clients_refused_total", "Clients refused.", true, func(s proxy.Stats) float64 { return float64(s.Refused) }},
	{"pool_timeouts", "pool_timeouts_total", "Commands refused because no upstream connection came free in time.", true, func(s proxy.Stats) float64 { return float64(s.PoolTimeouts) }},
	{"lost", "clients_lost_total", "Clients closed because their upstream connection broke.", true, func(s proxy.Stats) float64 { return float64(s.Lost) }},
	{"lost_upstream", "upstream_connections_lost_total", "Upstream connections that broke.", true, func(s proxy.Stats) float64 { return float64(s.LostUpstream) }},
	{"failovers", "upstream_failovers_total", "How often the primary has become another server.", true, func(s proxy.Stats) float64 { return float64(s.Failovers) }},
	{"sentinels", "upstream_sentinels", "Sentinels that are listened to.", false, func(s proxy.Stats) float64 { return float64(s.Sentinels) }},
}

var (
	descPoolOpen    = desc("pool_open", "Upstream connections open or being opened, by kind.", "kind")
	descPoolWaiting = desc("pool_waiting", "Upstream connections that are waited for, by kind.", "kind")
	descState       = desc("state", "1 for what the proxy does: starting, serving, pausing, paused, resuming, draining or stopping.", "state")
	descPauseLeft   = desc("pause_left_seconds", "Until a pause ends by itself; 0 without one.")
	descUp          = desc("upstream_up", "0 if the last attempt to connect to the upstream has failed.")
	descConnects    = desc("upstream_connects_total", "Upstream connections opened, but for the control connection.")
	descLatency     = desc("command_latency_seconds", "How long commands on shared connections took, until their reply had been read.")
	descBuild       = desc("build_info", "1, with the version.", "version")

	descSourceOpen  = desc("source_connections", "Connections of a source; those with the most, and the rest together.", "kind", "source")
	descSourceInUse = desc("source_in_use", "Connections of a source with a command under way.", "kind", "source")
	descSourceIdle  = desc("source_idle", "Connections of a source without one.", "kind", "source")
	descSourceMute  = desc("source_never_spoke", "Connections of a source that have sent nothing yet.", "kind", "source")
	descSuspect     = desc("suspect", "1 for each source that a leak rule has named.", "source", "rule")

	descGroupOpen    = desc("limit_open", "Connections that count for a rule, by value; those with the most, and the rest together.", "rule", "value")
	descGroupMax     = desc("limit_max", "The most that a rule allows, by value.", "rule", "value")
	descGroupWaiting = desc("limit_waiting", "Clients that wait for a rule, by value.", "rule", "value")
	descRefused      = desc("limit_refused_total", "Clients refused by a rule.", "rule")
	descQueued       = desc("limit_queued_total", "Clients that a rule had wait.", "rule")
	descEvicted      = desc("limit_evicted_total", "Clients that a rule closed to make room.", "rule")
	descWould        = desc("limit_would_refuse_total", "Clients that a rule which only observes would have refused.", "rule")
	descQueue        = desc("queue_waiting", "Clients that wait to be let in.")
	descQueueBytes   = desc("queue_bytes", "Bytes that they have sent.")
	descQueueOldest  = desc("queue_oldest_seconds", "How long the first of them has waited.")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("redbouncer_"+name, help, labels, nil)
}

// collector implements prometheus.Collector. It may be used by several goroutines at once.
type collector struct{ console *Console }

// Describe implements prometheus.Collector. It says nothing in advance, so that metrics are checked as they come.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	gauge(out, descBuild, 1, label(c.console.cfg.Version))
	b := c.console.backends.Load()
	if b == nil {
		return
	}
	stats := b.Proxy.Stats()
	for _, m := range statMetrics {
		kind := prometheus.GaugeValue
		if m.counter {
			kind = prometheus.CounterValue
		}
		out <- prometheus.MustNewConstMetric(desc(m.name, m.help), kind, m.value(stats))
	}
	ctx, cancel := context.WithTimeout(context.Background(), consoleTimeout)
	defer cancel()
	if p, err := b.Proxy.Pool(ctx); err == nil {
		gauge(out, descState, 1, p.State)
		gauge(out, descPauseLeft, p.PauseLeft.Seconds())
		gauge(out, descUp, map[bool]int{true: 1}[p.Upstream == "up"])
		gauge(out, descPoolOpen, p.Lanes, "lane")
		gauge(out, descPoolOpen, p.Pins, "pin")
		gauge(out, descPoolOpen, p.Control, "control")
		gauge(out, descPoolWaiting, p.LanesWaiting, "lane")
		gauge(out, descPoolWaiting, p.PinsWaiting, "pin")
		gauge(out, descPoolWaiting, p.ControlWait, "control")
		counter(out, descConnects, p.Connects)
	}
	if l, err := b.Proxy.Latency(ctx); err == nil {
		out <- histogram(&l)
	}
	if b.Limits != nil {
		collectRules(out, b.Limits.Rules())
		if queue, err := b.Limits.Queue(ctx); err == nil {
			collectQueue(out, queue)
		}
	}
	if b.Ledger != nil {
		for _, kind := range sourceKinds() {
			collectSources(out, kind, b.sources(kind))
		}
		collectSuspects(out, b.Ledger.Suspects())
	}
}

func gauge[N int | float64](out chan<- prometheus.Metric, d *prometheus.Desc, v N, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
}

func counter(out chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// label makes a label's value of what a client may have said.
func label(value string) string {
	value = strings.ToValidUTF8(value, "?")
	for len(value) > maxLabel {
		_, size := utf8.DecodeLastRuneInString(value)
		value = value[:len(value)-size]
	}
	return value
}

// collectSources tells of one kind's sources, of which those with the most connections come first.
func collectSources(out chan<- prometheus.Metric, kind string, sources []limits.SourceReport) {
	byLabel := map[string]limits.SourceReport{} // two values may have one label
	for i, s := range sources {
		name := label(s.Value)
		if i >= topSources {
			name = limits.OtherSources
		}
		sum := byLabel[name]
		sum.Open += s.Open
		sum.InUse += s.InUse
		sum.Idle += s.Idle
		sum.NeverSpoke += s.NeverSpoke
		byLabel[name] = sum
	}
	for name, s := range byLabel {
		gauge(out, descSourceOpen, s.Open, kind, name)
		gauge(out, descSourceInUse, s.InUse, kind, name)
		gauge(out, descSourceIdle, s.Idle, kind, name)
		gauge(out, descSourceMute, s.NeverSpoke, kind, name)
	}
}

func collectSuspects(out chan<- prometheus.Metric, suspects []limits.Suspect) {
	seen := map[[2]string]bool{}
	for _, s := range suspects {
		key := [2]string{label(s.Source), string(s.Rule)}
		if !seen[key] && len(seen) < topSuspects {
			seen[key] = true
			gauge(out, descSuspect, 1, key[0], key[1])
		}
	}
}
