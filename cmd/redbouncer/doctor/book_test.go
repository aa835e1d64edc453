package doctor

import (
	"fmt"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// crowd is a server's clients over time, in whole seconds as CLIENT LIST tells of them.
type crowd struct {
	now     time.Time
	nextID  int64
	clients []*member
}

type member struct {
	id         int64
	name, last string
	born, used time.Time
	channels   int
}

func newCrowd() *crowd { return &crowd{now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)} }

func (c *crowd) open(name, last string) *member {
	c.nextID++
	m := &member{id: c.nextID, name: name, last: last, born: c.now, used: c.now}
	c.clients = append(c.clients, m)
	return m
}

func (c *crowd) list() (all []client) {
	for _, m := range c.clients {
		all = append(all, client{
			id: m.id, addr: fmt.Sprintf("10.0.0.1:%d", 1000+m.id), host: "10.0.0.1", name: m.name, flags: "N", last: m.last, queued: -1,
			channels: m.channels, age: c.now.Sub(m.born).Truncate(time.Second), idle: c.now.Sub(m.used).Truncate(time.Second),
		})
	}
	return all
}

// live lets seconds go by. What happens in each is for do to say, and may be nil.
func (c *crowd) live(seconds int, do func(second int)) {
	for i := range seconds {
		c.now = c.now.Add(time.Second)
		if do != nil {
			do(i)
		}
	}
}

// named lets two minutes go by, then watches for as long as doctor does by default, and returns the rules that hold, by name.
func (c *crowd) named(do func(second int)) map[string]limits.LeakRule {
	c.live(120, do)
	b := newBook(c.list(), c.now)
	for i := range 10 {
		c.live(1, func(int) {
			if do != nil {
				do(120 + i)
			}
		})
		b.see(c.list(), c.now)
	}
	named := map[string]limits.LeakRule{}
	for _, s := range b.suspects() {
		named[s.Identities[limits.ByName]] = s.Rule
	}
	return named
}

func TestConnectionsThatAreNotClosedAreNamed(t *testing.T) {
	c := newCrowd()
	named := c.named(func(i int) {
		if i%2 == 0 {
			c.open("leaky", "hget")
		}
	})
	if named["leaky"] != limits.Growing || len(named) != 1 {
		t.Errorf("named: %v", named)
	}
}

func TestForgottenSubscribersAreNamedAlthoughTheyPing(t *testing.T) {
	c := newCrowd()
	named := c.named(func(i int) {
		c.open("news", "subscribe").channels = 1
		for _, m := range c.clients {
			if i%3 == 0 {
				m.used, m.last = c.now, "ping"
			}
		}
	})
	if named["news"] != limits.Growing {
		t.Errorf("named: %v", named)
	}
}

func TestConnectionsThatNeverSpokeAreNamed(t *testing.T) {
	c := newCrowd()
	for range 20 {
		c.open("", "")
	}
	if named := c.named(nil); named[""] != limits.NeverSpoke {
		t.Errorf("named: %v", named)
	}
}

func TestAPoolOfWhichTwoAreUsedIsTooLarge(t *testing.T) {
	c := newCrowd()
	var pool []*member
	for range 60 {
		pool = append(pool, c.open("shop", "get"))
	}
	named := c.named(func(int) { pool[0].used, pool[1].used = c.now, c.now })
	if named["shop"] != limits.PoolTooLarge {
		t.Errorf("named: %v", named)
	}
}

func TestConnectionsThatNobodyNeedsAreNamed(t *testing.T) {
	c := newCrowd()
	for range 40 {
		c.open("report", "get")
	}
	c.live(400, nil)
	if named := c.named(nil); named["report"] != limits.IdleHoard {
		t.Errorf("named: %v", named)
	}
}

func TestAConnectionForEachCommandIsNamedIfItIsSeenForLongEnough(t *testing.T) {
	c := newCrowd()
	b := newBook(c.list(), c.now)
	c.live(60, func(int) {
		c.clients = nil
		c.open("cgi", "get")
		b.see(c.list(), c.now)
	})
	if s := b.suspects(); len(s) != 1 || s[0].Rule != limits.Churn {
		t.Errorf("suspects: %+v", s)
	}
	if source, n := b.topBrief(); source != "10.0.0.1 cgi" || n < 50 {
		t.Errorf("most brief ones are %d of %q", n, source)
	}
}

func TestPoolsAtWorkAreNotNamed(t *testing.T) {
	for name, do := range map[string]func(c *crowd) func(int){
		"one that is busy": func(c *crowd) func(int) {
			for range 30 {
				c.open("web", "get")
			}
			return func(int) {
				for _, m := range c.clients {
					m.used = c.now
				}
			}
		},
		// What is left of it looks as if it had grown: those that were closed are not in the list.
		"one whose connections live for a minute": func(c *crowd) func(int) {
			return func(i int) {
				c.open("web", "get")
				if len(c.clients) > 60 {
					c.clients = c.clients[1:]
				}
				for k := range 20 {
					if k < len(c.clients) {
						c.clients[(i*7+k)%len(c.clients)].used = c.now
					}
				}
			}
		},
		"one that has been deployed": func(c *crowd) func(int) {
			return func(i int) {
				if i == 60 {
					for range 18 {
						c.open("web", "get")
					}
				}
				for _, m := range c.clients {
					m.used = c.now
				}
			}
		},
	} {
		c := newCrowd()
		if named := c.named(do(c)); len(named) != 0 {
			t.Errorf("%s is named: %v", name, named)
		}
	}
}
