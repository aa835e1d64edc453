package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// shellTime bounds what a shell may take to complete a line.
const shellTime = 2 * time.Minute

// completionCases are lines of which the last word is to be completed, and what has to be among the words offered. "-" in front
// is a word that must not be.
var completionCases = []struct {
	line string
	want []string
}{
	{"", []string{"serve", "check", "version", "man", "completion"}},
	{"ch", []string{"check", "-serve"}},
	{"serve --log", []string{"--log-format", "--log-level", "-check"}},
	{"check --max", []string{"--maxclients", "--maxmemory-clients"}},
	{"serve --log-format ", []string{"text", "json", "-yes"}},
	{"serve --tls-auth-clients ", []string{"no", "optional", "yes"}},
	{"check --pool-size 3 --log-level ", []string{"debug", "error"}},
	{"serve --config go.m", []string{"go.mod", "-go.sum"}},
	{"serve --upstream-tls-ca-cert-dir doc", []string{"docs"}},
	{"completion ", []string{"bash", "zsh", "fish"}},
}

func TestShellsCompleteCommandsSettingsAndTheirWords(t *testing.T) {
	for _, shell := range []struct {
		name     string
		complete func(line string) (stdin string)
	}{
		{"bash", inBash}, {"zsh", inZsh}, {"fish", inFish},
	} {
		t.Run(shell.name, func(t *testing.T) {
			if _, err := exec.LookPath(shell.name); err != nil {
				t.Skipf("%s is not installed", shell.name)
			}
			script := writeFile(t, runProgram("completion", shell.name).stdout)
			for _, c := range completionCases {
				ctx, cancel := context.WithTimeout(t.Context(), shellTime)
				cmd := exec.CommandContext(ctx, shell.name, noStartFiles[shell.name]...)
				cmd.Stdin = strings.NewReader(shell.complete("redbouncer " + c.line))
				cmd.Env = append(cmd.Environ(), "SCRIPT="+script, "TERM=dumb")
				cmd.Dir = proxytest.Top(t)
				out, err := cmd.CombinedOutput()
				cancel()
				words := strings.Fields(string(out))
				for _, w := range c.want {
					if unwanted, not := strings.CutPrefix(w, "-"); not && !strings.HasPrefix(w, "--") && slices.Contains(words, unwanted) {
						t.Errorf("%q offers %s: %q", c.line, unwanted, words)
					} else if (!not || strings.HasPrefix(w, "--")) && !slices.Contains(words, w) && !slices.Contains(words, w+"/") {
						t.Errorf("%q does not offer %s: %q (%v)", c.line, w, words, err)
					}
				}
			}
		})
	}
}

// noStartFiles has a shell read no files of the user's, and its commands from standard input.
var noStartFiles = map[string][]string{
	"bash": {"--noprofile", "--norc", "-s"}, "zsh": {"-f", "-s"}, "fish": {"--no-config"},
}

func inBash(line string) string {
	return fmt.Sprintf(`source "$SCRIPT"; complete -p redbouncer >/dev/null || exit
COMP_LINE=%q; COMP_WORDS=($COMP_LINE); [[ $COMP_LINE == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_redbouncer redbouncer; printf '%%s\n' "${COMPREPLY[@]}"
`, line)
}

func inFish(line string) string {
	return fmt.Sprintf("source $SCRIPT; complete -C %q | string replace -r '\\t.*' ''\n", line)
}

// inZsh completes in a terminal, as the functions of zsh want one. What they offer is noted where they hand it over.
func inZsh(line string) string {
	return fmt.Sprintf(`zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PROMPT=; autoload -Uz compinit; compinit -u -D; source $SCRIPT; stty -echo
finished() { exit }; comppostfuncs=(finished); bindkey "^I" complete-word
compadd() { local -a hits; builtin compadd -O hits "$@"; (($#hits)) && print -rl -- "" BEGIN $hits END; builtin compadd "$@" }
print READY$((1 + 1))'
zpty -r -m shell text '*READY2*'
zpty -w -n shell %q$'\t'
text=; while zpty -r shell more; do text+=$more; done
print -r -- "$text" | tr -d '\r' | sed -n '/^BEGIN$/,/^END$/p'
`, line)
}

func TestTheWordsThatAreOfferedAreThoseThatTheSettingTakes(t *testing.T) {
	inv, err := parse([]string{"check", base}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, flag := range inv.table {
		words, _ := row(flag).choices()
		if len(words) == 0 {
			continue
		}
		found++
		for _, word := range words {
			got, err := parse([]string{"check", base, "--" + flag.Name, word}, io.Discard)
			if err != nil && strings.Contains(err.Error(), "--"+flag.Name+", is not usable: want") {
				t.Errorf("%s %s: %v", flag.Name, word, err)
			} else if err == nil && !slices.ContainsFunc(got.table, func(f *kong.Flag) bool {
				return f.Name == flag.Name && row(f).inForce()[0] == word
			}) {
				t.Errorf("%s %s is something else when it has been read", flag.Name, word)
			}
		}
		if _, err := parse([]string{"check", base, "--" + flag.Name, "colour"}, io.Discard); err == nil {
			t.Errorf("%s takes any word, but %q are offered", flag.Name, words)
		}
	}
	if found < 5 {
		t.Errorf("%d settings have words to offer", found)
	}
}

func TestAnUnknownShellIsToldWhichThereAre(t *testing.T) {
	for _, args := range [][]string{{"completion"}, {"completion", "tcsh"}} {
		got := runProgram(args...)
		if got.status != exitUsage || !strings.Contains(got.stderr, `"bash", "zsh", "fish"`) {
			t.Errorf("%q: %+v", args, got)
		}
	}
}
