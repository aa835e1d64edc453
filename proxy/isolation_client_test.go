package proxy_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// life is one connection of an attacker, from connect to whatever end, with a second connection of the same
// identity beside it for what takes two: pushing to a list that is waited for, publishing, spoiling a WATCH.
type life struct {
	w   *world
	id  string
	rnd *rand.Rand

	conn   *proxytest.Conn
	peer   *proxytest.Conn
	peerDB int

	// What the connection must look like.
	proto int
	db    int
	user  string
	name  string
	dbs   map[int]*keys
	seq   int

	last bool // this action is the last

	tracks bool // has asked to be told of changes to what it reads
	done   map[string]int
}

func newLife(w *world, id string, rnd *rand.Rand) *life {
	return &life{w: w, id: id, rnd: rnd, proto: 2, user: "default", dbs: map[int]*keys{}, done: map[string]int{}}
}

func (l *life) keys() *keys {
	if l.dbs[l.db] == nil {
		l.dbs[l.db] = newKeys()
	}
	return l.dbs[l.db]
}

func (l *life) key(name string) string { return l.id + ":" + name }

// errClosed and errRefused end a life without anybody being to blame.
var (
	errClosed  = errors.New("closed")
	errRefused = errors.New("refused")
	errProblem = errors.New("problem") // already reported
)

// actions are what a life is made of, with how often each is chosen.
var actions = map[string]struct {
	weight int
	act    func(*life) error
}{
	"a pipeline":                 {10, (*life).pipeline},
	"a pipeline in pieces":       {4, (*life).pieces},
	"commands on the connection": {5, (*life).connectionState},
	"a login":                    {2, (*life).login},
	"a failed login":             {2, (*life).failedLogin},
	"a change of protocol":       {3, (*life).hello},
	"a reset":                    {1, (*life).reset},
	"a buffered transaction":     {6, (*life).bufferedTransaction},
	"an interactive transaction": {3, (*life).interactiveTransaction},
	"a watched transaction":      {3, (*life).watchedTransaction},
	"a spoiled transaction":      {2, (*life).spoiledTransaction},
	"a pop that waits":           {3, (*life).waitingPop},
	"a pop that waits in vain":   {1, (*life).vainPop},
	"a subscription":             {2, (*life).subscription},
	"a tracked key":              {1, (*life).tracking},
}

// actionList holds each name as often as its weight says, in an order that is the same in every run.
var actionList = func() []string {
	var list []string
	for name, a := range actions {
		for range a.weight {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}()

// live lives one life and returns how it ended.
func (l *life) live() string {
	conn, err := proxytest.TryDial(l.w.addr)
	if err != nil {
		l.w.problem("%s cannot connect: %v", l.id, err)
		return "problem"
	}
	l.conn = conn
	defer func() {
		l.conn.Close()
		if l.peer != nil {
			l.peer.Close()
		}
	}()
	for range 1 + l.rnd.IntN(12) {
		name := actionList[l.rnd.IntN(len(actionList))]
		if err := actions[name].act(l); err != nil {
			return err.Error()
		}
		l.done[name]++
		if l.last || time.Now().After(l.w.until) {
			break
		}
	}
	return l.leave()
}

// write sends raw bytes on c.
func (l *life) write(c *proxytest.Conn, raw []byte) error {
	if err := c.TryWrite(raw); err != nil {
		return l.broken("writing", err)
	}
	return nil
}

// broken says what a connection that fails means. While nobody kills upstream connections, no client may be
// closed; a reply that does not come is always wrong.
func (l *life) broken(during string, err error) error {
	if proxytest.IsClosed(err) && l.w.hurting.Load() {
		return errClosed
	}
	l.w.problem("%s, %s: %v", l.id, during, err)
	return errProblem
}

// allChanged is what a client that tracks what it has read is told when the connection is gone that it was read on: that
// all may have changed.
const allChanged = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

// read reads the reply to each command, or what is to come unasked, and compares it.
func (l *life) read(c *proxytest.Conn, cmds []command) error {
	for i, cmd := range cmds {
		b, err := c.TryReadReply()
		for err == nil && cmd.parts != nil && l.tracks && string(b) == allChanged {
			b, err = c.TryReadReply()
		}
		if err != nil {
			return l.broken("waiting for the reply to "+show(cmds[i:i+1]), err)
		}
		if cmd.want.matches(b) || cmd.parts == nil && l.tracks && string(b) == allChanged {
			continue
		}
		if cmd.want.pin && string(b) == refusal {
			return errRefused
		}
		what := "WRONG REPLY"
		if others := foreign(b, l.id); len(others) > 0 {
			what = fmt.Sprintf("ISOLATION: bytes of %v", others)
		}
		l.w.problem("%s\n%s (RESP%d, db %d, user %s), command %d of: %s\n  got:  %s\n  want: %v",
			what, l.id, l.proto, l.db, l.user, i+1, show(cmds), shorten(string(b)), cmd.want)
		return errProblem
	}
	return nil
}

// exchange sends the commands in one write and reads their replies.
func (l *life) exchange(cmds ...command) error {
	var raw []byte
	for _, cmd := range cmds {
		raw = proxytest.AppendCommand(raw, cmd.parts...)
	}
	if err := l.write(l.conn, raw); err != nil {
		return err
	}
	return l.read(l.conn, cmds)
}

// oneByOne sends each command when the one before is answered.
func (l *life) oneByOne(cmds ...command) error {
	for _, cmd := range cmds {
		if err := l.exchange(cmd); err != nil {
			return err
		}
	}
	return nil
}

// beside sends a command on the peer connection, in the same database.
func (l *life) beside(cmd command) error {
	var cmds []command
	if l.peer == nil {
		c, err := proxytest.TryDial(l.w.addr)
		if err != nil {
			l.w.problem("%s's peer cannot connect: %v", l.id, err)
			return errProblem
		}
		l.peer, l.peerDB = c, 0
	}
	if l.peerDB != l.db {
		cmds = append(cmds, command{[]string{"SELECT", strconv.Itoa(l.db)}, want{exact: "+OK\r\n"}})
		l.peerDB = l.db
	}
	cmds = append(cmds, cmd)
	var raw []byte
	for _, c := range cmds {
		raw = proxytest.AppendCommand(raw, c.parts...)
	}
	if err := l.write(l.peer, raw); err != nil {
		return err
	}
	return l.read(l.peer, cmds)
}
