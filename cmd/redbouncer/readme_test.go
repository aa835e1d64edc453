package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var settingRow = regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (.*?) \\| .+ \\|$")

var (
	fencedCommand = regexp.MustCompile("(?s)<!-- command: (\\w+) -->\n+```[a-z]*\n(.*?)\n```\n")
	fencedSession = regexp.MustCompile("(?s)<!-- transcript -->\n+```[a-z]*\n(.*?)\n```\n")
	fencedFile    = regexp.MustCompile("(?s)\n```yaml\n(.*?\n)```\n")
	prompt        = regexp.MustCompile(`^127\.0\.0\.1:6380\S*> (.*)$`)
)

func TestTheReadmeHasTwoCommandsOfOneLineEach(t *testing.T) {
	commands := map[string]string{}
	for _, m := range fencedCommand.FindAllStringSubmatch(readme(t), -1) {
		commands[m[1]] = m[2]
	}
	if len(commands) != 2 || commands["run"] == "" || commands["test"] == "" {
		t.Fatalf("README's commands are %q, want run and test", commands)
	}
	for name, command := range commands {
		if strings.Contains(command, "\n") {
			t.Errorf("%s is more than a line: %q", name, command)
		}
	}
	// The main command, without go run, has to be a command line that the program takes.
	line, ok := strings.CutPrefix(commands["run"], "go run ./cmd/redbouncer serve ")
	if !ok {
		t.Fatalf("the main command is %q", commands["run"])
	}
	if got := runProgram(append([]string{"check"}, strings.Fields(line)...)...); got.status != exitOK {
		t.Errorf("%s: %s", commands["run"], got.stderr)
	}
}

// Files of other programs have their name behind the word yaml.
func TestEveryConfigurationFileInTheManualIsOne(t *testing.T) {
	found := 0
	for path, text := range manualPages(t) {
		for _, file := range fencedFile.FindAllStringSubmatch(text, -1) {
			found++
			if got := runProgram("check", "--config", writeFile(t, file[1])); got.status != exitOK {
				t.Errorf("%s:\n%s\n%s", path, file[1], got.stderr)
			}
		}
	}
	if found < 5 {
		t.Errorf("the manual has %d configuration files", found)
	}
}

func TestTheReadmesTranscriptIsWhatHappens(t *testing.T) {
	sessions := fencedSession.FindAllStringSubmatch(readme(t), -1)
	if len(sessions) == 0 {
		t.Fatal("README has no transcript")
	}
	for _, session := range sessions {
		p := startProgram(t, "serve", "--upstream", "embedded", "--listen", "127.0.0.1:0")
		c := proxytest.Dial(t, p.logged("listening")["listen"].(string))
		said := 0
		var got strings.Builder
		for line := range strings.Lines(session[1] + "\n") {
			m := prompt.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			switch {
			case m != nil:
				said++
				got.WriteString(line)
				reply, _ := asCLI(c.Do(strings.Fields(m[1])...))
				got.WriteString(reply + "\n")
			case said == 0:
				got.WriteString(line) // how redis-cli is called
			}
		}
		if said == 0 || got.String() != session[1]+"\n" {
			t.Errorf("what happens is\n%swhat README shows is\n%s", got.String(), session[1])
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		if status, rest := p.wait(); status != exitOK {
			t.Errorf("status %d, log\n%s", status, rest)
		}
	}
}

// asCLI shows the first reply in b as redis-cli does, and returns what follows it.
func asCLI(b []byte) (string, []byte) {
	head, rest, _ := bytes.Cut(b, []byte("\r\n"))
	kind, line := head[0], string(head[1:])
	n, _ := strconv.Atoi(line)
	switch {
	case kind == '+':
		return line, rest
	case kind == '-':
		return "(error) " + line, rest
	case kind == ':':
		return "(integer) " + line, rest
	case kind == '$' && n >= 0:
		return strconv.Quote(string(rest[:n])), rest[n+2:]
	case kind == '*' && n > 0:
		var items []string
		for i := range n {
			var item string
			item, rest = asCLI(rest)
			items = append(items, fmt.Sprintf("%d) %s", i+1, item))
		}
		return strings.Join(items, "\n"), rest
	}
	return "(nil)", rest
}
