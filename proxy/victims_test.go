package proxy_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The victims of attack_test.go: clients of different users, databases and protocols that know every reply.

var victimUsers = []string{"default", "alice", "bob"}

// victims are what they are, and one round of what each does over and over.
var victims = []struct {
	name  string
	login []string
	round func(v *victim, n int) error
}{
	{"a client", nil, (*victim).plain},
	{"another client in the same context", nil, (*victim).plain},
	{"a client of RESP3", []string{"HELLO 3 AUTH alice pw", "SELECT 1"}, (*victim).plain},
	{"a client of another user", []string{"AUTH bob pw", "SELECT 2"}, (*victim).plain},
	{"transactions in one write", nil, (*victim).transaction},
	{"transactions of another user in one write", []string{"AUTH bob pw"}, (*victim).transaction},
	{"a transaction that watches", []string{"SELECT 1"}, (*victim).watch},
	{"a pop that waits", nil, (*victim).pop},
	{"a subscriber", nil, (*victim).message},
	{"a quiet client", []string{"HELLO 3", "CLIENT SETNAME quiet"}, (*victim).quiet},
}

// victim is one of them, with a second connection for what takes two.
type victim struct {
	name    string
	w       *tenants
	conn    *proxytest.Conn
	peer    *proxytest.Conn
	key     string
	id      string
	checked int
	slowest time.Duration
}

// startVictims connects them, so that they work when the attack begins, and lets them work until stop.
func (w *tenants) startVictims(t *testing.T, stop <-chan struct{}) *sync.WaitGroup {
	var all sync.WaitGroup
	for i, kind := range victims {
		v := &victim{
			name: kind.name, w: w, conn: proxytest.Dial(t, w.addr), peer: proxytest.Dial(t, w.addr), key: fmt.Sprintf("victim:%d", i),
		}
		for _, cmd := range kind.login {
			if b := v.conn.Do(strings.Fields(cmd)...); b[0] == '-' {
				t.Fatalf("%s: %s", cmd, b)
			}
		}
		v.id = string(v.conn.Do("CLIENT", "ID"))
		if kind.name == "a subscriber" {
			v.conn.Do("SUBSCRIBE", v.key)
		}
		all.Go(func() { v.work(stop, kind.round) })
	}
	return &all
}

// work makes one round after the other.
func (v *victim) work(stop <-chan struct{}, round func(*victim, int) error) {
	for n := 0; ; n++ {
		err := round(v, n)
		done := err != nil
		select {
		case <-stop:
			done = true
		case <-time.After(time.Millisecond): // others need the processor, too
		}
		if err != nil {
			v.w.problem("%s: %v", v.name, err)
		}
		if done {
			break
		}
	}
	v.conn.Close()
	v.peer.Close()
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	v.w.replies[v.name] = v.checked
	v.w.slowest[v.name] = v.slowest.Round(time.Millisecond)
}

// do sends commands in one write and checks their replies, of which there is one more each.
func (v *victim) do(c *proxytest.Conn, pairs ...string) error {
	var raw []byte
	for i := 0; i < len(pairs); i += 2 {
		raw = proxytest.AppendCommand(raw, strings.Fields(pairs[i])...)
	}
	start := time.Now()
	if err := c.TryWrite(raw); err != nil {
		return err
	}
	for i := 0; i < len(pairs); i += 2 {
		if err := v.expect(c, pairs[i], pairs[i+1]); err != nil {
			return fmt.Errorf("after %v: %w", time.Since(start), err)
		}
	}
	v.slowest = max(v.slowest, time.Since(start))
	return nil
}

func (v *victim) expect(c *proxytest.Conn, what, want string) error {
	b, err := c.TryReadReply()
	if err != nil {
		return fmt.Errorf("%s: %w, after %s", what, err, proxytest.Quote(b))
	}
	if string(b) != want {
		return fmt.Errorf("%s: got %s, want %s", what, proxytest.Quote(b), proxytest.Quote([]byte(want)))
	}
	v.checked++
	return nil
}

func (v *victim) plain(n int) error {
	value := fmt.Sprintf("%s=%d", v.key, n)
	err := v.do(v.conn, "SET "+v.key+" "+value, "+OK\r\n")
	if err == nil {
		err = v.do(v.conn, "GET "+v.key, bulk(value))
	}
	if err == nil {
		err = v.do(v.conn, "INCR "+v.key+":n", integer(17*n+1))
	}
	if err == nil {
		err = v.do(v.conn, "MGET "+v.key+" "+v.key+":n", array(bulk(value), bulk(fmt.Sprint(17*n+1))))
	}
	if err == nil && n%8 == 0 {
		err = v.do(v.conn, "EVAL return{ARGV[1],KEYS[1]} 1 "+v.key+" "+value, array(bulk(value), bulk(v.key)))
	}
	var pipeline []string
	for i := range 16 {
		pipeline = append(pipeline, "INCR "+v.key+":n", integer(17*n+2+i))
	}
	if err == nil {
		err = v.do(v.conn, pipeline...)
	}
	return err
}

func (v *victim) transaction(n int) error {
	value := fmt.Sprintf("%s=%d", v.key, n)
	return v.do(v.conn, "MULTI", "+OK\r\n", "INCR "+v.key+":n", "+QUEUED\r\n", "SET "+v.key+" "+value, "+QUEUED\r\n",
		"GET "+v.key, "+QUEUED\r\n", "EXEC", array(integer(n+1), "+OK\r\n", bulk(value)), "GET "+v.key, bulk(value))
}

func (v *victim) watch(n int) error {
	for _, pair := range [][2]string{
		{"WATCH " + v.key, "+OK\r\n"},
		{"EXISTS " + v.key, integer(min(n, 1))},
		{"MULTI", "+OK\r\n"},
		{"INCR " + v.key, "+QUEUED\r\n"},
		{"ECHO " + v.key, "+QUEUED\r\n"},
		{"EXEC", array(integer(n+1), bulk(v.key))},
	} {
		if err := v.do(v.conn, pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// pop waits for what its peer pushes.
func (v *victim) pop(n int) error {
	value := fmt.Sprintf("%s=%d", v.key, n)
	if err := v.conn.TryWrite([]byte(proxytest.Command("BLPOP", v.key, "0"))); err != nil {
		return err
	}
	start := time.Now()
	if err := v.do(v.peer, "RPUSH "+v.key+" "+value, integer(1)); err != nil {
		return err
	}
	err := v.expect(v.conn, "BLPOP", array(bulk(v.key), bulk(value)))
	v.slowest = max(v.slowest, time.Since(start))
	return err
}

// message hears what its peer publishes. Attackers of the same user may listen, too: how many do is not said.
func (v *victim) message(n int) error {
	start := time.Now()
	if err := v.peer.TryWrite([]byte(proxytest.Command("PUBLISH", v.key, fmt.Sprint(n)))); err != nil {
		return err
	}
	if b, err := v.peer.TryReadReply(); err != nil || b[0] != ':' || string(b) == ":0\r\n" {
		return fmt.Errorf("PUBLISH: %q, %w", b, err)
	}
	err := v.expect(v.conn, "a message", array(bulk("message"), bulk(v.key), bulk(fmt.Sprint(n))))
	v.slowest = max(v.slowest, time.Since(start))
	return err
}

// quiet is nearly always idle, and remains who it is.
func (v *victim) quiet(int) error {
	time.Sleep(20 * time.Millisecond)
	return v.do(v.conn, "PING", "+PONG\r\n", "CLIENT GETNAME", bulk("quiet"), "CLIENT ID", v.id, "GET nothing", "_\r\n")
}
