package limits

import (
	"sync"
	"time"
)

// Guesses slows down who tries passwords. A source that has given several wrong ones has to wait before the next is checked,
// twice as long each time, whatever the number of its connections: they take turns. One right password ends it, and so does a
// minute without a wrong one.
//
// The sources are those of Identities.Source, without the name, which a client chooses.
type Guesses struct {
	// mu guards the following fields.
	mu      sync.Mutex
	most    time.Duration
	sources map[string]*guesser
}

// guesser is a source that has given a wrong password lately.
type guesser struct {
	wrong int
	last  time.Time
	turn  time.Time // when the next check may begin
}

const (
	// freeGuesses are not waited for: a program with an old password, or somebody who mistypes, is told at once.
	freeGuesses = 5
	firstWait   = 50 * time.Millisecond
	// guessMemory is how long a wrong password is held against a source.
	guessMemory = time.Minute
	// mostTurns is how many checks of a source may wait for their turn. Those beyond it are not made.
	mostTurns = 16
	// maxGuessers bounds the sources that are remembered; those beyond it are not slowed down.
	maxGuessers = 4096
)

// NewGuesses returns what lets a source wait for most at last; zero or less: never.
func NewGuesses(most time.Duration) *Guesses {
	return &Guesses{most: most, sources: map[string]*guesser{}}
}

// SetMost changes how long a source waits at last.
func (g *Guesses) SetMost(most time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.most = most; most <= 0 {
		clear(g.sources)
	}
}

// Turn returns how long a source has to wait until its next password may be checked. It reports false if so many of its
// checks wait already that this one is not to be made.
func (g *Guesses) Turn(source string, now time.Time) (wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.sources[source]
	if x == nil || x.wrong < freeGuesses || now.Sub(x.last) >= guessMemory {
		return 0, true
	}
	pause := g.pause(x.wrong)
	at := x.turn
	if at.Before(now) {
		at = now
	}
	if at.Sub(now) > mostTurns*pause {
		return 0, false
	}
	x.turn = at.Add(pause)
	return at.Sub(now), true
}

// pause is the time between two checks of a source that has given so many wrong passwords.
func (g *Guesses) pause(wrong int) time.Duration {
	return min(firstWait<<min(wrong-freeGuesses, 20), g.most)
}

// Told says what came of a check. It reports whether the log is to be told that the source is slowed down from now on.
func (g *Guesses) Told(source string, right bool, now time.Time) (slowed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.sources[source]
	switch {
	case g.most <= 0:
		return false
	case right:
		delete(g.sources, source)
		return false
	case x == nil && len(g.sources) >= maxGuessers:
		return false
	case x == nil || now.Sub(x.last) >= guessMemory:
		x = &guesser{}
		g.sources[source] = x
	}
	x.wrong++
	x.last = now
	if x.wrong == freeGuesses {
		x.turn = now.Add(g.pause(x.wrong))
	}
	return x.wrong == freeGuesses
}

// Sweep forgets those who have not given a wrong password for a while.
func (g *Guesses) Sweep(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for source, x := range g.sources {
		if now.Sub(x.last) >= guessMemory {
			delete(g.sources, source)
		}
	}
}
