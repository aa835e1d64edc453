package limits_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What the manual says of rules is compared with what is answered to a word that there is not: it lists those that there are.

const rulesPage = "docs/leaks.md"

// listed are the words that an error lists: "want one of a, b and c".
func listed(t *testing.T, err error, list string) []string {
	t.Helper()
	if err == nil {
		t.Fatal("there was no error")
	}
	m := regexp.MustCompile(list).FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("%v does not match %s", err, list)
	}
	return strings.Split(strings.NewReplacer(" and ", ", ", " or ", ", ").Replace(strings.Join(m[1:], ", ")), ", ")
}

// wanted is what an error says would do.
func wanted(t *testing.T, err error) string {
	t.Helper()
	if err == nil {
		t.Fatal("there was no error")
	}
	_, want, ok := strings.Cut(err.Error(), ": want ")
	if !ok {
		t.Fatalf("%v does not say what would do", err)
	}
	return want
}

func TestTheManualHasEveryHeadOfARule(t *testing.T) {
	_, err := limits.ParseRule("colour red")
	var facts []proxytest.Fact
	for _, head := range listed(t, err, "want (total), or one of (.*) with a value") {
		facts = append(facts, proxytest.Fact{proxytest.Code(head), proxytest.Prose, proxytest.Prose})
	}
	proxytest.Manual(t, rulesPage).Has(t, "Heads", "head", facts)
}

func TestTheManualHasEveryWordOfARule(t *testing.T) {
	defaults := map[string]string{
		"burst":         "those of one second",
		"overflow":      proxytest.Code(limits.Reject.String()),
		"queue-size":    proxytest.Code("1024"),
		"queue-timeout": proxytest.Code(limits.DefaultQueueTimeout.String()),
	}
	_, err := limits.ParseRule("addr each colour red")
	var facts []proxytest.Fact
	for _, word := range listed(t, err, "want one of (.*)") {
		_, err := limits.ParseRule("addr each " + word + " nonsense")
		byDefault := defaults[word]
		if byDefault == "" {
			byDefault = "-"
		}
		facts = append(facts, proxytest.Fact{proxytest.Code(word), wanted(t, err), byDefault, proxytest.Prose})
	}
	proxytest.Manual(t, rulesPage).Has(t, "What a rule bounds", "word", facts)
	if limits.DefaultQueueSize != 1024 {
		t.Errorf("the default of queue-size is %d", limits.DefaultQueueSize)
	}
}

func TestTheManualHasEveryPolicyOfARule(t *testing.T) {
	_, err := limits.ParseRule("addr each overflow nonsense")
	var facts []proxytest.Fact
	for _, policy := range listed(t, err, "want (.*)") {
		facts = append(facts, proxytest.Fact{proxytest.Code(policy), proxytest.Prose})
	}
	proxytest.Manual(t, rulesPage).Has(t, "Overflow", "overflow", facts)
}

// The leak rules and their thresholds are those that are shown when nothing has been set.
func TestTheManualHasEveryLeakRuleWithItsThresholds(t *testing.T) {
	var rules, thresholds []proxytest.Fact
	for line := range strings.Lines(limits.SuspectRules{}.String()) {
		name, words, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != "again" {
			rules = append(rules, proxytest.Fact{proxytest.Code(name), proxytest.Code(words), proxytest.Prose, proxytest.Prose})
		}
		for fields := strings.Fields(words); len(fields) > 0; fields = fields[2:] {
			err := limits.ParseSuspectRule(name+" "+fields[0]+" nonsense", &limits.SuspectRules{})
			takes, _, _ := strings.Cut(wanted(t, err), ", such as")
			thresholds = append(thresholds, proxytest.Fact{
				proxytest.Code(name + " " + fields[0]), proxytest.Code(fields[1]), takes, proxytest.Prose,
			})
		}
	}
	page := proxytest.Manual(t, rulesPage)
	page.Has(t, "Leak rules", "rule", rules)
	page.Has(t, "Thresholds", "threshold", thresholds)
}
