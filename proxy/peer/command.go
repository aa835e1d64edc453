package peer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What of a command line is shown. Arguments hold passwords (redis-cli -a, --url redis://:secret@host, -Dpassword=),
// so the rule is not what to leave out but what to show: the program, and, where that is an interpreter, the script or
// module that it runs. An interpreter's own options come before its script and everything behind it is the script's
// own, so the first word that is no option, nor an option's value, is the script. Program text given as an option
// (sh -c, python -c, node -e) is not shown, and neither is anything behind an option that might be one.

const (
	maxCommand    = 120 // bytes
	maxExecutable = 64
)

// grammar says how an interpreter's own options are told from its script. An option that is missing here costs at most
// the script's name, for its value is taken for the script. One that is here and takes no value would have an argument
// of the script shown: only those are listed that always take one.
type grammar struct {
	values   string   // letters of options that take a value, attached or in the next word
	attached string   // letters of options whose value, if any, is attached
	code     string   // letters of options that take program text
	module   string   // letters of options whose value is the script or module
	long     []string // longer options that take a value in the next word
	stop     []string // beginnings of words behind which nothing is shown
	verbs    []string // words before the script
}

var (
	shell  = &grammar{values: "oO", code: "cs", long: []string{"--rcfile", "--init-file"}}
	python = &grammar{values: "WX", code: "c", module: "m", long: []string{"--check-hash-based-pycs"}}
	node   = &grammar{values: "rC", code: "ep", stop: []string{"--eval", "--print"}, long: []string{
		"--require", "--import", "--loader", "--experimental-loader", "--conditions", "--title", "--env-file"}}
)

// interpreters, by the name of the executable without its version.
var interpreters = map[string]*grammar{
	"python": python, "pypy": python,
	"ruby": {values: "IrCEX", attached: "xFi", code: "e"},
	"perl": {values: "I", attached: "MmFix", code: "eE"},
	"php":  {values: "cdzStb", module: "f", code: "rBREF"},
	"lua":  {values: "l", code: "e"},
	"node": node, "nodejs": node,
	"bun": {values: "r", attached: "c", code: "ep", stop: []string{"--eval", "--print"}, verbs: []string{"run"},
		long: []string{"--preload", "--require", "--import", "--cwd"}},
	"deno": {values: "cL", attached: "r", verbs: []string{"run"},
		long: []string{"--config", "--import-map", "--log-level", "--cert", "--location", "--seed"}},
	"java": {stop: []string{"@", "--module=", "--source"}, long: []string{"-cp", "-classpath", "--class-path", "-p",
		"--module-path", "--upgrade-module-path", "--add-modules", "--add-reads", "--add-exports", "--add-opens",
		"--limit-modules", "--patch-module"}},
	"dotnet": {verbs: []string{"exec"}, long: []string{"--runtimeconfig", "--depsfile", "--additionalprobingpath",
		"--fx-version", "--roll-forward"}},
	"sh": shell, "bash": shell, "dash": shell, "zsh": shell, "ksh": shell, "ash": shell,
}

// interpreter returns the grammar of a program, nil if it is no interpreter.
func interpreter(name string) *grammar { return interpreters[strings.TrimRight(name, "0123456789.")] }

// command returns what may be shown of a command line, as /proc has it: words that end in zero bytes.
func command(executable, line string) string {
	words := strings.Split(strings.TrimRight(line, "\x00"), "\x00")
	name := programName(words[0])
	g := interpreter(executable)
	if g == nil {
		g = interpreter(name)
	}
	if name == "" {
		name = executable
	}
	if g == nil {
		return name
	}
	script := g.script(words[1:])
	if !presentable(script) {
		return name
	}
	if room := maxCommand - len(name) - len(" "); len(script) > room {
		const cut = "..." // of a path, its end says most
		script = script[len(script)-room+len(cut):]
		for script != "" && !utf8.RuneStart(script[0]) {
			script = script[1:]
		}
		script = cut + script
	}
	return name + " " + script
}

// programName returns the name in a command line's first word. Some programs keep a whole sentence there, such as
// "postgres: shop 10.0.0.5(4242) idle", or a login shell's hyphen.
func programName(word string) string {
	word, _, _ = strings.Cut(word, " ")
	word = word[strings.LastIndexByte(word, '/')+1:]
	return clean(strings.TrimSuffix(strings.TrimPrefix(word, "-"), ":"), maxExecutable)
}

// script returns the script or module among an interpreter's arguments, or nothing.
func (g *grammar) script(args []string) string {
	verbs := g.verbs
	for i := 0; i < len(args); i++ {
		a := args[i]
		for _, s := range g.stop {
			if strings.HasPrefix(a, s) {
				return ""
			}
		}
		switch {
		case slices.Contains(verbs, a):
			verbs = nil
		case slices.Contains(g.long, a):
			i++
		case a == "--":
			return strings.Join(args[i+1:min(i+2, len(args))], "")
		case a == "-", a == "": // the program comes from standard input
			return ""
		case a[0] != '-' && a[0] != '+':
			return a
		case strings.HasPrefix(a, "--"):
		default:
			value, ok := g.letters(a[1:])
			if !ok {
				return ""
			}
			if value {
				i++
			}
		}
	}
	return ""
}

// letters reads a word of options of one letter each, and reports whether the next word is the value of the last. It
// reports false where program text follows, here or in the next word.
func (g *grammar) letters(word string) (value, ok bool) {
	for i := range len(word) {
		last := i == len(word)-1
		switch c := word[i]; {
		case strings.IndexByte(g.code, c) >= 0:
			return false, false
		case strings.IndexByte(g.module, c) >= 0:
			return false, last // the next word is the module, and no option
		case strings.IndexByte(g.values, c) >= 0:
			return last, true
		case strings.IndexByte(g.attached, c) >= 0:
			return false, true
		}
	}
	return false, true
}

// presentable reports whether a word can be the name of a script or a module: letters and digits, and what paths have
// between them. A URL, an assignment or a sentence is not, whatever an interpreter may take it for.
func presentable(word string) bool {
	if !utf8.ValidString(word) || strings.Contains(word, "//") {
		return false
	}
	letter := false
	for _, c := range word {
		switch {
		case unicode.IsLetter(c):
			letter = true
		case unicode.IsDigit(c) || strings.ContainsRune("._/+-", c):
		default:
			return false
		}
	}
	return letter
}

// clean replaces what cannot be printed, and shortens.
func clean(s string, n int) string {
	s = strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s)
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
