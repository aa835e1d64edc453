package proxy_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// doorKinds are the lives that those at the door lead.
var doorKinds = []struct {
	name string
	live func(*doorLife)
}{
	{"talk", (*doorLife).talk}, {"talk", (*doorLife).talk}, {"talk", (*doorLife).talk}, {"operate", (*doorLife).operate},
	{"flood", (*doorLife).flood}, {"half open", (*doorLife).halfOpen}, {"half close", (*doorLife).halfClose},
	{"idle", (*doorLife).idle}, {"kill", (*doorLife).kill}, {"reset", (*doorLife).reset}, {"rated", (*doorLife).rated},
}

// attack lives one life after the other until the time is up.
func (d *doorWorld) attack(client int) {
	rnd := rand.New(rand.NewPCG(d.seed, uint64(client)))
	for generation := 0; time.Now().Before(d.until) && !d.failed.Load(); generation++ {
		l := &doorLife{d: d, rnd: rnd, id: fmt.Sprintf("c%d.g%d", client, generation), epoch: d.epoch.Load(), restarts: d.restarts.Load()}
		kind := doorKinds[rnd.IntN(len(doorKinds))]
		kind.live(l)
		if l.conn != nil {
			l.conn.Close()
		}
		if l.through {
			d.count(kind.name)
		}
	}
}

// doorLife is one client, from its connection to its end.
type doorLife struct {
	d               *doorWorld
	rnd             *rand.Rand
	id              string // its own key
	conn            *proxytest.Conn
	epoch, restarts int64 // of the world, when it began

	served  int // INCRs that were answered
	refused bool
	over    bool
	through bool // it has done what it was for
}

// harmed reports whether the upstream may have been harmed since the life began.
func (l *doorLife) harmed() bool { return l.epoch%2 == 1 || l.d.epoch.Load() != l.epoch }

// come connects, from an address.
func (l *doorLife) come(local string) bool {
	c, err := proxytest.TryDialFrom(local, l.d.addr)
	if err != nil {
		l.d.problem("%s: connecting: %v", l.id, err)
		return false
	}
	l.conn = c
	return true
}

func (l *doorLife) anywhere() bool {
	return l.come(pick(l.rnd, "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3"))
}

// fate is what a command may be answered besides what it is meant to be.
type fate uint8

const (
	plain fate = iota
	needs      // a connection of its own: it may be denied that, and then go on
	holds      // likewise, and then it is over
)

// say sends commands in one piece and reads their replies. A reply is right if it begins with what is wanted, in its order.
// It reports whether all were right.
func (l *doorLife) say(f fate, commands, want []string) bool {
	if l.over {
		return false
	}
	var raw []byte
	for _, c := range commands {
		raw = proxytest.AppendCommand(raw, strings.Fields(c)...)
	}
	if err := l.conn.TryWrite(raw); err != nil && !proxytest.IsClosed(err) {
		l.d.problem("%s: writing: %v", l.id, err)
	}
	good := true
	for i := range commands {
		got, err := l.conn.TryReadReply()
		switch {
		case err != nil:
			l.ended(commands[i], got, err)
			return false
		case string(got) == refusalText:
			good = false
			if f == plain {
				l.refused = true
			}
			l.over = l.over || f != needs
		case l.refused:
			l.d.problem("SERVED: %s was told %q to %s after it had been refused", l.id, got, commands[i])
		case !strings.HasPrefix(string(got), want[i]) && !l.harmed():
			l.d.problem("REPLY: %s was told %q to %s, want %q", l.id, got, commands[i], want[i])
		case strings.HasPrefix(commands[i], "INCR "):
			l.served++
		}
	}
	return good
}

// ended judges the end of a connection in the place of a reply.
func (l *doorLife) ended(command string, got []byte, err error) {
	l.over = true
	switch {
	case proxytest.IsTimeout(err):
		l.d.problem("HANGS: %s has no reply to %s: %v", l.id, command, err)
	case !proxytest.IsClosed(err):
		l.d.problem("%s: %s: %v", l.id, command, err)
	case l.refused || l.harmed():
	default:
		l.d.problem("LOST: %s was closed without a reply to %s: %v after %q", l.id, command, err, got)
	}
}

// verify compares what has been carried out with what has been answered.
func (l *doorLife) verify() {
	l.conn.Close()
	if l.harmed() {
		return
	}
	c, err := proxytest.TryDial(l.d.redis)
	if err != nil {
		return // it is being restarted
	}
	defer c.Close()
	_ = c.TryWrite([]byte(proxytest.Command("GET", l.id)))
	got, err := c.TryReadReply()
	if err != nil || l.harmed() {
		return
	}
	n := 0
	if got[1] != '-' {
		_, body, _ := strings.Cut(string(got), "\r\n")
		_, _ = fmt.Sscan(body, &n)
	}
	if n != l.served {
		l.d.problem("SERVED: %s was answered %d times, and %d commands were carried out", l.id, l.served, n)
	}
}

// incr sends some INCRs.
func (l *doorLife) incr(n int) bool {
	var commands, want []string
	for i := range n {
		commands, want = append(commands, "INCR "+l.id), append(want, fmt.Sprintf(":%d\r\n", l.served+i+1))
	}
	return l.say(plain, commands, want)
}

// doorSteps are what a client that talks does, in any order.
var doorSteps = []struct {
	fate     fate
	commands []string
	want     []string
}{
	{plain, []string{"AUTH app pw", "PING"}, []string{"+OK", "+PONG"}},
	{plain, []string{"AUTH other pw", "PING"}, []string{"+OK", "+PONG"}},
	{plain, []string{"AUTH app wrong"}, []string{"-WRONGPASS"}},
	{plain, []string{"HELLO 2 AUTH other pw SETNAME w:2", "PING", "PING"}, []string{"*", "+PONG", "+PONG"}},
	{plain, []string{"CLIENT SETNAME w:1", "PING"}, []string{"+OK", "+PONG"}},
	{plain, []string{"CLIENT SETNAME w:3"}, []string{"+OK"}},
	{plain, []string{"CLIENT SETNAME x", "PING"}, []string{"+OK", "+PONG"}},
	{plain, []string{"CLIENT SETINFO LIB-NAME leaky", "CLIENT SETINFO LIB-VER 1", "PING"}, []string{"", "", "+PONG"}},
	{plain, []string{"RESET"}, []string{"+RESET"}},
	{plain, []string{"MULTI", "ECHO a", "ECHO b", "EXEC"}, []string{"+OK", "+QUEUED", "+QUEUED", "*2\r\n$1\r\na\r\n$1\r\nb"}},
	{needs, []string{"BLPOP nothing 0.02"}, []string{"*-1"}},
	{holds, []string{"WATCH nothing"}, []string{"+OK"}},
	{plain, []string{"UNWATCH"}, []string{"+OK"}},
}

func (l *doorLife) talk() {
	if !l.anywhere() {
		return
	}
	for range 2 + l.rnd.IntN(10) {
		step := doorSteps[l.rnd.IntN(len(doorSteps))]
		if !l.incr(1+l.rnd.IntN(30)) || !l.say(step.fate, step.commands, step.want) && l.over {
			break
		}
	}
	if l.refused { // and still is
		_ = l.conn.TryWrite([]byte(proxytest.Command("INCR", l.id)))
		if said, err := l.conn.TryReadAll(); err != nil || strings.Trim(strings.ReplaceAll(string(said), refusalText, ""), "") != "" {
			l.d.problem("%s was told %q after it had been refused, %v", l.id, said, err)
		}
	}
	l.through = l.through || !l.refused && l.served > 0
	l.verify()
}

// operate is the life of one for whom places are reserved.
func (l *doorLife) operate() {
	if !l.anywhere() {
		return
	}
	if l.say(plain, []string{"AUTH ops pw", "ACL WHOAMI"}, []string{"+OK", "$3\r\nops"}) {
		l.through = l.incr(20)
	}
	l.verify()
}

func (l *doorLife) flood() {
	local := pick(l.rnd, "127.0.0.1", "127.0.0.2")
	var all []*proxytest.Conn
	for range 10 {
		c, err := proxytest.TryDialFrom(local, l.d.addr)
		if err != nil {
			l.d.problem("%s: connecting: %v", l.id, err)
			break
		}
		_ = c.TryWrite([]byte(proxytest.Command("PING"))) // it may be refused already
		all = append(all, c)
	}
	for _, c := range all {
		got, err := c.TryReadReply()
		if s := string(got); (err != nil || s != "+PONG\r\n" && s != refusalText) && !l.harmed() {
			l.d.problem("%s, one of many: %q, %v", l.id, got, err)
		}
		pick(l.rnd, (*proxytest.Conn).Close, (*proxytest.Conn).Reset)(c)
	}
	l.through = true
}

func (l *doorLife) halfOpen() {
	if !l.anywhere() {
		return
	}
	if l.rnd.IntN(2) == 0 {
		_ = l.conn.TryWrite([]byte("*2\r\n$3\r\nGE"))
	}
	time.Sleep(time.Duration(l.rnd.IntN(400)) * time.Millisecond)
	pick(l.rnd, (*proxytest.Conn).Close, (*proxytest.Conn).Reset)(l.conn)
	l.through = true
}

// halfClose sends something and closes its sending side: it is answered all of it, or refused.
func (l *doorLife) halfClose() {
	if !l.anywhere() {
		return
	}
	const n = 5
	_ = l.conn.TryWrite([]byte(strings.Repeat(proxytest.Command("INCR", l.id), n)))
	_ = l.conn.CloseWrite()
	said, err := l.conn.TryReadAll()
	switch text := string(said); {
	case err != nil:
		l.d.problem("HANGS: %s has closed its sending side, and is told %q, %v", l.id, said, err)
	case text == refusalText:
	case text == ":1\r\n:2\r\n:3\r\n:4\r\n:5\r\n":
		l.served, l.through = n, true
	case !l.harmed():
		l.d.problem("%s has closed its sending side, and is told %q", l.id, said)
	}
	l.verify()
}

// idle may be closed so that another may come.
func (l *doorLife) idle() {
	if l.come("127.0.0.3") && l.say(plain, []string{"PING"}, []string{"+PONG"}) {
		time.Sleep(1200 * time.Millisecond)
		l.through = true
	}
}

// kill has one of its clients close another.
func (l *doorLife) kill() {
	if !l.anywhere() || !l.say(plain, []string{"PING"}, []string{"+PONG"}) {
		return
	}
	spoke := time.Now()
	victim := &doorLife{d: l.d, rnd: l.rnd, id: l.id + ".victim", epoch: l.epoch}
	if !victim.anywhere() {
		return
	}
	defer victim.conn.Close()
	if !victim.say(plain, []string{"PING"}, []string{"+PONG"}) {
		return
	}
	if time.Since(spoke) > 500*time.Millisecond {
		return // the other waited for its place: this one may have been closed as idle, to make room
	}
	if l.say(plain, []string{"CLIENT KILL ADDR " + victim.conn.LocalAddr() + " SKIPME no"}, []string{":1"}) && !l.harmed() {
		if said, err := victim.conn.TryReadAll(); err != nil || len(said) > 0 {
			l.d.problem("%s was killed, and told %q, %v", victim.id, said, err)
		}
		l.through = true
	}
}

// reset breaks off in the middle, be it served or waiting.
func (l *doorLife) reset() {
	if !l.anywhere() {
		return
	}
	_ = l.conn.TryWrite([]byte(pick(l.rnd, "", proxytest.Command("BLPOP", "nothing", "0"), proxytest.Command("WATCH", "k"),
		proxytest.Command("SUBSCRIBE", "ch"), proxytest.Command("MULTI")+proxytest.Command("GET", "k"),
		proxytest.Command("CLIENT", "SETNAME", "w:1")+proxytest.Command("BLPOP", "nothing", "0"), proxytest.Command("AUTH", "app", "pw"),
		strings.Repeat(proxytest.Command("PING"), 10000))))
	time.Sleep(time.Duration(l.rnd.IntN(50)) * time.Millisecond)
	l.conn.Reset()
	l.through = true
}

// rated comes from where only so many may in a second.
func (l *doorLife) rated() {
	if l.come("127.0.0.4") && l.say(plain, []string{"PING"}, []string{"+PONG"}) {
		l.d.rated.Add(1)
		l.through = true
	}
}
