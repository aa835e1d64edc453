package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/alecthomas/kong"
)

// completion is the command that prints what completes a command line.
type completion struct {
	Bash struct{} `cmd:"" help:"For bash: source <(redbouncer completion bash)"`
	Zsh  struct{} `cmd:"" help:"For zsh: source <(redbouncer completion zsh), or a file _redbouncer in a directory of fpath."`
	Fish struct{} `cmd:"" help:"For fish: redbouncer completion fish | source"`
}

// Help implements kong.HelpProvider.
func (completion) Help() string {
	return `bash:  source <(redbouncer completion bash)        in ~/.bashrc
zsh:   source <(redbouncer completion zsh)         in ~/.zshrc, behind compinit
fish:  redbouncer completion fish > ~/.config/fish/completions/redbouncer.fish`
}

// completed is a command as the shells are told of it. Commands that have the same flags are one: serve and check.
type completed struct {
	Names []string
	Words []string // what may stand behind it, but flags
	Flags []completedFlag
}

// completedFlag is a flag. One that is no Switch has a value: one of Words, or a File or Dir, or what nobody can guess.
type completedFlag struct {
	Name, Help, Value       string
	Words                   []string
	File, Dir, Switch, Many bool
}

// completedName is a command's name and what it does.
type completedName struct{ Name, Help string }

// writeCompletion prints the script for a shell, made from the table of settings as --help is.
func writeCompletion(w io.Writer, model *kong.Application, shell string) error {
	script, ok := completions[shell]
	if !ok {
		return usageError{errors.New("completion " + shell + ": want bash, zsh or fish")}
	}
	var all struct {
		Commands []completed
		Names    []completedName
	}
	for _, c := range model.Children {
		if c.Hidden {
			continue
		}
		all.Names = append(all.Names, completedName{c.Name, c.Help})
		next := completed{Names: []string{c.Name}, Words: wordsBehind(c), Flags: flagsOf(c)}
		if i := slices.IndexFunc(all.Commands, next.sameFlags); i >= 0 {
			all.Commands[i].Names = append(all.Commands[i].Names, c.Name)
			continue
		}
		all.Commands = append(all.Commands, next)
	}
	return script.Execute(w, all)
}

func (c completed) sameFlags(d completed) bool {
	return fmt.Sprint(c.Flags) == fmt.Sprint(d.Flags) && slices.Equal(c.Words, d.Words)
}

// Join writes the names with something between them.
func (c completed) Join(between string) string { return strings.Join(c.Names, between) }

// Named writes the flags of a kind, as the bash script chooses between them.
func (c completed) Named(kind string) string {
	var names []string
	for _, f := range c.Flags {
		if kind == "" || f.kind() == kind {
			names = append(names, "--"+f.Name)
		}
	}
	if kind == "" {
		return strings.Join(names, " ")
	}
	return strings.Join(names, " | ")
}

func (f completedFlag) kind() string {
	switch {
	case f.Switch:
		return "switch"
	case len(f.Words) > 0:
		return "words"
	case f.Dir:
		return "dir"
	case f.File:
		return "file"
	}
	return "value"
}

// wordsBehind are the words that may follow a command.
func wordsBehind(c *kong.Node) (words []string) {
	for _, child := range c.Children {
		words = append(words, child.Name)
	}
	for _, p := range c.Positional {
		if p.Enum != "" {
			words = append(words, p.EnumSlice()...)
		}
	}
	return words
}

func flagsOf(c *kong.Node) (flags []completedFlag) {
	for _, flag := range c.Flags {
		if flag.Hidden {
			continue
		}
		f := completedFlag{Name: flag.Name, Help: flag.Help, Value: flag.FormatPlaceHolder(), Switch: flag.IsBool()}
		f.File = flag.PlaceHolder == "FILE" || flag.Tag.Type == "path" || flag.Tag.Type == "existingfile"
		f.Dir = flag.PlaceHolder == "DIR" || flag.Tag.Type == "existingdir"
		if isSetting(flag) {
			f.Words, f.Many = row(flag).choices()
		} else if flag.Enum != "" {
			f.Words, f.Many = flag.EnumSlice(), flag.IsCumulative()
		}
		flags = append(flags, f)
	}
	return append(flags, completedFlag{Name: "help", Help: "Show what there is.", Switch: true})
}

// chooser is implemented by types that take one of a few words.
type chooser interface{ choices() []string }

func (*yesNo) choices() []string      { return []string{"yes", "no"} }
func (*logFormat) choices() []string  { return []string{"text", "json"} }
func (*logLevel) choices() []string   { return []string{"debug", "info", "warn", "error"} }
func (*askForCert) choices() []string { return []string{"no", "optional", "yes"} }
func (*certUser) choices() []string   { return []string{"CN", "off"} }

// choices implements setting.
func (v *value[T]) choices() (words []string, repeated bool) {
	if c, ok := any(&v.is).(chooser); ok {
		words = c.choices()
	}
	_, repeated = any(&v.is).(repeatable)
	return words, repeated
}

var completions = map[string]*template.Template{
	"bash": completionTemplate(bashCompletion, func(s string) string { return s }),
	"zsh":  completionTemplate(zshCompletion, strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace),
	"fish": completionTemplate(fishCompletion, strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace),
}

// completionTemplate makes a template in which q makes text fit to stand between single quotes.
func completionTemplate(text string, q func(string) string) *template.Template {
	return template.Must(template.New("").Funcs(template.FuncMap{
		"q":    q,
		"list": func(words []string) string { return strings.Join(words, " ") },
	}).Parse(text))
}

const bashCompletion = `# Completes redbouncer in bash: source <(redbouncer completion bash)
_redbouncer() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} IFS=$' \t\n'
  # --flag=value is three words
  if [[ $cur == "=" ]]; then
    cur=""
  elif [[ $prev == "=" ]]; then
    prev=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    _redbouncer_words {{range .Names}}{{.Name}} {{end}}--help
    return
  fi
  case ${COMP_WORDS[1]} in
{{- range .Commands}}
  {{.Join " | "}})
    case $prev in
{{- range .Flags}}{{if .Words}}
    --{{.Name}}) _redbouncer_words {{list .Words}} ;;
{{- end}}{{end}}
{{- with .Named "file"}}
    {{.}}) _redbouncer_paths -f ;;
{{- end}}
{{- with .Named "dir"}}
    {{.}}) _redbouncer_paths -d ;;
{{- end}}
{{- with .Named "value"}}
    {{.}}) ;;
{{- end}}
{{- if .Words}}
    {{.Join " | "}}) _redbouncer_words {{list .Words}} {{.Named ""}} ;;
{{- end}}
    *) _redbouncer_words {{.Named ""}} ;;
    esac
    ;;
{{- end}}
  esac
}

_redbouncer_words() {
  COMPREPLY=($(compgen -W "$*" -- "$cur"))
}

_redbouncer_paths() {
  local IFS=$'\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY=($(compgen "$1" -- "$cur"))
}

complete -F _redbouncer redbouncer
`

const zshCompletion = `#compdef redbouncer
# Completes redbouncer in zsh: source <(redbouncer completion zsh), or a file _redbouncer in a directory of fpath.
_redbouncer() {
  local -a commands
  commands=(
{{- range .Names}}
    '{{.Name}}:{{q .Help}}'
{{- end}}
  )
  if ((CURRENT == 2)); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  ((CURRENT--))
  case $command in
{{- range .Commands}}
  {{.Join " | "}})
    _arguments \
{{- range .Flags}}
      '{{if .Many}}*{{end}}--{{.Name}}{{if not .Switch}}={{end}}[{{q .Help}}]{{if not .Switch}}:{{q .Value}}:
      {{- if .Words}}({{list .Words}}){{else if .Dir}}_files -/{{else if .File}}_files{{end}}{{end}}' \
{{- end}}
{{- if .Words}}
      '1:word:({{list .Words}})' \
{{- end}}
      && return
    ;;
{{- end}}
  esac
}

compdef _redbouncer redbouncer
if [[ $funcstack[1] == _redbouncer ]]; then
  _redbouncer "$@"
fi
`

const fishCompletion = `# Completes redbouncer in fish: redbouncer completion fish | source
complete -c redbouncer -f
complete -c redbouncer -n __fish_use_subcommand -l help -d 'Show what there is.'
{{- range .Names}}
complete -c redbouncer -n __fish_use_subcommand -a {{.Name}} -d '{{q .Help}}'
{{- end}}
{{- range .Commands}}
{{- $seen := .Join " "}}
{{- range .Words}}
complete -c redbouncer -n '__fish_seen_subcommand_from {{$seen}}' -a {{.}}
{{- end}}
{{- range .Flags}}
complete -c redbouncer -n '__fish_seen_subcommand_from {{$seen}}' -l {{.Name}}
{{- if .Words}} -x -a '{{list .Words}}'
{{- else if .Dir}} -x -a '(__fish_complete_directories)'
{{- else if .File}} -r -F
{{- else if not .Switch}} -x
{{- end}} -d '{{q .Help}}'
{{- end}}
{{- end}}
`
