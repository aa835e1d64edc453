package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// attacker makes one attack. Nothing that it is answered matters.
type attacker struct {
	w    *tenants
	rnd  *rand.Rand
	conn *proxytest.Conn
}

// attackKinds are the attacks. Each begins on no connection, and whatever it leaves is cut off.
var attackKinds = map[string]func(a *attacker){
	"a transaction without an end": func(a *attacker) {
		a.say("MULTI", "SET evil:k v")
		a.listen()
		a.raw("*2\r\n$3\r\nGET\r\n$6\r\nevil")
	},
	"a WATCH without an end": func(a *attacker) {
		a.say("WATCH evil:k")
		a.listen()
		a.say(a.oneOf("GET evil:k", "MULTI", "SELECT 3", "UNWATCH"), a.oneOf("EXEC", "GET evil:k", "DISCARD", "WATCH evil:l"))
	},
	"CLIENT REPLY": func(a *attacker) {
		for range 6 {
			a.say("CLIENT REPLY "+a.oneOf("OFF", "SKIP", "ON", "NONSENSE"), a.oneOf("GET evil:k", "MULTI", "EXEC", "SUBSCRIBE evil:c",
				"BLPOP evil:none 0.01", "EVAL return{1,2} 0", "SELECT 4", "HELLO 3", "RESET", "AUTH mallory pw"))
		}
	},
	"HELLO in pipelines": func(a *attacker) {
		for range 8 {
			a.say("GET evil:k", "HELLO "+a.oneOf("2", "3", "4", "3 SETNAME evil", "3 AUTH mallory pw", "2 AUTH mallory wrong"), "INCR evil:n",
				"HGETALL evil:h", "ZADD evil:z 1 a", "ZRANGE evil:z 0 -1 WITHSCORES")
		}
	},
	"AUTH in pipelines": func(a *attacker) {
		for range 4 {
			a.say("GET evil:k", a.oneOf("AUTH mallory pw", "AUTH mallory wrong", "AUTH nobody pw", "AUTH wrong", "AUTH", "HELLO 3 AUTH mallory wrong",
				"AUTH default wrong"), "SET evil:k v", "ACL WHOAMI")
		}
	},
	"scripts that are answered twice": (*attacker).split,
	"MONITOR": func(a *attacker) {
		a.say("MONITOR", "GET evil:k")
		a.listen()
		a.say(a.oneOf("RESET", "PING", "QUIT", "MULTI"), "GET evil:k")
	},
	"CLIENT TRACKING": func(a *attacker) {
		// Anybody may redirect to anybody, in Redis too: the victims, whose ids are the first, are spared.
		other := fmt.Sprintf("REDIRECT %d", 100+a.rnd.IntN(1000))
		a.say(a.oneOf("HELLO 3", "HELLO 2"), "CLIENT TRACKING ON "+a.oneOf("", "BCAST", "BCAST PREFIX evil:", "OPTIN", "OPTOUT", "NOLOOP",
			other, "BCAST "+other))
		a.say("CLIENT CACHING YES", "GET evil:k", "SET evil:k v", "CLIENT GETREDIR", "GET evil:k", "CLIENT TRACKING OFF")
		a.listen()
	},
	"CLIENT KILL": (*attacker).kill,
	"words that kill": func(a *attacker) {
		a.say("GET evil:k", "INCR evil:n")
		a.raw(a.oneOf("POST / HTTP/1.1\r\nHost: x\r\n\r\n", "Host: x\r\n", "*1\r\n$4\r\nPOST\r\n", "*2\r\n$5\r\nhost:\r\n$1\r\nx\r\n",
			"MULTI\r\nPOST /\r\n", "SUBSCRIBE evil:c\r\nPOST /\r\n"))
	},
	"replication": func(a *attacker) {
		a.say(a.oneOf("REPLCONF ACK 0", "REPLCONF GETACK *", "REPLCONF listening-port 1", "REPLCONF capa eof", "PSYNC ? -1", "SYNC",
			"REPLCONF rdb-only 1"))
		a.say("GET evil:k", "REPLCONF ACK 100")
		a.listen()
	},
	"DEBUG and others that are refused": func(a *attacker) {
		a.say("DEBUG SLEEP 0", "DEBUG JMAP", "DEBUG PROTOCOL attrib", "DEBUG PROTOCOL push", "MODULE LIST", "MODULE LOAD /x", "PFDEBUG GETREG k",
			"CONFIG GET maxclients", "ACL SETUSER mallory2 on", "ACL DELUSER mallory2", "CLUSTER INFO", "GET evil:k", "LATENCY RESET")
		if !a.w.all { // Valkey 9.1 has been seen to crash
			a.say("SCRIPT DEBUG YES", "EVAL return{1} 0")
		}
		a.listen()
	},
	"state within a transaction": func(a *attacker) {
		a.say("MULTI", "GET evil:k", a.oneOf("SUBSCRIBE evil:c", "PSUBSCRIBE evil:*", "SSUBSCRIBE evil:c", "CLIENT REPLY OFF", "CLIENT REPLY SKIP",
			"SELECT 5", "HELLO 3", "HELLO 3 AUTH mallory wrong", "AUTH mallory wrong", "MONITOR", "RESET", "MULTI", "WATCH evil:k", "CLIENT TRACKING ON",
			"CLIENT SETNAME evil", "QUIT", "BLPOP evil:none 0", "SYNC", "NOSUCHCOMMAND"), "INCR evil:n", a.oneOf("EXEC", "DISCARD", "EXEC 1", "PING"))
		a.say("GET evil:k", "PING")
		a.listen()
	},
	"a storm of SELECT": func(a *attacker) {
		for range 12 {
			a.say(fmt.Sprintf("SELECT %d", a.rnd.IntN(18)-1), "INCR evil:n", "GET evil:k")
		}
	},
	"pipelines that nobody reads": func(a *attacker) {
		for range 4 {
			a.raw(strings.Repeat(proxytest.Command("GET", "evil:large"), 50)) // 13 MB of replies in all
		}
		a.raw(strings.Repeat(proxytest.Command("INCR", "evil:n"), 2000))
	},
	"inline garbage": func(a *attacker) {
		noise := make([]byte, 200)
		for i := range noise {
			noise[i] = byte(a.rnd.IntN(256))
		}
		a.raw("GET evil:k\r\n\r\n  \r\nINCR evil:n\n" + a.oneOf(string(noise), "SET evil:k \"open\r\n", "GET 'a'b\r\n", "\x00\x00\r\n", strings.Repeat("x", 70000),
			"*\r\n", "*1\r\n+PING\r\n", "$5\r\nhello\r\n", "*-5\r\nPING\r\n", "*0\r\nPING\r\n"))
	},
	"announcements": func(a *attacker) {
		a.say("GET evil:k")
		a.raw(a.oneOf("*2\r\n$4\r\nECHO\r\n$536870912\r\n", "*2\r\n$4\r\nECHO\r\n$536870913\r\n", "*2147483647\r\n$4\r\nMGET\r\n", "*2147483648\r\n",
			"*3\r\n$3\r\nSET\r\n$-1\r\n", "*3\r\n$3\r\nSET\r\n$6\r\nevil:k\r\n$100000\r\n") + strings.Repeat("evil", 5000))
	},
	"subscriptions": func(a *attacker) {
		a.say(a.oneOf("HELLO 3", "HELLO 2"))
		mine := []string{"evil:a", "evil:b", "evil:c"}
		if a.w.user == "" {
			mine = append(mine, "victim:8") // the same user may listen
		}
		for range 8 {
			a.say(a.oneOf("", "P", "S")+a.oneOf("SUBSCRIBE ", "UNSUBSCRIBE ")+a.oneOf(mine...)+" "+a.oneOf(mine...),
				a.oneOf("GET evil:k", "PING", "PUBLISH evil:a x", "UNSUBSCRIBE", "RESET", "SELECT 1", "CLIENT REPLY SKIP", "EVAL return{1} 0"))
		}
		a.listen()
	},
	"commands that wait": func(a *attacker) {
		a.say(a.oneOf("BLPOP evil:none 0", "BLMOVE evil:none evil:x LEFT LEFT 0", "XREAD BLOCK 0 STREAMS evil:s $", "WAIT 3 20", "BRPOP evil:none 0.001",
			"BLPOP evil:n 0", "WAITAOF 0 0 10"), "INCR evil:n", "SET evil:k v")
		a.listen()
	},
	"commands that nobody knows": func(a *attacker) {
		a.say("NOSUCH a", "CLIENT CAPA redirect", "ASKING", "READONLY", "CLIENT IMPORT-SOURCE ON", "GET evil:k", "CLIENT NO-TOUCH ON",
			"CLIENT NO-EVICT OFF", "READWRITE", "HIMPORT DISCARDALL", "RESET", "GET evil:k", "CLIENT SETNAME redbouncer")
		a.listen()
	},
}

// open connects, and logs in as whom the attackers are: in a context of the victims, or as a user of its own.
func (a *attacker) open() *proxytest.Conn {
	if a.conn != nil {
		return a.conn
	}
	c, err := proxytest.TryDial(a.w.addr)
	if err != nil {
		a.w.problem("an attacker cannot connect: %v", err)
		return nil
	}
	c.SetTimeout(20 * time.Millisecond)
	a.conn = c
	for _, cmd := range a.login() {
		a.say(cmd)
	}
	return c
}

func (a *attacker) login() []string {
	if a.w.user != "" {
		return []string{"AUTH " + a.w.user + " pw"}
	}
	return victims[a.rnd.IntN(len(victims))].login
}

func (a *attacker) oneOf(choices ...string) string { return choices[a.rnd.IntN(len(choices))] }

// say sends commands in one write.
func (a *attacker) say(cmds ...string) {
	var raw []byte
	for _, cmd := range cmds {
		if words := strings.Fields(cmd); len(words) > 0 {
			raw = proxytest.AppendCommand(raw, words...)
		}
	}
	a.raw(string(raw))
}

// raw sends as much as is taken within a moment.
func (a *attacker) raw(s string) {
	if c := a.open(); c != nil {
		_ = c.TryWrite([]byte(s))
	}
}

// listen reads a little of what comes, if anything does.
func (a *attacker) listen() {
	if a.rnd.IntN(3) > 0 && a.conn != nil {
		_, _ = a.conn.TryReadReply()
	}
}

// vanish ends the connection in one of the ways that there are.
func (a *attacker) vanish() {
	if a.conn == nil {
		return
	}
	switch a.rnd.IntN(5) {
	case 0, 1:
		a.conn.Reset()
	case 2:
		_ = a.conn.CloseWrite()
		_, _ = a.conn.TryReadAll()
		a.conn.Close()
	case 3:
		a.say("QUIT")
		_, _ = a.conn.TryReadAll()
		a.conn.Close()
	default:
		a.conn.Close()
	}
	a.conn = nil
}

// split has Redis answer one command with two replies. (The escapes are for Redis, which reads them in the first line of
// a script.)
func (a *attacker) split() {
	shebang := `#!lua flags="a\r\n+INJECTED\r\n$7\r\nevilish"` + "\nreturn 1"
	injections := [][]string{
		{"EVAL", shebang, "0"},
		{"EVAL", strings.ReplaceAll(shebang, "INJECTED", strings.Repeat("INJECTED", 2000)), "0"},
		{"EVAL_RO", shebang, "0"},
		{"SCRIPT", "LOAD", shebang},
		{"FUNCTION", "LOAD", `#!"a\r\n+INJECTED" name=evil` + "\n"},
		{"FUNCTION", "LOAD", `#!lua name=evil "a\r\n+INJECTED"` + "\n"},
		{"FUNCTION", "LIST", "a\r\n+INJECTED"},
		{"FUNCTION", "LIST", "LIBRARYNAME", "a\r\n+INJECTED"},
		{"EVAL", "return redis.error_reply('a\\r\\n+INJECTED')", "0"},
		{"EVAL", "error('a\\r\\n+INJECTED')", "0"},
		{"EVAL", "return {err='BUSY a\\r\\n+INJECTED'}", "0"},
		{"EVAL", "return {ok='a\\r\\n+INJECTED'}", "0"},
		{"EVAL", "return redis.status_reply('a\\r\\n+INJECTED')", "0"},
		{"EVAL", "return redis.call('a\\r\\n+INJECTED')", "0"},
		{"nosuch\r\n+INJECTED", "a\r\n+INJECTED"},
		{"OBJECT", "a\r\n+INJECTED"},
		{"CONFIG", "GET", "a\r\n+INJECTED"},
	}
	for range 3 {
		var raw []byte
		in := a.rnd.IntN(4)
		if in == 0 {
			raw = proxytest.AppendCommand(raw, "MULTI")
		}
		for range 1 + a.rnd.IntN(2) {
			raw = proxytest.AppendCommand(raw, injections[a.rnd.IntN(len(injections))]...)
			raw = proxytest.AppendCommand(raw, "GET", "evil:k")
		}
		if in == 0 {
			raw = proxytest.AppendCommand(raw, "EXEC")
		}
		raw = proxytest.AppendCommand(raw, "INCR", "evil:n")
		a.raw(string(raw))
		a.listen()
	}
}

// kill aims at everybody. Whoever may not use CLIENT KILL can only try.
func (a *attacker) kill() {
	if !a.w.kills {
		a.say("CLIENT KILL", "CLIENT KILL ID", "CLIENT KILL ID x", "CLIENT KILL TYPE nonsense", "CLIENT LIST TYPE nonsense")
		return
	}
	a.say(fmt.Sprintf("CLIENT KILL ID %d", a.rnd.IntN(50)), "CLIENT KILL TYPE "+a.oneOf("normal", "pubsub", "master", "replica")+" SKIPME "+a.oneOf("yes", "no"),
		"CLIENT KILL USER "+a.oneOf("default", "alice", "bob", "mallory"), "CLIENT KILL MAXAGE 0", "CLIENT KILL LADDR 127.0.0.1:6379",
		"CLIENT KILL "+a.open().LocalAddr(), fmt.Sprintf("CLIENT UNBLOCK %d ERROR", a.rnd.IntN(50)), "CLIENT KILL SKIPME no", "CLIENT LIST")
	a.listen()
}

// conversation is some of everything, to be ended anywhere.
func (w *tenants) conversation() string {
	var b []byte
	say := func(cmds ...string) {
		for _, cmd := range cmds {
			b = proxytest.AppendCommand(b, strings.Fields(cmd)...)
		}
	}
	if w.user != "" {
		say("AUTH " + w.user + " pw")
	}
	say("SET evil:k v", "GET evil:k", "INCR evil:n", "MULTI", "INCR evil:n", "EXEC", "WATCH evil:k", "MULTI", "GET evil:k", "DISCARD")
	b = append(b, "PING\r\nGET \"evil:k\"\r\n\r\n"...)
	say("EVAL return{1} 0", "SELECT 3", "GET evil:k", "HELLO 3", "GET evil:k", "SUBSCRIBE evil:c evil:d", "PUBLISH evil:c x", "GET evil:k",
		"UNSUBSCRIBE evil:c", "PSUBSCRIBE evil:*", "HELLO 2", "PING", "RESET")
	if w.user != "" {
		say("AUTH "+w.user+" wrong", "AUTH "+w.user+" pw")
	}
	say("BLPOP evil:none 0.001", "CLIENT SETNAME evil", "CLIENT REPLY OFF", "GET evil:k", "CLIENT REPLY ON", "CLIENT REPLY SKIP", "GET evil:k",
		"CLIENT TRACKING ON", "GET evil:k", "MULTI", "SUBSCRIBE evil:c", "EXEC", "QUIT")
	return string(b)
}

// endAtNextByte sends the conversation up to a byte that has not been tried, and ends it there. It reports false when
// all have been: each with a FIN, with a RST, and with a RST after a moment in which the proxy has seen what there is.
func (a *attacker) endAtNextByte() bool {
	talk := a.w.conversation()
	n := int(a.w.cut.Add(1)) - 1
	if n >= 3*len(talk) {
		return false
	}
	c, err := proxytest.TryDial(a.w.addr)
	if err != nil {
		a.w.problem("an attacker cannot connect: %v", err)
		return false
	}
	_ = c.TryWrite([]byte(talk[:n/3+1]))
	switch n % 3 {
	case 0:
		c.Close()
	case 1:
		c.Reset()
	default:
		c.SetTimeout(2 * time.Millisecond)
		_, _ = c.TryReadAll()
		c.Reset()
	}
	return true
}
