package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// fileResolver resolves settings from the YAML file that --config or its variable names. It reads the file when
// it is first asked, and keeps what is wrong with it instead of failing, so that all of it is told at once.
type fileResolver struct {
	read     bool
	anyName  bool   // entries need not be settings
	path     string // empty: there is none
	text     []byte
	settings map[string]given
	problems []error
}

// Validate implements kong.Resolver. The problems are the caller's to report.
func (f *fileResolver) Validate(*kong.Application) error { return nil }

// Resolve implements kong.Resolver.
func (f *fileResolver) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	if !isSetting(flag) {
		return nil, nil
	}
	if !f.read {
		f.read = true
		f.load(ctx, parent.Flags)
	}
	if g, ok := f.settings[flag.Name]; ok {
		return g, nil
	}
	return nil, nil
}

// load finds out which file it is and reads it. A file may give what is in table, except another file.
func (f *fileResolver) load(ctx *kong.Context, table []*kong.Flag) {
	var config given
	var names []string
	for _, flag := range table {
		if flag.Name != "config" {
			names = append(names, flag.Name)
			continue
		}
		config = ctx.FlagValue(flag).(value[filePath]).given
		if g, ok := environment(flag); ok && config.origin == "" {
			config = g
		}
	}
	if config.origin == "" || config.words[0] == "" {
		return
	}
	f.path = config.words[0]
	text, err := os.ReadFile(f.path)
	if err != nil {
		f.problems = append(f.problems, settingError{"config", f.path, config.origin, "cannot read it: " + reason(err)})
		return
	}
	f.text = text
	f.parse(text, names)
}

// reason is the innermost error's text, without the name of the file or URL that the outer ones repeat.
func reason(err error) string {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err.Error()
}

// parse reads the text of a file, which may give the settings called names.
func (f *fileResolver) parse(text []byte, names []string) {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	err := decoder.Decode(&doc)
	switch {
	case errors.Is(err, io.EOF): // nothing, or nothing but comments
		return
	case err != nil:
		f.problem(nil, "not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		f.problem(top, "want lines such as maxclients: 10000")
		return
	}
	if !errors.Is(decoder.Decode(&second), io.EOF) {
		f.problem(nil, "want one YAML document, not several")
		return
	}
	f.settings = map[string]given{}
	for i := 0; i < len(top.Content); i += 2 {
		f.entry(top.Content[i], top.Content[i+1], names)
	}
}

// entry takes one line of the file.
func (f *fileResolver) entry(key, val *yaml.Node, names []string) {
	known := f.anyName
	for _, name := range names {
		known = known || name == key.Value
	}
	switch first, again := f.settings[key.Value]; {
	case key.Value == "config":
		f.problem(key, "config: a file cannot name another file")
	case !known:
		f.problem(key, "%q is not a setting; want one of %s", key.Value, strings.Join(names, ", "))
	case again:
		f.problem(key, "%s: already given at %s", key.Value, first.origin)
	default:
		f.settings[key.Value] = f.words(val)
	}
}

// words are the words of a value or of a list of values.
func (f *fileResolver) words(val *yaml.Node) given {
	g := given{origin: f.position(val)}
	for val.Kind == yaml.AliasNode {
		val = val.Alias
	}
	items := []*yaml.Node{val}
	if val.Kind == yaml.SequenceNode {
		items = val.Content
	}
	for _, item := range items {
		for item.Kind == yaml.AliasNode {
			item = item.Alias
		}
		g.words = append(g.words, item.Value)
		if item.Kind != yaml.ScalarNode {
			g.err = errors.New("want a single value, or a list of them where the setting is repeatable")
		}
	}
	if len(items) == 0 || items[0].Tag == "!!null" {
		g.err = errors.New("want a value; leave the line out for the default")
	}
	return g
}

// position says where in the file a node is.
func (f *fileResolver) position(node *yaml.Node) string {
	return fmt.Sprintf("%s:%d", f.path, node.Line)
}

// problem notes what is wrong at a node, or with the file as a whole.
func (f *fileResolver) problem(node *yaml.Node, format string, args ...any) {
	where := f.path
	if node != nil {
		where = f.position(node)
	}
	f.problems = append(f.problems, fmt.Errorf("%s: %s", where, fmt.Sprintf(format, args...)))
}
