package proxy_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// diffTable is testdata/differential.txt.
type diffTable struct {
	cases []diffCase
	skip  map[string]string // name: reason
	like  map[string]mask
	alone map[string]string
}

// diffCase is one or more commands on one connection.
type diffCase struct {
	name string // GET, or CLIENT ID
	cmds [][]string
	what string // which line, or which mistake was made in it
	kind byte   // 0, or the mark in front of the line: '=', '-' or '~'
}

// containers are the commands whose second word is a command of its own.
var containers = []string{
	"ACL", "BACKUP", "CLIENT", "CLUSTER", "COMMAND", "COMMANDLOG", "CONFIG", "FUNCTION", "HIMPORT", "HOTKEYS", "LATENCY", "MEMORY", "MODULE",
	"OBJECT", "PUBSUB", "SCRIPT", "SLOWLOG", "XGROUP", "XINFO",
}

var ruleLine = regexp.MustCompile(`^(skip|like|alone) ([^:]+): *(.+)$`)

// readTable reads the table and puts values in the place of {name}.
func readTable(t *testing.T, values map[string]string) *diffTable {
	t.Helper()
	text, err := os.ReadFile("testdata/differential.txt")
	if err != nil {
		t.Fatal(err)
	}
	tab := &diffTable{skip: map[string]string{}, like: map[string]mask{}, alone: map[string]string{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if m := ruleLine.FindStringSubmatch(line); m != nil {
			switch name := m[2]; m[1] {
			case "skip":
				tab.skip[name] = m[3]
			case "alone":
				tab.alone[name] = m[3]
			case "like":
				i := strings.LastIndexByte(name, ' ')
				tab.like[name[:i]] = mask(name[i+1:])
			}
			continue
		}
		tab.cases = append(tab.cases, readCase(t, line, values))
	}
	if len(tab.cases) == 0 {
		t.Fatal("testdata/differential.txt has no cases")
	}
	return tab
}

func readCase(t *testing.T, line string, values map[string]string) diffCase {
	t.Helper()
	c := diffCase{what: line}
	if strings.IndexByte("=-~", line[0]) >= 0 && line[1] == ' ' {
		c.kind, line = line[0], line[2:]
	}
	words, err := proxytest.Words(line)
	if err != nil {
		t.Fatal(err)
	}
	cmd := []string{}
	for _, w := range words {
		if w == "|" {
			c.cmds, cmd = append(c.cmds, cmd), []string{}
			continue
		}
		if v, ok := values[w]; ok {
			w = v
		}
		cmd = append(cmd, w)
	}
	c.cmds = append(c.cmds, cmd)
	c.name = commandName(c.cmds[0])
	return c
}

// commandName returns GET for a GET and CLIENT ID for a CLIENT ID.
func commandName(cmd []string) string {
	name := strings.ToUpper(cmd[0])
	if len(cmd) > 1 && slices.Contains(containers, name) {
		name += " " + strings.ToUpper(cmd[1])
	}
	return name
}

// masks returns what the comparison of c must leave out.
func (tab *diffTable) masks(c diffCase) []mask {
	var ms []mask
	for _, cmd := range c.cmds {
		for _, name := range []string{commandName(cmd), strings.ToUpper(cmd[0])} {
			if m, ok := tab.like[name]; ok && !slices.Contains(ms, m) {
				ms = append(ms, m)
			}
		}
	}
	return ms
}

// modes returns the ways in which c can travel.
func (tab *diffTable) modes(c diffCase) []mode {
	if c.kind == '-' {
		return []mode{modeAlone}
	}
	for _, cmd := range c.cmds {
		for name := range tab.alone {
			if begins(cmd, strings.Fields(name)) {
				return []mode{modeAlone, modePipeline}
			}
		}
	}
	return []mode{modeAlone, modePipeline, modeTransaction, modeInteractive}
}

// begins reports whether a command is the one that a rule names, and has the rule's other words, as HELLO 3 AUTH a b has those
// of HELLO AUTH.
func begins(cmd, words []string) bool {
	for i, word := range words {
		has := func(arg string) bool { return strings.EqualFold(arg, word) }
		if i == 0 && !has(cmd[0]) || !slices.ContainsFunc(cmd, has) {
			return false
		}
	}
	return true
}

// byCommand returns the cases in groups of one command, in the table's order, with the mistakes that can be
// made from each command's first case of one command alone.
func (tab *diffTable) byCommand() [][]diffCase {
	var groups [][]diffCase
	place := map[string]int{}
	for _, c := range tab.cases {
		i, ok := place[c.name]
		if !ok {
			i = len(groups)
			place[c.name] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], c)
	}
	for i, g := range groups {
		for _, c := range g {
			if c.kind == 0 && len(c.cmds) == 1 && c.cmds[0][0] != "" {
				groups[i] = append(groups[i], mistakes(c)...)
				break
			}
		}
	}
	return groups
}

// otherType maps each key of the fixture that cases use to one of another type.
var otherType = map[string]string{
	"str": "list", "num": "list", "float": "list", "bits": "list", "exp": "list", "str2": "list",
	"list": "str", "ints": "str", "set1": "str", "set2": "str", "hash": "str", "hash1": "str", "zset": "str",
	"zset1": "str", "lex": "str", "geo": "str", "stream": "str", "hll": "str",
}

var number = regexp.MustCompile(`^[(+-]?[0-9]+(\.[0-9]+)?$`)

// mistakes returns what people get wrong about c: arguments missing, one too many, a key of another type, a
// word where a number belongs. And a name in mixed case, which is no mistake.
func mistakes(c diffCase) []diffCase {
	cmd := c.cmds[0]
	var out []diffCase
	add := func(what string, cmd []string) {
		out = append(out, diffCase{name: c.name, cmds: [][]string{cmd}, what: c.what + " (" + what + ")"})
	}
	name := len(strings.Fields(c.name))
	replaced := func(i int, by string) []string {
		cp := slices.Clone(cmd)
		cp[i] = by
		return cp
	}

	add("mixed case", replaced(0, strings.ToLower(cmd[0][:1])+strings.ToUpper(cmd[0][1:])))
	if len(cmd) > name {
		add("no arguments", cmd[:name])
	}
	if len(cmd) > name+1 {
		add("last argument missing", cmd[:len(cmd)-1])
	}
	add("one too many", append(slices.Clone(cmd), "surplus"))
	for i := name; i < len(cmd); i++ {
		if other, ok := otherType[cmd[i]]; ok {
			add("wrong type", replaced(i, other))
			break
		}
	}
	numbers := 0
	for i := name; i < len(cmd) && numbers < 2; i++ {
		if number.MatchString(cmd[i]) {
			add("no number", replaced(i, "notanumber"))
			numbers++
		}
	}
	return out
}
