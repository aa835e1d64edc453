package multiplex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sync/singleflight"
)

const (
	// sentinelTimeout bounds a question to a sentinel, dialing included. The one that answered last gets half of it, before all
	// are asked.
	sentinelTimeout = time.Second
	// sentinelPause is how often a sentinel from which nothing is heard is asked.
	sentinelPause = 2 * time.Second
	// sentinelRetry is the longest pause before a sentinel is tried again.
	sentinelRetry = 5 * time.Second
	// sentinelForget is how long one that others have told of may be gone until it is not tried any more.
	sentinelForget = 5 * time.Minute
	// maxSentinels bounds those that are listened to.
	maxSentinels = 32

	defaultSentinelLog = 10 * time.Second
)

// watch is what the sentinels of a Primary have to say. Each has a goroutine that listens to it for as long as run
// runs, and goes on trying while it cannot be reached.
type watch struct {
	// Static after construction.
	primary     *Primary
	how         *watched
	log         *slog.Logger
	logInterval time.Duration

	asking  singleflight.Group
	running sync.WaitGroup

	// mu guards the following fields.
	mu   sync.Mutex
	all  []*sentinel
	last *sentinel // that has answered
}

// sentinel is one of those who watch the primary.
type sentinel struct {
	// Static after construction.
	addr   string
	client *redis.SentinelClient
	given  bool // in the URL

	// Owned by the goroutine that listens to it.
	told time.Time // when the log was last told that it cannot be used; zero: it can

	// Atomic.
	id    atomic.Pointer[string] // what it calls itself; nil: not known
	heard atomic.Bool            // it is being listened to
}

func newWatch(p *Primary, how *watched, logInterval time.Duration) *watch {
	w := &watch{primary: p, how: how, log: p.log, logInterval: cmp.Or(logInterval, defaultSentinelLog)}
	for _, addr := range how.sentinels {
		if !slices.ContainsFunc(w.all, func(s *sentinel) bool { return s.addr == addr }) {
			s := w.newSentinel(addr)
			s.given = true
			w.all = append(w.all, s)
		}
	}
	return w
}

func (w *watch) newSentinel(addr string) *sentinel {
	return &sentinel{addr: addr, client: redis.NewSentinelClient(&redis.Options{
		Addr: addr, Username: w.how.user, Password: w.how.password, Dialer: w.how.dial, Protocol: 2,
		DialTimeout: sentinelTimeout, ReadTimeout: sentinelTimeout, WriteTimeout: sentinelTimeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 4, ReadBufferSize: 4096, WriteBufferSize: 4096, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})}
}

// sentinels returns those that are known.
func (w *watch) sentinels() []*sentinel {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all)
}

func (w *watch) count() (known, heard int) {
	for _, s := range w.sentinels() {
		known++
		if s.heard.Load() {
			heard++
		}
	}
	return known, heard
}

// errNoSentinel is what clients are told: it names no address.
var errNoSentinel = errors.New("no sentinel says where the primary is")

// ask has the sentinels asked where the primary is, once for all who want to know at the same time, and waits for an answer or until
// over is done.
func (w *watch) ask(over context.Context) error {
	asked := w.asking.DoChan("", func() (any, error) { return nil, w.askNow() })
	select {
	case r := <-asked:
		return r.Err
	case <-over.Done():
		return nil // it has been heard meanwhile
	}
}

// askNow asks the sentinel that answered last, and if that does not help, all of them.
func (w *watch) askNow() error {
	w.mu.Lock()
	one := w.last
	w.mu.Unlock()
	if one != nil && !w.primary.isFailing() {
		if known, err := w.askOne(one, sentinelTimeout/2); err == nil && known {
			return nil
		}
	}
	if answered, _ := w.askAll(); answered == 0 {
		return errNoSentinel
	}
	return nil
}

// outcome is what came of asking a sentinel.
type outcome struct {
	from *sentinel
	err  error
}

// askAll asks all sentinels at the same time, until most of them have answered. It returns how many have, and what came of
// the others.
func (w *watch) askAll() (answered int, failed []outcome) {
	all := w.sentinels()
	outcomes := make(chan outcome, len(all))
	for _, s := range all {
		go w.askInto(outcomes, s)
	}
	for range all {
		o := <-outcomes
		if o.err != nil {
			failed = append(failed, o)
			continue
		}
		if answered++; answered > len(all)/2 {
			break
		}
	}
	return answered, failed
}

// askInto ends within sentinelTimeout.
func (w *watch) askInto(outcomes chan<- outcome, s *sentinel) {
	_, err := w.askOne(s, sentinelTimeout)
	outcomes <- outcome{s, err}
}

// askOne asks a sentinel, and reports whether what it says is, or has become, where the primary is taken to be.
func (w *watch) askOne(s *sentinel, timeout time.Duration) (known bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	a, err := s.ask(ctx, w.how.master)
	if err != nil {
		return false, err
	}
	w.mu.Lock()
	w.last = s
	w.mu.Unlock()
	return w.primary.heard(a, s.addr), nil
}

// ask asks where the primary is, and since which failover. In the midst of one, a sentinel's details of the master show the
// new number already but the old address; so the address is asked for alone, and the number again if the two differ.
func (s *sentinel) ask(ctx context.Context, master string) (answer, error) {
	details, err := s.client.Master(ctx, master).Result()
	if err != nil {
		return answer{}, err
	}
	words, err := s.client.GetMasterAddrByName(ctx, master).Result()
	if err != nil {
		return answer{}, err
	}
	if len(words) != 2 {
		return answer{}, fmt.Errorf("the address of the primary is not understood: %q", words)
	}
	if words[0] != details["ip"] || words[1] != details["port"] {
		if details, err = s.client.Master(ctx, master).Result(); err != nil {
			return answer{}, err
		}
	}
	epoch, err := strconv.ParseInt(details["config-epoch"], 10, 64)
	if err != nil {
		return answer{}, fmt.Errorf("the number of the last failover is not understood: %w", err)
	}
	return answer{net.JoinHostPort(words[0], words[1]), epoch}, nil
}

// find asks for the first time. See Primary.Find.
func (w *watch) find() error {
	answered, failed := w.askAll()
	if answered > 0 {
		return nil
	}
	for _, o := range failed {
		var said redis.Error
		if !errors.As(o.err, &said) {
			continue
		}
		if strings.Contains(said.Error(), "No such master") {
			return fmt.Errorf("the sentinel at %s knows no master %q%s", o.from.addr, w.how.master, w.masters(o.from))
		}
		return fmt.Errorf("the sentinel at %s answers %q; sentinels have a user and a password of their own: %s and %s in the "+
			"query of the URL", o.from.addr, said.Error(), sentinelUserOption, sentinelPasswordOption)
	}
	w.log.Warn("no sentinel answers; clients wait for the primary until one does", "sentinels", w.primary.up.addr)
	return nil
}

// masters says which masters a sentinel knows.
func (w *watch) masters(s *sentinel) string {
	ctx, cancel := context.WithTimeout(context.Background(), sentinelTimeout)
	defer cancel()
	all, err := s.client.Masters(ctx).Result()
	if err != nil || len(all) == 0 {
		return ""
	}
	var names []string
	for _, one := range all {
		fields, _ := one.([]any)
		for i := 0; i+1 < len(fields); i += 2 {
			if fields[i] == "name" {
				names = append(names, fmt.Sprintf("%q", fields[i+1]))
			}
		}
	}
	return ": it has " + strings.Join(names, ", ")
}

// run listens to all sentinels until ctx is done.
func (w *watch) run(ctx context.Context) {
	for _, s := range w.sentinels() {
		w.running.Go(func() { w.follow(ctx, s) })
	}
	w.running.Wait()
	for _, s := range w.sentinels() {
		_ = s.client.Close()
	}
}

// follow listens to a sentinel until ctx is done, and tries again whenever that fails.
func (w *watch) follow(ctx context.Context, s *sentinel) {
	last := time.Now()
	for try := 0; ; try++ {
		err := w.listen(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if s.heard.Swap(false) {
			try, last = 0, time.Now()
		}
		if !s.given && time.Since(last) > sentinelForget {
			w.forget(s)
			return
		}
		if now := time.Now(); now.Sub(s.told) >= w.logInterval {
			s.told = now
			w.log.Warn("sentinel cannot be used", "sentinel", s.addr, "error", err)
		}
		pause := min(100*time.Millisecond<<min(try, 10), sentinelRetry)
		pause = pause/2 + rand.N(pause) //nolint:gosec // spreading attempts needs no secrecy
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// forget drops a sentinel.
func (w *watch) forget(s *sentinel) {
	w.mu.Lock()
	w.all = slices.DeleteFunc(w.all, func(x *sentinel) bool { return x == s })
	if w.last == s {
		w.last = nil
	}
	w.mu.Unlock()
	_ = s.client.Close()
	w.log.Info("sentinel forgotten: it has been gone for long", "sentinel", s.addr)
}

// What a sentinel tells of a failover.
const (
	eventPromoting = "+failover-state-send-slaveof-noone" // a replica is told to be the primary, by the one that leads the failover
	eventGivenUp   = "-failover-abort-slave-timeout"      // it has not become it
	eventPromoted  = "+promoted-slave"                    // it has: told up to seconds before the last, as the other replicas come first
	eventSwitched  = "+switch-master"                     // told by all sentinels
)

var events = []string{eventPromoting, eventGivenUp, eventPromoted, eventSwitched}

// listen subscribes, and then asks, as something may have happened before. It returns what went wrong.
func (w *watch) listen(ctx context.Context, s *sentinel) error {
	sub := s.client.Subscribe(ctx, events...)
	hangUp := func() { _ = sub.Close() }
	defer hangUp()
	defer context.AfterFunc(ctx, hangUp)()
	for range events {
		if _, err := sub.ReceiveTimeout(ctx, sentinelTimeout); err != nil {
			return err
		}
	}
	if _, err := w.askOne(s, sentinelTimeout); err != nil {
		return err
	}
	s.introduce(ctx)
	s.heard.Store(true)
	if !s.told.IsZero() {
		s.told = time.Time{}
		w.log.Info("sentinel is back", "sentinel", s.addr)
	}
	for silent := false; ; {
		said, err := sub.ReceiveTimeout(ctx, sentinelPause)
		var timeout net.Error
		switch {
		case err == nil:
			silent = false
			if !w.concerned(said) {
				continue
			}
		case !errors.As(err, &timeout) || !timeout.Timeout() || ctx.Err() != nil:
			return err
		case silent:
			return errors.New("it does not answer any more")
		default: // it may have nothing to say
			silent = true
			if err := sub.Ping(ctx); err != nil {
				return err
			}
			w.discover(ctx, s)
		}
		if _, err := w.askOne(s, sentinelTimeout); err != nil {
			return err
		}
	}
}

// concerned reports whether an event is a reason to ask. Whether a failover begins or is given up, nobody can be asked.
func (w *watch) concerned(said any) bool {
	m, ok := said.(*redis.Message)
	if !ok || !slices.Contains(strings.Fields(m.Payload), w.how.master) {
		return false
	}
	switch m.Channel {
	case eventPromoting:
		w.primary.hold()
		return false
	case eventGivenUp:
		w.primary.resume()
	}
	return true
}

// introduce finds out what the sentinel calls itself. Old ones do not say.
func (s *sentinel) introduce(ctx context.Context) {
	cmd := redis.NewStringCmd(ctx, "sentinel", "myid")
	if err := s.client.Process(ctx, cmd); err == nil {
		id := cmd.Val()
		s.id.Store(&id)
	}
}

// discover has those listened to as well that a sentinel knows and we do not. By now, those that we have been told of have
// said what they are called: the others may know them by other addresses.
func (w *watch) discover(ctx context.Context, s *sentinel) {
	others, err := s.client.Sentinels(ctx, w.how.master).Result()
	if err != nil {
		w.log.Debug("a sentinel does not tell of the others", "sentinel", s.addr, "error", err)
		return
	}
	for _, o := range others {
		if strings.Contains(o["flags"], "down") || strings.Contains(o["flags"], "disconnected") {
			continue
		}
		w.meet(ctx, net.JoinHostPort(o["ip"], o["port"]), o["runid"])
	}
}

// meet has a sentinel listened to, unless it is.
func (w *watch) meet(ctx context.Context, addr, id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all {
		if known := s.id.Load(); s.addr == addr || known != nil && *known == id {
			return
		}
	}
	if len(w.all) >= maxSentinels {
		return
	}
	s := w.newSentinel(addr)
	w.all = append(w.all, s)
	w.log.Info("another sentinel is known", "sentinel", addr)
	w.running.Go(func() { w.follow(ctx, s) })
}
