package proxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// learner keeps the tables of all loops in step with what the upstream says of its commands. One loop at a time asks
// it, on a lane that is there anyway. An upstream that does not say, or not to this user, leaves the table that is
// compiled in. Nothing of this is on the way of a command.
type learner struct {
	// Static after construction.
	install func(*table) // hands a table to all loops
	log     *slog.Logger

	// mu guards the following fields.
	mu      sync.Mutex
	base    *table  // compiled in, with what the operator forbids
	known   []facts // what the upstream has said last
	stale   bool    // the upstream may know other commands than the table says
	changes int     // counts the reasons for that
	asked   time.Time
	waiting bool            // for the answer
	silent  map[string]bool // users that may not ask
	told    bool            // the log, of commands that are missing
}

const (
	// learnInterval is how often the upstream is asked at most: each time that the loops look, which is once a second.
	learnInterval = 900 * time.Millisecond
	// learnPatience is how long an answer is waited for: a connection that goes may take it along.
	learnPatience = 30 * time.Second
)

func newLearner(base *table, log *slog.Logger, install func(*table)) *learner {
	return &learner{base: base, install: install, log: log, stale: true, silent: map[string]bool{}}
}

// changed says that the upstream may know other commands than before.
func (l *learner) changed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stale, l.waiting = true, false
	l.changes++
	clear(l.silent)
}

// rebase has the operator forbid other commands. What the upstream has said stays.
func (l *learner) rebase(base *table) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.base = base
	l.changes++ // an answer that is being looked at would bring back the table of before: it is asked for again
	l.stale, l.waiting = true, false
	l.install(base.merge(l.known))
}

// due reports whether it is time to ask.
func (l *learner) due(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since := now.Sub(l.asked)
	return l.stale && since >= learnInterval && (!l.waiting || since >= learnPatience)
}

// speaks reports whether a user is not known to be refused an answer.
func (l *learner) speaks(user string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.silent[user]
}

// ask asks on a lane. Names that are essential to sessions are asked for by name: in the whole
// list, some versions show a command that has been renamed as if it had not.
func (l *learner) ask(link *multiplex.Link, now time.Time) {
	user := link.User()
	l.mu.Lock()
	l.asked, l.waiting = now, true
	change := l.changes
	l.mu.Unlock()
	var info []byte
	link.SubmitSpecial(nil, resp.AppendCommand(nil, append([]string{"COMMAND", "INFO"}, strings.Fields(essential)...)...), multiplex.Prompt,
		&multiplex.Special{Collect: true, Done: func(reply []byte) { info = reply }})
	link.SubmitSpecial(nil, resp.AppendCommand(nil, "COMMAND"), multiplex.Prompt,
		&multiplex.Special{Collect: true, Done: func(reply []byte) { go l.answered(change, user, reply, info) }})
}

// answered makes a table of the upstream's answer. It runs in a goroutine of its own, because that takes longer than a
// loop should be kept, and ends by itself.
func (l *learner) answered(change int, user string, commands, info []byte) {
	var learned *table
	known, err := parseFacts(commands)
	if err == nil {
		learned = l.compiledIn().merge(known)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if change != l.changes {
		return // something has happened meanwhile: it is asked again
	}
	l.waiting = false
	if err != nil {
		l.log.Debug("the upstream does not list its commands", "user", user, "error", err)
		l.silent[user] = !passing(commands)
		return
	}
	l.stale, l.known = false, known
	l.install(learned)
	if missing := missingEssentials(info); len(missing) > 0 && !l.told {
		l.told = true
		l.log.Info("upstream lacks commands that sessions are made of; where they have been renamed, a client that uses "+
			"the new names keeps an upstream connection", "commands", strings.Join(missing, " "))
	}
}

func (l *learner) compiledIn() *table {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.base
}

// passing reports whether an error is one of an upstream that will have another answer soon.
func passing(reply []byte) bool {
	for _, prefix := range []string{"-BUSY", "-LOADING", "-MASTERDOWN", "-TRYAGAIN"} {
		if bytes.HasPrefix(reply, []byte(prefix)) {
			return true
		}
	}
	return false
}

// essential are the commands whose treatment makes a session, and those that the proxy itself sends.
const essential = `
	AUTH HELLO RESET SELECT CLIENT ECHO PING COMMAND MULTI EXEC DISCARD WATCH UNWATCH
	SUBSCRIBE PSUBSCRIBE UNSUBSCRIBE PUNSUBSCRIBE PUBLISH MONITOR`

// missingEssentials returns the essential commands that the upstream does not know by these names.
func missingEssentials(info []byte) []string {
	names := strings.Fields(essential)
	v, _, err := parseValue(info, 0)
	if err != nil || len(v.kids) != len(names) {
		return nil
	}
	var missing []string
	for i, kid := range v.kids {
		if len(kid.kids) == 0 {
			missing = append(missing, names[i])
		}
	}
	return missing
}

// facts are what the upstream says of a command.
type facts struct {
	name  string // as Redis spells it: get, client|list
	arity int
	flags []string // and the categories of its ACL
	keys  keySpec
	subs  []facts
	// nested: the upstream tells of subcommands one by one. Before Redis 7.0, a command stands for all of them.
	nested bool
}

func (f facts) has(flag string) bool { return slices.Contains(f.flags, flag) }

// merge returns the table with what the upstream says. What is compiled in decides how a command is treated, unless
// the upstream says that a command which would share a lane must not. A command that only the upstream knows does
// not share one either: that it has no suspicious flag proves nothing (HIMPORT keeps state on the connection, and has
// none).
func (t *table) merge(all []facts) *table {
	out := t.clone()
	for _, f := range all {
		if len(f.name) > maxName {
			continue // lookup does not find it: it is unknown
		}
		c := out.at(strings.ToUpper(f.name))
		c.learn(f)
		for _, sub := range f.subs {
			out.at(strings.ToUpper(sub.name)).learn(sub)
		}
		for _, s := range c.subs {
			if !f.nested {
				s.full, s.arity, s.keys, s.writes = c.full, c.arity, c.keys, c.writes
			}
		}
	}
	return out
}

// learn takes over what the upstream says of a row.
func (r *row) learn(f facts) {
	r.full, r.arity, r.keys = strings.ToLower(f.name), f.arity, f.keys
	r.writes = f.has("write") || f.has("may_replicate") || replicates(r.name)
	if !r.shared() {
		return
	}
	switch {
	case f.has("pubsub") && f.has("noscript"):
		r.how = unknown
	case f.has("blocking") || f.has("@blocking"):
		r.how = block
	case f.has("write") && r.how == read:
		r.how = share
	}
}

// parseFacts reads the reply to COMMAND, in RESP2 or RESP3.
func parseFacts(reply []byte) ([]facts, error) {
	v, rest, err := parseValue(reply, 0)
	switch {
	case err != nil:
		return nil, err
	case isErrorReply(reply):
		return nil, fmt.Errorf("it answers: %s", v.text)
	case len(rest) > 0 || len(v.kids) == 0:
		return nil, fmt.Errorf("it answers %d bytes that are no list", len(reply))
	}
	var all []facts
	for _, kid := range v.kids {
		if f, ok := kid.facts(); ok {
			all = append(all, f)
		}
	}
	return all, nil
}

// facts reads one element: name, arity, flags, first, last and step of keys; since 6.0 ACL categories; since 7.0 tips,
// key specifications and subcommands, which are elements too.
func (v value) facts() (f facts, ok bool) {
	if len(v.kids) < 6 || v.kids[0].text == "" {
		return f, false
	}
	arity, ok := resp.ParseInt([]byte(v.kids[1].text))
	if !ok {
		return f, false
	}
	f = facts{name: v.kids[0].text, arity: int(arity), nested: len(v.kids) >= 10}
	for _, flag := range v.kids[2].kids {
		f.flags = append(f.flags, flag.text)
	}
	if len(v.kids) > 6 {
		for _, category := range v.kids[6].kids {
			f.flags = append(f.flags, category.text)
		}
	}
	f.keys = v.keySpec(f.has("movablekeys"))
	if f.nested {
		for _, kid := range v.kids[9].kids {
			sub, ok := kid.facts()
			if ok && strings.HasPrefix(sub.name, f.name+"|") {
				f.subs = append(f.subs, sub)
			}
		}
	}
	return f, true
}

// keySpec reads where the keys are: first, last and step, where that is all that there is to say.
func (v value) keySpec(movable bool) keySpec {
	var n [3]int
	for i := range n {
		x, ok := resp.ParseInt([]byte(v.kids[3+i].text))
		if !ok {
			return keySpec{}
		}
		n[i] = int(x)
	}
	return keySpec{known: !movable, first: n[0], last: n[1], step: n[2]}
}

// value is a part of a reply: a text, or what has elements.
type value struct {
	text string
	kids []value
}

// maxDepth bounds how deep a reply to COMMAND may be nested. That of Redis 8 has 9 levels.
const maxDepth = 32

// parseValue reads the value at the front of b.
func parseValue(b []byte, depth int) (v value, rest []byte, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\r\n"))
	if !ok || len(line) == 0 || depth > maxDepth {
		return v, nil, fmt.Errorf("no value in %d bytes, at depth %d", len(b), depth)
	}
	v.text = string(line[1:])
	n, _ := resp.ParseInt(line[1:])
	switch line[0] {
	case '$', '=', '!':
		if n+2 > int64(len(rest)) {
			return v, nil, fmt.Errorf("%d bytes announced, %d there", n, len(rest))
		}
		if n < 0 {
			return value{}, rest, nil
		}
		v.text = string(rest[:n])
		return v, rest[n+2:], nil
	case '*', '~', '%', '>':
		if line[0] == '%' {
			n *= 2
		}
		v.text = ""
		for range n {
			var kid value
			kid, rest, err = parseValue(rest, depth+1)
			if err != nil {
				return v, nil, err
			}
			v.kids = append(v.kids, kid)
		}
	}
	return v, rest, nil
}
