package multiplex_test

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// client returns the client of a name, who enters the context that keys has for it.
func (s *stage) client(name string) *client {
	c := s.clients[name]
	if c == nil {
		key, ok := s.keys[name]
		if !ok {
			key = s.pool.Initial()
		}
		c = &client{s: s}
		s.do(func() {
			c.ctx = s.pool.Context(key)
			c.ctx.Enter()
		})
		s.clients[name] = c
	}
	return c
}

// client is a session as far as the pool can tell. It is owned by the loop.
type client struct {
	s   *stage
	ctx *multiplex.Context
	pin *multiplex.Link // submits to it, while there is one

	request  *multiplex.PinRequest
	waiting  []func(*multiplex.Link) // until there is a lane
	inFlight int
	got      []byte
	events   []string // lost, failed
	err      error    // that came with the last of them
	gone     bool
}

func (c *client) submit(raw []byte, flags multiplex.Flags) {
	c.onLink(func(k *multiplex.Link) { k.Submit(c, raw, flags) })
	c.inFlight++
}

// onLink has f called with the lane, or the pin, at once or when it is there.
func (c *client) onLink(f func(*multiplex.Link)) {
	switch link := c.ctx.Link(); {
	case c.pin != nil:
		f(c.pin)
	case link != nil:
		f(link)
	default:
		c.waiting = append(c.waiting, f)
		c.ctx.Await(c)
	}
}

// pinDone receives the pin that was asked for.
func (c *client) pinDone(k *multiplex.Link, err error) {
	if c.pin = k; err != nil {
		c.happened("failed", err)
	}
}

// LaneReady implements multiplex.Waiter.
func (c *client) LaneReady() {
	for _, f := range c.waiting {
		f(c.ctx.Link())
	}
	c.waiting = nil
}

// LaneFailed implements multiplex.Waiter.
func (c *client) LaneFailed(err error) {
	c.waiting, c.inFlight = nil, 0
	c.happened("failed", err)
}

// Reply implements multiplex.Client.
func (c *client) Reply(b []byte, done int) {
	c.got = append(c.got, b...)
	if c.inFlight -= done; c.inFlight < 0 {
		c.s.t.Errorf("more replies are complete than commands were sent, with %q", b)
	}
}

// Lost implements multiplex.Client.
func (c *client) Lost(err error) {
	c.pin, c.inFlight = nil, 0
	c.happened("lost", err)
}

// Gone implements multiplex.Client.
func (c *client) Gone() bool { return c.gone }

func (c *client) happened(event string, err error) {
	c.events = append(c.events, event)
	c.err = err
}

// expect waits for these bytes, and takes them.
func (c *client) expect(want string) error {
	var got string
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		c.s.do(func() {
			if got = string(c.got[:min(len(c.got), len(want))]); got == want {
				c.got = c.got[len(want):]
			}
		})
		switch {
		case got == want:
			return nil
		case !strings.HasPrefix(want, got) || time.Now().After(deadline):
			return fmt.Errorf("got  %q", got)
		}
	}
}

// event makes something happen to a client, or waits for what has: "open" (it asks for a lane), "linked", "unlinked",
// "leave" (it goes), "barrier" (behind what it has submitted), "mute CMD", "idle" (all is answered), "lost", "failed";
// "pin" (it asks for one), "pinned", "release", "discard", "cancel".
func (c *client) event(what string) error {
	verb, rest, _ := strings.Cut(what, " ")
	switch verb {
	case "open":
		c.s.do(func() { c.onLink(func(*multiplex.Link) {}) })
	case "linked":
		c.s.until("a lane", func() bool { return c.ctx.Link() != nil })
	case "unlinked":
		c.s.until("the lane to go", func() bool { return c.ctx.Link() == nil })
	case "leave":
		c.s.do(func() { c.gone = true; c.ctx.Abandon(c); c.ctx.Leave() })
	case "barrier":
		c.s.do(func() { c.onLink((*multiplex.Link).Barrier) })
	case "mute":
		raw := resp.AppendCommand(nil, strings.Fields(rest)...)
		c.s.do(func() { c.submit(raw, multiplex.Safe|multiplex.Mute) })
	case "idle":
		c.s.until("all to be answered", func() bool { return c.inFlight == 0 })
	case "pin":
		c.s.do(func() {
			if c.pin, c.request = c.s.pool.AcquirePin(c.ctx, c, c.pinDone); c.pin != nil && c.request != nil {
				c.s.t.Error("there is a pin and a request for one")
			}
		})
	case "pinned":
		c.s.until("a pin", func() bool { return c.pin != nil })
	case "release":
		c.s.do(func() { c.s.pool.ReleasePin(c.pin); c.pin = nil })
	case "discard":
		c.s.do(func() { c.s.pool.DiscardPin(c.pin); c.pin = nil })
	case "cancel":
		c.s.do(func() { c.request.Cancel() })
	case "lost", "failed":
		c.s.until("the client to be told "+what, func() bool {
			i := slices.Index(c.events, what)
			if i >= 0 {
				c.events = slices.Delete(c.events, i, i+1)
			}
			return i >= 0
		})
	default:
		return fmt.Errorf("%s: no such event", what)
	}
	return nil
}
