package proxy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// The table is data, and what the upstream adds to it is data too. What must hold: the upstream may take a command off
// the lanes, and never put one on them.

// learned returns the compiled-in table merged with a reply to COMMAND that was captured of a server of a version.
func learned(t *testing.T, version string, changes ...string) *table {
	t.Helper()
	text, err := os.ReadFile("testdata/command-" + version + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	reply := strings.NewReplacer(changes...).Replace(strings.ReplaceAll(string(text), "\n", "\r\n"))
	all, err := parseFacts([]byte(reply))
	if err != nil {
		t.Fatal(err)
	}
	return newTable().merge(all)
}

// find looks a name up that is in the spelling of ACL rules.
func find(t *table, name string) *row {
	command, sub, isSub := strings.Cut(name, "|")
	if !isSub {
		return t.lookup([]byte(command), nil)
	}
	return t.lookup([]byte(command), []byte(sub))
}

func TestTheUpstreamTellsNamesAritiesAndWhetherACommandWrites(t *testing.T) {
	for _, tc := range []struct {
		version, name, full string
		arity               int
		writes              bool
	}{
		{"7.0", "GET", "get", 2, false},
		{"7.0", "set", "set", -3, true},
		{"7.0", "PfCount", "pfcount", -2, true}, // it may replicate, which 7.0 does not say
		{"7.0", "eval", "eval", -3, true},
		{"7.0", "publish", "publish", 3, true},
		{"7.0", "blpop", "blpop", -3, true},
		{"7.0", "subscribe", "subscribe", -2, false},
		{"7.0", "script", "script", -2, false},
		{"7.0", "script|load", "script|load", 3, false},
		{"7.0", "SCRIPT|EXISTS", "script|exists", -3, false},
		{"6.2", "get", "get", 2, false},
		{"6.2", "xgroup|create", "xgroup", -2, true}, // a command stands for its subcommands
		{"6.2", "client|list", "client", -2, false},
		{"6.2", "pfcount", "pfcount", -2, true},
		// What it does not tell.
		{"7.0", "strlen", "strlen", 0, false},
		{"7.0", "append", "append", 0, true},
		{"7.0", "config|set", "config|set", 0, true},
		{"7.0", "config|get", "config|get", 0, false},
	} {
		r := find(learned(t, tc.version), tc.name)
		if r.full != tc.full || r.arity != tc.arity || r.writes != tc.writes {
			t.Errorf("%s, %s: %q, arity %d, writes %t", tc.version, tc.name, r.full, r.arity, r.writes)
		}
	}
}

func TestTheUpstreamTellsWhereTheKeysAreOrThatItIsNotSimple(t *testing.T) {
	for _, tc := range []struct {
		version, name string
		keys          keySpec
	}{
		{"7.0", "get", keySpec{true, 1, 1, 1}},
		{"7.0", "pfcount", keySpec{true, 1, -1, 1}},
		{"7.0", "publish", keySpec{true, 0, 0, 0}},
		{"7.0", "eval", keySpec{false, 0, 0, 0}},
		{"7.0", "append", keySpec{}}, // it does not say
		{"6.2", "xgroup|create", keySpec{true, 2, 2, 1}},
	} {
		if got := find(learned(t, tc.version), tc.name).keys; got != tc.keys {
			t.Errorf("%s, %s: %+v, want %+v", tc.version, tc.name, got, tc.keys)
		}
	}
}

func TestWhatIsCompiledInDecidesHowACommandIsTreated(t *testing.T) {
	base := newTable()
	for _, version := range []string{"6.2", "7.0"} {
		for name, r := range learned(t, version).commands {
			if want := base.lookup([]byte(name), nil).how; r.how != want {
				t.Errorf("%s, %s: treatment %d, compiled in %d", version, name, r.how, want)
			}
		}
	}
}

func TestTheUpstreamTakesACommandOffTheLanesAndPutsNoneOnThem(t *testing.T) {
	for _, tc := range []struct {
		what, old, new, name string
		want                 treatment
	}{
		{"blocks", "get\r\n:2\r\n*2\r\n+readonly\r\n+fast", "get\r\n:2\r\n*2\r\n+readonly\r\n+blocking", "get", block},
		{"subscribes", "get\r\n:2\r\n*2\r\n+readonly\r\n+fast", "get\r\n:2\r\n*2\r\n+pubsub\r\n+noscript", "get", unknown},
		{"writes", "get\r\n:2\r\n*2\r\n+readonly\r\n+fast", "get\r\n:2\r\n*2\r\n+write\r\n+fast", "get", share},
		{"blocks, of a module", "$3\r\nget", "$9\r\nft.search", "ft.search", script},
		{"is harmless, and new", "$3\r\nget", "$7\r\nhnew.ro", "hnew.ro", unknown},
		{"is harmless, and keeps state", "$3\r\nget", "$7\r\nhimport", "himport", stick},
		{"does not block any more", "+blocking\r\n", "+fast\r\n", "blpop", block},
	} {
		if got := find(learned(t, "7.0", tc.old, tc.new), tc.name); got.how != tc.want {
			t.Errorf("a command that %s: treatment %d, want %d", tc.what, got.how, tc.want)
		}
	}
	module := find(learned(t, "7.0", "$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast",
		"$9\r\nft.search\r\n:2\r\n*2\r\n+readonly\r\n+blocking"), "FT.SEARCH")
	if module.how != block || module.arity != 2 {
		t.Errorf("a module's command that blocks: treatment %d, arity %d", module.how, module.arity)
	}
}

func TestARefusalOutlivesWhatTheUpstreamSays(t *testing.T) {
	base := newTable()
	if err := base.restrict(nil, []string{"get", "script", "newone", "ft.config|set"}); err != nil {
		t.Fatal(err)
	}
	all := []facts{
		{name: "get", arity: 2, nested: true}, {name: "newone", arity: 1, nested: true},
		{name: "script", nested: true, subs: []facts{{name: "script|load"}, {name: "script|new"}}},
		{name: "ft.config", nested: true, subs: []facts{{name: "ft.config|set"}, {name: "ft.config|get"}}},
		{name: "shutdown", nested: true}, {name: "backup", nested: true, subs: []facts{{name: "backup|new"}}},
	}
	merged := base.merge(all)
	for _, name := range []string{
		"get", "script", "script|load", "script|new", "script|other", "newone", "ft.config|set", "shutdown",
		"backup|new", "backup|start",
	} {
		if r := find(merged, name); r.how != refuse || len(r.refusal) == 0 {
			t.Errorf("%s is not refused any more: treatment %d", name, r.how)
		}
	}
	for _, name := range []string{"ft.config|get", "ft.config", "backup", "set"} {
		if r := find(merged, name); r.how == refuse {
			t.Errorf("%s is refused", name)
		}
	}
}

func TestAReplyThatIsNoListOfCommandsTeachesNothing(t *testing.T) {
	for _, reply := range []string{
		"", "-NOPERM no\r\n", "-ERR unknown command\r\n", "*0\r\n", "*-1\r\n", "+OK\r\n", "*1\r\n", "*1\r\n$5\r\nget\r\n",
		"*99999999\r\n", strings.Repeat("*1\r\n", 1000), "*0\r\n*0\r\n", "$9\r\n", "*2\r\n:1",
	} {
		if all, err := parseFacts([]byte(reply)); err == nil {
			t.Errorf("%q teaches %v", reply, all)
		}
	}
	// Elements that are none are passed over.
	all, err := parseFacts([]byte("*4\r\n*-1\r\n:1\r\n*6\r\n$1\r\nx\r\n:y\r\n*0\r\n:0\r\n:0\r\n:0\r\n*6\r\n$1\r\nz\r\n:1\r\n~1\r\n+write\r\n:0\r\n:0\r\n:0\r\n"))
	if err != nil || len(all) != 1 || all[0].name != "z" || !all[0].has("write") {
		t.Errorf("%v, %v, want z alone", all, err)
	}
}

func TestMissingEssentialCommandsAreFoundByName(t *testing.T) {
	names := strings.Fields(essential)
	info := fmt.Sprintf("*%d\r\n", len(names))
	for _, name := range names {
		if name == "WATCH" || name == "EXEC" {
			info += "*-1\r\n"
		} else {
			info += "*1\r\n+x\r\n"
		}
	}
	if got := strings.Join(missingEssentials([]byte(info)), " "); got != "EXEC WATCH" {
		t.Errorf("missing: %q", got)
	}
	if got := missingEssentials([]byte("*1\r\n*-1\r\n")); got != nil {
		t.Errorf("an upstream that lists something else lacks %v", got)
	}
}

func TestAFullNameIsThatOfTheCommandAndItsSubcommand(t *testing.T) {
	for sent, want := range map[string]string{
		"GET k": "get", "CLIENT LIST": "client|list", "Client\tNoSuch": "client|nosuch", "CLIENT": "client",
		"CLUSTER newone": "cluster|newone", "NOSUCH Sub": "nosuch", "FT.SEARCH idx": "ft.search",
		"XGROUP CREATE k g 0": "xgroup|create", "object ENCODING k": "object|encoding",
	} {
		var r resp.Reader
		if _, err := r.Next(resp.AppendCommand(nil, strings.Fields(sent)...)); err != nil {
			t.Fatal(err)
		}
		c := command{Reader: &r, row: newTable().lookup(r.Arg(0), nil)}
		if r.Len() > 1 {
			c.row = newTable().lookup(r.Arg(0), r.Arg(1))
		}
		if got := c.fullname(); got != want {
			t.Errorf("%s: %q, want %q", sent, got, want)
		}
	}
}
