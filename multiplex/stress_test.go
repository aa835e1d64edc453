package multiplex_test

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Everything at once, at random: contexts that share too few connections, pins, checks of credentials, scripts that
// answer twice, and a Redis that hangs up on whomever it likes, in the middle of a reply too. Redis never counts more
// connections than there may be, no client gets a byte that is not its own, and no write is executed twice.

// durationVariable sets how long each of the runs lasts.
const durationVariable = "REDBOUNCER_TEST_DURATION"

func TestNoConnectionTooManyAndNoReplyToTheWrongClient(t *testing.T) {
	duration := 250 * time.Millisecond
	if v := os.Getenv(durationVariable); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil {
			t.Fatalf("%s: %v", durationVariable, err)
		}
		duration = d
	}
	for _, size := range []int{1, 2, 3, 5} {
		for _, streams := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d connections, streams %t", size, streams), func(t *testing.T) {
				stress(t, size, streams, duration)
			})
		}
	}
}

// wild is a Redis with a temper. It counts a connection until it has seen its end.
type wild struct {
	t    *testing.T
	ln   net.Listener
	size int64
	all  sync.WaitGroup

	// Atomic.
	open, most, kills, tricks atomic.Int64

	// mu guards the following fields.
	mu       sync.Mutex
	executed map[string]int // writes
}

func (w *wild) accept() {
	for n := uint64(0); ; n++ {
		nc, err := w.ln.Accept()
		if err != nil {
			return
		}
		if open := w.open.Add(1); open > w.most.Load() {
			w.most.Store(open)
		}
		w.all.Go(func() { w.serve(nc, rand.New(rand.NewPCG(n, 7))) })
	}
}

// serve ends when either side hangs up.
func (w *wild) serve(nc net.Conn, rnd *rand.Rand) {
	_ = nc.SetDeadline(time.Now().Add(patience))
	c := &fakeConn{TCPConn: nc.(*net.TCPConn), r: bufio.NewReader(nc)}
	db := "0"
	for {
		words, err := c.command()
		if err != nil || rnd.IntN(400) == 0 {
			break
		}
		reply := w.reply(&db, words, rnd)
		if cut := rnd.IntN(len(reply)); rnd.IntN(400) == 0 {
			_, _ = nc.Write(reply[:cut]) // hangs up in the middle
			break
		}
		if _, err := nc.Write(reply); err != nil {
			break
		}
	}
	w.kills.Add(1)
	if rnd.IntN(3) == 0 {
		time.Sleep(time.Duration(rnd.IntN(3)) * time.Millisecond) // is busy, and does not look at once
	}
	w.open.Add(-1)
	_ = nc.Close()
}

func (w *wild) reply(db *string, words []string, rnd *rand.Rand) []byte {
	bulk := func(s string) []byte { return resp.AppendBulk(nil, s) }
	switch words[0] {
	case "HELLO":
		if rnd.IntN(20) == 0 {
			return []byte("-LOADING Redis is loading the dataset in memory\r\n")
		}
		return []byte(helloReply)
	case "ECHO":
		return bulk(words[1])
	case "SELECT":
		*db = words[1]
	case "GET":
		return bulk(*db + "/" + words[1] + strings.Repeat(".", rnd.IntN(200)))
	case "SET":
		w.mu.Lock()
		w.executed[words[1]]++
		w.mu.Unlock()
		return bulk(*db + "/" + words[1])
	case "EVAL":
		reply := bulk(*db + "/" + words[1])
		if rnd.IntN(10) == 0 {
			w.tricks.Add(1)
			reply = append(reply, bulk("STOLEN")...)
		}
		return reply
	}
	return []byte("+OK\r\n")
}

// visitor is a client that sends a command, waits for the answer, and sends the next.
type visitor struct {
	x       *crowd
	rnd     *rand.Rand
	number  int
	serial  int
	ctx     *multiplex.Context
	key     multiplex.Key
	pin     *multiplex.Link
	request *multiplex.PinRequest
	next    func(*multiplex.Link) // what to do once there is a lane
	want    string                // how the answer begins
	got     []byte
	left    bool
}

// crowd is the visitors of one loop. It is owned by the loop.
type crowd struct {
	t        *testing.T
	loop     *eventloop.Loop
	pool     *multiplex.Pool
	visitors []*visitor
	over     bool
	busy     int // visitors that have not left
	answers  int
	losses   int
	empty    chan struct{}
}

// step has the visitor do something, anywhere.
func (v *visitor) step() {
	if v.x.over {
		v.leave()
		return
	}
	if key := (multiplex.Key{DB: v.rnd.IntN(3), RESP: 2}); v.pin == nil && key != v.key && v.rnd.IntN(4) == 0 {
		next := v.x.pool.Context(key)
		next.Enter()
		v.ctx.Leave()
		v.ctx, v.key = next, key
	}
	switch {
	case v.pin != nil && v.rnd.IntN(2) == 0:
		v.x.pool.ReleasePin(v.pin)
		v.pin = nil
		v.later()
	case v.pin != nil:
		v.send(v.pin)
	case v.rnd.IntN(6) == 0:
		k, r := v.x.pool.AcquirePin(v.ctx, v, v.pinned)
		switch {
		case k != nil:
			v.pinned(k, nil)
		case v.rnd.IntN(3) == 0:
			r.Cancel()
			v.later()
		default:
			v.request = r
		}
	case v.ctx.Link() != nil:
		v.send(v.ctx.Link())
	default:
		v.next = v.send
		v.ctx.Await(v)
	}
}

// later goes on in another turn.
func (v *visitor) later() { v.x.loop.Post(v.step) }

func (v *visitor) pinned(k *multiplex.Link, err error) {
	if err != nil {
		v.x.t.Errorf("a pin is refused: %v", err)
	}
	v.pin, v.request = k, nil
	v.later()
}

// send sends a command, whose answer is known.
func (v *visitor) send(k *multiplex.Link) {
	v.serial++
	token := fmt.Sprintf("%d-%d", v.number, v.serial)
	v.want, v.got = fmt.Sprintf("%d/%s", v.key.DB, token), nil
	switch v.rnd.IntN(4) {
	case 0:
		k.Submit(v, resp.AppendCommand(nil, "SET", token, strings.Repeat("v", v.rnd.IntN(300))), 0)
	case 1:
		if v.pin == nil {
			k.Submit(v, resp.AppendCommand(nil, "EVAL", token), 0)
			k.Barrier()
			return
		}
		fallthrough
	case 2:
		raw := resp.AppendCommand(nil, "GET", token, strings.Repeat("v", v.rnd.IntN(3)*v.rnd.IntN(60<<10)))
		k.SubmitOwned(v, raw, len(raw), multiplex.Safe)
	default:
		k.Submit(v, resp.AppendCommand(nil, "GET", token), multiplex.Safe)
	}
}

// Reply implements multiplex.Client.
func (v *visitor) Reply(b []byte, done int) {
	v.got = append(v.got, b...)
	if done == 0 {
		return
	}
	_, value, _ := bytes.Cut(v.got, []byte("\r\n"))
	if answer := strings.TrimRight(string(value), ".\r\n"); done != 1 || answer != v.want {
		v.x.t.Errorf("visitor %d reads %.100q, want %q", v.number, v.got, v.want)
	}
	v.want = ""
	v.x.answers++
	v.later()
}

// Lost implements multiplex.Client.
func (v *visitor) Lost(error) {
	v.pin = nil
	v.x.losses++
	if v.want != "" || v.x.over { // otherwise it is on its way already
		v.want = ""
		v.later()
	}
}

// Gone implements multiplex.Client.
func (v *visitor) Gone() bool { return v.left }

// LaneReady implements multiplex.Waiter.
func (v *visitor) LaneReady() { v.next(v.ctx.Link()) }

// LaneFailed implements multiplex.Waiter.
func (v *visitor) LaneFailed(err error) { v.x.t.Errorf("a lane is refused: %v", err) }

func (v *visitor) leave() {
	if v.left {
		return
	}
	v.left = true
	if v.pin != nil {
		v.x.pool.DiscardPin(v.pin)
	}
	v.ctx.Leave()
	if v.x.busy--; v.x.busy == 0 {
		close(v.x.empty)
	}
}

func stress(t *testing.T, size int, streams bool, duration time.Duration) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wild{t: t, ln: ln, size: int64(size), executed: map[string]int{}}
	w.all.Go(w.accept)
	up, err := multiplex.ParseUpstream("redis://" + ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var crowds []*crowd
	budget := limits.NewBudget(size, size/4+1, func() {
		for _, x := range crowds {
			x.pool.Relieve()
		}
	})
	for n := range size/4 + 1 { // two loops for the largest
		crowds = append(crowds, newCrowd(t, n, streams, up, budget))
	}
	control := multiplex.NewControl(multiplex.NewPrimary(multiplex.PrimaryConfig{Upstream: up}), budget, patience)
	var running sync.WaitGroup
	running.Go(control.Run)
	for _, x := range crowds {
		running.Go(x.loop.Run)
		x.loop.Post(x.begin)
	}
	for end := time.Now().Add(duration); time.Now().Before(end); {
		checked := make(chan struct{})
		// An error is fine here: it may have hung up twice.
		control.Check(resp.AppendCommand(nil, "AUTH", "x"), func([]byte, error) { close(checked) })
		wait(t, "a check", checked)
		time.Sleep(time.Millisecond)
	}
	control.Stop()
	for _, x := range crowds {
		x.loop.Post(func() { x.over = true })
		wait(t, "the visitors to leave", x.empty)
	}
	answers, losses := 0, 0
	for _, x := range crowds {
		x.loop.Post(func() {
			if st := x.pool.Stats(); st.Pins != 0 || st.Waiting != 0 || st.Resend != 0 {
				t.Errorf("at the end %+v", st)
			}
			x.pool.Close()
		})
		x.loop.Stop()
	}
	running.Wait()
	for _, x := range crowds {
		answers, losses = answers+x.answers, losses+x.losses
	}
	_ = ln.Close()
	w.all.Wait()
	for token, n := range w.executed {
		if n > 1 {
			t.Errorf("the write of %s was executed %d times", token, n)
		}
	}
	if most := w.most.Load(); most > w.size {
		t.Errorf("Redis counted %d connections, want %d at most", most, size)
	}
	t.Logf("%d answers, %d losses, %d connections, %d tricks", answers, losses, w.kills.Load(), w.tricks.Load())
	if answers == 0 || w.kills.Load() == 0 {
		t.Error("nothing has happened")
	}
}

func newCrowd(t *testing.T, n int, streams bool, up *multiplex.Upstream, budget *limits.Budget) *crowd {
	x := &crowd{t: t, empty: make(chan struct{})}
	loop, err := eventloop.New(eventloop.Options{Streams: streams, Flush: func() { x.pool.Flush() }})
	if err != nil {
		t.Fatal(err)
	}
	x.loop = loop
	x.pool = multiplex.NewPool(multiplex.Config{
		Loop: loop, Upstream: up, Budget: budget, UpstreamTimeout: patience, Log: slog.New(slog.DiscardHandler),
	})
	for i := range 12 {
		number := 100*n + i
		x.visitors = append(x.visitors, &visitor{x: x, number: number, rnd: rand.New(rand.NewPCG(uint64(number), 3))})
	}
	return x
}

// begin lets the visitors in.
func (x *crowd) begin() {
	for _, v := range x.visitors {
		v.key = x.pool.Initial()
		v.ctx = x.pool.Context(v.key)
		v.ctx.Enter()
		x.busy++
		v.later()
	}
}
