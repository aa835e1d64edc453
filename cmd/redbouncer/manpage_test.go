package main

import (
	"os/exec"
	"strings"
	"testing"
)

func TestTheManualPageHasEverySettingAndEveryCommand(t *testing.T) {
	got := runProgram("man")
	if got.status != exitOK {
		t.Fatalf("%+v", got)
	}
	page := strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\(dq`, `"`).Replace(got.stdout)
	for name, byDefault := range settingNames(t) {
		_, entry, ok := strings.Cut(page, "\n.BI --"+name+" ")
		entry, _, _ = strings.Cut(entry, "\n.TP")
		switch {
		case !ok:
			t.Errorf("%s is missing", name)
		case name == "loops": // its default is put into words
		case byDefault != "" && !strings.Contains(entry, "Default: "+byDefault+"."):
			t.Errorf("%s: want the default %s in\n%s", name, byDefault, entry)
		}
	}
	inv, err := parse([]string{"man"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range inv.model.Children {
		if !strings.Contains(page, "\n.B "+c.Name+"\n") {
			t.Errorf("the command %s is missing", c.Name)
		}
	}
}

// What reads manual pages has nothing to say against it.
func TestTheManualPageIsGoodRoff(t *testing.T) {
	page := runProgram("man").stdout
	tried := 0
	for _, check := range [][]string{
		{"mandoc", "-Tlint"},
		{"groff", "-ww", "-man", "-Tutf8"},
	} {
		if _, err := exec.LookPath(check[0]); err != nil {
			t.Logf("%s is not installed", check[0])
			continue
		}
		tried++
		cmd := exec.CommandContext(t.Context(), check[0], check[1:]...)
		cmd.Stdin = strings.NewReader(page)
		var complaints strings.Builder
		cmd.Stderr = &complaints
		if check[0] == "mandoc" {
			cmd.Stdout = &complaints
		}
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("%s: %v\n%s", check[0], err, complaints.String())
		}
	}
	if tried == 0 {
		t.Skip("neither mandoc nor groff is installed")
	}
}

func TestTextIsNoRequestOfRoff(t *testing.T) {
	for text, want := range map[string]string{
		".so /etc/passwd":                  `\&.so /etc/passwd`,
		`a\b "c" 'd' --e`:                  `a\eb \(dqc\(dq \(aqd\(aq \-\-e`,
		strings.Repeat("word ", 16) + ".x": strings.TrimSpace(strings.Repeat("word ", 15)) + "\nword .x",
	} {
		if got := roff(text); got != want {
			t.Errorf("%q is written\n%s\nwant\n%s", text, got, want)
		}
	}
}
