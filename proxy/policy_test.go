package proxy_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What would end, rebuild or freeze the upstream for everybody is refused, and so is what the operator lists. A refusal
// is one line at its place among the replies; a transaction that contains one is aborted.

// restricted starts a server and a proxy that denies a few commands.
func restricted(t *testing.T, args ...string) (*proxytest.Server, *proxytest.Running) {
	return redisAndProxy(t, func(c *proxy.Config) {
		c.DenyCommands = []string{"keys", "Config", "client|setname", "NOSUCH", "ft.config|set"}
	}, args...)
}

const (
	dangerous = ` is not allowed through redbouncer: list it in allow-dangerous, or send it to Redis itself\r\n`
	denied    = ` is not allowed through redbouncer: it is listed in deny-commands\r\n`
)

func TestARefusalIsALineAtItsPlaceAndTheSessionGoesOn(t *testing.T) {
	_, p := restricted(t)
	for _, hello := range []string{"", "a> HELLO 3\na~ proto"} {
		proxytest.Converse(t, p.Addr(), nil, hello+`
			a> SHUTDOWN NOSAVE
			a< -ERR SHUTDOWN`+dangerous+`
			a> set k v
			a< +OK
			a> keys *
			a< -ERR KEYS`+denied+`
			a> Module Load /tmp/x
			a< -ERR MODULE|LOAD`+dangerous+`
			a> MODULE LIST
			a~ ^\*
			a> MODULE
			a< -ERR wrong number of arguments for 'module' command
			a> CLUSTER MEET 127.0.0.1 1
			a< -ERR CLUSTER|MEET`+dangerous+`
			a> BACKUP whatever
			a< -ERR BACKUP`+dangerous+`
			a> CONFIG GET maxmemory
			a< -ERR CONFIG`+denied+`
			a> CONFIG
			a< -ERR CONFIG`+denied+`
			a> CLIENT SETNAME x
			a< -ERR CLIENT|SETNAME`+denied+`
			a> CLIENT GETNAME
			a~ ^(\$-1|_)\r\n
			a> nosuch a b
			a< -ERR NOSUCH`+denied+`
			a> FT.CONFIG SET x y
			a< -ERR FT.CONFIG|SET`+denied+`
			a> FT.CONFIG GET x
			a~ ^-ERR unknown command
			a>> shutdown nosave\r\nGET k\r\nKEYS *\r\nDEBUG SLEEP 100\r\nGET k\r\n
			a< -ERR SHUTDOWN`+dangerous+`
			a< $1\r\nv
			a< -ERR KEYS`+denied+`
			a< -ERR DEBUG`+dangerous+`
			a< $1\r\nv
			a+ CLIENT REPLY OFF
			a+ KEYS *
			a+ CLIENT REPLY ON
			a> PING
			a< +OK
			a< +PONG
			a+ CLIENT REPLY SKIP
			a+ KEYS *
			a> GET k
			a< $1\r\nv
			a: close
		`)
	}
	allGone(t, p)
}

func TestARefusalAbortsTheTransactionItIsIn(t *testing.T) {
	_, p := restricted(t)
	for _, hello := range []string{"", "a> HELLO 3\na~ proto"} {
		proxytest.Converse(t, p.Addr(), nil, hello+`
			# in hand as a whole
			a+ MULTI
			a+ SET k 1
			a+ KEYS *
			a+ SET k 2
			a+ EXEC
			a> EXISTS k
			a< +OK
			a< +QUEUED
			a< -ERR KEYS`+denied+`
			a< +QUEUED
			a< -EXECABORT Transaction discarded because of previous errors.
			a< :0
			# command by command
			a> MULTI
			a< +OK
			a> SAVE
			a< -ERR SAVE`+dangerous+`
			a> SET k 1
			a< +QUEUED
			a> EXEC
			a< -EXECABORT Transaction discarded because of previous errors.
			# DISCARD ends it all the same, and the next one is not concerned
			a> MULTI
			a< +OK
			a> KEYS *
			a< -ERR KEYS`+denied+`
			a> DISCARD
			a< +OK
			a+ MULTI
			a+ ECHO x
			a> EXEC
			a< +OK
			a< +QUEUED
			a< *1\r\n$1\r\nx
			# WATCH is still in force after a refusal
			a> WATCH k
			a< +OK
			a> KEYS *
			a< -ERR KEYS`+denied+`
			b> SET k 3
			b< +OK
			a+ MULTI
			a+ SET k 4
			a> EXEC
			a< +OK
			a< +QUEUED
			a~ ^(\*-1|_)\r\n
			a> DEL k
			a< :1
			a: close
			b: close
		`)
	}
	allGone(t, p)
}

// A transaction whose beginning is refused must not have its body run.
func TestAClientWhoseMultiOrWatchIsRefusedIsClosed(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.DenyCommands = []string{"multi", "watch"} })
	for _, name := range []string{"MULTI", "WATCH"} {
		proxytest.Converse(t, p.Addr(), nil, `
			a>> PING\r\n`+name+` k\r\nSET k 1\r\nEXEC\r\n
			a< +PONG
			a< -ERR `+name+denied+`
			a< (end)
		`)
	}
	if got := string(proxytest.Dial(t, s.Addr()).Do("EXISTS", "k")); got != ":0\r\n" {
		t.Errorf("EXISTS says %q: the body has run", got)
	}
}

func TestASubscriberIsRefusedWhatOthersAre(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.DenyCommands = []string{"publish", "keys", "ping", "psubscribe"} })
	for _, protocol := range []string{"2", "3"} {
		proxytest.Converse(t, p.Addr(), nil, `
			a> HELLO `+protocol+`
			a~ proto
			a> SUBSCRIBE ch
			a~ subscribe
			a> PUBLISH ch x
			a< -ERR PUBLISH`+denied+`
			a> KEYS *
			a< -ERR KEYS`+denied+`
			a> PING
			a< -ERR PING`+denied+`
			a> PSUBSCRIBE c*
			a< -ERR PSUBSCRIBE`+denied+`
			a> SHUTDOWN
			a< -ERR SHUTDOWN`+dangerous+`
			a> UNSUBSCRIBE
			a~ unsubscribe
			a> ECHO x
			a< $1\r\nx
			a: close
		`)
	}
	allGone(t, p)
}

// Where a connection carries what the client sends as it comes, nobody knows what is in flight. What is refused is
// refused there too.
func TestWhatIsRefusedIsRefusedOnAConnectionThatNobodyFollows(t *testing.T) {
	s, p := restricted(t)
	const unknown = `-ERR unknown command 'SHUTDOWN is not allowed through redbouncer`
	proxytest.Converse(t, p.Addr(), nil, `
		a> MONITOR
		a< +OK
		a> SHUTDOWN NOSAVE
		a~ ^`+unknown+`
		b> MULTI
		b< +OK
		b> SUBSCRIBE ch
		b< +QUEUED
		b> EXEC
		b~ subscribe
		b>> *2\r\n$8\r\nSHUTD
		b>> OWN\r\n$6\r\nNOSAVE\r\nKEYS *\r\n\r\nPI
		b~ ^`+unknown+`
		b~ ^-ERR unknown command 'KEYS is not allowed
		b>> NG\r\n
		b< *2\r\n$4\r\npong\r\n$0\r\n\r\n
		b> POST
		b< (end)
		c> SUBSCRIBE ch
		c~ subscribe
		c> KEYS *
		c< -ERR KEYS`+denied+`
		c> UNSUBSCRIBE ch
		c~ unsubscribe
		d> MONITOR
		d< +OK
		d>> *1\r\n!\r\n
		d~ ^-ERR Protocol error
		d< (end)
	`)
	if got := string(proxytest.Dial(t, s.Addr()).Do("PING")); got != "+PONG\r\n" {
		t.Errorf("the upstream says %q", got)
	}
}

func TestWhoHasNotAuthenticatedIsToldSoFirst(t *testing.T) {
	_, p := restricted(t, "--requirepass", "secret")
	proxytest.Converse(t, p.Addr(), nil, `
		a> SHUTDOWN NOSAVE
		a< -NOAUTH Authentication required.
		a+ KEYS *
		a+ AUTH secret
		a+ KEYS *
		a> PING
		a< -NOAUTH Authentication required.
		a< +OK
		a< -ERR KEYS`+denied+`
		a< +PONG
		a: close
	`)
	allGone(t, p)
}

func TestWhatIsAllowedIsSent(t *testing.T) {
	for _, tc := range []struct {
		allow, sent string
		passes      bool
	}{
		{"debug", "DEBUG JMAP", true},
		{"DeBuG", "debug jmap", true},
		{"module|unload", "MODULE UNLOAD nosuch", true},
		{"module|unload", "MODULE LOAD nosuch", false},
		{"module", "MODULE LOADEX nosuch", true},
		{"cluster", "CLUSTER FAILOVER", true},
		{"cluster|failover", "CLUSTER RESET", false},
		{"cluster|failover", "CLUSTER FAILOVER", true},
		{"backup|start", "BACKUP START", true},
		{"backup|start", "BACKUP ABORT", false},
		{"backup", "BACKUP NEWONE", true},
		{"all", "FAILOVER ABORT", true},
		{"all", "_FT.DEBUG x", true},
		{"debug", "_FT.DEBUG x", false},
	} {
		_, p := redisAndProxy(t, func(c *proxy.Config) { c.AllowDangerous = []string{tc.allow} })
		got := string(proxytest.Dial(t, p.Addr()).Do(strings.Fields(tc.sent)...))
		if refused := strings.Contains(got, "allow-dangerous"); refused == tc.passes {
			t.Errorf("with %s, %s is answered %q", tc.allow, tc.sent, got)
		}
	}
}

func TestWhatIsBothAllowedAndDeniedIsDenied(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.AllowDangerous, c.DenyCommands = []string{"all"}, []string{"debug", "cluster|meet", "post"}
	})
	proxytest.Converse(t, p.Addr(), nil, `
		a> DEBUG JMAP
		a< -ERR DEBUG`+denied+`
		a> CLUSTER MEET a b
		a< -ERR CLUSTER|MEET`+denied+`
		a> CLUSTER RESET
		a~ ^-ERR This instance has cluster support disabled
		# a word that ends the connection goes on doing so
		a> POST /
		a< (end)
	`)
}

func TestAListOfCommandsThatMakesNoSenseIsAnError(t *testing.T) {
	s := proxytest.Redis(t)
	for _, tc := range []struct{ setting, name, want string }{
		{"allow-dangerous", "get", "cluster|addslots, "},
		{"allow-dangerous", "config|set", "shutdown"},
		{"allow-dangerous", "", "all"},
		{"allow-dangerous", "cluster|info", "cluster|meet"},
		{"deny-commands", "EXEC", "could not"},
		{"deny-commands", "discard", "could not"},
		{"deny-commands", "hello", "could not"},
		{"deny-commands", "get|x", "no subcommands"},
		{"deny-commands", "client|a|b", "no subcommands"},
		{"deny-commands", "client|", "config|set"},
		{"deny-commands", "two words", "config|set"},
		{"deny-commands", strings.Repeat("x", 100), "config|set"},
		{"protected-mode", "perhaps", "yes or no"},
	} {
		cfg := proxytest.Config(t, s)
		switch tc.setting {
		case "allow-dangerous":
			cfg.AllowDangerous = []string{"debug", tc.name}
		case "deny-commands":
			cfg.DenyCommands = []string{"keys", tc.name}
		default:
			cfg.ProtectedMode = tc.name
		}
		var bad *proxy.ConfigError
		if err := cfg.Validate(); !errors.As(err, &bad) || bad.Setting != tc.setting || bad.Value != tc.name ||
			!strings.Contains(bad.Want, tc.want) {
			t.Errorf("%s %q: %v", tc.setting, tc.name, err)
		}
		if _, err := proxy.New(cfg); !errors.As(err, &bad) {
			t.Errorf("%s %q: a proxy starts with it, or says %v", tc.setting, tc.name, err)
		}
	}
}

// Refusals must not grow a queue: a client that floods them is answered one by one.
func TestAFloodOfRefusalsLeavesNothingBehind(t *testing.T) {
	_, p := restricted(t)
	c := proxytest.Dial(t, p.Addr())
	var raw []byte
	raw = proxytest.AppendCommand(raw, "MULTI")
	for range 5000 {
		raw = proxytest.AppendCommand(raw, "KEYS", "*")
	}
	raw = proxytest.AppendCommand(raw, "EXEC")
	for range 5000 {
		raw = proxytest.AppendCommand(raw, "SHUTDOWN")
	}
	done := make(chan error, 1)
	go func() { done <- c.TryWrite(raw) }()
	for i := range 10002 {
		want := "-ERR KEYS"
		switch {
		case i == 0:
			want = "+OK"
		case i == 5001:
			want = "-EXECABORT"
		case i > 5001:
			want = "-ERR SHUTDOWN"
		}
		if got := string(c.ReadReply()); !strings.HasPrefix(got, want) {
			t.Fatal(fmt.Sprintf("reply %d: ", i), got)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.Close()
	allGone(t, p)
}
