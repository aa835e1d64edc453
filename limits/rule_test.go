package limits_test

import (
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// What an operator writes is what is in force, and what makes no sense is told, with the word that is wrong.

func TestARuleIsWrittenAsItIsRead(t *testing.T) {
	for _, text := range []string{
		"total overflow queue queue-size 500 queue-timeout 2s",
		"total new-connections-per-second 0.5 burst 3",
		"addr each maxclients 100 new-connections-per-second 50 burst 100 overflow queue",
		"addr 10.0.0.0/8 maxclients 5",
		"addr 10.0.0.0/8 each maxclients 5 overflow evict-idle",
		"addr /run/redbouncer.sock maxclients 5",
		"addr 2001:db8::/32 maxclients 5",
		"listener 127.0.0.1:6380 maxclients 5 overflow observe",
		"user reports max-pins 4 max-idle 1m30s max-in-flight 100",
		"user ops reserved 5",
		"name worker:* client-output-buffer-limit 32mb client-query-buffer-limit 64kb",
		"lib redis-py/* each maxclients 7 max-idle 500ms",
		"process python3 maxclients 20",
		"pid 4711 maxclients 1",
		"container * maxclients 1",
		"container each maxclients 1",
	} {
		r, err := limits.ParseRule(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		again, err := limits.ParseRule(r.String())
		if err != nil || again.String() != r.String() {
			t.Errorf("%s is written as %q, and read as %q, %v", text, r.String(), again.String(), err)
		}
		g := limits.NewGate(10, time.Second)
		g.SetRule(r, noon)
		rules := g.Rules()
		if got := rules[len(rules)-1].Rule; got != strings.Replace(text, "1m30s", "90s", 1) {
			t.Errorf("%s is shown as %q", text, got)
		}
	}
}

func TestARuleThatMakesNoSenseIsToldWhy(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "want total, or one of addr",
		"colour red maxclients 3":                `"colour": want total`,
		"total":                                  "want limits behind it",
		"total maxclients 5":                     "that is the setting maxclients",
		"total reserved 5":                       "for whom",
		"addr":                                   "want a value or a pattern",
		"addr maxclients 5":                      `"5": want one of maxclients`,
		"addr each":                              "want limits behind it",
		"addr 10.0.0.0/33 maxclients 5":          "want an address, a network",
		"name [ maxclients 5":                    "want a value or a pattern",
		"addr each maxclients":                   "want a value behind it: a whole number",
		"addr each maxclients 0":                 "want a whole number of at least 1",
		"addr each maxclients -1":                "want a whole number",
		"addr each maxclients 5 maxclients 6":    "is given twice",
		"addr each overflow drop":                "want reject, queue, evict-idle or observe",
		"addr each maxclients 5 queue-size 5":    "want overflow queue too",
		"addr each burst 5":                      "want new-connections-per-second too",
		"addr each new-connections-per-second 0": "want a number above 0",
		"addr each max-idle -3s":                 "want a time",
		"addr each client-query-buffer-limit 3x": "want a size",
		"addr each maxclients 5 colour red":      `"colour": want one of maxclients, new-connections-per-second`,
	} {
		_, err := limits.ParseRule(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want something like %q", text, err, want)
		}
	}
}

func TestARuleIsMeantForThoseItNames(t *testing.T) {
	all := limits.Identities{
		limits.ByAddr: "10.1.2.3", limits.ByListener: "0.0.0.0:6380", limits.ByUser: "app", limits.ByName: "worker:17",
		limits.ByLib: "redis-py/5.0", limits.ByPID: "4711", limits.ByProcess: "python3", limits.ByContainer: "0123456789ab",
	}
	for head, want := range map[string]bool{
		"addr 10.1.2.3": true, "addr 10.0.0.0/8": true, "addr ::ffff:10.1.2.3": false, "addr 10.1.2.4": false, "addr 11.0.0.0/8": false,
		"addr each": true, "addr *": true, "listener *:6380": true, "user app": true, "user ap": false, "user App": false,
		"name worker:*": true, "name worker:1?": true, "name worker:?": false, "name worker:[0-9]7": true,
		"lib redis-py/*": true, "lib redis-py*": true, "lib redis-py": false, "pid 4711": true, "process python*": true,
		"container 0123456789ab": true, "container 01": false,
	} {
		r, err := limits.ParseRule(head + " maxclients 1")
		if err != nil {
			t.Errorf("%s: %v", head, err)
			continue
		}
		g := limits.NewGate(10, time.Second)
		g.SetRule(r, noon)
		g.Admit(&all, nobody{}, noon)
		refused := g.Admit(&all, nobody{}, noon).State() == limits.Refused
		if refused != want {
			t.Errorf("%s is meant for the client: %t", head, refused)
		}
		if unknown := g.Admit(&limits.Identities{}, nobody{}, noon); unknown.State() != limits.Admitted {
			t.Errorf("%s is meant for somebody of whom nothing is known", head)
		}
	}
}
