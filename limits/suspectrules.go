package limits

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// LeakRule is one of the rules by which a source becomes a suspect.
type LeakRule string

// The leak rules, the most telling first: a source that several rules hold for is named by the first of them.
const (
	NeverSpoke   LeakRule = "never-spoke"
	Churn        LeakRule = "churn"
	Growing      LeakRule = "growing"
	PoolTooLarge LeakRule = "pool-too-large"
	IdleHoard    LeakRule = "idle-hoard"
)

// SuspectRules are the thresholds of the leak rules. A threshold that is zero stands for its default.
type SuspectRules struct {
	NeverSpoke   NeverSpokeRule
	Churn        ChurnRule
	Growing      GrowingRule
	PoolTooLarge PoolTooLargeRule
	IdleHoard    IdleHoardRule

	// Again is after how long a suspect is told of once more, while it lasts. Default 5 minutes.
	Again time.Duration
}

// NeverSpokeRule names a source of connections that have never sent a command.
type NeverSpokeRule struct {
	Off bool
	// Clients is how many it takes. Default 15: pools of 10 that are filled in advance are common.
	Clients int
	// After is how old they must be. Default 10 s: a library that has something to say says it within one.
	After time.Duration
}

// ChurnRule names a source that opens a connection for each command, or nearly: it has no pool, or does not use it.
type ChurnRule struct {
	Off bool
	// Opens is how many connections a minute it takes, spread over it. Default 30: a script that a timer starts comes to
	// less, and a program that serves requests to more. A health check each second has to be excused by a higher number.
	Opens int
	// Commands is how many commands a connection has sent at most. Default 8: the handshake of a library has up to six
	// (HELLO, AUTH, SELECT, CLIENT SETNAME, twice CLIENT SETINFO).
	Commands int
	// Age is how old a connection has become at most. Default 30 s: one that lives longer is a pool's, with little to do.
	Age time.Duration
}

// GrowingRule names a source whose connections become more and are not used: a connection that is not closed on some way
// out of the code, or a subscription that nobody ends. A pool that grows with its traffic uses what it opens.
type GrowingRule struct {
	Off bool
	// Clients is by how many they have become more, in all and counting only those not used for 10 s; if some are closed
	// as well it takes more, so that chance is not taken for a leak. Default 15: together with Over, one leak in two
	// seconds. The last two minutes are looked at as well, for one in seven seconds.
	Clients int
	// Over is how long it takes. They become more in each third of that time, so that a burst is not taken for a leak.
	// Default 30 s, from 15 s to 110 s.
	Over time.Duration
}

// PoolTooLargeRule names a source that is at work with far fewer connections than it holds open.
type PoolTooLargeRule struct {
	Off bool
	// Clients is how many it holds open at least, subscribers not counted. Default 20: a few too many are nobody's trouble.
	Clients int
	// Use is how many percent of them have been in use at once, at most, in the last ten minutes. Default 25: a pool
	// of four times the peak is not headroom.
	Use int
	// Over is how long it has had them, without opening more. Default 30 s, from 15 s to 110 s.
	Over time.Duration
}

// IdleHoardRule names a source most of whose connections do nothing. Those that are blocked, in a transaction or
// subscribed are not idle.
type IdleHoardRule struct {
	Off bool
	// Idle is for how long they have been idle. Default 300 s: most pools that give back what they do not need have done
	// so by then, and a quiet minute is none.
	Idle time.Duration
	// Share is how many percent of the connections are that idle, at least. Default 80.
	Share int
	// Clients is how many are that idle, at least. Default 20.
	Clients int
}

const (
	minOver = 3 * LedgerWindow
	maxOver = (keptWindows - 2) * LedgerWindow
	maxIdle = 365 * 24 * time.Hour
	maxMany = 1_000_000
)

// ruleRow is how a rule is written: its name, whether it is off, and its thresholds.
type ruleRow struct {
	name  string
	off   *bool
	words []ruleWord
}

// ruleWord is a threshold: a number or a time.
type ruleWord struct {
	word      string
	number    *int
	span      *time.Duration
	least     int64
	most      int64
	byDefault int64
}

func numberWord(word string, n *int, most, byDefault int64) ruleWord {
	return ruleWord{word: word, number: n, least: 1, most: most, byDefault: byDefault}
}

func spanWord(word string, d *time.Duration, bounds [2]time.Duration, byDefault time.Duration) ruleWord {
	return ruleWord{word: word, span: d, least: int64(bounds[0]), most: int64(bounds[1]), byDefault: int64(byDefault)}
}

// rows is the table of all rules, in the order of their precedence.
func (r *SuspectRules) rows() []ruleRow {
	anyTime, over := [2]time.Duration{time.Second, maxIdle}, [2]time.Duration{minOver, maxOver}
	return []ruleRow{
		{string(NeverSpoke), &r.NeverSpoke.Off, []ruleWord{
			numberWord("clients", &r.NeverSpoke.Clients, maxMany, 15),
			spanWord("after", &r.NeverSpoke.After, anyTime, 10*time.Second),
		}},
		{string(Churn), &r.Churn.Off, []ruleWord{
			numberWord("opens", &r.Churn.Opens, maxMany, 30),
			numberWord("commands", &r.Churn.Commands, maxMany, 8),
			spanWord("age", &r.Churn.Age, anyTime, 30*time.Second),
		}},
		{string(Growing), &r.Growing.Off, []ruleWord{
			numberWord("clients", &r.Growing.Clients, maxMany, 15),
			spanWord("over", &r.Growing.Over, over, 30*time.Second),
		}},
		{string(PoolTooLarge), &r.PoolTooLarge.Off, []ruleWord{
			numberWord("clients", &r.PoolTooLarge.Clients, maxMany, 20),
			numberWord("use", &r.PoolTooLarge.Use, 100, 25),
			spanWord("over", &r.PoolTooLarge.Over, over, 30*time.Second),
		}},
		{string(IdleHoard), &r.IdleHoard.Off, []ruleWord{
			spanWord("idle", &r.IdleHoard.Idle, anyTime, 300*time.Second),
			numberWord("share", &r.IdleHoard.Share, 100, 80),
			numberWord("clients", &r.IdleHoard.Clients, maxMany, 20),
		}},
		{"again", nil, []ruleWord{
			spanWord("every", &r.Again, [2]time.Duration{LedgerWindow, maxIdle}, 5*time.Minute),
		}},
	}
}

// filled returns the rules with the defaults in the place of zeros.
func (r SuspectRules) filled() SuspectRules {
	for _, row := range r.rows() {
		for _, w := range row.words {
			if w.get() == 0 {
				w.set(w.byDefault)
			}
		}
	}
	return r
}

// String writes the rules as ParseSuspectRule reads them, one a line, with the defaults filled in.
func (r SuspectRules) String() string {
	r = r.filled()
	var lines []string
	for _, row := range r.rows() {
		line := row.name
		if row.off != nil && *row.off {
			line += " off"
		} else {
			for _, w := range row.words {
				line += " " + w.word + " " + w.String()
			}
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

// ParseSuspectRule reads one rule, such as "never-spoke clients 15 after 10s" or "churn off", into the rules that it
// belongs to. Thresholds that are not written stay as they are; a rule without "off" is on. "again every 5m" says how
// often a suspect is told of. When there is an error, nothing has been changed.
func ParseSuspectRule(text string, into *SuspectRules) error {
	words := strings.Fields(strings.ToLower(text))
	if len(words) == 0 {
		return errors.New("empty suspect rule, want " + listWords(into.ruleNames()))
	}
	r := *into
	for _, row := range r.rows() {
		if row.name != words[0] {
			continue
		}
		if err := row.read(words[1:]); err != nil {
			return fmt.Errorf("suspect rule %s: %w", row.name, err)
		}
		*into = r
		return nil
	}
	return fmt.Errorf("suspect rule %q is not known, want %s", words[0], listWords(into.ruleNames()))
}

func (r *SuspectRules) ruleNames() (names []string) {
	for _, row := range r.rows() {
		names = append(names, row.name)
	}
	return names
}

// read reads what follows the name of the rule.
func (row *ruleRow) read(words []string) error {
	if row.off != nil {
		*row.off = len(words) == 1 && words[0] == "off"
		if *row.off {
			return nil
		}
	}
	for len(words) > 0 {
		w, err := row.find(words[0])
		if err != nil {
			return err
		}
		if len(words) == 1 {
			return fmt.Errorf("%s is the last word, want %s behind it", w.word, w.wanted())
		}
		if err := w.read(words[1]); err != nil {
			return err
		}
		words = words[2:]
	}
	return nil
}

func (row *ruleRow) find(word string) (*ruleWord, error) {
	var names []string
	for i := range row.words {
		if row.words[i].word == word {
			return &row.words[i], nil
		}
		names = append(names, row.words[i].word)
	}
	if row.off != nil {
		names = append(names, "off alone")
	}
	return nil, fmt.Errorf("%q is not known, want %s", word, listWords(names))
}

// read reads the threshold's value. A time without a unit counts seconds, as everywhere.
func (w *ruleWord) read(text string) error {
	n, err := strconv.ParseInt(text, 10, 32)
	if w.span != nil {
		d := time.Duration(n) * time.Second
		if err != nil {
			d, err = time.ParseDuration(text)
		}
		n = int64(d)
	}
	if err != nil || n < w.least || n > w.most {
		return fmt.Errorf("%s %q: want %s", w.word, text, w.wanted())
	}
	w.set(n)
	return nil
}

func (w *ruleWord) wanted() string {
	if w.span != nil {
		return "a time from " + shortSpan(time.Duration(w.least)) + " to " + shortSpan(time.Duration(w.most)) + ", such as 30s"
	}
	return fmt.Sprintf("a number from %d to %d", w.least, w.most)
}

func (w *ruleWord) get() int64 {
	if w.span != nil {
		return int64(*w.span)
	}
	return int64(*w.number)
}

func (w *ruleWord) set(n int64) {
	if w.span != nil {
		*w.span = time.Duration(n)
	} else {
		*w.number = int(n)
	}
}

// String writes the threshold's value as read reads it.
func (w *ruleWord) String() string {
	if w.span != nil {
		return shortSpan(*w.span)
	}
	return strconv.Itoa(*w.number)
}

// shortSpan writes a time in seconds if it is a whole number of them, else as Go does.
func shortSpan(d time.Duration) string {
	if d%time.Second == 0 {
		return strconv.FormatInt(int64(d/time.Second), 10) + "s"
	}
	return d.String()
}

// listWords writes "a, b or c".
func listWords(words []string) string {
	last := len(words) - 1
	if last < 1 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:last], ", ") + " or " + words[last]
}
