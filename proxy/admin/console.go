package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
)

// rights are what somebody may do on the console.
type rights uint8

const (
	noRights    rights = iota
	statsRights        // look
	adminRights        // look and change
)

// Who asks.
type Who struct {
	User   string // the ACL user; empty: nobody has been asked
	Remote string // the address
	Client int64  // the id of a client of the proxy; 0: it is none
	RESP   int    // the version of the protocol for the reply: 2 or 3
	rights rights
}

// Console answers the operator's commands. It may be used by several goroutines at once.
type Console struct {
	// Static after construction.
	cfg   Config
	slots chan struct{} // holds one for each command that is under way

	// Atomic.
	backends atomic.Pointer[Backends]
	users    atomic.Pointer[users]

	recorder recorder
}

const (
	// consoleTimeout bounds a command. It is for loops that are busy; on an idle machine it takes no time.
	consoleTimeout = 5 * time.Second
	// consoleSlots bounds the commands that run at once: each may ask all loops about all clients.
	consoleSlots = 4
)

func newConsole(cfg Config) *Console {
	c := &Console{cfg: cfg, slots: make(chan struct{}, consoleSlots)}
	c.recorder.began = time.Now()
	c.users.Store(&users{cfg.AdminUsers, cfg.StatsUsers})
	return c
}

// tokenFile returns where the token of all rights over HTTP is; empty: there is none.
func (c *Console) tokenFile() string { return c.cfg.HTTPTokenFile }

// users are those who may use the console: the settings admin-users and stats-users. They do not change, but are replaced.
type users struct{ admin, stats []string }

// restricted reports whether anybody is named.
func (u *users) restricted() bool { return len(u.admin)+len(u.stats) > 0 }

// rightsOf returns what an ACL user may do. Who may do all need not be in both lists.
func (u *users) rightsOf(user string) rights {
	switch {
	case slices.Contains(u.admin, user):
		return adminRights
	case slices.Contains(u.stats, user):
		return statsRights
	}
	return noRights
}

// Client answers PROXY on the port of the data. It is a proxy.Config.Console.
func (c *Console) Client(cmd proxy.ConsoleCommand) []byte {
	args := make([]string, 0, len(cmd.Args))
	for _, arg := range cmd.Args[1:] {
		args = append(args, string(arg))
	}
	return c.Execute(context.Background(), args, Who{
		User: cmd.User, Remote: cmd.Remote, Client: cmd.Client, RESP: cmd.RESP, rights: c.users.Load().rightsOf(cmd.User),
	})
}

// Operates reports whether an ACL user may use PROXY on the port of the data. It is a proxy.Config.Operates.
func (c *Console) Operates(user string) bool { return c.users.Load().rightsOf(user) != noRights }

// Execute carries out a command, whose words come without PROXY, and returns the reply.
func (c *Console) Execute(ctx context.Context, args []string, who Who) []byte {
	r, answer, err := c.carryOut(ctx, args, who)
	var denied *permissionError
	switch {
	case errors.As(err, &denied):
		return refusal(denied)
	case err != nil:
		return failure(err)
	}
	return r.encode(answer)
}

var (
	errStarting = errors.New("the proxy is starting")
	errBusy     = errors.New("too many commands of the console are under way")
)

// carryOut carries out a command for any door, and returns what it was and its answer. The error is a *permissionError if they
// may not.
func (c *Console) carryOut(ctx context.Context, args []string, who Who) (*request, any, error) {
	bounded, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	if who.rights == noRights {
		return nil, nil, &permissionError{who.User, "proxy"} // which verbs there are is none of their business
	}
	b := c.backends.Load()
	if b == nil {
		return nil, nil, errStarting
	}
	verb, rest, err := findVerb(args)
	switch {
	case err != nil:
		return nil, nil, err
	case verb.changes && who.rights < adminRights:
		return nil, nil, &permissionError{who.User, "proxy|" + strings.ToLower(strings.ReplaceAll(verb.words, " ", "|"))}
	}
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-bounded.Done():
		return nil, nil, errBusy
	}
	r := &request{Backends: *b, console: c, args: rest, who: who}
	if err := r.takeFormat(verb); err != nil {
		return nil, nil, err
	}
	if !verb.waits {
		ctx = bounded
	}
	answer, err := verb.run(ctx, r)
	if verb.changes {
		c.note(verb, rest, who, answer, err)
	}
	return r, answer, err
}

// note tells the log who has changed what.
func (c *Console) note(v *verb, args []string, who Who, answer any, err error) {
	attrs := []any{"command", oneLine(strings.Join(append([]string{"PROXY", v.words}, args...), " ")), "client", who.Remote}
	if who.User != "" {
		attrs = append(attrs, "user", who.User)
	}
	if err != nil {
		c.cfg.Log.Warn("console: a change was refused", append(attrs, "error", err)...)
		return
	}
	if n, ok := answer.(int); ok {
		attrs = append(attrs, "clients", n)
	}
	c.cfg.Log.Info("console: changed", attrs...)
}

// permissionError says that a user may not do something, and what would give the permission.
type permissionError struct{ user, command string }

// Error implements error.
func (e *permissionError) Error() string {
	return fmt.Sprintf("User %s has no permissions to run the '%s' command: see the settings admin-users and stats-users", e.user, e.command)
}

// refusal is Redis's for a user without the permission.
func refusal(e *permissionError) []byte {
	return fmt.Appendf(nil, "-NOPERM %s\r\n", oneLine(e.Error()))
}

func failure(err error) []byte { return fmt.Appendf(nil, "-ERR %s\r\n", oneLine(err.Error())) }

// oneLine keeps what others have said from breaking out of a line of the protocol, or of the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
