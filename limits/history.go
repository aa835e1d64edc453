package limits

import (
	"math"
	"time"
)

// page is what the ledger knows of one value.
type page struct {
	// Static after construction.
	value string

	// mu guards the following fields.
	open    int
	refused uint64
	touched time.Time  // when a client came, went or was refused last
	current flow       // of the window that has not ended yet
	ids     Identities // of a typical client

	// looking guards the following fields. Observe holds mu as well when it changes them, but for sight.atOnce.
	command string // the command line of its process
	last    string // its last command
	goesBy  *page  // of a process's source without a name: one with a name, whose silent connections these may be
	sight   sight  // the last look
	sent    uint64 // what the clients had sent at the last look
	windows int    // how many of flows are filled
	flows   [keptWindows]flow
	peaks   [keptPeaks]uint32
	past    *past // of sources
}

// flow is what came and went in a window. It is kept small: there are many.
type flow struct {
	opens    int32 // those who moved to another page taken off again
	closes   int32
	short    int32  // closes after no more commands and time than the rule churn allows
	commands uint32 // sent
	spent    uint64 // commands of the connections that were closed, in their lifetime
}

// keptPeaks is how many spells of keptWindows each the peak of connections in use is remembered for: ten minutes, so that
// a pool that a burst each few minutes has need of is not told to become smaller.
const keptPeaks = 5

// past is what the leak rules look at, a source.
type past struct {
	levels [keptWindows]level
	trial
}

// level is how many connections there were at the end of a window.
type level struct {
	open   int32
	pool   int32 // not subscribed
	quiet  int32 // not in use, and idle for quietAfter
	silent int32 // never spoke, and are old enough to have
}

// quietAfter is when a connection counts as not used, as to the rule growing: two windows.
const quietAfter = 2 * LedgerWindow

// windowClock numbers the windows, and knows when each ended.
type windowClock struct {
	now   int // the number of the window that ended last
	ended [keptWindows + 1]time.Time
}

// tick ends a window.
func (c *windowClock) tick(now time.Time) {
	c.now++
	c.ended[c.now%len(c.ended)] = now
}

// slot is where a page has the window that ended so many windows ago.
func (c *windowClock) slot(ago int) int { return (c.now - ago + keptWindows) % keptWindows }

// elapsed is how long the last n windows took.
func (c *windowClock) elapsed(n int) time.Duration {
	began := c.ended[(c.now-n+len(c.ended))%len(c.ended)]
	if took := c.ended[c.now%len(c.ended)].Sub(began); !began.IsZero() && took > 0 {
		return took
	}
	return time.Duration(n) * LedgerWindow // nobody looked at its beginning
}

// turn ends the window: what has come and gone in it, and what the look at its end has seen, becomes history.
func (p *page) turn(c *windowClock) {
	if p.sight.window != c.now {
		p.sight = sight{window: c.now} // no client was seen
	}
	p.current.commands = p.commands()
	p.sent = p.sight.sent
	p.flows[c.slot(0)] = p.current
	p.current = flow{}
	p.windows = min(p.windows+1, keptWindows)

	peak := &p.peaks[c.now/keptWindows%keptPeaks]
	if c.now%keptWindows == 0 {
		*peak = 0
	}
	if p.flows[c.slot(0)].commands > 0 {
		*peak = max(*peak, 1) // too short to be seen
	}
	*peak = max(*peak, uint32(max(p.sight.inUse, p.sight.atOnce)))
	if p.past != nil {
		p.past.levels[c.slot(0)] = p.sight.level
	}
	if t := &p.sight.typical; t.ids != nil {
		p.ids, p.command, p.last = *t.ids, t.command, t.last
		p.sight.typical = typical{}
	}
}

// commands returns how many commands the clients have sent in the window that ends. In its first window a page takes no
// account of what clients have sent before they came here from another one.
func (p *page) commands() uint32 {
	before := p.sent
	if p.windows == 0 {
		before = p.sight.sentBefore
	}
	now := p.sight.sent + p.current.spent
	return uint32(min(max(now, before)-before, math.MaxUint32))
}

// flow returns the sum of the last n windows, as far as they are kept.
func (p *page) flow(c *windowClock, n int) (sum flow) {
	for ago := range min(n, p.windows) {
		sum.add(p.flows[c.slot(ago)])
	}
	return sum
}

func (f *flow) add(g flow) {
	f.opens += g.opens
	f.closes += g.closes
	f.short += g.short
	f.commands += min(g.commands, math.MaxUint32-f.commands)
	f.spent += g.spent
}

// peak is how many connections have been in use at once.
func (p *page) peak() int {
	var most uint32
	for _, n := range p.peaks {
		most = max(most, n)
	}
	return int(most)
}
