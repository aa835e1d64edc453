package limits_test

import (
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// The programs of the simulation.

// pooled is what programs have in common.
type pooled struct {
	*simulation
	ids   *limits.Identities
	conns []*simulated
	step  func(*pooled)
	age   int // seconds
}

func (p *pooled) second() { p.step(p); p.age++ }

func (p *pooled) stop() { p.shrink(0) }

// fill opens connections, with a handshake, until there are n.
func (p *pooled) fill(n int) {
	for len(p.conns) < n {
		p.conns = append(p.conns, p.open(p.ids).handshake())
	}
}

// shrink closes connections until there are n.
func (p *pooled) shrink(n int) {
	for len(p.conns) > n {
		p.close(p.conns[len(p.conns)-1])
		p.conns = p.conns[:len(p.conns)-1]
	}
}

// atOnce sends a command on the first n connections, at the same moment.
func (p *pooled) atOnce(n int, takes time.Duration) {
	at := p.instant()
	for _, c := range p.conns[:n] {
		if c.last.Before(at) {
			c.commands, c.what, c.last, c.until = c.commands+1, "get", at, at.Add(takes)
		}
	}
}

func healthyPrograms(s *simulation) []program {
	programs := slices.Concat(steadyPrograms(s), movingPrograms(s))
	for i := range 200 {
		programs = append(programs, pod(s, i))
	}
	return programs
}

func pod(s *simulation, i int) program {
	return &pooled{simulation: s, ids: podOf(i), step: func(p *pooled) {
		p.fill(1)
		for range s.chance(0.01) {
			s.command(p.conns[0], "get", time.Millisecond)
		}
	}}
}

// steadyPrograms keep what they have.
func steadyPrograms(s *simulation) []program {
	steps := map[string]func(*pooled){
		"steady": func(p *pooled) {
			p.fill(10)
			for range s.chance(2) {
				s.command(p.conns[0], "get", time.Millisecond)
			}
		},
		"idle": func(p *pooled) { p.fill(15) },
		"filled-in-advance": func(p *pooled) { // without a handshake
			for len(p.conns) < 12 {
				p.conns = append(p.conns, s.open(p.ids))
			}
			for range s.chance(0.2) {
				s.command(p.conns[0], "get", time.Millisecond)
			}
		},
		"worker": func(p *pooled) {
			p.fill(20)
			for _, c := range p.conns {
				if c.until.Before(s.now) {
					s.command(c, "blpop", time.Duration(s.rnd.IntN(600))*time.Second)
				}
			}
		},
		"subscribers": func(p *pooled) {
			p.fill(30)
			for _, c := range p.conns {
				c.subscribed, c.what = true, "subscribe"
			}
		},
		"busy": func(p *pooled) { // 12 to 45 of 50 at once, now and then
			p.fill(50)
			for range 3 {
				p.atOnce(12+s.rnd.IntN(34), time.Duration(s.rnd.IntN(30))*time.Millisecond)
			}
		},
		"rarely-busy": func(p *pooled) { // a burst of some milliseconds, which no look meets
			p.fill(40)
			if p.age%60 == 14 {
				p.atOnce(25, 2*time.Millisecond)
			}
			for range s.chance(5) {
				s.command(p.conns[0], "get", time.Millisecond)
			}
		},
	}
	return inOrder(s, 100, steps)
}

// movingPrograms open and close.
func movingPrograms(s *simulation) []program {
	burst, size := 0, 0
	steps := map[string]func(*pooled){
		"bursts": func(p *pooled) { // 10, then 60 for a few seconds, then fewer and fewer
			p.fill(10)
			if burst == 0 && s.rnd.IntN(240) == 0 {
				burst = 5 + s.rnd.IntN(20)
			}
			switch {
			case burst > 0:
				burst--
				p.fill(60)
				p.atOnce(30+s.rnd.IntN(31), time.Duration(s.rnd.IntN(900))*time.Millisecond)
			case len(p.conns) > 10 && s.rnd.IntN(2) == 0:
				p.shrink(len(p.conns) - 1)
			}
			p.atOnce(s.rnd.IntN(6), time.Millisecond)
		},
		"deployed": func(p *pooled) { // a new process each minute or so
			if p.age%70 == 0 {
				p.shrink(0)
				p.ids = processOf(10_000+p.age, "deployed")
			}
			p.fill(30)
			p.atOnce(s.rnd.IntN(20), time.Millisecond)
		},
		"restarted": func(p *pooled) { // known by its address: the same source
			if p.age%65 == 0 {
				p.shrink(0)
				p.ids = podOf(300)
			}
			p.fill(30)
			p.atOnce(s.rnd.IntN(20), time.Millisecond)
		},
		"timer": func(p *pooled) { // a script each minute
			p.shrink(0)
			if p.age%60 == 7 {
				p.ids = processOf(20_000+p.age, "")
				p.fill(1)
				s.command(p.conns[0], "set", time.Millisecond)
			}
		},
		"warm-up": func(p *pooled) { // traffic that grows, falls, and grows again
			p.fill(min(60, 5+p.age%900/2))
			if p.age%900 == 899 {
				p.shrink(5)
			}
			for range 5 {
				p.atOnce(len(p.conns)*(50+s.rnd.IntN(50))/100, 10*time.Millisecond)
			}
		},
		"records": func(p *pooled) { // a connection more whenever more are needed at once than ever
			need := 8 + s.rnd.IntN(8) + s.rnd.IntN(8) + s.rnd.IntN(8)
			size = max(size, need)
			p.fill(size)
			p.atOnce(need, 2*time.Millisecond)
		},
		"presence": func(p *pooled) { // subscribers that come and go, some 50 of them
			if p.age == 0 {
				p.fill(50)
			}
			for range s.chance(0.4) {
				p.fill(len(p.conns) + 1)
			}
			for i := len(p.conns) - 1; i >= 0; i-- {
				p.conns[i].subscribed, p.conns[i].what = true, "subscribe"
				if s.rnd.IntN(125) == 0 {
					s.close(p.conns[i])
					p.conns = slices.Delete(p.conns, i, i+1)
				}
			}
		},
	}
	return inOrder(s, 200, steps)
}

// inOrder makes programs of their steps, in the same order each time.
func inOrder(s *simulation, pid int, steps map[string]func(*pooled)) (programs []program) {
	names := make([]string, 0, len(steps))
	for name := range steps {
		names = append(names, name)
	}
	slices.Sort(names)
	for i, name := range names {
		programs = append(programs, &pooled{simulation: s, ids: processOf(pid+i, name), step: steps[name]})
	}
	return programs
}

// leakerKind is a kind of program that leaks, and the rule that is to name it.
type leakerKind struct {
	name string
	rule limits.LeakRule
	step func(s *simulation, rate float64) func(*pooled)
}

func (k leakerKind) make(s *simulation, ids *limits.Identities) program {
	return &pooled{simulation: s, ids: ids, step: k.step(s, 1+s.rnd.Float64())}
}

var leakerKinds = []leakerKind{
	{"connection-per-request", limits.Churn, func(s *simulation, rate float64) func(*pooled) {
		return func(p *pooled) {
			for range s.chance(rate) {
				c := s.open(p.ids).handshake()
				s.command(c, "get", time.Millisecond)
				s.close(c)
			}
		}
	}},
	{"no-close-on-error", limits.Growing, func(s *simulation, rate float64) func(*pooled) {
		busy := s.rnd.IntN(5)
		return func(p *pooled) {
			p.fill(max(len(p.conns), 5))
			p.atOnce(busy, time.Millisecond)
			for range s.chance(rate) {
				p.fill(len(p.conns) + 1)
				s.command(p.conns[len(p.conns)-1], "hget", time.Millisecond)
			}
		}
	}},
	{"leak-in-a-busy-program", limits.Growing, func(s *simulation, rate float64) func(*pooled) {
		return func(p *pooled) {
			p.fill(max(len(p.conns), 40))
			p.atOnce(10+s.rnd.IntN(30), time.Duration(s.rnd.IntN(900))*time.Millisecond)
			for range s.chance(rate) {
				p.fill(len(p.conns) + 1)
				s.command(p.conns[len(p.conns)-1], "watch", time.Millisecond)
			}
		}
	}},
	{"pool-of-60", limits.PoolTooLarge, poolOf60},
	{"forgotten-subscribers", limits.Growing, func(s *simulation, rate float64) func(*pooled) {
		return func(p *pooled) {
			for range s.chance(rate) {
				p.fill(len(p.conns) + 1)
				c := p.conns[len(p.conns)-1]
				s.command(c, "subscribe", time.Millisecond)
				c.subscribed = true
			}
		}
	}},
	{"never-used", limits.NeverSpoke, func(s *simulation, rate float64) func(*pooled) {
		return func(p *pooled) {
			for range s.chance(rate) {
				p.conns = append(p.conns, s.open(p.ids))
			}
		}
	}},
}

// poolOf60 uses one or two of its connections: always the same, or all in turn.
func poolOf60(s *simulation, _ float64) func(*pooled) {
	inTurn, greets, rate := s.rnd.IntN(2) == 0, s.rnd.IntN(2) == 0, float64(1+s.rnd.IntN(20))
	next := 0
	return func(p *pooled) {
		for len(p.conns) < 60 {
			c := s.open(p.ids)
			if greets {
				c.handshake()
			}
			p.conns = append(p.conns, c)
		}
		for range s.chance(rate) {
			c := p.conns[s.rnd.IntN(2)]
			if inTurn {
				c, next = p.conns[next%60], next+1
			}
			s.command(c, "get", 3*time.Millisecond)
		}
	}
}
