package limits_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// One rule a test, and what comes close to it and is none of its business. Each is a program that runs for a while, by
// the second, and what the ledger has told by then.

// watched runs one program, and notes what is told of it.
type watched struct {
	*pooled
	t    *testing.T
	told []string
	last limits.Notice
}

func watch(t *testing.T, rules string, step func(p *pooled)) *watched {
	t.Helper()
	s := newSimulation(1)
	s.ledger.SetRules(parse(t, rules))
	w := &watched{pooled: &pooled{simulation: s, ids: processOf(7, "app"), step: step}, t: t}
	s.notice = func(n limits.Notice) {
		w.last = n
		w.told = append(w.told, fmt.Sprintf("%ds %s %s", int(s.elapsed().Seconds()), n.What, n.Rule))
	}
	s.run(w.pooled, 0, 24*time.Hour)
	return w
}

// says lets time pass until a moment since the start, and checks what has been told meanwhile.
func (w *watched) says(until time.Duration, want ...string) {
	w.t.Helper()
	w.told = nil
	for w.elapsed() < until {
		w.simulation.second()
	}
	if !slices.Equal(w.told, want) {
		w.t.Errorf("until %v it was told: %s\nwant: %s", until, strings.Join(w.told, ", "), strings.Join(want, ", "))
	}
}

// because checks the reason, the advice and the size of the last notice.
func (w *watched) because(reason, advice string) {
	w.t.Helper()
	if !regexp.MustCompile("^" + reason + "$").MatchString(w.last.Reason) {
		w.t.Errorf("the reason is %q, want %q", w.last.Reason, reason)
	}
	if !strings.Contains(w.last.Advice, advice) {
		w.t.Errorf("the advice is %q, want %q in it", w.last.Advice, advice)
	}
}

// silent opens connections that say nothing, until there are n.
func (p *pooled) silent(n int) {
	for len(p.conns) < n {
		p.conns = append(p.conns, p.open(p.ids))
	}
}

func TestConnectionsThatNeverSpokeAreNamedFromAnAgeAndANumberOn(t *testing.T) {
	w := watch(t, "", func(p *pooled) { p.silent(14) })
	w.says(time.Minute)
	w.step = func(p *pooled) { p.silent(15) }
	w.says(2*time.Minute, "80s named never-spoke")
	w.because("15 of 15 connections have never sent a command, and are older than 10s", "opened in advance")
	w.step = func(p *pooled) { p.conns[0].handshake() }
	w.says(4*time.Minute, "180s cleared never-spoke")
	w.because("15 of 15 connections have never sent a command, and are older than 10s", "opened in advance")
}

func TestAPoolThatIsFilledInAdvanceByAProgramAtWorkIsTooLargeAtMost(t *testing.T) {
	for inUse, want := range map[int][]string{
		2:  {"40s named pool-too-large"},
		12: {"50s named never-spoke"}, // a fair use, and yet so many that are not
	} {
		w := watch(t, "", func(p *pooled) {
			p.silent(40)
			if p.age > 2 {
				p.atOnce(inUse, 10*time.Millisecond)
			}
		})
		w.says(2*time.Minute, want...)
	}
}

func TestASparePoolIsNotTakenForAProgramOfItsOwnBecauseItHasNotSaidItsName(t *testing.T) {
	bare := *processOf(7, "app")
	bare[limits.ByName] = ""
	for inUse, want := range map[int][]string{
		2:  {"40s named pool-too-large"},
		15: nil,
	} {
		w := watch(t, "", func(p *pooled) {
			for len(p.conns) < 24 {
				p.conns = append(p.conns, p.open(&bare))
			}
			if p.age < 2 {
				return
			}
			for _, c := range p.conns[:inUse] { // their name is the first that they say
				if c.ids == &bare {
					p.ledger.Changed(&bare, p.ids, p.now)
					c.ids = p.ids
				}
			}
			p.atOnce(inUse, 10*time.Millisecond)
		})
		w.says(5*time.Minute, want...)
		if inUse == 2 {
			w.because("24 connections are open, and at most 2 of them have been in use at once", "a pool of 5 would do")
			if s := w.last; s.Source != "python3[7] app" || s.Identities[limits.ByName] != "app" || s.Report.Open != 24 {
				t.Errorf("it is %s, known as %q, with %d connections", s.Source, s.Identities, s.Report.Open)
			}
		}
	}
}

func TestAConnectionPerRequestIsChurnUpToAFewCommands(t *testing.T) {
	request := func(commands uint64, lives int) func(p *pooled) {
		return func(p *pooled) {
			p.fill(len(p.conns) + 1)
			p.conns[len(p.conns)-1].commands = commands
			for len(p.conns) > lives {
				p.close(p.conns[0])
				p.conns = p.conns[1:]
			}
		}
	}
	w := watch(t, "", request(8, 0))
	w.says(time.Minute, "35s named churn")
	w.because(`\d+ connections were opened and \d+ closed in the last minute, with 8.0 commands each on average`,
		"made for each request")
	w.step = request(9, 0)
	w.says(5*time.Minute, "130s cleared churn")

	w = watch(t, "growing off", request(8, 29)) // they live for 29 s
	w.says(2*time.Minute, "65s named churn")
	w = watch(t, "growing off\npool-too-large off", request(8, 31))
	w.says(2 * time.Minute)
}

// Of connections that live for a millisecond, the process is not always found in time.
func TestWhoseProcessIsNotAlwaysFoundIsNamedOnce(t *testing.T) {
	lost := *processOf(7, "app")
	lost[limits.ByPID], lost[limits.ByProcess] = "", ""
	requests := func(found, missed int) func(*pooled) {
		return func(p *pooled) {
			for i := range found + missed {
				ids := p.ids
				if i >= found {
					ids = &lost
				}
				p.close(p.open(ids).handshake())
			}
		}
	}
	w := watch(t, "", requests(9, 1))
	w.says(5*time.Minute, "25s named churn")
	if w.last.Source != "python3[7] app" {
		t.Errorf("named is %s", w.last.Source)
	}
	watch(t, "", requests(1, 9)).says(time.Minute, "25s named churn", "35s named churn") // then there is somebody else, too
}

func TestARestartIsNoChurn(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		if p.age%15 == 14 {
			p.shrink(0)
		}
		p.fill(40)
		p.atOnce(20, time.Millisecond)
	})
	w.says(5 * time.Minute)
}

// leak is a request a second whose connection is not closed.
func leak(p *pooled) {
	p.fill(len(p.conns) + 1)
	p.command(p.conns[len(p.conns)-1], "hgetall", time.Millisecond)
}

func TestAConnectionThatIsNotClosedIsALeakForAsLongAsHalfOfThemAreThere(t *testing.T) {
	rest := func(*pooled) {}
	w := watch(t, "pool-too-large off\nidle-hoard off", leak)
	w.says(2*time.Minute, "40s named growing")
	w.because("open connections rose from 10 to 40 in 30s, and 30 of them are not used",
		"not closed or given back on every way out, errors included; the last command of most was hgetall")
	w.step = rest // it has stopped, and its connections are there
	w.says(10*time.Minute, "340s still growing")
	w.because("open connections rose from 10 to 120 in 330s, and 120 of them are not used", "hgetall")
	w.shrink(70)
	w.says(11*time.Minute, "640s still growing")
	w.shrink(50)
	w.says(12*time.Minute, "720s cleared growing")
}

func TestASlowLeakIsFoundInTheLastTwoMinutes(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		if p.age%7 == 0 {
			leak(p)
		}
	})
	w.says(150*time.Second, "125s named growing")
	w.because("open connections rose from 2 to 18 in 115s, and 17 of them are not used", "errors included")
}

func TestForgottenSubscribersAreALeakAndConstantOnesAreNot(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		p.fill(30)
		if p.age > 120 {
			p.fill(len(p.conns) + 2)
		}
		for _, c := range p.conns {
			c.subscribed = true
		}
	})
	w.says(2 * time.Minute)
	w.says(3*time.Minute, "155s named growing")
	w.because(`open connections rose from 3\d to \d+ in 30s, and \d+ of them are not used`, "unsubscribe and close")
}

func TestAPoolThatGrowsAndIsUsedIsNoLeak(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		p.fill(min(p.age+5, 200))
		p.atOnce(len(p.conns), time.Millisecond)
	})
	w.says(5 * time.Minute)
}

func TestAClientThatNamesItselfDoesNotLookLikeALeak(t *testing.T) {
	// All connect as python3[7], and become python3[7] app at once, or later.
	bare := *processOf(7, "app")
	bare[limits.ByName] = ""
	w := watch(t, "", nil)
	w.step = func(p *pooled) {
		if p.age%10 != 9 {
			return
		}
		for _, c := range p.conns {
			p.ledger.Changed(c.ids, processOf(7, "app"), p.now)
			c.ids = processOf(7, "app")
		}
		p.shrink(0)
		named := p.ids
		p.ids = &bare
		p.fill(30)
		p.ids = named
	}
	w.says(5 * time.Minute)
	for _, r := range w.ledger.BySource() {
		if r.Value == "python3[7]" && (r.Closes != 0 || r.Opens > 30 || r.Open != 30) {
			t.Errorf("%s: %d open, %d opens, %d closes in the last minute", r.Value, r.Open, r.Opens, r.Closes)
		}
	}
}

func TestAPoolThatIsTooLargeIsToldWhichSizeWouldDo(t *testing.T) {
	use := func(open, inUse int) func(p *pooled) {
		return func(p *pooled) {
			p.fill(open)
			if p.age > 2 {
				p.atOnce(inUse, time.Millisecond)
			}
		}
	}
	w := watch(t, "", use(60, 2))
	w.says(time.Minute, "40s named pool-too-large")
	w.because("60 connections are open, and at most 2 of them have been in use at once", "a pool of 5 would do")
	if w.last.Size != 5 {
		t.Errorf("the size that would do is %d", w.last.Size)
	}
	w.step = use(60, 16) // more than a quarter
	w.says(2*time.Minute, "120s cleared pool-too-large")

	w = watch(t, "", use(60, 15))
	w.says(time.Minute, "40s named pool-too-large")
	w.because("60 .*", "a pool of 22 would do")
	w = watch(t, "", use(19, 1))
	w.says(2 * time.Minute)
	w = watch(t, "", func(p *pooled) {
		use(60, 2)(p)
		for _, c := range p.conns[19:] {
			c.subscribed = true
		}
	})
	w.says(2 * time.Minute)
}

func TestABurstEachFewMinutesIsRemembered(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		p.fill(40)
		if p.age%240 == 14 { // between two looks
			p.atOnce(20, time.Millisecond)
		}
		p.atOnce(1, time.Millisecond)
	})
	w.says(time.Hour)
}

func TestMostConnectionsIdleForLongAreAHoard(t *testing.T) {
	w := watch(t, "", func(p *pooled) { p.fill(20) })
	w.says(8*time.Minute, "310s named idle-hoard")
	w.because("20 of 20 connections have been idle for longer than 300s", "idle timeout")
	w.step = func(p *pooled) { p.fill(26) } // 20 of 26 are less than 80 %
	w.says(9*time.Minute, "540s cleared idle-hoard")

	w = watch(t, "", func(p *pooled) { p.fill(19) })
	w.says(10 * time.Minute)
	w = watch(t, "", func(p *pooled) {
		p.fill(40)
		for _, c := range p.conns {
			c.until = p.now.Add(time.Hour) // blocked
		}
	})
	w.says(10 * time.Minute)
}

func TestTheMoreTellingRuleTakesOver(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		p.fill(30)
		p.command(p.conns[0], "get", time.Millisecond)
	})
	w.says(time.Minute, "40s named pool-too-large")
	w.step = leak
	w.says(2*time.Minute, "95s named growing")
	w.step = func(p *pooled) { p.silent(110) }
	w.says(3*time.Minute, "140s named never-spoke")
	if got := w.ledger.Suspects(); len(got) != 1 || got[0].Rule != limits.NeverSpoke || got[0].Since != after(140) {
		t.Errorf("the suspects are %+v", got)
	}
}

func TestASuspectWhoHasGoneIsClearedOnce(t *testing.T) {
	w := watch(t, "again every 20s", leak)
	w.says(85*time.Second, "40s named growing", "60s still growing", "80s still growing")
	w.step = func(p *pooled) { p.shrink(0) }
	w.says(time.Hour, "100s still growing", "120s still growing", "140s still growing", "145s cleared growing")
	if got := w.ledger.Suspects(); len(got) != 0 {
		t.Errorf("the suspects are %+v", got)
	}
}

func TestARuleThatIsSwitchedOffClearsItsSuspects(t *testing.T) {
	w := watch(t, "", leak)
	w.says(time.Minute, "40s named growing")
	w.ledger.SetRules(parse(t, "growing off\npool-too-large off"))
	w.says(2*time.Minute, "65s cleared growing")
}

func TestASuspectSaysWhoItIs(t *testing.T) {
	w := watch(t, "", leak)
	w.says(time.Minute, "40s named growing")
	s := w.ledger.Suspects()[0]
	if s.Source != "python3[7] app" || s.Identities != *processOf(7, "app") || s.Report.Last != "hgetall" {
		t.Errorf("the suspect is %+v", s)
	}
	oldest := s.Report.Oldest
	if len(oldest) != 3 || oldest[0].Remote != "127.0.0.1:1" || oldest[0].Age < oldest[1].Age || oldest[0].Idle < 55*time.Second {
		t.Errorf("its oldest connections are %+v", oldest)
	}
}

func TestTheLastCommandIsThatOfTheConnectionsThatAreNotUsed(t *testing.T) {
	w := watch(t, "", func(p *pooled) {
		p.fill(max(50, len(p.conns)))
		p.atOnce(50, 10*time.Millisecond)
		leak(p)
	})
	w.says(time.Minute, "40s named growing")
	w.because("open connections rose from 60 to 90 in 30s, and 30 of them are not used", "was hgetall")
}
