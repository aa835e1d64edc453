package doctor

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Advice is something to do. It is part of the JSON output.
type Advice struct {
	Code     string   `json:"code"` // stable
	Title    string   `json:"title"`
	Why      string   `json:"why"`
	Commands []string `json:"commands"`

	gain int // how many connections it frees or makes room for: what helps most comes first
}

// advice is what to do, what would help most first.
func (v *survey) advice() []Advice {
	var all []Advice
	for _, of := range []func() []Advice{
		v.adviseRoom, v.adviseLeaks, v.adviseIdle, v.adviseProxy, v.adviseKeepAlive, v.adviseNames, v.adviseRights,
	} {
		all = append(all, of()...)
	}
	slices.SortStableFunc(all, func(a, b Advice) int { return cmp.Compare(b.gain, a.gain) })
	return all
}

// redisCLI is how redis-cli gets there, without the password, which it reads from REDISCLI_AUTH.
func (v *survey) redisCLI(words ...string) string {
	o := v.server.options
	b := "redis-cli"
	if o.Network == "unix" {
		b += " -s " + quoted(o.Addr)
	} else {
		host, port := splitAddr(o.Addr)
		b += " -h " + quoted(host) + " -p " + port
	}
	if v.server.tls != nil {
		b += " --tls"
	}
	if o.Username != "" && o.Username != "default" {
		b += " --user " + quoted(o.Username)
	}
	for _, w := range words {
		b += " " + quoted(w)
	}
	return b
}

// quotedWords writes each word for a shell, behind a space.
func quotedWords(text string) (b string) {
	for w := range strings.FieldsSeq(text) {
		b += " " + quoted(w)
	}
	return b
}

func splitAddr(addr string) (host, port string) {
	i := strings.LastIndex(addr, ":")
	if i < 0 {
		return addr, "6379"
	}
	return strings.Trim(addr[:i], "[]"), addr[i+1:]
}

func (v *survey) isTight() bool {
	return v.percent() >= float64(v.cfg.Threshold) || v.tries.refused > 0
}

// adviseRoom is the first aid. Without a leak it is the cure, too.
func (v *survey) adviseRoom() []Advice {
	if !v.isTight() && v.since("rejected_connections") == 0 || v.maxclients <= 0 {
		return nil
	}
	want := roundUp(2 * max(v.used(), v.maxclients))
	a := Advice{
		Code: "raise-maxclients", Title: fmt.Sprintf("Raise maxclients to %d, at once and without a restart", want),
		Why:      "It makes room now. If something leaks, it only gains time.",
		Commands: []string{v.redisCLI("CONFIG", "SET", "maxclients", fmt.Sprint(want))}, gain: want,
	}
	if v.now.isProxy() {
		a.Why = "Clients of the proxy cost Redis nothing. PROXY CONFIG REWRITE writes it into the proxy's file."
		return []Advice{a}
	}
	if v.hasNoConfig() {
		a.Title = fmt.Sprintf("Raise maxclients to %d", want)
		a.Why, a.Commands = "This server has no CONFIG, as with hosted ones: set it in the service's parameters, or take a larger size.", []string{}
		return []Advice{a}
	}
	a.Commands = append(a.Commands, v.redisCLI("CONFIG", "REWRITE")+"   # so that it lasts")
	if f := v.files; f.limit == 0 || want+spare > f.limit {
		switch {
		case f.limit == 0 || f.hard >= want+spare:
			a.Why += " If the answer is \"not able to handle\", the open-file limit is in the way:"
		default:
			a.Why += fmt.Sprintf(" The open-file limit is in the way: %d (%s), and %d are needed:", f.limit, f.from, want+spare)
		}
		a.Commands = append(a.Commands, raiseOpenFiles(v.now.number("process_id"), v.onThisHost() && f.limit > 0, want+spare)...)
	}
	return []Advice{a}
}

// hasNoConfig reports whether CONFIG is not to be had, whoever asks.
func (v *survey) hasNoConfig() bool {
	return slices.ContainsFunc(v.blind, func(b Blind) bool { return b.What == "CONFIG GET" && strings.Contains(b.Why, "unknown command") })
}

func raiseOpenFiles(pid int, here bool, want int) []string {
	process := "$(pidof redis-server)"
	if here && pid > 0 {
		process = fmt.Sprint(pid)
	}
	return []string{
		fmt.Sprintf("sudo prlimit --pid %s --nofile=%d:%d   # for the process that runs", process, want, want),
		fmt.Sprintf("sudo systemctl edit redis   # [Service] LimitNOFILE=%d; for the next start", want),
		fmt.Sprintf("docker run --ulimit nofile=%d:%d ...   # in a container; else ulimit -n %d before the start", want, want, want),
	}
}

// mistakes are what lies behind what a rule has seen, in words that lead to the code.
var mistakes = map[limits.LeakRule]string{
	limits.NeverSpoke:   "connections are opened and never used",
	limits.Churn:        "a new client is made for each request",
	limits.Growing:      "connections are opened and not closed",
	limits.PoolTooLarge: "the pool is too large",
	limits.IdleHoard:    "idle connections are kept",
}

func (v *survey) adviseLeaks() (all []Advice) {
	for _, s := range v.suspects() {
		a := Advice{
			Code: "fix-" + string(s.Rule), Title: fmt.Sprintf("Fix %s: %s", safe(s.Source, 40), mistakes[s.Rule]),
			Why: upperFirst(s.Advice) + "." + libraryHint(s.Identities[limits.ByLib], s.Rule), gain: s.Report.Open + 1,
		}
		if s.Rule == limits.PoolTooLarge {
			a.gain = max(s.Report.Open-s.Size, 1)
		}
		if v.now.isProxy() {
			a.Commands = []string{"redis-cli -p 6390 PROXY SET LIMIT" + quotedWords(limitRule(s.Identities, max(s.Size, 20)+v.roomForOthers(s))) + "   # on the proxy's host"}
		} else if len(s.Report.Oldest) > 0 {
			a.Commands = []string{v.redisCLI("CLIENT", "LIST") + " | grep " + quoted(grepWord(s.Identities))}
		}
		all = append(all, a)
	}
	for _, s := range v.suspectsOfProxy {
		why := upperFirst(s.Advice) + "."
		if s.Command != "" {
			why += " Its command line: " + s.Command
		}
		all = append(all, Advice{
			Code: "fix-" + s.Rule, Title: fmt.Sprintf("Fix %s: %s", safe(s.Source, 40), mistakes[limits.LeakRule(s.Rule)]), Why: why,
			Commands: []string{v.redisCLI("PROXY", "SHOW", "SUSPECTS", "FORMAT", "WIDE")}, gain: s.Open + 1,
		})
	}
	if v.churns() {
		a := Advice{
			Code: "fix-churn", Title: "Find who opens a connection for each command",
			Why: "Each costs a round trip or more and a descriptor. Look for a client that is made for each request; make one when the " +
				"program starts, with a pool, and let all requests use it. MONITOR slows Redis down while it runs: who shows many ports here is it.",
			Commands: []string{"timeout 2 " + v.redisCLI("MONITOR") + ` | grep -o '\[[^]]*\]' | sort -u | sed 's/.* //; s/:[0-9]*]$//' | sort | uniq -c | sort -rn | head`},
		}
		a.gain = int(v.briefPerMinute() / 60)
		all = append(all, a)
	}
	return all
}

// grepWord is what finds the source's lines in CLIENT LIST.
func grepWord(ids limits.Identities) string {
	if ids[limits.ByName] != "" {
		return " name=" + ids[limits.ByName] + " "
	}
	if ids[limits.ByAddr] == "unix" {
		return "flags=U"
	}
	return " addr=" + ids[limits.ByAddr]
}

// roomForOthers is how much a limit of a suspect's address has to leave to others there. A suspect with a name is limited by that.
func (v *survey) roomForOthers(s limits.Suspect) int {
	if s.Identities[limits.ByName] != "" {
		return 0
	}
	for _, x := range v.sources(byAddr) {
		if x.Value == s.Identities[limits.ByAddr] {
			return roundUp(max(x.Open-s.Report.Open, 0) * 3 / 2)
		}
	}
	return 0
}

// limitRule is a rule for a redbouncer that bounds the source.
func limitRule(ids limits.Identities, most int) string {
	kind, value := limits.ByAddr, ids[limits.ByAddr]
	if ids[limits.ByName] != "" {
		kind, value = limits.ByName, ids[limits.ByName]
	}
	return fmt.Sprintf("%s %s maxclients %d", kind, value, most)
}

// idleToClose is from when on idle connections are worth closing, and how many there are: sooner than they count as idle where
// there is no room, and a leak is younger than that.
func (v *survey) idleToClose() (longer time.Duration, n int) {
	longer, n = v.cfg.Idle, len(v.idleClients(v.cfg.Idle))
	if sooner := len(v.idleClients(time.Minute)); v.isTight() && sooner > 2*n {
		return time.Minute, sooner
	}
	return longer, n
}

func (v *survey) adviseIdle() (all []Advice) {
	longer, idle := v.idleToClose()
	if idle == 0 {
		return nil
	}
	seconds := int(longer.Seconds())
	if v.isTight() || idle >= 20 {
		all = append(all, Advice{
			Code: "kill-idle", Title: fmt.Sprintf("Close the %s idle for longer than %s", plural(idle, "connection that is", "connections that are"), span(longer)),
			Why:      "Pools open others when they need them. Without --yes it only says whom it would close.",
			Commands: []string{"redbouncer doctor --kill-idle " + fmt.Sprintf("%ds", seconds) + " " + v.plainURL()}, gain: idle,
		})
	}
	if v.timeout == 0 && idle >= 5 {
		set := max(seconds, 60)
		all = append(all, Advice{
			Code: "set-timeout", Title: fmt.Sprintf("Have idle connections closed after %d s from now on", set),
			Why:      "Pub/sub clients are exempt. A pool must be able to replace a connection that is gone: most do when they next use it.",
			Commands: []string{v.redisCLI("CONFIG", "SET", "timeout", fmt.Sprint(set)), v.redisCLI("CONFIG", "REWRITE")}, gain: max(idle-1, 1),
		})
	}
	return all
}

// plainURL is the server's URL without user and password.
func (v *survey) plainURL() string { return plainURL(v.server) }

func plainURL(s *server) string {
	o := s.options
	scheme := "redis://"
	switch {
	case o.Network == "unix":
		return quoted("unix://" + o.Addr)
	case s.tls != nil:
		scheme = "rediss://"
	}
	user := ""
	if o.Password != "" {
		user = url.User(o.Username).String() + ":PASSWORD@"
	}
	return quoted(scheme + user + o.Addr)
}

// adviseProxy puts a redbouncer in front, with settings from what was seen.
func (v *survey) adviseProxy() []Advice {
	if v.now.isProxy() || !v.listed || v.maxclients <= 0 || !v.isTight() && v.since("rejected_connections") == 0 && len(v.suspects()) == 0 {
		return nil
	}
	return []Advice{{
		Code: "proxy", Title: "Put redbouncer in front, and give applications its port",
		Why: fmt.Sprintf("It serves them over at most %d connections to Redis, lets no source take all places, and names the leaks.", v.poolSize()),
		Commands: []string{
			v.proxyCommand(),
		}, gain: max(v.used()/3-v.poolSize(), 2),
	}}
}

// poolSize is what the connections that must be pinned take, and some lanes: those that block or are in transactions, half as
// many again.
func (v *survey) poolSize() int {
	pinned := v.count(func(c *client) bool { return c.isBlocked() || c.inTransaction() })
	return min(max(16, roundUp(pinned*3/2+4)), max(v.maxclients/2, 4))
}

func (v *survey) proxyCommand() string {
	b := "redbouncer serve --listen 0.0.0.0:6380"
	from := v.plainURL()
	if v.server.options.Password == "" {
		b += " --upstream " + from
	} else {
		b = "REDBOUNCER_UPSTREAM=" + from + " " + b
	}
	b += fmt.Sprintf(" --maxclients %d --pool-size %d", roundUp(2*max(v.used(), v.maxclients)), v.poolSize())
	most := 0
	suspect := map[string]bool{}
	for _, s := range v.suspects() {
		suspect[s.Identities[limits.ByAddr]] = true
		if s.Identities[limits.ByName] != "" {
			b += " --limit " + quoted(limitRule(s.Identities, max(s.Size, 20))+" overflow queue")
		}
	}
	for _, s := range v.sources(byAddr) {
		if !suspect[s.Value] {
			most = max(most, s.Open)
		}
	}
	return b + " --limit " + quoted(fmt.Sprintf("addr each maxclients %d overflow queue", max(100, roundUp(most*3/2))))
}

func (v *survey) adviseKeepAlive() []Advice {
	if v.keepalive != 0 {
		return nil
	}
	return []Advice{{
		Code: "set-keepalive", Title: "Have vanished clients noticed", Why: "Connections that are open already keep what they have.",
		Commands: []string{v.redisCLI("CONFIG", "SET", "tcp-keepalive", "300"), v.redisCLI("CONFIG", "REWRITE")}, gain: 1,
	}}
}

func (v *survey) adviseNames() []Advice {
	unnamed := v.count(func(c *client) bool { return c.name == "" && !c.isPeer() })
	if unnamed*2 < len(v.clients) || unnamed < 5 {
		return nil
	}
	return []Advice{{
		Code: "name-clients", Title: "Let applications say who they are", Commands: []string{},
		Why: "CLIENT SETNAME, which every library has a setting for (ClientName, client_name, connectionName): the next time, the name " +
			"tells which of several programs behind an address it is.",
	}}
}

func (v *survey) adviseRights() []Advice {
	command := ""
	for _, b := range v.blind {
		switch {
		case b.ACL == "":
		case command == "":
			command = "redis-cli " + b.ACL
		default:
			command += " " + strings.Join(strings.Fields(b.ACL)[3:], " ")
		}
	}
	if command == "" {
		return nil
	}
	gain := 0
	if !v.listed {
		gain = 2 // without the list there is no cause to be found
	}
	return []Advice{{
		Code: "rights", Title: "Let this user see what it could not", Why: "As a user that may change users:", Commands: []string{command}, gain: gain,
	}}
}

// roundUp returns the next number that has one or two digits and zeros.
func roundUp(n int) int {
	unit := 1
	for n > 100*unit {
		unit *= 10
	}
	return (n + unit - 1) / unit * unit
}

func upperFirst(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
