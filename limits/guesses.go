package limits

import (
	"hash/maphash"
	"sync"
	"time"
)

// Guesses slows down who tries passwords. A source that has given several wrong ones has to wait before the next is checked,
// twice as long each time, whatever the number of its connections and of the users it tries: they take turns. A minute without
// a wrong one ends it. A right one ends it for its own user alone: what was held against the source because of that user is
// forgotten, and that user is checked at once until it has a wrong one again. So whoever knows one password is not let in
// faster by another, and who shares an address with somebody who guesses waits once.
//
// The sources are those of Identities.Source, without the name, which a client chooses.
type Guesses struct {
	// Static after construction.
	seed maphash.Seed

	// mu guards the following fields.
	mu      sync.Mutex
	most    time.Duration
	sources map[string]*guesser
}

// Guess is a try of a password.
type Guess struct {
	Source string // who tries
	User   string // the ACL user
}

// guesser is a source that has given a wrong password lately.
type guesser struct {
	wrong int
	users map[uint64]int // of these, by a hash of the user, as names may be long; 0: its last one was right
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
	// maxGuessedUsers bounds the users that are told apart of each. What is wrong for one beyond it stays held against the
	// source for its minute.
	maxGuessedUsers = 64
)

// NewGuesses returns what lets a source wait for most at last; zero or less: never.
func NewGuesses(most time.Duration) *Guesses {
	return &Guesses{seed: maphash.MakeSeed(), most: most, sources: map[string]*guesser{}}
}

// SetMost changes how long a source waits at last.
func (g *Guesses) SetMost(most time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.most = most; most <= 0 {
		clear(g.sources)
	}
}

// Turn returns how long it has to be waited until a password may be checked. It reports false if so many checks of its source
// wait already that this one is not to be made.
func (g *Guesses) Turn(try Guess, now time.Time) (wait time.Duration, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.sources[try.Source]
	if x == nil || x.wrong < freeGuesses || now.Sub(x.last) >= guessMemory {
		return 0, true
	}
	if wrong, known := x.users[g.hash(try.User)]; known && wrong == 0 {
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
func (g *Guesses) Told(try Guess, right bool, now time.Time) (slowed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.sources[try.Source]
	switch {
	case g.most <= 0:
		return false
	case right:
		g.right(try, x)
		return false
	case x == nil && len(g.sources) >= maxGuessers:
		return false
	case x == nil || now.Sub(x.last) >= guessMemory:
		x = &guesser{users: map[uint64]int{}}
		g.sources[try.Source] = x
	}
	x.wrong++
	x.last = now
	if user := g.hash(try.User); x.tells(user) {
		x.users[user]++
	}
	if x.wrong == freeGuesses {
		x.turn = now.Add(g.pause(x.wrong))
	}
	return x.wrong == freeGuesses
}

// right forgets what is held against a source, if it is one, because of the user of a try that was right.
func (g *Guesses) right(try Guess, x *guesser) {
	if x == nil {
		return
	}
	user := g.hash(try.User)
	if x.wrong -= x.users[user]; x.wrong == 0 {
		delete(g.sources, try.Source)
	} else if x.tells(user) {
		x.users[user] = 0
	}
}

func (g *Guesses) hash(user string) uint64 { return maphash.String(g.seed, user) }

// tells reports whether a user can be told apart from others.
func (x *guesser) tells(user uint64) bool {
	_, ok := x.users[user]
	return ok || len(x.users) < maxGuessedUsers
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
