package proxy_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What the clients of the attack do, and how they leave.

func (l *life) some(most int) []command {
	var cmds []command
	for range 1 + l.rnd.IntN(most) {
		cmds = append(cmds, l.pure())
	}
	return cmds
}

func (l *life) pipeline() error {
	most := 8
	if l.rnd.IntN(10) == 0 {
		most = 100
	}
	cmds := l.some(most)
	// Commands that change the connection among those that only use it: order is what is tested here.
	if l.rnd.IntN(3) == 0 {
		cmds = append(cmds, l.connection())
		cmds = append(cmds, l.some(most)...)
	}
	return l.exchange(cmds...)
}

// pieces sends a pipeline with pauses at random places, so that half a command is all that is there for a
// while; the replies to the whole ones must not wait for it.
func (l *life) pieces() error {
	cmds := l.some(8)
	var raw []byte
	for _, cmd := range cmds[:len(cmds)-1] {
		raw = proxytest.AppendCommand(raw, cmd.parts...)
	}
	last := proxytest.Command(cmds[len(cmds)-1].parts...)
	cut := l.rnd.IntN(len(last))
	if err := l.write(l.conn, append(raw, last[:cut]...)); err != nil {
		return err
	}
	if err := l.read(l.conn, cmds[:len(cmds)-1]); err != nil {
		return err
	}
	l.pause()
	if err := l.write(l.conn, []byte(last[cut:])); err != nil {
		return err
	}
	return l.read(l.conn, cmds[len(cmds)-1:])
}

// pause lets others have a turn: not a wait for something, only a gap.
func (l *life) pause() { time.Sleep(time.Duration(l.rnd.IntN(5000)) * time.Microsecond) }

func (l *life) connectionState() error {
	var cmds []command
	for range 1 + l.rnd.IntN(4) {
		cmds = append(cmds, l.connection())
	}
	if l.rnd.IntN(2) == 0 {
		return l.exchange(cmds...)
	}
	return l.oneByOne(cmds...)
}

func (l *life) login() error {
	l.user = attackUsers[1+l.rnd.IntN(len(attackUsers)-1)]
	cmds := []command{{[]string{"AUTH", l.user, attackPassword}, want{exact: "+OK\r\n"}}}
	return l.exchange(append(cmds, l.some(3)...)...)
}

func (l *life) failedLogin() error {
	cmds := append(l.some(3), command{[]string{"AUTH", "alice", l.id},
		want{exact: "-WRONGPASS invalid username-password pair or user is disabled.\r\n"}})
	return l.exchange(append(cmds, l.some(3)...)...)
}

func (l *life) hello() error {
	l.proto = 2 + l.rnd.IntN(2)
	parts := []string{"HELLO", strconv.Itoa(l.proto)}
	if l.rnd.IntN(3) == 0 {
		l.user = attackUsers[1]
		l.name = l.id
		parts = append(parts, "AUTH", l.user, attackPassword, "SETNAME", l.name)
	}
	cmds := []command{{parts, want{parts: []string{"server", fmt.Sprintf("proto\r\n:%d\r\n", l.proto)}}}}
	return l.exchange(append(cmds, l.some(3)...)...)
}

func (l *life) reset() error {
	l.proto, l.db, l.user, l.name = 2, 0, "default", ""
	cmds := []command{{[]string{"RESET"}, want{exact: "+RESET\r\n"}}}
	return l.exchange(append(cmds, l.some(3)...)...)
}

var queued = want{exact: "+QUEUED\r\n"}

// transaction returns MULTI, random commands and EXEC, with their replies when they go through.
func (l *life) transaction() []command {
	cmds := []command{{[]string{"MULTI"}, want{exact: "+OK\r\n", pin: true}}}
	var results []string
	for _, cmd := range l.some(6) {
		results = append(results, cmd.want.exact)
		cmds = append(cmds, command{cmd.parts, queued})
	}
	return append(cmds, command{[]string{"EXEC"}, want{exact: array(results...)}})
}

func (l *life) bufferedTransaction() error {
	if l.rnd.IntN(4) == 0 {
		before := l.keys().clone()
		cmds := l.transaction()
		l.dbs[l.db] = before
		cmds[len(cmds)-1] = command{[]string{"DISCARD"}, want{exact: "+OK\r\n"}}
		return l.exchange(cmds...)
	}
	cmds := append(l.some(2), l.transaction()...)
	return l.exchange(append(cmds, l.some(2)...)...)
}

func (l *life) interactiveTransaction() error { return l.oneByOne(l.transaction()...) }

func (l *life) watchedTransaction() error {
	watch := command{[]string{"WATCH", l.key("s0"), l.key("list")}, want{exact: "+OK\r\n", pin: true}}
	cmds := []command{watch, l.pure()}
	if err := l.oneByOne(cmds...); err != nil {
		return err
	}
	// The command in between may itself have changed what is watched; then Redis refuses, rightly.
	between := cmds[1].parts
	spoiled := slices.Contains([]string{"SET", "GETSET", "DEL", "RPUSH", "LPOP"}, between[0]) &&
		(between[1] == l.key("s0") || between[1] == l.key("list")) &&
		cmds[1].want.exact != l.null() && cmds[1].want.exact != integer(0)
	if between[0] == "GETSET" && between[1] == l.key("s0") {
		spoiled = true
	}
	before := l.keys().clone()
	tx := l.transaction()
	if spoiled {
		l.dbs[l.db] = before
		tx[len(tx)-1].want.exact = l.nullArray()
	}
	if l.rnd.IntN(2) == 0 {
		return l.exchange(tx...)
	}
	return l.oneByOne(tx...)
}

// spoiledTransaction has the peer change a watched key: EXEC must not run.
func (l *life) spoiledTransaction() error {
	if err := l.exchange(command{[]string{"WATCH", l.key("s0")}, want{exact: "+OK\r\n", pin: true}}); err != nil {
		return err
	}
	v := l.fresh()
	l.keys().strings["s0"] = v
	if err := l.beside(command{[]string{"SET", l.key("s0"), v}, want{exact: "+OK\r\n"}}); err != nil {
		return err
	}
	before := l.keys().clone()
	tx := l.transaction()
	l.dbs[l.db] = before
	tx[len(tx)-1].want.exact = l.nullArray()
	return l.exchange(tx...)
}

func (l *life) waitingPop() error {
	key, v := l.key("wait"), l.fresh()
	pop := command{[]string{"BLPOP", key, "0"}, want{exact: array(bulk(key), bulk(v)), pin: true}}
	after := l.some(3)
	var raw []byte
	for _, cmd := range append([]command{pop}, after...) {
		raw = proxytest.AppendCommand(raw, cmd.parts...)
	}
	if err := l.write(l.conn, raw); err != nil {
		return err
	}
	l.pause()
	if err := l.beside(command{[]string{"RPUSH", key, v}, want{exact: ":1\r\n"}}); err != nil {
		return err
	}
	return l.read(l.conn, append([]command{pop}, after...))
}

func (l *life) vainPop() error {
	cmds := []command{{[]string{"BLPOP", l.key("nothing"), "0.02"}, want{exact: l.nullArray(), pin: true}}}
	return l.exchange(append(cmds, l.some(3)...)...)
}

func (l *life) subscription() error {
	ch, v := l.key("channel"), l.fresh()
	err := l.exchange(command{[]string{"SUBSCRIBE", ch}, want{exact: l.push(bulk("subscribe"), bulk(ch), ":1\r\n"), pin: true}})
	if err != nil {
		return err
	}
	heard := want{exact: ":1\r\n"}
	if l.w.hurting.Load() {
		heard = want{parts: []string{"\r\n"}} // its subscription may just have been killed
	}
	if err := l.beside(command{[]string{"PUBLISH", ch, v}, heard}); err != nil {
		return err
	}
	cmds := []command{
		{nil, want{exact: l.push(bulk("message"), bulk(ch), bulk(v))}},
		{[]string{"UNSUBSCRIBE"}, want{exact: l.push(bulk("unsubscribe"), bulk(ch), ":0\r\n")}},
	}
	if err := l.write(l.conn, []byte(proxytest.Command("UNSUBSCRIBE"))); err != nil {
		return err
	}
	if err := l.read(l.conn, cmds); err != nil {
		return err
	}
	return l.exchange(l.some(3)...)
}

// tracking has the server tell of a change to a key that was read.
func (l *life) tracking() error {
	l.last, l.tracks = true, true
	l.proto = 3
	v := l.fresh()
	old, ok := l.keys().strings["s0"]
	l.keys().strings["s0"] = v
	key := l.key("s0")
	err := l.oneByOne(
		command{[]string{"HELLO", "3"}, want{parts: []string{"proto\r\n:3\r\n"}}},
		command{[]string{"CLIENT", "TRACKING", "ON"}, want{exact: "+OK\r\n", pin: true}},
		command{[]string{"GET", key}, want{exact: l.value(old, ok)}},
	)
	if err != nil {
		return err
	}
	if err := l.beside(command{[]string{"SET", key, v}, want{exact: "+OK\r\n"}}); err != nil {
		return err
	}
	// A killed connection forgets what it was to tell of.
	if err := l.read(l.conn, []command{{nil, want{exact: l.push(bulk("invalidate"), array(bulk(key)))}}}); err != nil {
		return err
	}
	cmds := []command{{[]string{"CLIENT", "TRACKING", "OFF"}, want{exact: "+OK\r\n"}}}
	return l.exchange(append(cmds, l.some(2)...)...)
}

// leave ends the connection, mostly in one of the ways that leave something behind: commands in flight, half a
// command, an open transaction, a subscription, a wait. Whoever gets the upstream connection next must not
// find it.
func (l *life) leave() string {
	leftovers := []struct{ name, raw string }{
		{"nothing", ""},
		{"half a command", "*2\r\n$3\r\nGET\r\n$99\r\n" + l.key("s0")},
		{"commands in flight", strings.Repeat(proxytest.Command("ECHO", l.id), 50)},
		{"replies unread", strings.Repeat(proxytest.Command("ECHO", strings.Repeat(l.id, 500)), 50)},
		{"an open transaction", proxytest.Command("MULTI") + proxytest.Command("SET", l.key("s0"), l.id)},
		{"a watch", proxytest.Command("WATCH", l.key("s0"))},
		{"a subscription", proxytest.Command("SUBSCRIBE", l.key("channel"))},
		{"a wait", proxytest.Command("BLPOP", l.key("nothing"), "0")},
		{"a login", proxytest.Command("AUTH", "alice", attackPassword) + proxytest.Command("SELECT", "2")},
		{"a name", proxytest.Command("CLIENT", "SETNAME", l.id)},
		{"a protocol error", "*1\r\n!\r\n"},
		{"a quit", proxytest.Command("QUIT")},
		{"silenced replies", proxytest.Command("CLIENT", "REPLY", "OFF") + proxytest.Command("ECHO", l.id)},
		{"tracking", proxytest.Command("CLIENT", "TRACKING", "ON", "BCAST")},
		{"a script", proxytest.Command("EVAL", "for i = 1, 1000 do redis.call('get', KEYS[1]) end return ARGV[1]", "1", l.key("s0"), l.id)},
	}
	left := leftovers[l.rnd.IntN(len(leftovers))]
	if left.raw != "" {
		if err := l.write(l.conn, []byte(left.raw)); err != nil {
			return err.Error()
		}
		if l.rnd.IntN(2) == 0 {
			l.pause()
		}
	}
	if l.rnd.IntN(2) == 0 {
		l.conn.Reset()
		return "reset with " + left.name
	}
	l.conn.Close()
	return "closed with " + left.name
}
