package limits_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// The rules are written and read in one form; whoever mistypes one is told which word it was, and keeps the rules that
// he had.

const defaultRules = `never-spoke clients 15 after 10s
churn opens 30 commands 8 age 30s
growing clients 15 over 30s
pool-too-large clients 20 use 25 over 30s
idle-hoard idle 300s share 80 clients 20
again every 300s`

func TestTheZeroRulesAreTheDefaults(t *testing.T) {
	if got := (limits.SuspectRules{}).String(); got != defaultRules {
		t.Errorf("the rules are\n%s\nwant\n%s", got, defaultRules)
	}
	if got := limits.NewLedger(limits.SuspectRules{}).Rules().String(); got != defaultRules {
		t.Errorf("the rules in force are\n%s", got)
	}
}

// parse reads rules, one a line.
func parse(t *testing.T, text string) (rules limits.SuspectRules) {
	t.Helper()
	for line := range strings.Lines(text) {
		if err := limits.ParseSuspectRule(line, &rules); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
	}
	return rules
}

func TestRulesAreReadAsTheyAreWritten(t *testing.T) {
	const written = `never-spoke clients 1 after 1.5s
churn off
growing clients 3 over 60s
pool-too-large clients 40 use 10 over 110s
idle-hoard idle 7200s share 100 clients 1000000
again every 5s`
	rules := parse(t, written)
	if got := rules.String(); got != written {
		t.Errorf("written\n%s\nread\n%s", written, got)
	}
	if again := parse(t, rules.String()); again.String() != written {
		t.Errorf("read again\n%s", again.String())
	}
}

func TestAThresholdThatIsNotWrittenStaysAsItWas(t *testing.T) {
	rules := parse(t, "churn opens 90\nCHURN Commands 3\nchurn off\nidle-hoard idle 2m\nnever-spoke off\nnever-spoke")
	if c := rules.Churn; !c.Off || c.Opens != 90 || c.Commands != 3 {
		t.Errorf("churn is %+v", c)
	}
	if rules.IdleHoard.Idle != 2*time.Minute || rules.NeverSpoke.Off {
		t.Errorf("%+v", rules)
	}
	if err := limits.ParseSuspectRule("churn age 60", &rules); err != nil || rules.Churn.Off || rules.Churn.Age != time.Minute {
		t.Errorf("a rule that is given a threshold is on: %+v, %v", rules.Churn, err)
	}
}

func TestAnErrorNamesTheWordThatIsWrongAndChangesNothing(t *testing.T) {
	for text, want := range map[string]string{
		"": "empty suspect rule, want never-spoke, churn, growing, pool-too-large, idle-hoard or again",
		"churm off": `suspect rule "churm" is not known, want never-spoke, churn, growing, pool-too-large, idle-hoard or ` +
			`again`,
		"churn opens 3 client 4":       `suspect rule churn: "client" is not known, want opens, commands, age or off alone`,
		"churn opens 3 off":            `suspect rule churn: "off" is not known, want opens, commands, age or off alone`,
		"churn opens":                  `suspect rule churn: opens is the last word, want a number from 1 to 1000000 behind it`,
		"churn opens 3 commands 0":     `suspect rule churn: commands "0": want a number from 1 to 1000000`,
		"churn opens many":             `suspect rule churn: opens "many": want a number from 1 to 1000000`,
		"churn opens 99999999999":      `suspect rule churn: opens "99999999999": want a number from 1 to 1000000`,
		"idle-hoard share 101":         `suspect rule idle-hoard: share "101": want a number from 1 to 100`,
		"idle-hoard idle soon":         `suspect rule idle-hoard: idle "soon": want a time from 1s to 31536000s, such as 30s`,
		"growing over 10s":             `suspect rule growing: over "10s": want a time from 15s to 110s, such as 30s`,
		"growing clients 4 over 5m":    `suspect rule growing: over "5m": want a time from 15s to 110s, such as 30s`,
		"never-spoke after 9999999999": `suspect rule never-spoke: after "9999999999": want a time from 1s to 31536000s, such as 30s`,
		"again off":                    `suspect rule again: "off" is not known, want every`,
	} {
		rules := parse(t, "churn opens 7\nnever-spoke off")
		before := rules
		if err := limits.ParseSuspectRule(text, &rules); err == nil || err.Error() != want {
			t.Errorf("%q: %v\nwant %s", text, err, want)
		}
		if rules != before {
			t.Errorf("%q has changed the rules to\n%s", text, rules)
		}
	}
}
