package doctor

import (
	"fmt"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Level is how bad a finding is. The worst one is the status of the whole, and the exit status.
type Level int

// The levels. A notice is worth knowing and raises no alarm.
const (
	Notice Level = iota
	Warning
	Critical
	Unknown // there was no way to look
)

// The exit statuses, which are those that monitoring has used for this since Nagios.
const (
	ExitHealthy  = 0
	ExitWarning  = 1
	ExitCritical = 2
	ExitUnknown  = 3
)

var levels = [...]string{"notice", "warning", "critical", "unknown"}

func (l Level) String() string { return levels[l] }

// MarshalText writes the level as String does.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (l *Level) UnmarshalText(text []byte) error {
	for n, word := range levels {
		if word == string(text) {
			*l = Level(n)
			return nil
		}
	}
	return fmt.Errorf("level %q is not known", text)
}

// Finding is something that was found out. It is part of the JSON output.
type Finding struct {
	Code  string `json:"code"` // stable
	Level Level  `json:"level"`
	Text  string `json:"text"` // one sentence with the figures
}

// criticalPercent of maxclients is where a burst of any size is refused.
const criticalPercent = 95

// findings are what the survey comes to, in the order in which they are looked for.
func (v *survey) findings() (all []Finding) {
	find := func(level Level, code, format string, args ...any) {
		all = append(all, Finding{code, level, fmt.Sprintf(format, args...)})
	}
	v.findFullness(find)
	v.findOpenFiles(find)
	v.findLeaks(find)
	v.findIdle(find)
	v.findSettings(find)
	v.findProxy(find)
	return all
}

type finder func(level Level, code, format string, args ...any)

func (v *survey) findFullness(find finder) {
	if v.tries.refused > 0 {
		find(Critical, "refused-us", "%s refused at first with \"max number of clients reached\", in %s",
			plural(v.tries.refused, "connection of ours was", "connections of ours were"), span(v.tries.took))
	}
	percent := v.percent()
	text := fmt.Sprintf("%d of %d connections are used (%.0f %%)", v.used(), v.maxclients, percent)
	switch {
	case percent >= criticalPercent:
		find(Critical, "full", "%s", text)
	case percent >= float64(v.cfg.Threshold):
		find(Warning, "nearly-full", "%s", text)
	}
	total := v.now.number("rejected_connections")
	switch now := v.since("rejected_connections"); {
	case now > 0:
		find(Critical, "rejecting", "%s refused in %s, %.1f a second; %d since the start",
			plural(now, "connection was", "connections were"), span(v.took),
			float64(now)/max(v.took.Seconds(), 1), total)
	case total > 0:
		find(Notice, "rejected-before", "%s been refused since the start, none of them in these %s",
			plural(total, "connection has", "connections have"), span(v.took))
	}
	grown, steady := v.growth()
	if grown < leastGrowth {
		return
	}
	text = fmt.Sprintf("connections grew by %d in %s", grown, span(v.took))
	if left := v.maxclients - v.used(); steady && left > 0 {
		until := time.Duration(float64(v.took) * float64(left) / float64(grown))
		level := Notice
		if until < time.Hour {
			level = Warning
		}
		find(level, "growing", "%s: at that rate maxclients is reached in %s", text, span(until))
		return
	}
	find(Notice, "grew", "%s", text)
}

// leastGrowth is how many more connections there have to be for it to be worth telling.
const leastGrowth = 5

func (v *survey) findOpenFiles(find finder) {
	f := v.files
	switch {
	case f.lowered && f.configured > 0:
		find(Warning, "open-files", "maxclients is %d and redis.conf says %d: the start got %d open files, and lowered it", v.maxclients,
			f.configured, f.limit)
	case f.lowered:
		find(Notice, "open-files", "maxclients is %d, which is %d less than %d: most likely a limit of %d open files lowered it at the start",
			v.maxclients, spare, f.limit, f.limit)
	}
}

func (v *survey) findLeaks(find finder) {
	for _, s := range v.suspects() {
		find(Warning, "leak-"+string(s.Rule), "%s (%s): %s", safe(s.Source, 40), whoElse(s.Identities), s.Reason)
	}
	for _, s := range v.suspectsOfProxy {
		find(Warning, "leak-"+s.Rule, "%s: %s, as redbouncer has said for %s", safe(s.Source, 40), s.Reason, span(time.Duration(s.SinceS)*time.Second))
	}
	if v.churns() {
		text := fmt.Sprintf("%.0f connections a minute are opened and closed at once", v.briefPerMinute())
		if source, n := v.topBrief(); n >= tellingBrief {
			text += fmt.Sprintf("; of those that were seen, most (%d) are of %s", n, safe(source, 40))
		}
		find(Warning, "churn", "%s", text)
	}
}

// tellingBrief is how many brief connections of a source it takes to be more than chance.
const tellingBrief = 3

// churns reports whether connections come and go as fast as the leak rule churn says, whoever it is. That rule itself looks
// at connections that were listed, and those of a millisecond are not; and it takes longer.
func (v *survey) churns() bool {
	return v.book != nil && v.briefPerMinute() >= float64(v.book.rules.Churn.Opens) && !v.suspected(limits.Churn)
}

func (v *survey) topBrief() (string, int) {
	if v.book == nil {
		return "", 0
	}
	return v.book.topBrief()
}

func (v *survey) suspected(rule limits.LeakRule) bool {
	for _, s := range v.suspects() {
		if s.Rule == rule {
			return true
		}
	}
	for _, s := range v.suspectsOfProxy {
		if s.Rule == string(rule) {
			return true
		}
	}
	return false
}

// whoElse tells who a source is beside its name.
func whoElse(ids limits.Identities) string {
	words := []string{}
	for _, k := range []limits.IdentityKind{limits.ByLib, limits.ByUser} {
		if ids[k] != "" {
			words = append(words, k.String()+" "+safe(ids[k], 30))
		}
	}
	if len(words) == 0 {
		return "it does not say who it is"
	}
	return strings.Join(words, ", ")
}

func (v *survey) findIdle(find finder) {
	if !v.listed || len(v.clients) == 0 {
		return
	}
	idle := len(v.idleClients(v.cfg.Idle))
	if idle > 0 {
		level := Notice
		if v.percent() >= 50 && idle*2 >= len(v.clients) {
			level = Warning
		}
		find(level, "idle", "%s idle for longer than %s (%d %%)", plural(idle, "connection is", "connections are"), span(v.cfg.Idle),
			idle*100/len(v.clients))
	}
	if n := v.count(func(c *client) bool { return c.neverSpoke() && !c.isPeer() }); n > 0 {
		find(Notice, "never-spoke", "%s never sent a command", plural(n, "connection has", "connections have"))
	}
	if n := v.count(func(c *client) bool { return c.name == "" && !c.isPeer() }); n > 0 {
		find(Notice, "unnamed", "%s no name: who they are, only the address says", plural(n, "connection has", "connections have"))
	}
}

func (v *survey) findSettings(find finder) {
	if v.timeout == 0 && !v.now.isProxy() {
		find(Notice, "timeout-off", "timeout is 0: idle connections are never closed")
	}
	if v.keepalive == 0 {
		find(Warning, "keepalive-off", "tcp-keepalive is 0: connections of clients that have vanished stay for ever")
	}
	if v.now.mode() == "cluster" {
		find(Notice, "cluster", "it is one node of a cluster: maxclients counts for each node, the links of the cluster (%d) and "+
			"replicas included; look at every node", v.now.number("cluster_connections"))
	}
	if v.now.role() == "slave" {
		find(Notice, "replica", "it is a replica: its maxclients is its own, and must do for all clients after a failover")
	}
}

func (v *survey) findProxy(find finder) {
	if !v.now.isProxy() {
		return
	}
	up, most := v.now.number("upstream_connected_clients"), v.now.number("upstream_maxclients")
	if most > 0 && up*100 >= most*v.cfg.Threshold {
		find(Warning, "upstream-nearly-full", "Redis behind the proxy has %d of %d connections used: others connect past the proxy", up, most)
	}
	if n := v.since("pool_timeouts"); n > 0 {
		find(Critical, "pool-timeouts", "%d clients were told \"max number of clients reached\" in %s as all upstream connections are pinned",
			n, span(v.took))
	} else if n := v.now.number("pool_timeouts"); n > 0 {
		find(Notice, "pool-timeouts-before", "%d clients waited in vain for an upstream connection of their own since the start", n)
	}
}

// status is the worst of the findings. If nothing could be seen that says how full it is, it is not known.
func (v *survey) status(all []Finding) Level {
	worst := Notice
	for _, f := range all {
		worst = max(worst, f.Level)
	}
	if v.used() < 0 && worst == Notice {
		return Unknown
	}
	return worst
}

func exitStatus(l Level) int {
	return [...]int{ExitHealthy, ExitWarning, ExitCritical, ExitUnknown}[l]
}

// statusWord is the status as people and programs are told it.
func statusWord(l Level) string {
	return [...]string{"healthy", "warning", "critical", "unknown"}[l]
}

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// span writes a time as people do: in whole seconds, and in minutes and hours from two of them on.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Second && d%time.Second != 0:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}
