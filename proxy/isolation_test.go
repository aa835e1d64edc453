package proxy_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The invariants 1 to 4 under attack: isolation, order, the bound on upstream connections, and books that end
// at zero. Two hundred clients do everything that clients do, in random order, with keys and values that carry
// their own identity; each knows exactly what every reply must be. They leave in every way there is, and for
// the second half of the time Redis throws the proxy's connections out. A client may then be closed. It may
// never read a byte that is not its own.

func TestNoClientEverReadsAByteOfAnother(t *testing.T) {
	duration, seed := proxytest.Duration(t), proxytest.Seed(t)
	// Where connections are scarce they change hands all the time; where they are not, they are kept for the
	// next client as the last one left them. With very few, everything waits for everything.
	t.Run("200 clients on 8 connections", func(t *testing.T) {
		attack(t, &world{seed: seed, attackers: 200, pool: 8, duration: duration})
	})
	t.Run("10 clients on 24 connections", func(t *testing.T) {
		attack(t, &world{seed: seed, attackers: 10, pool: 24, duration: max(duration/4, time.Second)})
	})
	t.Run("50 clients on 3 connections", func(t *testing.T) {
		attack(t, &world{seed: seed, attackers: 50, pool: 3, duration: max(duration/4, time.Second)})
	})
}

// attack runs the attackers and the watcher and checks the books at the end.
func attack(t *testing.T, w *world) {
	s := proxytest.Redis(t)
	cfg := proxytest.Config(t, s)
	cfg.PoolSize = w.pool
	p := proxytest.Proxy(t, cfg)
	w.addr, w.done, w.ends = p.Addr(), map[string]int{}, map[string]int{}
	w.setUsers(t, s)

	start := time.Now()
	w.until = start.Add(w.duration)
	watcher := &upstreamWatcher{
		w: w, conn: proxytest.Dial(t, s.Addr()), busy: proxytest.Dial(t, s.Addr()),
		hurtFrom: start.Add(w.duration / 2), rnd: rand.New(rand.NewPCG(w.seed, 1<<32)),
	}
	stop := make(chan struct{})
	var clients, others sync.WaitGroup
	others.Go(func() { watcher.watch(stop) })
	for i := range w.attackers {
		clients.Go(func() { w.attack(i) })
	}
	clients.Wait()
	close(stop)
	others.Wait()

	w.report(t, watcher)
	allGone(t, p)
	if up := p.Stats().Upstream; up > w.pool {
		t.Errorf("%d upstream connections are open, the bound is %d", up, w.pool)
	}
}

// world is what the attackers share.
type world struct {
	// Static after construction.
	addr      string
	seed      uint64
	attackers int
	pool      int // upstream connections for all of them
	duration  time.Duration
	until     time.Time

	// Atomic.
	hurting atomic.Bool // connections are being killed, so a client may be closed without a word
	failed  atomic.Bool

	// mu guards the following fields.
	mu       sync.Mutex
	problems []string
	done     map[string]int // actions that went through, by name
	ends     map[string]int // lives, by how they ended
}

// passwords of the users that clients log in as. The default user has none.
const attackPassword = "pw"

var attackUsers = []string{"default", "alice", "bob"}

func (w *world) setUsers(t *testing.T, s *proxytest.Server) {
	c := proxytest.Dial(t, s.Addr())
	for _, u := range attackUsers[1:] {
		if got := string(c.Do("ACL", "SETUSER", u, "on", ">"+attackPassword, "~*", "&*", "+@all")); got != "+OK\r\n" {
			t.Fatalf("ACL SETUSER: %s", got)
		}
	}
	c.Close()
}

// attack lives one life after the other until the time is up.
func (w *world) attack(client int) {
	rnd := rand.New(rand.NewPCG(w.seed, uint64(client)))
	for generation := 0; time.Now().Before(w.until) && !w.failed.Load(); generation++ {
		// A life has keys of its own: what an earlier life left in flight cannot reach them.
		l := newLife(w, fmt.Sprintf("c%d.g%d", client, generation), rnd)
		end := l.live()
		w.mu.Lock()
		w.ends[end]++
		for name, n := range l.done {
			w.done[name] += n
		}
		w.mu.Unlock()
	}
}

// problem notes that an invariant is broken. The first one ends the attack: what follows is its echo.
func (w *world) problem(format string, args ...any) {
	w.failed.Store(true)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.problems) < 10 {
		w.problems = append(w.problems, fmt.Sprintf(format, args...))
	}
}

func (w *world) report(t *testing.T, watcher *upstreamWatcher) {
	for _, p := range w.problems {
		t.Error(p)
	}
	t.Logf("%d samples, at most %d upstream connections; %d were killed; %d samples showed one more that was just going",
		watcher.samples, watcher.most, watcher.kills, watcher.fleeting)
	t.Logf("lives, by their end: %v", w.ends)
	t.Logf("actions that went through: %v", w.done)
	if t.Failed() {
		return
	}
	// A test of nothing passes, too.
	for name := range actions {
		if w.done[name] == 0 {
			t.Errorf("%s never went through", name)
		}
	}
	if watcher.kills == 0 || watcher.samples == 0 {
		t.Error("nobody watched the upstream connections, or killed any")
	}
}

// upstreamWatcher looks at the connections that Redis has, and from some time on kills some.
type upstreamWatcher struct {
	w        *world
	conn     *proxytest.Conn
	busy     *proxytest.Conn // keeps Redis busy for a moment
	rnd      *rand.Rand
	hurtFrom time.Time
	own      []string // the ids of both

	samples, most, kills, fleeting int
}

var clientID = regexp.MustCompile(`(?m)^id=(\d+) `)

// watch samples until stop is closed. No other client talks to this Redis directly, so every connection but
// its own two is the proxy's.
func (u *upstreamWatcher) watch(stop <-chan struct{}) {
	for _, c := range []*proxytest.Conn{u.conn, u.busy} {
		u.own = append(u.own, strings.Trim(u.do(c, "CLIENT", "ID"), ":\r\n"))
	}
	nextKill := u.hurtFrom
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		ids := u.sample()
		if now := time.Now(); now.After(nextKill) && len(ids) > 0 {
			nextKill = now.Add(time.Duration(50+u.rnd.IntN(350)) * time.Millisecond)
			u.kill(ids)
		}
	}
}

// sample returns the ids of the proxy's connections and checks their number. Redis may list a connection that
// the proxy has closed already and replaced, as it reads the end of the one after it accepts the other; so one
// too many counts when the same ones are there a moment later.
func (u *upstreamWatcher) sample() map[string]bool {
	ids := u.list()
	u.samples++
	u.most = max(u.most, len(ids))
	for try := 0; len(ids) > u.w.pool && try < 5; try++ {
		u.fleeting++
		time.Sleep(2 * time.Millisecond)
		again := u.list()
		maps.DeleteFunc(ids, func(id string, _ bool) bool { return !again[id] })
	}
	if len(ids) > u.w.pool {
		u.w.problem("BOUND: %d upstream connections at once, the bound is %d", len(ids), u.w.pool)
	}
	return ids
}

func (u *upstreamWatcher) list() map[string]bool {
	ids := map[string]bool{}
	for _, m := range clientID.FindAllStringSubmatch(u.do(u.conn, "CLIENT", "LIST"), -1) {
		ids[m[1]] = true
	}
	for _, id := range u.own {
		delete(ids, id)
	}
	return ids
}

// spin keeps Redis busy for some milliseconds.
const spin = "local x = 0 for i = 1, 300000 do x = x + i end return x"

// kill throws out one connection of the proxy's, or now and then all of them.
//
// Commands race with the end of their connection: either Redis never reads them, or it carries them out and the
// reply is lost. The second is what may tempt a proxy to do a thing twice, and is rare on an idle server. So
// half of the time Redis is kept busy, commands pile up, and the order to kill arrives behind them: Redis then
// carries them out and kills the connection before it writes the replies.
func (u *upstreamWatcher) kill(ids map[string]bool) {
	if !u.w.hurting.Swap(true) {
		time.Sleep(500 * time.Millisecond) // those who looked before have done what they were about to do
	}
	spins := u.rnd.IntN(2) == 0
	if spins {
		if err := u.busy.TryWrite([]byte(proxytest.Command("EVAL", spin, "0"))); err != nil {
			u.w.problem("the watcher's own connection: %v", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	switch all := slices.Sorted(maps.Keys(ids)); u.rnd.IntN(10) {
	case 0, 1:
		for _, id := range all {
			u.do(u.conn, "CLIENT", "KILL", "ID", id)
			u.kills++
		}
	case 2:
		u.do(u.conn, "CLIENT", "KILL", "TYPE", "pubsub")
	default:
		u.do(u.conn, "CLIENT", "KILL", "ID", all[u.rnd.IntN(len(all))])
		u.kills++
	}
	if spins {
		if b, err := u.busy.TryReadReply(); err != nil || b[0] != ':' {
			u.w.problem("the watcher's own connection: %q, %v", b, err)
		}
	}
}

func (u *upstreamWatcher) do(c *proxytest.Conn, parts ...string) string {
	err := c.TryWrite([]byte(proxytest.Command(parts...)))
	var b []byte
	if err == nil {
		b, err = c.TryReadReply()
	}
	if err != nil {
		u.w.problem("the watcher's own connection: %v", err)
	}
	return string(b)
}

var identity = regexp.MustCompile(`c\d+\.g\d+`)

// foreign returns the identities in b that are not own, other than as a part of own.
func foreign(b []byte, own string) []string {
	var ids []string
	for _, m := range identity.FindAllString(string(b), -1) {
		if m != own && !slices.Contains(ids, m) {
			ids = append(ids, m)
		}
	}
	return ids
}

// show returns a list of commands as one line.
func show(cmds []command) string {
	var lines []string
	for _, c := range cmds {
		line := strings.Join(c.parts, " ")
		if len(line) > 80 {
			line = line[:80] + "..."
		}
		lines = append(lines, line)
	}
	if n := len(lines); n > 12 {
		lines = append(lines[:6], append([]string{fmt.Sprintf("(%d more)", n-12)}, lines[n-6:]...)...)
	}
	return strings.Join(lines, " | ")
}
