package admin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who may do what, through which door, with which lists.
func TestWhoMayDoWhat(t *testing.T) {
	const look, change = "PROXY SHOW VERSION", "PROXY SET timeout 0"
	const noperm, noauth = "-NOPERM", "-NOAUTH"
	for _, lists := range []struct {
		name string
		cfg  admin.Config
		// What each gets: on the admin listener, and on the port of the data; for looking, and for changing.
		who map[string][4]string
	}{
		{"no lists", admin.Config{}, map[string][4]string{
			"":         {"+", "+", noperm, noperm},
			"operator": {"+", "+", noperm, noperm},
		}},
		{"both lists", admin.Config{AdminUsers: []string{"operator"}, StatsUsers: []string{"watcher"}}, map[string][4]string{
			"":         {noauth, noauth, noperm, noperm},
			"operator": {"+", "+", "+", "+"},
			"watcher":  {"+", noperm, "+", noperm},
			"somebody": {noperm, noperm, noperm, noperm},
		}},
		{"lookers only", admin.Config{StatsUsers: []string{"watcher"}}, map[string][4]string{
			"":         {noauth, noauth, noperm, noperm},
			"operator": {noperm, noperm, noperm, noperm},
			"watcher":  {"+", noperm, "+", noperm},
		}},
		{"everybody's user", admin.Config{AdminUsers: []string{"default"}}, map[string][4]string{
			"":         {noauth, noauth, "+", "+"},
			"operator": {noperm, noperm, noperm, noperm},
		}},
	} {
		t.Run(lists.name, func(t *testing.T) {
			lists.cfg.Version = "v9"
			r := newRig(t, lists.cfg, admin.Backends{})
			for user, want := range lists.who {
				for i, addr := range []string{r.admin.Addr().String(), r.proxy.Addr()} {
					c := proxytest.Dial(t, addr)
					if user != "" {
						if got := string(c.Do("AUTH", user, "secret")); got != "+OK\r\n" {
							t.Fatalf("AUTH %s: %s", user, got)
						}
					}
					for j, command := range []string{look, change} {
						if got := string(c.Do(strings.Fields(command)...)); !strings.HasPrefix(got, want[2*i+j]) {
							t.Errorf("%q at door %d> %s: %q, want %s", user, i, command, got, want[2*i+j])
						}
					}
					c.Close()
				}
			}
		})
	}
}

func TestThePasswordIsTheUpstreamsBusiness(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator", "ghost"}}, admin.Backends{})
	r.converse(t, `
		a> AUTH operator wrong
		a~ ^-WRONGPASS 
		a> PING
		a< -NOAUTH Authentication required.
		a> HELLO 3
		a~ ^-NOAUTH HELLO must be called with the client already authenticated
		a> HELLO 3 AUTH operator wrong
		a~ ^-WRONGPASS 
		a> PROXY SHOW POOL
		a< -NOAUTH Authentication required.
		a> AUTH ghost secret
		a~ ^-WRONGPASS 
		a> HELLO 3 AUTH operator secret SETNAME me
		a~ ^%7\r\n
		a> CLIENT GETNAME
		a< $2\r\nme
		a> RESET
		a< +RESET
		a> INFO
		a< -NOAUTH Authentication required.
		a> AUTH operator secret
		a< +OK
		a> AUTH operator wrong
		a~ ^-WRONGPASS 
		a> PING
		a< +PONG
	`)
	if log := r.log.String(); strings.Contains(log, "secret") || !strings.Contains(log, "refuses a password") {
		t.Errorf("the log is %s", log)
	}
}

func TestWhoMayOnlyLookSeesTheSettingsAndChangesNone(t *testing.T) {
	r := newRig(t, admin.Config{StatsUsers: []string{"watcher"}, AdminUsers: []string{"operator"}}, admin.Backends{})
	r.converse(t, `
		a> AUTH watcher secret
		a< +OK
		a> CONFIG GET maxclients
		a< *2\r\n$10\r\nmaxclients\r\n$5\r\n10000
		a> CONFIG SET maxclients 1
		a< -NOPERM User watcher has no permissions to run the 'proxy|set' command: see the settings admin-users and stats-users
		a> KILL addr 0.0.0.0/0
		a~ ^-NOPERM User watcher has no permissions to run the 'proxy\|kill' command
		a> UNSET LIMIT x
		a~ ^-NOPERM 
		a> INFO
		a~ ^\$\d+\r\n# Clients\r\nconnected_clients:0\r\n
		a2> AUTH somebody secret
		a2< +OK
		a2> INFO
		a2~ ^-NOPERM 
		a2> CONFIG GET *
		a2~ ^-NOPERM 
		a2> SHOW POOL
		a2~ ^-NOPERM User somebody has no permissions to run the 'proxy' command
	`)
}

// Whoever acts as somebody else on a connection of its own is not who the proxy takes it for.
func TestTheUserIsWhoTheClientActsAsNow(t *testing.T) {
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}}, admin.Backends{})
	for _, become := range []string{"AUTH somebody secret", "HELLO 3 AUTH somebody secret", "RESET"} {
		r.converse(t, fmt.Sprintf(`
			c> AUTH operator secret
			c< +OK
			c> PROXY SHOW VERSION
			c< +redbouncer dev
			c> %[1]s
			c~ .
			c> PROXY SHOW VERSION
			c~ ^-NOPERM 
			# with state on a connection of its own, whose user the proxy does not follow
			d> AUTH operator secret
			d< +OK
			d> WATCH k
			d< +OK
			d> %[1]s
			d~ .
			d> PROXY SHOW VERSION
			d~ ^-(NOPERM|ERR PROXY is not possible on this connection any more)
		`, become))
	}
}

func TestWhoeverHasNotAuthenticatedIsNobody(t *testing.T) {
	redis := proxytest.Redis(t, "--requirepass", "x")
	pc := proxytest.Config(t, redis)
	s := newAdmin(t, admin.Config{AdminUsers: []string{"default"}})
	pc.Console = s.Client
	p := proxytest.Proxy(t, pc)
	s.Attach(admin.Backends{Proxy: p.Server})
	proxytest.Converse(t, p.Addr(), nil, `
		c> PROXY SHOW VERSION
		c< -NOAUTH Authentication required.
		c> AUTH x
		c< +OK
		c> PROXY SHOW VERSION
		c< +redbouncer dev
	`)
}
