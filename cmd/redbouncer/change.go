package main

import (
	"strings"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// change is what has become of a setting when all were read again.
type change struct{ admin.SettingChange }

const (
	outcomeChanged = "changed"
	outcomeMixed   = outcomeChanged + "; some rules are set at run time"
	outcomeSinking = outcomeChanged + ": sinks as clients give connections back"
)

func (c change) changed() bool { return strings.HasPrefix(c.Outcome, outcomeChanged) }

// keepFixed puts what cannot be changed into the settings that have been read, as it is, and returns what it was to be.
func (r *reloader) keepFixed(next *invocation) map[string]string {
	kept := map[string]string{}
	for i, flag := range next.table {
		was := r.inv.table[i]
		if flag.Name == "config" || r.reloads(flag.Name) || row(flag).spelled() == row(was).spelled() {
			continue
		}
		kept[flag.Name] = shown(flag)
		flag.Target.Set(was.Target)
	}
	return kept
}

// compare says what has become of which setting. Before are the proxy's settings before the new ones were put in force.
func (r *reloader) compare(next *invocation, kept map[string]string, before map[string]proxy.SettingReport) []change {
	var out []change
	note := func(name, was, now, outcome string) {
		out = append(out, change{admin.SettingChange{Name: name, Was: was, Now: now, Outcome: outcome}})
	}
	after := r.inForce()
	for i, flag := range next.table {
		name, was := flag.Name, r.inv.table[i]
		runTime := after[name].From == proxy.RunTime
		value, isKept := kept[name]
		switch {
		case name == "config":
		case isKept:
			note(name, shown(was), shown(was), "kept: "+value+" takes effect at the next start")
		case row(flag).spelled() != row(was).spelled():
			from, outcome := shown(was), outcomeChanged
			if before[name].From == proxy.RunTime {
				from = before[name].Value
			}
			switch {
			case runTime:
				outcome = outcomeMixed
			case name == "pool-size" && after[name].Value != shown(flag):
				outcome = outcomeSinking
			}
			note(name, from, shown(flag), outcome)
		case runTime:
			note(name, after[name].Value, after[name].Value, "kept: set at run time; configured is "+shown(flag))
		case r.overruled(next, i):
			note(name, shown(was), shown(was), "kept: "+row(flag).origin()+" goes before the file")
		}
	}
	return out
}

// overruled reports whether the file has something new to say of a setting that flag or environment go before it for.
func (r *reloader) overruled(next *invocation, i int) bool {
	name := next.table[i].Name
	said, ok := next.file.settings[name]
	if !ok || row(next.table[i]).origin() == said.origin {
		return false
	}
	words := func(g given) string { return strings.Join(g.words, "\n") }
	return words(said) != words(r.inv.file.settings[name]) && words(said) != row(next.table[i]).spelled()
}
