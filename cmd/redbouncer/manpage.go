package main

import (
	"io"
	"runtime/debug"
	"strings"
	"text/template"
	"time"

	"github.com/alecthomas/kong"
)

// manPage is the command that prints the manual page.
type manPage struct{}

// Help implements kong.HelpProvider.
func (manPage) Help() string {
	return "To read it: redbouncer man | man -l -\nTo keep it: redbouncer man > /usr/local/share/man/man1/redbouncer.1"
}

// page is what the manual page is made of.
type page struct {
	Version, Date string
	Commands      []*kong.Node
	Words         string // how a setting is given
	Groups        []settingsGroup
}

// settingsGroup is a section of the settings.
type settingsGroup struct {
	Title string
	Flags []*kong.Flag
}

// manTemplate is the page in the macros of man(7).
var manTemplate = template.Must(template.New("man").Funcs(template.FuncMap{
	"roff": roff, "byDefault": byDefault, "summary": summaryOf, "isSetting": isSetting, "environment": environmentName,
}).Parse(`.TH REDBOUNCER 1 {{.Date}} "{{roff .Version}}" "User Commands"
.SH NAME
redbouncer \- many clients of a Redis or Valkey over a few connections
.SH SYNOPSIS
{{- range $i, $c := .Commands}}
{{- if $i}}
.br
{{- end}}
.B redbouncer
{{roff (summary $c)}}
{{- end}}
.SH DESCRIPTION
redbouncer stands between the clients of a Redis or Valkey and the server.
It serves thousands of clients over a handful of upstream connections,
lets in as many as it has been told to and no more,
and names the sources that seem to leak connections.
.SH COMMANDS
{{- range .Commands}}
.TP
.B {{roff .Name}}
{{roff .Help}}
{{- range .Flags}}{{if not (isSetting .)}}
.RS
.TP
.B \-\-{{roff .Name}}{{if not .IsBool}} {{roff .FormatPlaceHolder}}{{end}}
{{roff .Help}}
.RE
{{- end}}{{end}}
{{- end}}
.SH SETTINGS
{{roff .Words}}
{{- range .Groups}}
.SS {{roff .Title}}
{{- range .Flags}}
.TP
.BI \-\-{{roff .Name}} " {{roff .PlaceHolder}}"
{{roff .Help}}
{{- with byDefault .}}
Default: {{roff .}}.
{{- end}}
{{- end}}
{{- end}}
.SH ENVIRONMENT
.TP
.BR REDBOUNCER_POOL_SIZE " and the like"
The settings, in capitals and with _ for \-.
A password is better put here, or into the file, than on the command line.
.TP
.B GOGC
How much memory may grow before garbage is collected,
in percent of what is in use.
The default is chosen for many idle clients.
.SH FILES
.TP
.I redbouncer.yaml
The settings, if
.B \-\-config
names it.
It is read again when it has changed.
.SH SIGNALS
.TP
.BR SIGTERM ", " SIGINT
End it once what is in flight has been answered; the second one ends it at once.
.TP
.B SIGHUP
Read the configuration file again.
.SH "EXIT STATUS"
.TP
.B 0
It was stopped, and has ended cleanly.
.TP
.B 1
Something failed while it ran.
.TP
.B 2
The command line or a setting cannot be used; nothing has been started.
.PP
.B redbouncer doctor
has others:
.B redbouncer doctor \-\-help
tells.
.SH EXAMPLES
.EX
redbouncer serve \-\-upstream embedded
redbouncer serve \-\-upstream redis://127.0.0.1:6379 \-\-maxclients 10000 \-\-pool\-size 16
redbouncer check \-\-config redbouncer.yaml
redis\-cli \-p 6390 PROXY SHOW CLIENTS
.EE
.SH "SEE ALSO"
.BR redis\-cli (1),
.BR redis\-server (1)
`))

// writeManPage prints the manual page, made from the table of settings as --help is.
func writeManPage(w io.Writer, model *kong.Application) error {
	p := page{Version: "redbouncer " + programVersion().number, Date: builtOn().Format(time.DateOnly), Words: settingsInWords}
	for _, c := range model.Children {
		if !c.Hidden {
			p.Commands = append(p.Commands, c)
		}
	}
	for _, flag := range settingFlags(model) {
		if n := len(p.Groups); n == 0 || p.Groups[n-1].Title != flag.Group.Title {
			p.Groups = append(p.Groups, settingsGroup{Title: flag.Group.Title})
		}
		last := &p.Groups[len(p.Groups)-1]
		last.Flags = append(last.Flags, flag)
	}
	return manTemplate.Execute(w, p)
}

// settingFlags is the table of settings in the model of the command line.
func settingFlags(model *kong.Application) []*kong.Flag {
	for _, c := range model.Children {
		if c.Name == "serve" {
			return c.Flags
		}
	}
	panic("bug: there is no command serve")
}

// summaryOf is how a command is called.
func summaryOf(c *kong.Node) string {
	words := []string{c.Name}
	for _, p := range c.Positional {
		words = append(words, p.Summary())
	}
	if len(c.Children) > 0 {
		words = append(words, strings.Join(wordsBehind(c), "|"))
	}
	switch {
	case len(c.Flags) == 0:
	case isSetting(c.Flags[0]):
		words = append(words, "[settings]")
	default:
		words = append(words, "[flags]")
	}
	return strings.Join(words, " ")
}

// byDefault is the default of a setting in the manual, which is not made on the machine that it is read on.
func byDefault(flag *kong.Flag) string {
	if flag.Name == "loops" {
		return "half of the processors, 1 to 4"
	}
	return flag.Default
}

// builtOn is the day of the sources, or today where nobody has recorded it.
func builtOn() time.Time {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if t, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return t
			}
		}
	}
	return time.Now()
}

// manWidth is how long a line of the page may be.
const manWidth = 78

// roff writes text so that it is read as it is: no backslash, hyphen or quotation mark means anything, and no line is a request.
// Lines are broken between words.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, `"`, `\(dq`, "'", `\(aq`).Replace(text)
	var out strings.Builder
	length := 0
	for i, word := range strings.Fields(text) {
		switch {
		case length+len(word) > manWidth:
			out.WriteByte('\n')
			length = 0
		case i > 0:
			out.WriteByte(' ')
		}
		if length == 0 && strings.HasPrefix(word, ".") {
			out.WriteString(`\&`)
		}
		out.WriteString(word)
		length += len(word) + 1
	}
	return out.String()
}
