package limits

import (
	"fmt"
	"time"
)

// The leak rules. Each looks at the history of one source, and at no other; why its thresholds are what they are stands
// beside them, in suspectrules.go.

// leakCase is a source as a leak rule sees it.
type leakCase struct {
	*page
	rules *SuspectRules
	clock *windowClock
	among map[string]*page // all sources
}

// leakTest is a leak rule: whether it holds now, and what it has to say then.
type leakTest struct {
	rule  LeakRule
	holds func(leakCase) bool
	tell  func(leakCase) (reason, advice string)
}

// leakRules is how many rules there are.
const leakRules = 5

// leakTests are the leak rules in the order of their precedence.
var leakTests = [leakRules]leakTest{
	{NeverSpoke, leakCase.neverSpoke, leakCase.tellNeverSpoke},
	{Churn, leakCase.churns, leakCase.tellChurn},
	{Growing, leakCase.grows, leakCase.tellGrowing},
	{PoolTooLarge, leakCase.poolTooLarge, leakCase.tellPoolTooLarge},
	{IdleHoard, leakCase.hoards, leakCase.tellHoard},
}

// level is how many connections there were, so many windows ago.
func (c leakCase) level(ago int) *level { return &c.past.levels[c.clock.slot(ago)] }

// commandsSent is how many commands were sent in n windows, the last of which ended so many windows ago.
func (c leakCase) commandsSent(ago, n int) (sum float64) {
	for i := range n {
		sum += float64(c.flows[c.clock.slot(ago+i)].commands)
	}
	return sum
}

func windowsIn(d time.Duration) int { return int((d + LedgerWindow - 1) / LedgerWindow) }

// neverSpoke: a program that is at work and has filled its pool in advance is not named by this rule but, if it comes to
// that, by pool-too-large, which says what to do. So unless there are more and more connections, that one is given time.
func (c leakCase) neverSpoke() bool {
	rule := c.rules.NeverSpoke
	if rule.Off || int(c.level(0).silent) < rule.Clients {
		return false
	}
	const late = 4
	if c.rules.PoolTooLarge.Off || c.commandsSent(0, min(c.windows, late)) == 0 {
		return true
	}
	rises := 0
	for ago := range min(c.windows-1, late) {
		if c.level(ago).open > c.level(ago+1).open {
			rises++
		}
	}
	return rises > 1 || c.windows > windowsIn(c.rules.PoolTooLarge.Over)+namedAfter && !c.poolTooLarge()
}

func (c leakCase) tellNeverSpoke() (reason, advice string) {
	l := c.level(0)
	return fmt.Sprintf("%d of %d connections have never sent a command, and are older than %s",
			l.silent, l.open, shortSpan(c.rules.NeverSpoke.After)),
		"look for connections that are opened in advance, or to see whether Redis is there, and are neither used nor " +
			"closed; lower the number of idle connections that the pool keeps"
}

// churns: opens and closes are both spread over the last minute. Otherwise it is a restart.
func (c leakCase) churns() bool {
	rule := c.rules.Churn
	if rule.Off || int(c.flow(c.clock, minute).short) < rule.Opens {
		return false
	}
	const spread, of = 4, 6
	busy := 0
	for ago := range min(of, c.windows) {
		if f := c.flows[c.clock.slot(ago)]; f.short > 0 && f.opens > 0 {
			busy++
		}
	}
	return busy >= spread
}

func (c leakCase) tellChurn() (reason, advice string) {
	recent := c.flow(c.clock, minute)
	return fmt.Sprintf("%d connections were opened and %d closed in the last minute, with %.1f commands each on average",
			recent.opens, recent.closes, float64(recent.spent)/float64(max(recent.closes, 1))),
		"look for a client that is made for each request or command; make one when the program starts, with a pool, and " +
			"let all requests use it"
}

// grows: connections become more, and so do those that are not used.
func (c leakCase) grows() bool {
	rule := c.rules.Growing
	if rule.Off {
		return false
	}
	return c.growsOver(windowsIn(rule.Over)) || c.growsOver(keptWindows-1)
}

func (c leakCase) growsOver(n int) bool {
	if c.windows <= n {
		return false
	}
	third := n / 3
	open := [4]int{}
	for i, ago := range [4]int{n, n - third, third, 0} {
		open[i] = int(c.level(ago).open)
	}
	rise, unused := open[3]-open[0], int(c.level(0).quiet-c.level(n).quiet)
	if !rises(open, c.rules.Growing.Clients) || unused < c.rules.Growing.Clients || 2*unused < rise {
		return false // or most of what came is used
	}
	// Where connections come and go by chance, their number strays by the root of how many did. With the default of 15, the
	// rise is four times that; and where none has gone, this asks for no more than the rule does.
	if f := c.flow(c.clock, n); rise*rise < c.rules.Growing.Clients*int(f.opens+f.closes) {
		return false
	}
	// Those that are not used for a moment are excused if commands have become more as well, at least half as fast. They
	// never come evenly: what is less than half as many again is chance.
	before, after := c.commandsSent(n-third, third), c.commandsSent(0, third)
	faster := float64(open[3]) / float64(max(open[0], 1))
	return after <= before*max(1.5, 1+(faster-1)/2)
}

// rises reports whether a number has become larger by that much, and a good part of it in each third of the time.
func rises(at [4]int, by int) bool {
	total := at[3] - at[0]
	if total < by {
		return false
	}
	for i := range 3 {
		if at[i+1]-at[i] < max(1, total/10) {
			return false
		}
	}
	return true
}

func (c leakCase) tellGrowing() (reason, advice string) {
	l, t := c.level(0), &c.past.trial
	reason = fmt.Sprintf("open connections rose from %d to %d in %s, and %d of them are not used",
		t.from.open, l.open, shortSpan(c.clock.ended[c.clock.now%len(c.clock.ended)].Sub(t.fromTime).Round(time.Second)), l.quiet)
	if 2*c.sight.subscribed > int(l.open) {
		return reason, "most are subscribed: unsubscribe and close when whoever listened has gone, or let all share one " +
			"subscribed connection"
	}
	advice = "look for a connection that is opened, or taken from the pool, and not closed or given back on every way out, " +
		"errors included"
	if c.last != "" {
		advice += "; the last command of most was " + c.last
	}
	return reason, advice
}

// poolTooLarge: the size has settled, so that this is no leak, and far fewer than that have ever been in use at once.
func (c leakCase) poolTooLarge() bool {
	rule := c.rules.PoolTooLarge
	n := windowsIn(rule.Over)
	if rule.Off || c.windows <= n {
		return false
	}
	least, now := int(c.level(0).pool), int(c.level(0).pool)
	for ago := range n + 1 {
		least = min(least, int(c.level(ago).pool))
	}
	if least < rule.Clients || now-least > now/10 || c.commandsSent(0, n) == 0 {
		return false
	}
	return c.peak()*100 <= now*rule.Use
}

// sizeThatWouldDo is the peak and half as many again, and at least three more.
func (c leakCase) sizeThatWouldDo() int { return c.peak() + max(c.peak()/2, 3) }

func (c leakCase) tellPoolTooLarge() (reason, advice string) {
	return fmt.Sprintf("%d connections are open, and at most %d of them have been in use at once", c.level(0).pool, c.peak()),
		fmt.Sprintf("a pool of %d would do: lower the largest size of the pool, and the number of idle connections it keeps",
			c.sizeThatWouldDo())
}

func (c leakCase) hoards() bool {
	rule, open, idle := c.rules.IdleHoard, int(c.level(0).open), c.sight.idle
	return !rule.Off && idle >= rule.Clients && idle*100 >= open*rule.Share
}

func (c leakCase) tellHoard() (reason, advice string) {
	advice = "let the pool close what it has not used for a while (an idle timeout); if it does, look for connections that " +
		"are taken from it and not given back"
	if c.last != "" {
		advice += ", after the command " + c.last
	}
	return fmt.Sprintf("%d of %d connections have been idle for longer than %s",
		c.sight.idle, c.level(0).open, shortSpan(c.rules.IdleHoard.Idle)), advice
}
