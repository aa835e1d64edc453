package main

import (
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The settings are taken from the model of the command line, whether a reload changes them from a program that runs.
func TestTheManualHasEverySettingAsItIs(t *testing.T) {
	inv, err := parse([]string{"check", base}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	changed := changedHow(t)
	page := proxytest.Manual(t, "docs/settings.md")
	var titles []string
	for _, group := range groups {
		titles = append(titles, group.Title)
		var facts []proxytest.Fact
		for _, flag := range inv.table {
			if flag.Group.Key == group.Key {
				facts = append(facts, proxytest.Fact{
					proxytest.Code(flag.Name), proxytest.Code(environmentName(flag.Name)), defaultInTheManual(flag.Name, byDefault(flag)),
					proxytest.Code(flag.PlaceHolder), changed[flag.Name], proxytest.Prose,
				})
			}
		}
		page.Has(t, group.Title, "setting", facts)
	}
	for _, section := range page.Sections("setting") {
		if !slices.Contains(titles, section) {
			t.Errorf("%s: no settings belong into a section %s: there are %s", page.Name, section, strings.Join(titles, ", "))
		}
	}
}

func defaultInTheManual(name, byDefault string) string {
	switch {
	case name == "upstream":
		return "required"
	case name == "loops": // in words
		return byDefault
	case byDefault == "":
		return proxytest.Code(noNames)
	}
	return proxytest.Code(byDefault)
}

// changedHow is how a setting is changed while the program runs: by a reload, by PROXY SET too, or not at all.
func changedHow(t *testing.T) map[string]string {
	t.Helper()
	p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0", "--log-level", "info")
	operator := proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	_, text, _ := strings.Cut(string(operator.Do("SHOW", "CONFIG", "FORMAT", "JSON")), "\r\n")
	var shown []struct {
		Name string
		Live bool
	}
	if err := json.Unmarshal([]byte(text), &shown); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	how := map[string]string{"config": "no"}
	for _, s := range shown {
		switch {
		case !s.Live:
			how[s.Name] = "no"
		case strings.Contains(string(operator.Do("SET", s.Name, "nonsense")), "cannot be set this way"):
			how[s.Name] = "yes"
		default:
			how[s.Name] = "yes, `PROXY SET`"
		}
	}
	return how
}

// README's table is the beginning of the manual's: what it says of a setting has to be true as well.
func TestTheReadmesSettingsHaveTheirDefaults(t *testing.T) {
	names := settingNames(t)
	rows := settingRow.FindAllStringSubmatch(readme(t), -1)
	if len(rows) == 0 {
		t.Fatal("README has no table of settings")
	}
	for _, row := range rows {
		byDefault, ok := names[row[1]]
		switch shown := strings.Trim(row[2], "`"); {
		case !ok:
			t.Errorf("README: %s is no setting", row[1])
		case shown != byDefault && (shown != "required" || byDefault != ""):
			t.Errorf("README: the default of %s is %s, not %s", row[1], byDefault, shown)
		}
	}
}
