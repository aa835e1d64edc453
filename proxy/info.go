package proxy

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// infoQuestion says how INFO is asked, and answered: by the upstream, with the figures of ours that its version has,
// and a section of our own.
func (s *session) infoQuestion(c command) question {
	section := c.Len() == 1
	for i := 1; i < c.Len(); i++ {
		for _, word := range []string{"ALL", "EVERYTHING", "DEFAULT", "PROXY"} {
			section = section || isWord(c.Arg(i), word)
		}
	}
	return question{safe: true, answer: atOnce(func(reply []byte) []byte { return s.w.srv.infoReply(reply, section) })}
}

// infoReply puts the proxy's figures into a reply to INFO, and its section behind it.
func (s *Server) infoReply(reply []byte, section bool) []byte {
	format, body := bulkBody(reply)
	if format == "" {
		return reply
	}
	ours, replaced := s.infoFields(), map[string]string{}
	out := make([]byte, 0, len(body)+1024)
	for line := range bytes.Lines(body) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		v, isOurs := ours[string(key)]
		if !ok || !isOurs {
			out = append(out, line...)
			continue
		}
		replaced[string(key)] = string(bytes.TrimSpace(value))
		out = fmt.Appendf(out, "%s:%d\r\n", key, v)
	}
	if section {
		if len(out) > 0 {
			out = append(out, "\r\n"...)
		}
		out = append(out, s.proxySection(replaced)...)
	}
	return bulkReply(format, out)
}

// infoFields are the fields of INFO that speak of clients.
func (s *Server) infoFields() map[string]uint64 {
	gate := s.gate.Stats()
	count := func(n int64) uint64 { return uint64(max(n, 0)) }
	fields := map[string]uint64{
		"connected_clients":          uint64(gate.Open),
		"maxclients":                 uint64(gate.Max),
		"blocked_clients":            count(s.gauges.blocked.Load()),
		"pubsub_clients":             count(s.gauges.subscribed.Load()),
		"tracking_clients":           count(s.gauges.tracking.Load()),
		"watching_clients":           count(s.gauges.watching.Load()),
		"evicted_clients":            s.counters.evicted.Load(),
		"total_connections_received": gate.Total,
		"rejected_connections":       gate.Refused,
	}
	if before := s.forgotten.Load(); before != nil {
		since := func(key string, n uint64) { fields[key] -= min(n, fields[key]) }
		since("total_connections_received", before.Total)
		since("rejected_connections", before.Refused)
	}
	return fields
}

// proxySection is the section of INFO that no Redis has. Its fields have names that no other section has, since many
// clients drop the sections and keep one table of fields. Replaced are the upstream's own figures.
func (s *Server) proxySection(replaced map[string]string) string {
	lanes, pins, control := s.budget.Open(limits.Lane), s.budget.Open(limits.Pin), s.budget.Open(limits.Control)
	waiting, lost := 0, uint64(0)
	for _, k := range []limits.Kind{limits.Lane, limits.Pin, limits.Control} {
		waiting += s.budget.Waiting(k)
	}
	for _, w := range s.workers {
		lost += w.pool.Lost()
	}
	var b strings.Builder
	b.WriteString("# Proxy\r\n")
	field := func(key string, value any) { fmt.Fprintf(&b, "%s:%v\r\n", key, value) }
	field("redbouncer_version", s.cfg.Version)
	field("redbouncer_process_id", os.Getpid())
	field("redbouncer_uptime_in_seconds", int(time.Since(s.started)/time.Second))
	primary := s.primary.Report()
	field("upstream", s.primary)
	if primary.Watched {
		field("upstream_sentinels", primary.Sentinels)
		field("upstream_sentinels_heard", primary.Heard)
		field("upstream_failovers", primary.Failovers)
	}
	field("pool_size", s.budget.Size())
	field("upstream_connections", lanes+pins+control)
	field("lanes", lanes)
	field("pins", pins)
	field("control_connections", control)
	field("waiting", waiting)
	field("clients_waiting", s.gate.Stats().Waiting)
	field("client_buffers_bytes", s.clientMemory.Load())
	field("pool_timeouts", s.counters.poolTimeouts.Load())
	field("clients_lost", s.counters.lost.Load())
	field("upstream_connections_lost", lost)
	for _, key := range []string{"connected_clients", "maxclients"} {
		if v, ok := replaced[key]; ok {
			field("upstream_"+key, v)
		}
	}
	return b.String()
}

// resetStat answers CONFIG RESETSTAT, and starts our counters in INFO anew if the upstream has done so with its own.
func (s *Server) resetStat(reply []byte) []byte {
	if !isErrorReply(reply) {
		now := s.gate.Stats()
		s.forgotten.Store(&now)
	}
	return reply
}
