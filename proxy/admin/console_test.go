package admin_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// samples are limits and a ledger with something in each table.
func samples() admin.Backends {
	oldest := []limits.Connection{{Remote: "10.0.0.7:1", Age: time.Hour, Idle: time.Minute}}
	return admin.Backends{
		Limits: &rules{
			rules: []limits.RuleReport{{
				Rule: "addr * max 10", Head: "addr", Groups: []limits.GroupReport{{Value: "10.0.0.7", Open: 9, Max: 10, Refused: 3}},
			}},
			queue: []proxy.WaiterReport{{Remote: "10.0.0.8:2", Source: "10.0.0.8", Rule: "addr", Waited: 1500 * time.Millisecond, Bytes: 31}},
		},
		Ledger: &book{
			sources: map[limits.IdentityKind][]limits.SourceReport{limits.ByUser: {
				{Value: "few", Open: 1}, {Value: "many", Open: 7, Slope: 1.25, Oldest: oldest},
			}},
			suspects: []limits.Suspect{{Source: "api[7]", Rule: "growing", Since: time.Now().Add(-time.Minute), Reason: "it only opens", Advice: "close them"}},
		},
	}
}

// script is a conversation for either door; X is the client, who has logged in as the operator.
const script = `
	# what there is
	X> PROXY
	X< -ERR say what to do, as in PROXY SHOW CLIENTS: PROXY HELP lists it
	X> PROXY help
	X~ ^\*\d+\r\n\+PROXY <verb>.*\+SHOW CLIENTS \[kind value \.\.\.\]\r\n.*\+UNSET LIMIT head\r\n
	X> PROXY SHOW VERSION
	X< +redbouncer v9
	X> PROXY SHOW
	X~ ^-ERR PROXY SHOW: want SHOW CLIENTS, SHOW SOURCES, .*SHOW VERSION\r\n$
	X> PROXY SHOW CLIETS
	X< -ERR there is no PROXY SHOW CLIETS: did you mean PROXY SHOW CLIENTS? PROXY HELP lists all
	X> PROXY kil id 7
	X< -ERR there is no PROXY KIL ID: did you mean PROXY KILL? PROXY HELP lists all
	X> PROXY UNSET timeout
	X< -ERR PROXY UNSET TIMEOUT: want UNSET LIMIT
	X> PROXY SHOW POOL now
	X< -ERR now is too much: this verb has no arguments but FORMAT
	X> PROXY SHOW POOL FORMAT XML
	X< -ERR FORMAT XML: want TABLE, WIDE, MAP or JSON
	X> PROXY SHOW POOL FORMAT
	X< -ERR FORMAT: want TABLE, WIDE, MAP or JSON behind it

	# clients, lanes and pins
	w> CLIENT SETNAME worker:1
	w< +OK
	w> MULTI
	w< +OK
	X> PROXY SHOW CLIENTS name worker:*
	X~ ^\*2\r\n\+id +addr +user +name +lib +state +pin .* last\r\n\+ *\d+  127.0.0.1:\d+ +default +worker:1 +- +flowing +transaction +\d+ +\d+ +0 +2 +0 +multi\r\n$
	X> PROXY SHOW CLIENTS name worker:* user nobody
	X~ ^\*1\r\n\+id 
	X> PROXY SHOW CLIENTS name
	X< -ERR name has no value: want a kind and a value, as in addr 10.0.0.7
	X> PROXY SHOW CLIENTS colour red
	X~ ^-ERR colour is nothing to choose clients by: want one of id, addr, .*\r\n$
	X> PROXY SHOW CLIENTS name worker:* FORMAT JSON
	X~ ^\$\d+\r\n\[{"id":\d+,"addr":"127.*"listener":"127.0.0.1:\d+","user":"default","name":"worker:1",.*"last":"multi","source":"[^"]* worker:1"}\]\r\n$
	X> PROXY SHOW PINS
	X~ ^\*2\r\n\+loop  upstream_id  user .*\r\n\+ +0 +\d+  default   0     2  serving  transaction +\d+  127.0.0.1:\d+ +0 +\d+\r\n$
	X> PROXY SHOW LANES
	X~ ^\*\d\r\n\+loop  upstream_id  user .*\r\n\+ +0 +\d+  default   0     2  serving +\d+ +\d+ +\d+ +\d+\r\n
	X> PROXY SHOW POOL FORMAT MAP
	X~ ^\*42\r\n\$5\r\nstate\r\n\$7\r\nserving\r\n.*\$8\r\nupstream\r\n\$2\r\nup\r\n.*\$4\r\nsize\r\n:16\r\n\$5\r\nlanes\r\n:\d\r\n.*\$4\r\npins\r\n:1\r\n
	X> PROXY SHOW STATS
	X~ ^\*21\r\n\+name +value\r\n\+clients +\d+\r\n\+maxclients +10000\r\n

	X> PROXY SHOW LATENCY
	X~ ^\*4\r\n\+window +commands +commands_per_s +measured +mean_us +p50_us .*\r\n\+10s .*\r\n\+1m .*\r\n\+start +[1-9]
	X> PROXY SHOW LATENCY 10s
	X< -ERR 10s is too much: this verb has no arguments but FORMAT

	# settings
	X> PROXY SET maxclients 500
	X< +OK
	X> PROXY SET timeout 5m
	X< +OK
	X> PROXY SHOW CONFIG *ti*e*out
	X~ ^\*11\r\n.*\+timeout +300s +run time +yes\r\n
	X> PROXY SHOW CONFIG maxclients FORMAT JSON
	X< $67\r\n[{"name":"maxclients","value":"500","from":"run time","live":true}]
	X> PROXY SET maxclients 0
	X< -ERR maxclients 0: argument must be between 1 and 4294967295 inclusive
	X> PROXY SET pool-size 7
	X< -ERR pool-size cannot be set this way: want one of maxclients, timeout, tcp-keepalive, maxmemory-clients
	X> PROXY SET maxclients
	X< -ERR want a setting and its value, as in PROXY SET maxclients 20000, or PROXY SET LIMIT and a rule
	X> PROXY SET timeout 0
	X< +OK

	X> PROXY UPGRADE
	X< -ERR this proxy cannot be replaced while it runs
	X> PROXY RELOAD
	X< -ERR this proxy has no configuration file
	X> PROXY CONFIG REWRITE
	X< -ERR this proxy has no configuration file

	# limits and the ledger
	X> PROXY SHOW LIMITS
	X~ ^\*2\r\n\+rule .*\r\n\+addr \* max 10  10.0.0.7     9   10        0        3 .*\r\n$
	X> PROXY SET LIMIT user:* max 3
	X< +OK
	X> PROXY SHOW LIMITS
	X~ \+user:\* max 3 
	X> PROXY UNSET LIMIT user:*
	X< +OK
	X> PROXY UNSET LIMIT user:*
	X< -ERR want a rule
	X> PROXY SET LIMIT
	X< -ERR want a rule, as SHOW LIMITS shows them
	X> PROXY SHOW QUEUE
	X~ \r\n\+10.0.0.8:2  10.0.0.8  addr  -            1.5     31  no\r\n$
	X> PROXY SHOW SOURCES user
	X~ ^\*3\r\n\+source +open .*\r\n\+many +7 .* 1.25 .*\r\n\+few +1 .*\r\n$
	X> PROXY SHOW SOURCES
	X~ ^\*1\r\n\+source 
	X> PROXY SHOW SOURCES colour
	X< -ERR SHOW SOURCES colour: want one of source, addr, listener, user, name, lib, pid, process, container, cert
	X> PROXY SHOW SUSPECTS
	X~ \r\n\+api\[7\]  growing       60 .* it only opens  close them\r\n$

	# everybody waits, or goes
	X> PROXY PAUSE soon
	X~ ^-ERR PAUSE soon: want a number of milliseconds, from 1 to 3600000, .*\r\n$
	X> PROXY RESUME
	X< -ERR the proxy is neither paused nor draining
	v> ECHO held
	v< $4\r\nheld
	X> PROXY PAUSE 100
	X~ ^-ERR not paused, clients go on: 1 commands are still in flight, 1 of them in transactions, and 0 that block: .*\r\n$
	w> DISCARD
	w< +OK
	X> PROXY PAUSE 60000
	X< +OK
	v> ECHO held
	X> PROXY SHOW POOL FORMAT JSON
	X~ "state":"paused","pause_left_s":5\d,"upstream":"up",.*"lanes":0,
	X> PROXY SHOW CLIENTS state paused FORMAT JSON
	X~ "last":"echo"
	X> PROXY RESUME now
	X< -ERR now is too much: this verb has no arguments but FORMAT
	X> PROXY RESUME
	X< +OK
	v< $4\r\nheld
	X> PROXY RECONNECT
	X< +OK
	X> PROXY DRAIN
	X< +OK
	v< (end)
	w< (end)
	X> PROXY DRAIN
	X< -ERR the proxy is draining already, or stopping
	X> PROXY SHOW POOL FORMAT JSON
	X~ "state":"draining",
	X> PROXY RESUME
	X< +OK
	v2> PING
	v2< +PONG
	w2> CLIENT SETNAME worker:1
	w2< +OK

	# the end of the worker, and not of who asks
	X> PROXY KILL
	X~ ^-ERR say whom: want a kind and a value, of id, addr, 
	X> PROXY KILL name worker:* user nobody
	X< :0
	X> PROXY KILL name worker:* idle 0
	X< :1
	w2< (end)
	v2> PING
	v2< +PONG
	X> PROXY KILL addr 127.0.0.0/8
	X< :1
	v2< (end)
	X> PROXY SHOW VERSION
	X< +redbouncer v9
`

var operator = regexp.MustCompile(`(?m)^(\s*)X([<>~])`)

func TestEveryVerbAnswersThroughBothDoors(t *testing.T) {
	for _, door := range []string{"a", "c"} {
		t.Run(map[string]string{"a": "on the admin listener", "c": "on the port of the data"}[door], func(t *testing.T) {
			r := newRig(t, admin.Config{AdminUsers: []string{"operator"}, Version: "v9"}, samples())
			r.converse(t, operator.ReplaceAllString("X> AUTH operator secret\nX< +OK\n"+script, "${1}"+door+"${2}"))
			for _, words := range admin.Verbs() {
				if !strings.Contains(script, "PROXY "+words) && words != "HELP" {
					t.Errorf("PROXY %s has not been tried", words)
				}
			}
			for _, change := range []string{`"PROXY SET maxclients 500"`, `"PROXY KILL name worker:* idle 0"`, `"PROXY PAUSE 60000"`, `"PROXY SET LIMIT user:* max 3"`} {
				line := lineWith(r.log.String(), "command="+change)
				if !strings.Contains(line, "user=operator") || !strings.Contains(line, "client=127.0.0.1:") {
					t.Errorf("the log says of %s: %q", change, line)
				}
			}
		})
	}
}

func lineWith(text, part string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			return line
		}
	}
	return ""
}

// Programs that speak RESP3 get maps; whoever asks for a table gets it as one text, which redis-cli -3 shows as it is.
func TestRESP3GetsMapsAndTextsAndRESP2GetsLines(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	r.converse(t, `
		a> HELLO 3
		a~ ^%7\r\n\$6\r\nserver\r\n\$10\r\nredbouncer\r\n
		a> SHOW SOURCES user
		a~ ^\*2\r\n%25\r\n\$6\r\nsource\r\n\$4\r\nmany\r\n\$4\r\nopen\r\n:7\r\n.*\$5\r\nslope\r\n,1.25\r\n
		a> SHOW CONFIG maxclients
		a< *1\r\n%4\r\n$4\r\nname\r\n$10\r\nmaxclients\r\n$5\r\nvalue\r\n$5\r\n10000\r\n$4\r\nfrom\r\n$0\r\n\r\n$4\r\nlive\r\n#t
		a> SHOW POOL
		a~ ^%21\r\n.*\$4\r\nsize\r\n:16\r\n
		a> SHOW CONFIG maxclients FORMAT TABLE
		a< =62\r\ntxt:name        value  from  live\nmaxclients  10000  -     yes
		a> SHOW QUEUE FORMAT WIDE
		a~ ^=\d+\r\ntxt:addr +source +rule +value +waiting_s +bytes +inside\n
		a> HELLO 2
		a~ ^\*14\r\n
		a> SHOW CONFIG maxclients FORMAT MAP
		a< *1\r\n*8\r\n$4\r\nname\r\n$10\r\nmaxclients\r\n$5\r\nvalue\r\n$5\r\n10000\r\n$4\r\nfrom\r\n$0\r\n\r\n$4\r\nlive\r\n$3\r\nyes
		a> SHOW CONFIG maxclients
		a< *2\r\n+name        value  from  live\r\n+maxclients  10000  -     yes
	`)
}

// What clients say of themselves is shown to an operator: it must not break out of its line.
func TestWhatOthersHaveSaidStaysInItsCell(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{Ledger: &book{suspects: []limits.Suspect{{
		Source: "a\r\n+b\x1b[2J\u009b", Reason: "\xff", Advice: "",
	}}}})
	r.converse(t, `
		a> SHOW SUSPECTS
		a~ \r\n\+a\?\?\+b\?\[2J\?  -  .*  \?       -\r\n$
		a> "SHOW\r\n+OK"
		a< -ERR there is no PROXY SHOW??+OK: did you mean PROXY SHOW POOL? PROXY HELP lists all
	`)
}

func TestTheSettingsShownAreThoseOfTheManualWithWhatIsInForce(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{Settings: &manual{settings: []proxy.SettingReport{
		{Name: "upstream", Value: "redis://bob:xxxxx@host:6379", From: "REDBOUNCER_UPSTREAM"},
		{Name: "maxclients", Value: "10000", From: "redbouncer.yaml:2", Reloads: true},
		{Name: "log-level", Value: "info", From: "default", Reloads: true},
		{Name: "timeout", Value: "0s", From: "default", Reloads: true},
	}}})
	r.converse(t, `
		a> SET maxclients 700
		a< +OK
		a> SHOW CONFIG
		a< *5\r\n+name        value                        from                 live\r\n+upstream    redis://bob:xxxxx@host:6379  REDBOUNCER_UPSTREAM  no\r\n+maxclients  700                          run time             yes\r\n+log-level   info                         default              yes\r\n+timeout     0s                           default              yes
		a> CONFIG GET max* TIMEOUT
		a< *4\r\n$10\r\nmaxclients\r\n$3\r\n700\r\n$7\r\ntimeout\r\n$2\r\n0s
		a> CONFIG SET maxclients 600
		a< +OK
		c> CONFIG GET maxclients
		c< *2\r\n$10\r\nmaxclients\r\n$3\r\n600
	`)
}

func TestReloadAndRewriteSayWhatHasBecomeOfWhichSetting(t *testing.T) {
	m := &manual{changes: []admin.SettingChange{
		{Name: "timeout", Was: "0s", Now: "60s", Outcome: "changed"}, {Name: "loops", Was: "1", Now: "1", Outcome: "kept: 2 is for a start"},
	}}
	r := newRig(t, admin.Config{AdminUsers: []string{"operator"}, StatsUsers: []string{"watcher"}}, admin.Backends{Settings: m})
	for _, verb := range []string{"RELOAD", "CONFIG REWRITE"} {
		r.converse(t, strings.ReplaceAll(`
			c> AUTH operator secret
			c< +OK
			c> PROXY VERB
			c< *3\r\n+name     was  now  outcome\r\n+timeout  0s   60s  changed\r\n+loops    1    1    kept: 2 is for a start
			c> PROXY VERB FORMAT JSON
			c~ "name":"loops","was":"1","now":"1","outcome":"kept: 2 is for a start"
			c> PROXY VERB now
			c< -ERR now is too much: this verb has no arguments but FORMAT
			a> AUTH operator secret
			a< +OK
			a> VERB
			a~ changed
			a2> AUTH watcher secret
			a2< +OK
			a2> VERB
			a2~ ^-NOPERM User watcher has no permissions to run the 'proxy|
		`, "VERB", verb))
	}
	m.err = errors.New("timeout: \"soon\", from redbouncer.yaml:3, is not usable")
	r.converse(t, `
		c> AUTH operator secret
		c< +OK
		c> PROXY RELOAD
		c< -ERR timeout: "soon", from redbouncer.yaml:3, is not usable
	`)
	if log := r.log.String(); !strings.Contains(log, `command="PROXY RELOAD"`) || !strings.Contains(log, "a change was refused") {
		t.Errorf("the log is %s", log)
	}
}

// Who may use the console can be changed while they use it.
func TestWhoIsNoLongerListedMayNoLonger(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	c := proxytest.Dial(t, r.admin.Addr().String())
	say := func(want string, words ...string) {
		t.Helper()
		if got := string(c.Do(words...)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %q, want %s", words, got, want)
		}
	}
	reload := func(cfg admin.Config) {
		t.Helper()
		if err := r.admin.Reload(cfg); err != nil {
			t.Fatal(err)
		}
	}
	say("+OK", "SET", "timeout", "9")
	reload(admin.Config{AdminUsers: []string{"operator"}})
	say("-NOAUTH", "SET", "timeout", "9")
	say("+OK", "AUTH", "operator", "secret")
	say("+OK", "SET", "timeout", "9")
	reload(admin.Config{StatsUsers: []string{"operator"}})
	say("-NOPERM", "SET", "timeout", "9")
	say("+redbouncer", "SHOW", "VERSION")
	reload(admin.Config{StatsUsers: []string{"watcher"}})
	say("-NOPERM", "SHOW", "VERSION")
	reload(admin.Config{})
	say("+redbouncer", "SHOW", "VERSION")
}

func TestAConsoleThatOtherHostsReachKeepsItsUsers(t *testing.T) {
	s := newAdmin(t, admin.Config{Listen: "0.0.0.0:0", AdminUsers: []string{"operator"}})
	err := s.Reload(admin.Config{Listen: "127.0.0.1:0"}) // where it listens cannot be changed
	var bad *proxy.ConfigError
	if !errors.As(err, &bad) || bad.Setting != "admin-listen" {
		t.Errorf("%v", err)
	}
}

func TestHelpHasEveryVerbWithWhatItDoes(t *testing.T) {
	r := newRig(t, admin.Config{}, admin.Backends{})
	help := string(proxytest.Dial(t, r.admin.Addr().String()).Do("PROXY", "HELP"))
	for _, words := range admin.Verbs() {
		_, after, found := strings.Cut(help, "\r\n+"+words)
		lines := strings.SplitN(after, "\r\n", 3)
		if !found || len(lines) < 2 || !strings.HasPrefix(lines[1], "+    ") || !strings.HasSuffix(lines[1], ".") {
			t.Errorf("HELP does not say what %s does: %q", words, lines)
		}
	}
	for line := range strings.SplitSeq(help, "\r\n") {
		if len(line) > 121 {
			t.Errorf("this is more than a line: %s", line)
		}
	}
}
