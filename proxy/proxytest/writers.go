package proxytest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Writers are clients who append 1, 2, 3 and so on to lists of their own, never again what they are not sure of, and keep
// book of what they were told. Behind each write they ask what only they can be asked.
type Writers struct {
	// Static after construction.
	until   time.Time
	addr    func() (string, error)
	leave   func(reply []byte) bool
	running sync.WaitGroup
	all     []*writer
}

// WritersConfig says who writes, and where.
type WritersConfig struct {
	Clients int
	Seed    uint64
	Until   time.Time
	// Addr returns where to connect, each time. An error is no problem: the client asks again.
	Addr func() (string, error)
	// Leave reports whether a client is to connect anew after such a reply. Nil: it never is.
	Leave func(reply []byte) bool
}

// StartWriters has clients write. Wait for them before anything else.
func StartWriters(cfg WritersConfig) *Writers {
	w := &Writers{until: cfg.Until, addr: cfg.Addr, leave: cfg.Leave}
	for i := range cfg.Clients {
		x := &writer{w: w, id: fmt.Sprintf("writer:%d", i), rnd: rand.New(rand.NewPCG(cfg.Seed, uint64(i)+1))}
		w.all = append(w.all, x)
		w.running.Go(x.work)
	}
	return w
}

// Wait waits until they have ended, which is when it is time, and a reply's time later at most.
func (w *Writers) Wait() { w.running.Wait() }

// Verdict is what came of all writes.
type Verdict struct {
	Acknowledged, Refused, Unknown int
	// Missing is when those were acknowledged that are not there.
	Missing []time.Time
	// Problems are what must never be: what is there twice, out of order, or although it was refused, and wrong replies.
	Problems []string
}

// Verify compares the lists with the books.
func (w *Writers) Verify(direct *Conn) Verdict {
	var v Verdict
	for _, x := range w.all {
		x.verify(direct, &v)
		v.Problems = append(v.Problems, x.problems...)
	}
	return v
}

// fate is what a client knows of a write.
type fate uint8

const (
	unknown fate = iota
	acknowledged
	refused
)

// written is what a client knows of a write, and since when.
type written struct {
	fate fate
	at   time.Time
}

// writer is one of them. It is the goroutine's own until that has ended.
type writer struct {
	w        *Writers
	id       string
	rnd      *rand.Rand
	conn     *Conn
	known    []written // of 1, 2, 3 ...
	problems []string
}

func (x *writer) problem(format string, args ...any) {
	x.problems = append(x.problems, x.id+": "+fmt.Sprintf(format, args...))
}

func (x *writer) work() {
	for time.Now().Before(x.w.until) && len(x.problems) == 0 {
		if x.conn != nil || x.connect() {
			if !x.batch() {
				x.conn.Close()
				x.conn = nil
			}
		}
		time.Sleep(time.Duration(x.rnd.IntN(20)) * time.Millisecond)
	}
	if x.conn != nil {
		x.conn.Close()
	}
}

// connect reports false if there is no address to connect to. Where there is one, somebody has to be there.
func (x *writer) connect() bool {
	addr, err := x.w.addr()
	if err != nil {
		return false
	}
	c, err := TryDial(addr)
	if err != nil {
		if x.w.leave == nil {
			x.problem("connecting: %v", err)
		}
		return false
	}
	c.SetTimeout(20 * time.Second)
	x.conn = c
	return true
}

// batch sends some writes in one piece. It reports false if the connection is not to be used again.
func (x *writer) batch() bool {
	var raw []byte
	first, replies := len(x.known), make([]int, 1+x.rnd.IntN(5))
	for i := range replies {
		x.known = append(x.known, written{})
		n := len(x.known)
		push := []string{"RPUSH", x.id, strconv.Itoa(n)}
		replies[i] = 1
		switch x.rnd.IntN(20) {
		case 0: // needs a connection of its own
			raw = AppendCommand(raw, "WATCH", x.id)
			replies[i]++
			fallthrough
		case 1:
			raw = AppendCommand(raw, "MULTI")
			raw = AppendCommand(AppendCommand(raw, push...), "EXEC")
			replies[i] += 2
		default:
			raw = AppendCommand(raw, push...)
		}
		raw = AppendCommand(raw, "ECHO", x.sign(n))
	}
	return x.conn.TryWrite(raw) == nil && x.replies(first, replies)
}

// replies reads so many replies to each write, of which the last says what has become of it, and that to the question behind
// it. It reports false if the connection is not to be used again.
func (x *writer) replies(first int, each []int) bool {
	stay := true
	for i, n := range each {
		var got []byte
		for range n {
			var err error
			if got, err = x.read(); err != nil {
				return false
			}
			stay = stay && (x.w.leave == nil || !x.w.leave(got))
		}
		switch s := string(got); {
		case strings.HasPrefix(s, ":"), strings.HasPrefix(s, "*1\r\n:"):
			x.known[first+i] = written{acknowledged, time.Now()}
		case strings.HasPrefix(s, "-"), strings.HasPrefix(s, "*1\r\n-"), s == "*-1\r\n":
			x.known[first+i] = written{refused, time.Now()}
		default:
			x.problem("was told %q to write %d", got, first+i+1)
		}
		sign := x.sign(first + i + 1)
		got, err := x.read()
		if err != nil {
			return false
		}
		if want := fmt.Sprintf("$%d\r\n%s\r\n", len(sign), sign); string(got) != want && got[0] != '-' {
			x.problem("was told %q to ECHO %s", got, sign)
		}
	}
	return stay
}

func (x *writer) sign(n int) string { return fmt.Sprintf("%s is at %d", x.id, n) }

func (x *writer) read() ([]byte, error) {
	got, err := x.conn.TryReadReply()
	if err != nil && !IsClosed(err) && x.w.leave == nil {
		x.problem("waiting for a reply: %v", err)
	}
	return got, err
}

// verify compares the list with the book.
func (x *writer) verify(direct *Conn, v *Verdict) {
	lines := strings.Split(string(direct.Do("LRANGE", x.id, "0", "-1")), "\r\n")
	var list []int
	for i := 2; i < len(lines); i += 2 {
		n, err := strconv.Atoi(lines[i])
		if err != nil {
			x.problem("its list has %q", lines[i])
			return
		}
		list = append(list, n)
	}
	if !slices.IsSorted(list) {
		x.problem("its list is out of order: %v", list)
	}
	there := map[int]bool{}
	for _, n := range list {
		if there[n] {
			x.problem("%d is there twice", n)
		}
		there[n] = true
	}
	for i, is := range x.known {
		switch is.fate {
		case acknowledged:
			v.Acknowledged++
			if !there[i+1] {
				v.Missing = append(v.Missing, is.at)
			}
		case refused:
			v.Refused++
			if there[i+1] {
				x.problem("%d was refused, and is there", i+1)
			}
		case unknown:
			v.Unknown++
		}
	}
}
