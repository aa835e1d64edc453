package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redbouncer/redbouncer/proxy"
)

// verb is a command of the console. A row here is all that HELP, the dispatcher and the rights know of it.
type verb struct {
	words   string // in upper case
	args    string // for HELP
	help    string
	changes bool // it needs the rights of admin-users
	waits   bool // for clients or for the upstream, in a time of its own
	run     func(context.Context, *request) (any, error)
}

// shows reports whether a verb answers with a table, so that FORMAT may stand behind it.
func (v *verb) shows() bool {
	return strings.HasPrefix(v.words, "SHOW ") || v.words == "RELOAD" || v.words == "CONFIG REWRITE"
}

// verbs is the console's table. It is filled in init, as HELP reads it.
var verbs []verb

func init() {
	verbs = []verb{
		{"HELP", "", "this list", false, false, help},
		{"SHOW CLIENTS", "[kind value ...]", "the clients that are connected, or those that match", false, false, showClients},
		{"SHOW SOURCES", "[kind]", "who holds connections, by addr, user, name, lib, process or the like", false, false, showSources},
		{"SHOW LIMITS", "", "the rules in force, and how they stand", false, false, showLimits},
		{"SHOW QUEUE", "", "the clients that wait to be let in", false, false, showQueue},
		{"SHOW SUSPECTS", "", "the sources that look like leaks, and why", false, false, showSuspects},
		{"SHOW LANES", "", "the upstream connections that clients share", false, false, showLanes},
		{"SHOW PINS", "", "the upstream connections that one client holds, and why", false, false, showPins},
		{"SHOW POOL", "", "how the upstream connections stand", false, false, showPool},
		{"SHOW CONFIG", "[pattern]", "the settings in force", false, false, showConfig},
		{"SHOW STATS", "", "counters and gauges", false, false, showStats},
		{"SHOW LATENCY", "", "how long commands take, and how many there are, lately and since the start", false, false, showLatency},
		{"SHOW VERSION", "", "the version of the proxy", false, false, showVersion},
		{"KILL", "kind value [kind value ...]", "close the clients for which all of it holds, but for this one", true, false, kill},
		{"PAUSE", "[milliseconds]", "hold all commands back, and say when nothing is in flight any more", true, true, pause},
		{"RECONNECT", "", "replace every upstream connection as soon as it is idle", true, false, reconnect},
		{"DRAIN", "", "accept nobody any more, and close clients as they fall idle", true, false, drain},
		{"RESUME", "", "end the pause, once the upstream answers; or the drain", true, true, resume},
		{"UPGRADE", "", "replace this program by the one at its path; no client notices", true, true, upgrade},
		{"RELOAD", "", "read the configuration file again; nobody is disconnected", true, false, reload},
		{"CONFIG REWRITE", "", "write what has been set while the proxy runs into the configuration file", true, false, rewrite},
		{"SET LIMIT", "rule", "add a rule, or replace the one with the same head", true, false, setLimit},
		{"UNSET LIMIT", "head", "remove a rule", true, false, unsetLimit},
		{"SET", "setting value", "change maxclients, timeout or the like until the next start, or CONFIG REWRITE", true, false, set},
	}
}

// Verbs returns the words of all commands of the console.
func Verbs() []string {
	words := make([]string, len(verbs))
	for i, v := range verbs {
		words[i] = v.words
	}
	return words
}

// findVerb finds the verb that args begin with, and what follows it. Of two, the longer one is earlier in the table.
func findVerb(args []string) (*verb, []string, error) {
	if len(args) == 0 {
		return nil, nil, errors.New("say what to do, as in PROXY SHOW CLIENTS: PROXY HELP lists it")
	}
	for i := range verbs {
		words := strings.Fields(verbs[i].words)
		if len(args) >= len(words) && strings.EqualFold(strings.Join(args[:len(words)], " "), verbs[i].words) {
			return &verbs[i], args[len(words):], nil
		}
	}
	said := strings.ToUpper(strings.Join(args[:min(len(args), 2)], " "))
	if strings.EqualFold(args[0], "SHOW") && len(args) == 1 || strings.EqualFold(args[0], "UNSET") {
		return nil, nil, fmt.Errorf("PROXY %s: want %s", said, strings.Join(beginningWith(strings.ToUpper(args[0])), ", "))
	}
	return nil, nil, fmt.Errorf("there is no PROXY %s: did you mean PROXY %s? PROXY HELP lists all", said, closestVerb(args))
}

func beginningWith(word string) []string {
	var out []string
	for _, v := range verbs {
		if strings.HasPrefix(v.words, word+" ") {
			out = append(out, v.words)
		}
	}
	return out
}

// closestVerb returns the verb that args may have been meant to be.
func closestVerb(args []string) string {
	best, least := "", 0
	for _, v := range verbs {
		n := strings.Count(v.words, " ") + 1
		said := strings.ToUpper(strings.Join(args[:min(n, len(args))], " "))
		if d := distance(said, v.words); best == "" || d < least {
			best, least = v.words, d
		}
	}
	return best
}

// distance is how many letters have to be changed, added or left out to make b of a. Only the beginning of a long word
// counts: nobody has meant it.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// help lists the verbs.
func help(context.Context, *request) (any, error) {
	lines := []string{"PROXY <verb> [arguments]. On the admin listener the word PROXY may be left out. The verbs are:"}
	for _, v := range verbs {
		words := strings.TrimSpace(v.words + " " + v.args)
		lines = append(lines, words, "    "+strings.ToUpper(v.help[:1])+v.help[1:]+".")
	}
	return append(lines,
		"Kinds of clients: "+strings.Join(proxy.FilterKinds, ", ")+".",
		"    * in a value stands for any characters. addr also takes a network, 10.0.0.0/8. idle takes a time, 300 or 5m,",
		"    and means as long or longer.",
		"Kinds of sources: "+strings.Join(sourceKinds(), ", ")+"; source if none is given.",
		"Behind SHOW and its arguments: FORMAT TABLE, WIDE (all columns), MAP or JSON. Without it, RESP2 gets a table",
		"    and RESP3 gets maps."), nil
}
