package limits

import (
	"fmt"
	"math"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// A Rule bounds what clients of one identity may have. Its text is its head and then names and values:
//
//	total                    all clients together
//	addr 10.0.0.0/8          all clients from there together
//	addr 10.0.0.0/8 each     each address there by itself
//	addr each                each address by itself
//	name worker:*            all clients whose name matches together; * and ? are as in a shell
//
//	total overflow queue queue-size 500 queue-timeout 2s
//	addr each maxclients 100 new-connections-per-second 50 burst 100
//	user reports maxclients 20 overflow evict-idle max-idle 60s max-pins 4
//	user ops reserved 5
//
// Its zero value matches nobody. MaxClients, NewPerSecond and MaxPins count the clients of the identity together;
// MaxIdle, MaxInFlight and the buffer limits are for each of them. Zero is no limit.
type Rule struct {
	Total   bool // matches every client; Kind and Pattern mean nothing
	Kind    IdentityKind
	Pattern string // "" is "*"
	Each    bool   // each value that matches is counted by itself

	MaxClients   int           // maxclients
	NewPerSecond float64       // new-connections-per-second
	Burst        int           // burst: how many may come at once; default: those of one second, at least 1
	MaxPins      int           // max-pins: upstream connections of their own that they may hold
	Reserved     int           // reserved: places of maxclients that only these clients get; they are never refused by a rule
	MaxIdle      time.Duration // max-idle
	MaxInFlight  int           // max-in-flight: commands of a client that are unanswered; it is not read meanwhile
	OutputLimit  int64         // client-output-buffer-limit, in bytes
	QueryLimit   int64         // client-query-buffer-limit, in bytes

	Overflow     Overflow      // overflow: what becomes of a client too many
	QueueSize    int           // queue-size: default DefaultQueueSize
	QueueTimeout time.Duration // queue-timeout: default DefaultQueueTimeout

	prefix netip.Prefix // of an address pattern
}

// Overflow is what becomes of a client that a rule has no room for.
type Overflow uint8

// The policies. Reject is the default.
const (
	Reject    Overflow = iota // it is told, and closed
	Queue                     // it waits for its turn, for queue-timeout
	EvictIdle                 // a client that is idle makes room for it, if there is one
	Observe                   // it is let in, and counted as one that would not have been
)

var overflows = [...]string{"reject", "queue", "evict-idle", "observe"}

func (o Overflow) String() string { return overflows[o] }

// Defaults of a Rule whose Overflow is Queue. The time is below the 2 s after which the least patient of the common
// client libraries gives up: a client that is let in then is there to be served.
const (
	DefaultQueueSize    = 1024
	DefaultQueueTimeout = 1500 * time.Millisecond
)

// RuleError says which word of a rule is wrong, and what would do in its place.
type RuleError struct {
	Word, Want string
}

func (e *RuleError) Error() string { return fmt.Sprintf("%q: %s", e.Word, e.Want) }

// ruleHeads is what a rule may begin with.
const ruleHeads = "want total, or one of addr, listener, user, name, lib, pid, process, container and cert with a value, a " +
	"pattern or the word each"

// ParseRule reads the text of a rule.
func ParseRule(text string) (Rule, error) {
	words := strings.Fields(text)
	r, rest, err := parseHead(words)
	if err != nil {
		return Rule{}, err
	}
	if len(rest) == 0 {
		return Rule{}, &RuleError{text, "want limits behind it, such as maxclients 100"}
	}
	seen := map[string]bool{}
	for ; len(rest) > 0; rest = rest[2:] {
		name := strings.ToLower(rest[0])
		l := ruleSetting(name)
		switch {
		case l == nil:
			return Rule{}, &RuleError{rest[0], "want one of " + ruleSettingNames()}
		case seen[name]:
			return Rule{}, &RuleError{rest[0], "is given twice"}
		case len(rest) == 1:
			return Rule{}, &RuleError{rest[0], "want a value behind it: " + l.want}
		}
		seen[name] = true
		if !l.read(&r, rest[1]) {
			return Rule{}, &RuleError{rest[0] + " " + rest[1], "want " + l.want}
		}
	}
	err = r.check(seen)
	return r, err
}

// ParseRuleHead reads the beginning of a rule, which names it: of two rules with the same head, the later one counts.
func ParseRuleHead(text string) (Rule, error) {
	r, rest, err := parseHead(strings.Fields(text))
	if err == nil && len(rest) > 0 {
		err = &RuleError{rest[0], "want nothing behind the head of a rule"}
	}
	return r, err
}

func parseHead(words []string) (r Rule, rest []string, err error) {
	if len(words) == 0 {
		return r, nil, &RuleError{"", ruleHeads}
	}
	if strings.EqualFold(words[0], "total") {
		r.Total = true
		return r, words[1:], nil
	}
	kind, ok := ParseIdentityKind(words[0])
	if !ok {
		return r, nil, &RuleError{words[0], ruleHeads}
	}
	r.Kind, rest = kind, words[1:]
	isEach := func() bool { return len(rest) > 0 && strings.EqualFold(rest[0], "each") }
	if !isEach() {
		if len(rest) == 0 {
			return r, nil, &RuleError{words[0], "want a value or a pattern behind it, or the word each"}
		}
		r.Pattern, rest = rest[0], rest[1:]
	}
	if isEach() {
		r.Each, rest = true, rest[1:]
	}
	err = r.compile()
	return r, rest, err
}

// compile makes the pattern ready to be matched.
func (r *Rule) compile() error {
	if r.Pattern == "*" {
		r.Pattern = ""
	}
	switch {
	case r.Pattern == "":
		return nil
	case r.Kind == ByAddr && strings.Contains(r.Pattern, "/") && !strings.HasPrefix(r.Pattern, "/"):
		p, err := netip.ParsePrefix(r.Pattern)
		if err != nil {
			return &RuleError{r.Pattern, "want an address, a network such as 10.0.0.0/8, or the path of a unix socket"}
		}
		r.prefix = p.Masked()
		return nil
	}
	if _, err := path.Match(strings.ReplaceAll(r.Pattern, "/", "_"), ""); err != nil {
		return &RuleError{r.Pattern, "want a value or a pattern as in a shell"}
	}
	return nil
}

// check reports what does not go together.
func (r *Rule) check(seen map[string]bool) error {
	switch {
	case r.Total && seen["maxclients"]:
		return &RuleError{"total maxclients", "that is the setting maxclients"}
	case r.Total && seen["reserved"]:
		return &RuleError{"total reserved", "want to know for whom, as in user ops reserved 5"}
	case seen["burst"] && !seen["new-connections-per-second"]:
		return &RuleError{"burst", "want new-connections-per-second too"}
	case (seen["queue-size"] || seen["queue-timeout"]) && r.Overflow != Queue:
		return &RuleError{"queue-size, queue-timeout", "want overflow queue too"}
	}
	return nil
}

// matches reports whether the rule is meant for a client, and under which value it counts it.
func (r *Rule) matches(ids *Identities) (value string, ok bool) {
	if r.Total {
		return "", true
	}
	value = ids[r.Kind]
	switch {
	case value == "":
		return "", false
	case r.Pattern == "":
	case r.prefix.IsValid():
		addr, err := netip.ParseAddr(value)
		if err != nil || !r.prefix.Contains(addr.Unmap()) && !r.prefix.Contains(addr) {
			return "", false
		}
	case r.Pattern != value && !glob(r.Pattern, value):
		return "", false
	}
	if !r.Each {
		value = ""
	}
	return value, true
}

// glob matches as a shell does, but that * goes across slashes too.
func glob(pattern, value string) bool {
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(value, "/", "\x00"))
	return ok && err == nil
}

// Head is what names the rule.
func (r *Rule) Head() string {
	if r.Total {
		return "total"
	}
	head := r.Kind.String()
	if r.Pattern != "" || !r.Each {
		head += " " + orStar(r.Pattern)
	}
	if r.Each {
		head += " each"
	}
	return head
}

func orStar(pattern string) string {
	if pattern == "" {
		return "*"
	}
	return pattern
}

// String returns the text of the rule. It reads back as the same rule.
func (r *Rule) String() string {
	text := r.Head()
	for _, s := range ruleSettings {
		if value := s.write(r); value != "" {
			text += " " + s.name + " " + value
		}
	}
	return text
}

// settingOfRule is a word that may stand in a rule, with a value behind it.
type settingOfRule struct {
	name, want string
	read       func(*Rule, string) bool
	write      func(*Rule) string // "" where it is not set
}

var ruleSettings = []settingOfRule{
	number("maxclients", func(r *Rule) *int { return &r.MaxClients }),
	{"new-connections-per-second", "a number above 0", func(r *Rule, v string) bool {
		f, err := strconv.ParseFloat(v, 64)
		r.NewPerSecond = f
		return err == nil && f > 0 && f <= 1e9
	}, func(r *Rule) string {
		if r.NewPerSecond == 0 {
			return ""
		}
		return strconv.FormatFloat(r.NewPerSecond, 'g', -1, 64)
	}},
	number("burst", func(r *Rule) *int { return &r.Burst }),
	number("max-pins", func(r *Rule) *int { return &r.MaxPins }),
	number("reserved", func(r *Rule) *int { return &r.Reserved }),
	duration("max-idle", func(r *Rule) *time.Duration { return &r.MaxIdle }),
	number("max-in-flight", func(r *Rule) *int { return &r.MaxInFlight }),
	bytes("client-output-buffer-limit", func(r *Rule) *int64 { return &r.OutputLimit }),
	bytes("client-query-buffer-limit", func(r *Rule) *int64 { return &r.QueryLimit }),
	{"overflow", "reject, queue, evict-idle or observe", func(r *Rule, v string) bool {
		for o, name := range overflows {
			if strings.EqualFold(name, v) {
				r.Overflow = Overflow(o)
				return true
			}
		}
		return false
	}, func(r *Rule) string {
		if r.Overflow == Reject {
			return ""
		}
		return r.Overflow.String()
	}},
	number("queue-size", func(r *Rule) *int { return &r.QueueSize }),
	duration("queue-timeout", func(r *Rule) *time.Duration { return &r.QueueTimeout }),
}

func ruleSetting(name string) *settingOfRule {
	for i := range ruleSettings {
		if ruleSettings[i].name == name {
			return &ruleSettings[i]
		}
	}
	return nil
}

func ruleSettingNames() string {
	names := make([]string, len(ruleSettings))
	for i, s := range ruleSettings {
		names[i] = s.name
	}
	return strings.Join(names, ", ")
}

func number(name string, field func(*Rule) *int) settingOfRule {
	return settingOfRule{name, "a whole number of at least 1", func(r *Rule, v string) bool {
		n, err := strconv.Atoi(v)
		*field(r) = n
		return err == nil && n >= 1 && n <= math.MaxInt32
	}, func(r *Rule) string {
		if n := *field(r); n != 0 {
			return strconv.Itoa(n)
		}
		return ""
	}}
}

// duration reads a time as the settings do: a bare number counts seconds.
func duration(name string, field func(*Rule) *time.Duration) settingOfRule {
	return settingOfRule{name, "a time such as 30, 500ms, 30s or 5m", func(r *Rule, v string) bool {
		if v != "" && strings.Trim(v, "0123456789.") == "" {
			v += "s"
		}
		d, err := time.ParseDuration(v)
		*field(r) = d
		return err == nil && d > 0
	}, func(r *Rule) string {
		d := *field(r)
		switch {
		case d == 0:
			return ""
		case d%time.Second == 0:
			return strconv.FormatInt(int64(d/time.Second), 10) + "s"
		}
		return d.String()
	}}
}

// bytes reads a size in Redis's units.
func bytes(name string, field func(*Rule) *int64) settingOfRule {
	return settingOfRule{name, "a size such as 64kb, 32mb or a number of bytes", func(r *Rule, v string) bool {
		n, ok := ParseSize(v)
		*field(r) = n
		return ok
	}, func(r *Rule) string {
		if n := *field(r); n != 0 {
			return FormatSize(n)
		}
		return ""
	}}
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"gb", 1 << 30}, {"mb", 1 << 20}, {"kb", 1 << 10}, {"g", 1e9}, {"m", 1e6}, {"k", 1e3}, {"b", 1}, {"", 1},
}

// ParseSize reads a number of bytes in Redis's units: k, m and g are powers of 1000; kb, mb and gb of 1024. It is at
// least 1.
func ParseSize(text string) (n int64, ok bool) {
	digits := strings.TrimRight(strings.ToLower(text), "bkmg")
	unit := strings.ToLower(text[len(digits):])
	for _, u := range sizeUnits {
		if u.name != unit {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		return n * u.bytes, err == nil && n >= 1 && n <= math.MaxInt64/u.bytes
	}
	return 0, false
}

// FormatSize writes what ParseSize reads, as short as it can.
func FormatSize(n int64) string {
	for _, u := range sizeUnits {
		if n >= u.bytes && n%u.bytes == 0 && u.name != "b" {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
