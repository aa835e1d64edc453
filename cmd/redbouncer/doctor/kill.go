package doctor

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KillReport is what --kill-idle has done, or would do, and its JSON output.
type KillReport struct {
	Schema     int            `json:"schema"`
	Target     string         `json:"target"`
	ExitStatus int            `json:"exit_status"`
	DryRun     bool           `json:"dry_run"`
	IdleS      int            `json:"idle_s"`
	Found      int            `json:"found"`          // idle for longer, and to be closed
	Spared     map[string]int `json:"spared"`         // idle for longer, and why they stay
	Killed     []ClientReport `json:"killed"`         // in a dry run: who would be
	Used       int            `json:"used_meanwhile"` // had sent a command when they were looked at again
	Gone       int            `json:"gone_meanwhile"`
	Errors     []string       `json:"errors"`
	Command    string         `json:"command,omitempty"` // does what the dry run has shown
}

// harmlessFlags are those of connections that may be closed: none, a unix socket, READONLY, client tracking, NO-EVICT and
// NO-TOUCH. Whoever has another one stays, also one that only a later version knows.
const harmlessFlags = "NUrtRBeT"

// whyNot is why a connection stays that is idle for longer than that, or "" if nothing is to be said for it.
func (c *client) whyNot(own int64) string {
	switch {
	case c.id == own:
		return "own"
	case c.isPeer():
		return "replica, primary or monitor"
	case c.isSubscribed():
		return "pub/sub"
	case c.isBlocked():
		return "blocked"
	case c.inTransaction():
		return "transaction"
	case strings.Trim(c.flags, harmlessFlags) != "" || c.flags == "":
		return "flags " + safe(c.flags, 20)
	case strings.HasPrefix(c.name, "redbouncer:"):
		return "of redbouncer"
	}
	return ""
}

// runKill closes idle connections, or says whom it would close.
func runKill(ctx context.Context, cfg *Config, s *server, out io.Writer) (int, error) {
	tries, err := s.enter(ctx, cfg.For)
	if err != nil {
		r := troubleReport(cfg, s, tries, err)
		return r.ExitStatus, r.write(out, cfg)
	}
	k := &KillReport{
		Schema: schema, Target: cfg.Shown, DryRun: !cfg.Yes, IdleS: int(cfg.KillIdle / time.Second), Spared: map[string]int{},
		Killed: []ClientReport{}, Errors: []string{},
	}
	text, err := s.client.ClientList(ctx).Result()
	if err != nil {
		k.ExitStatus = ExitUnknown
		k.fail("CLIENT LIST", err, s)
		return k.ExitStatus, k.write(out, cfg)
	}
	found := k.choose(parseClients(text), s.id, cfg.KillIdle)
	if cfg.Yes {
		k.kill(ctx, s, found, cfg.KillIdle)
	} else {
		for _, c := range found {
			k.Killed = append(k.Killed, c.report())
		}
		k.Command = fmt.Sprintf("redbouncer doctor --kill-idle %ds --yes %s", k.IdleS, plainURL(s))
	}
	if len(k.Errors) > 0 {
		k.ExitStatus = ExitWarning
	}
	return k.ExitStatus, k.write(out, cfg)
}

// choose returns those to be closed, the longest idle first, and counts those that stay.
func (k *KillReport) choose(all []client, own int64, longer time.Duration) (found []client) {
	for _, c := range all {
		if c.idle <= longer {
			continue
		}
		if why := c.whyNot(own); why != "" {
			k.Spared[why]++
			continue
		}
		found = append(found, c)
	}
	slices.SortStableFunc(found, func(a, b client) int { return int(b.idle - a.idle) })
	k.Found = len(found)
	return found
}

// kill closes them one by one. Each is looked at once more just before: who has sent a command since stays. That leaves the
// time of one round trip, as Redis has no command that does both.
func (k *KillReport) kill(ctx context.Context, s *server, found []client, longer time.Duration) {
	for _, c := range found {
		id := strconv.FormatInt(c.id, 10)
		text, err := s.client.Do(ctx, "CLIENT", "LIST", "ID", id).Text()
		if err != nil {
			k.fail("CLIENT LIST ID", err, s)
			return // and the next one will fare no better
		}
		now := parseClients(text)
		switch {
		case len(now) != 1 || now[0].id != c.id:
			k.Gone++
			continue
		case now[0].idle <= longer || now[0].whyNot(s.id) != "":
			k.Used++
			continue
		}
		n, err := s.client.Do(ctx, "CLIENT", "KILL", "ID", id, "SKIPME", "yes").Int()
		switch {
		case err != nil:
			k.fail("CLIENT KILL", err, s)
			return
		case n == 0:
			k.Gone++
		default:
			k.Killed = append(k.Killed, now[0].report())
		}
	}
}

func (k *KillReport) fail(what string, err error, s *server) {
	text := what + ": " + reply(err)
	if isReply(err, "NOPERM") {
		user := s.options.Username
		if user == "" {
			user = "default"
		}
		text += fmt.Sprintf(" (ACL SETUSER %s +client|list +client|id +client|kill)", user)
	}
	k.Errors = append(k.Errors, text)
}

// killShown is how many connections the text names.
const killShown = 20

func (k *KillReport) write(out io.Writer, cfg *Config) error {
	if cfg.JSON {
		return writeJSON(out, k)
	}
	p := newPrinter(out, cfg.Colour)
	idle := span(time.Duration(k.IdleS) * time.Second)
	switch {
	case k.DryRun:
		p.wrap("", "  ", fmt.Sprintf("%s idle for longer than %s would be closed. Nothing has been done.",
			plural(k.Found, "connection that is", "connections that are"), idle))
	default:
		p.wrap("", "  ", fmt.Sprintf("%s closed of %d that had been idle for longer than %s; %d were used again in time, %d had gone.",
			plural(len(k.Killed), "connection was", "connections were"), k.Found, idle, k.Used, k.Gone))
	}
	for _, c := range k.Killed[:min(len(k.Killed), killShown)] {
		last, name := c.Last, c.Name
		if last == "" {
			last = "none"
		}
		if name == "" {
			name = "(no name)"
		}
		fmt.Fprintf(p, "  id %-8d %-22s %-16s idle %-7s last %s\n", c.ID, safe(c.Addr, 21), safe(name, 15),
			span(time.Duration(c.IdleS)*time.Second), safe(last, 10))
	}
	if more := len(k.Killed) - killShown; more > 0 {
		fmt.Fprintf(p, "  and %d more (--json names all)\n", more)
	}
	for _, why := range sortedKeys(k.Spared) {
		fmt.Fprintf(p, "  not touched: %d (%s)\n", k.Spared[why], why)
	}
	for _, e := range k.Errors {
		p.wrap("  error: ", "    ", safe(e, 300))
	}
	if k.Command != "" && k.Found > 0 {
		fmt.Fprintln(p, "To do it:")
		p.command(k.Command)
	}
	return p.Flush()
}
