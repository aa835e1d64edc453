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

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Two tenants behind one proxy: one does its worst (attack_kinds_test.go), the other works (victims_test.go) and must
// not notice. Each of its replies is right, none is late, and none of its connections ends. What Redis itself lets one
// client do to another is left out: the tenants have keys and channels of their own, and scripts are short.

func TestATenantsWorstIsNotNoticedByAnother(t *testing.T) {
	duration, seed := proxytest.Duration(t), proxytest.Seed(t)
	t.Run("a user with few permissions", func(t *testing.T) {
		attackTenants(t, &tenants{seed: seed, duration: duration / 3, user: "mallory", kills: true, attackers: 4})
	})
	t.Run("the victims' own users", func(t *testing.T) {
		attackTenants(t, &tenants{seed: seed, duration: duration / 3, attackers: 4})
	})
	t.Run("the victims' own users, and no command is refused", func(t *testing.T) {
		attackTenants(t, &tenants{seed: seed, duration: duration / 3, attackers: 4, all: true})
	})
}

// A client may go at any moment. Whatever it has begun by then, nobody else gets a byte of it.
func TestAConversationThatEndsAtAnyByteIsNotNoticedByAnother(t *testing.T) {
	for _, user := range []string{"mallory", ""} {
		t.Run("user "+user, func(t *testing.T) {
			w := &tenants{seed: 1, user: user, cuts: true, attackers: 4, duration: time.Minute}
			attackTenants(t, w)
			if n, all := int(w.cut.Load()), 3*len(w.conversation()); n < all {
				t.Errorf("%d ends were tried, there are %d", n, all)
			}
		})
	}
}

// tenants are both of them.
type tenants struct {
	// Static after construction.
	seed      uint64
	duration  time.Duration
	attackers int
	user      string // of the attackers; empty: the victims' users
	kills     bool   // they try CLIENT KILL, too
	all       bool   // the proxy refuses them no command
	cuts      bool   // they do nothing but end conversations, at every byte
	addr      string
	until     time.Time

	// Atomic.
	failed atomic.Bool
	cut    atomic.Int64 // the next byte at which a conversation ends

	// mu guards the following fields.
	mu       sync.Mutex
	problems []string
	attacks  map[string]int
	latest   []string // attacks
	replies  map[string]int
	slowest  map[string]time.Duration
}

// attackTenants has attackers and victims at it for a time, and looks at what is left.
func attackTenants(t *testing.T, w *tenants) {
	s, p := redisAndProxy(t, func(c *proxy.Config) {
		c.PoolSize = 8
		if w.all {
			c.AllowDangerous, c.Loops = []string{"all"}, 2
		}
	})
	direct := proxytest.Dial(t, s.Addr())
	for _, user := range victimUsers[1:] {
		direct.Do("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all")
	}
	direct.Do("ACL", "SETUSER", "mallory", "on", ">pw", "~evil:*", "resetchannels", "&evil:*", "+@all", "-@dangerous", "+keys")
	direct.Do("SET", "evil:large", strings.Repeat("evil", 16<<10))
	w.addr, w.attacks, w.replies, w.slowest = p.Addr(), map[string]int{}, map[string]int{}, map[string]time.Duration{}

	stop := make(chan struct{})
	victims := w.startVictims(t, stop)
	w.until = time.Now().Add(w.duration)
	var attackers sync.WaitGroup
	for i := range w.attackers {
		attackers.Go(func() { w.attackOn(i) })
	}
	attackers.Wait()
	close(stop)
	victims.Wait()
	w.tell(t)

	allGone(t, p)
	eventually(t, "only clean connections are left", func() string {
		st := p.Stats()
		links := strings.Split(strings.TrimSpace(string(direct.Do("CLIENT", "LIST"))), "\n")[1:]
		left := 0
		for _, line := range links {
			switch {
			case strings.Contains(line, " cmd=client|list "): // this one
			case !cleanLink.MatchString(line):
				return "not clean: " + line
			default:
				left++
			}
		}
		if left != st.Upstream || st.Pins > 0 {
			return fmt.Sprintf("%d connections are left, %+v", left, st)
		}
		return ""
	})
}

// cleanLink matches a line of CLIENT LIST of a connection that carries nobody's state. (A connection for clients that track
// does so from the start, and may not have been used.)
var cleanLink = regexp.MustCompile(` name=redbouncer\S* .* flags=[Net]+ .* sub=0 psub=0 (?:ssub=0 )?multi=(?:-1|0) `)

// problem notes what a victim noticed. The first one ends the attack.
func (w *tenants) problem(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.failed.Swap(true) {
		w.problems = append(w.problems, fmt.Sprintf(format, args...), "the latest attacks: "+strings.Join(w.latest, ", "))
	}
}

// attackOn makes one attack after the other.
func (w *tenants) attackOn(i int) {
	rnd := rand.New(rand.NewPCG(w.seed, uint64(i)))
	names := slices.Sorted(maps.Keys(attackKinds))
	for time.Now().Before(w.until) && !w.failed.Load() {
		name := names[rnd.IntN(len(names))]
		a := &attacker{w: w, rnd: rnd}
		if w.cuts {
			name = "an end at a certain byte"
			if !a.endAtNextByte() {
				return
			}
		} else {
			attackKinds[name](a)
		}
		a.vanish()
		w.mu.Lock()
		w.attacks[name]++
		w.latest = append(w.latest, name)
		w.latest = w.latest[max(0, len(w.latest)-12):]
		w.mu.Unlock()
	}
}

// tell reports what was done.
func (w *tenants) tell(t *testing.T) {
	for _, p := range w.problems {
		t.Error(p)
	}
	total := 0
	for _, n := range w.attacks {
		total += n
	}
	t.Logf("%d attacks: %v", total, w.attacks)
	t.Logf("replies checked: %v", w.replies)
	t.Logf("longest waits: %v", w.slowest)
	for name, d := range w.slowest {
		if d > tooSlow {
			t.Errorf("%s had to wait for %v", name, d)
		}
	}
	if t.Failed() {
		return
	}
	for _, v := range victims {
		if w.replies[v.name] == 0 {
			t.Errorf("%s was never served", v.name)
		}
	}
	if total == 0 {
		t.Error("nobody attacked")
	}
}
