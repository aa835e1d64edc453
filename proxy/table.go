package proxy

import (
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex"
)

// row is what the table says of a command or subcommand. It does not change once it is in a table.
type row struct {
	name    string // in upper case, with a bar: GET, CLIENT|LIST, CLUSTER|*
	how     treatment
	subs    map[string]*row // of a command that has subcommands; "*" stands for those that are not named
	refusal []byte          // of a command that is refused: what the client is told

	// What the upstream says of it, where it does.
	full   string // the name as Redis spells it, get or client|list; empty where the row stands for several commands
	arity  int    // how many arguments, the name included; if negative, at least so many; 0: not known
	keys   keySpec
	writes bool // it may write, or send something to replicas

	publishes bool // it is answered with how many clients it has reached
}

// plain reports whether the command leaves nothing behind on the connection and answers at once.
func (r *row) plain() bool { return r.how == read || r.how == share }

// looks reports whether the commands of a treatment change nothing.
func (t treatment) looks() bool {
	switch t {
	case read, info, configGet, clientList, pubsubNumSub:
		return true
	}
	return false
}

// pace says how soon commands of a treatment are answered by an upstream that is well. Zero: as soon as others see fit, or
// nobody knows.
func (t treatment) pace() multiplex.Flags {
	switch t {
	case unknown, block, blockOption, waitAcks, stick, relay:
		return 0
	case script, flush, own, once, reload:
		return multiplex.Long
	}
	return multiplex.Prompt
}

// shared reports whether the command goes on a lane whatever its arguments are.
func (r *row) shared() bool { return r.plain() || r.how == script }

// fullname returns the command's name as Redis spells it in CLIENT LIST and in its errors: get, client|list. It is
// that of the command which the client sent: functions that put another row in the place of row come later.
func (c command) fullname() string {
	if c.row.full != "" {
		return c.row.full
	}
	name := strings.ToLower(string(c.Arg(0)))
	if c.Len() > 1 && strings.HasSuffix(c.row.name, "|*") {
		name += "|" + strings.ToLower(string(c.Arg(1)))
	}
	return name
}

// table holds the rows of all commands. It does not change once it is in use: a loop is given another one.
type table struct {
	commands map[string]*row // by name in upper case
}

var (
	unknownRow = &row{name: "?", how: unknown, writes: true}
	moduleRow  = &row{name: "module", how: script, writes: true} // a module can answer more than once, too
)

// newTable makes a table of what is compiled in.
func newTable() *table {
	t := &table{commands: map[string]*row{}}
	// Subcommands first: those that are not listed are unknown, whatever the command without them is.
	for _, subs := range []bool{true, false} {
		for how, list := range commandList {
			for name := range strings.FieldsSeq(list) {
				if strings.Contains(name, "|") == subs {
					t.at(name).how = how
				}
			}
		}
	}
	for name := range strings.FieldsSeq(vectorCommands) {
		t.at(name).how = share
	}
	t.commands["PUBLISH"].publishes, t.commands["SPUBLISH"].publishes = true, true
	for spec, list := range keyList {
		for name := range strings.FieldsSeq(list) {
			t.commands[name].keys = spec
		}
	}
	for _, c := range t.commands {
		c.writes = !c.how.looks() || replicates(c.name)
		for _, sub := range c.subs {
			sub.writes = !sub.how.looks()
		}
	}
	return t
}

// replicates reports whether a command may send something to replicas though it does not write.
func replicates(name string) bool { return slices.Contains(strings.Fields(mayReplicate), name) }

// at returns the row of a name in upper case, which it adds if there is none: with the treatment that the name had
// without it.
func (t *table) at(name string) *row {
	name, sub, isSub := strings.Cut(name, "|")
	c := t.commands[name]
	if c == nil {
		c = &row{name: name, how: t.lookup([]byte(name), nil).how, full: strings.ToLower(name), writes: true}
		t.commands[name] = c
	}
	if !isSub {
		return c
	}
	if c.subs == nil {
		c.subs = map[string]*row{"*": {name: name + "|*", how: c.how, refusal: c.refusal, writes: c.writes}}
	}
	s := c.subs[sub]
	if s == nil {
		one := *c.subs["*"]
		one.name, one.full = name+"|"+sub, strings.ToLower(name+"|"+sub)
		s = &one
		c.subs[sub] = s
	}
	return s
}

// clone returns a copy whose rows may be changed.
func (t *table) clone() *table {
	out := &table{commands: make(map[string]*row, len(t.commands))}
	for name, c := range t.commands {
		c := *c
		if c.subs != nil {
			subs := make(map[string]*row, len(c.subs))
			for sub, s := range c.subs {
				s := *s
				subs[sub] = &s
			}
			c.subs = subs
		}
		out.commands[name] = &c
	}
	return out
}

// lookup finds the row of a command; sub is its first argument, or nil.
func (t *table) lookup(name, sub []byte) *row {
	var buf [maxName]byte
	c := t.commands[string(upper(buf[:0], name))]
	if c == nil {
		return lookupModule(name)
	}
	if c.subs == nil || sub == nil {
		return c
	}
	if s := c.subs[string(upper(buf[:0], sub))]; s != nil {
		return s
	}
	return c.subs["*"]
}

func lookupModule(name []byte) *row {
	var buf [maxName]byte
	u := string(upper(buf[:0], name))
	for _, prefix := range modulePrefixes {
		if strings.HasPrefix(u, prefix) && !strings.HasSuffix(u, ".DEBUG") {
			return moduleRow
		}
	}
	return unknownRow
}
