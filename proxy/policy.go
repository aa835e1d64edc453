package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Behind a proxy, many are served by one upstream, and whoever can reach the proxy acts as its user. So what ends or
// rebuilds the upstream, or freezes it for all of them, is refused unless the operator lists it in allow-dangerous.
// Whatever else is not wanted goes into deny-commands. A refusal is a line, and the session goes on; only the body of
// a refused MULTI, or what a refused WATCH was to protect, must not run.

// dangerousCommands are those that need allow-dangerous. The rest is the upstream's own matter: its ACL.
const dangerousCommands = `
	SHUTDOWN REPLICAOF SLAVEOF FAILOVER DEBUG SYNC PSYNC REPLCONF SAVE MIGRATE RESTORE-ASKING PFDEBUG PFSELFTEST
	TRIMSLOTS MODULE|LOAD MODULE|LOADEX MODULE|UNLOAD SCRIPT|DEBUG
	BACKUP|START BACKUP|SEAL BACKUP|ABORT BACKUP|CLEANUP BACKUP|STATUS BACKUP|LIST BACKUP|*
	CLUSTER|ADDSLOTS CLUSTER|ADDSLOTSRANGE CLUSTER|BUMPEPOCH CLUSTER|CANCELSLOTMIGRATIONS CLUSTER|DELSLOTS
	CLUSTER|DELSLOTSRANGE CLUSTER|FAILOVER CLUSTER|FLUSHSLOT CLUSTER|FLUSHSLOTS CLUSTER|FORGET CLUSTER|MEET
	CLUSTER|MIGRATESLOTS CLUSTER|MIGRATION CLUSTER|REPLICATE CLUSTER|RESET CLUSTER|SAVECONFIG CLUSTER|SET-CONFIG-EPOCH
	CLUSTER|SETSLOT CLUSTER|SYNCSLOTS
	SEARCH.CLUSTERSET SEARCH.CLUSTERREFRESH TIMESERIES.CLUSTERSET TIMESERIES.REFRESHCLUSTER _FT.DEBUG`

// undeniable are the commands that a session needs to begin and to end, and to end a transaction.
const undeniable = `AUTH HELLO RESET QUIT EXEC DISCARD`

// restrict has the table refuse what is dangerous but for allow, and what is in deny.
func (t *table) restrict(allow, deny []string) error {
	allowed, err := allowedDangers(allow)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(dangerousCommands) {
		r := t.at(name) // now: the rows that stand for all others come last
		if !allowed[name] {
			r.refuse(name, "list it in allow-dangerous, or send it to Redis itself")
		}
	}
	for _, name := range deny {
		if err := t.deny(name); err != nil {
			return err
		}
	}
	return nil
}

// allowedDangers returns the dangerous commands that a list of names stands for.
func allowedDangers(names []string) (map[string]bool, error) {
	allowed := map[string]bool{}
	for _, word := range names {
		found := false
		for danger := range strings.FieldsSeq(dangerousCommands) {
			name := strings.ToUpper(word)
			if name == "ALL" || name == danger || strings.HasPrefix(danger, name+"|") {
				allowed[danger], found = true, true
			}
		}
		if !found {
			return nil, &ConfigError{"allow-dangerous", word, "want all, or names of " + dangers()}
		}
	}
	return allowed, nil
}

// dangers lists the dangerous commands as the settings spell them.
func dangers() string {
	var names []string
	for name := range strings.FieldsSeq(strings.ToLower(dangerousCommands)) {
		if !strings.HasSuffix(name, "|*") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// deny has the table refuse a command, with all of its subcommands, or a subcommand.
func (t *table) deny(word string) error {
	wrong := func(want string) error { return &ConfigError{"deny-commands", word, want} }
	name := strings.ToUpper(word)
	command, sub, isSub := strings.Cut(name, "|")
	for part := range strings.SplitSeq(name, "|") {
		if part == "" || len(part) > maxName || strings.ContainsFunc(part, notInName) {
			return wrong("want a name as in ACL rules: keys, or config|set for a subcommand")
		}
	}
	if slices.Contains(strings.Fields(undeniable), command) {
		return wrong("a connection or a transaction could not begin or end without it; want another name")
	}
	c, known := t.commands[command]
	if isSub && (strings.Contains(sub, "|") || known && c.subs == nil) {
		return wrong("it has no subcommands; want a name as in ACL rules")
	}
	t.at(name).refuse(name, "it is listed in deny-commands")
	return nil
}

func notInName(r rune) bool { return r <= ' ' || r > '~' || r == '*' }

// refuse makes a row, and those of its subcommands, one that is refused. Words that Redis closes the connection for
// still do that.
func (r *row) refuse(name, why string) {
	if r.how != kill {
		r.how = refuse
		r.refusal = fmt.Appendf(nil, "-ERR %s is not allowed through redbouncer: %s\r\n", strings.TrimSuffix(name, "|*"), why)
	}
	for _, sub := range r.subs {
		sub.refuse(name, why)
	}
}

// reason returns why a command is refused, without the frame of an error.
func (r *row) reason() []byte {
	return bytes.TrimSuffix(bytes.TrimPrefix(r.refusal, []byte("-ERR ")), []byte("\r\n"))
}

// refuse answers a command that the operator does not want.
func (s *session) refuse(c command) bool {
	refusal := c.row.refusal
	if p := s.pin; p != nil && p.tx != nil {
		// A command without its arguments, in its place, has Redis abort the transaction, as its own errors would.
		s.submitRaw(p.link, resp.AppendCommand(nil, "GET"), multiplex.Safe, s.collect(func(reply []byte) []byte {
			if !isErrorReply(reply) {
				p.link.Break(errStuck)
			}
			return refusal
		}))
		s.bar()
		return true
	}
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	if s.ctx.Unauthenticated() {
		return s.refuseStranger(refusal)
	}
	if c.row.name == "MULTI" || c.row.name == "WATCH" {
		s.condemn(refusal)
		return true
	}
	s.answer(refusal)
	return true
}

// refuseStranger answers a command that the operator does not want of a client that has not authenticated. That it has
// to is the upstream's word, which comes first.
func (s *session) refuseStranger(refusal []byte) bool {
	var link *multiplex.Link
	if s.pin != nil {
		link = s.pin.link
	} else if link = s.lane(); link == nil {
		return false
	}
	s.submitRaw(link, resp.AppendCommand(nil, "PING"), multiplex.Safe, s.collect(func(reply []byte) []byte {
		if isErrorReply(reply) {
			return reply
		}
		return refusal
	}))
	s.bar()
	return true
}
