package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// PROXY CONFIG REWRITE writes what operators have set at run time into the file, and nothing else: what comes from flags or
// environment, secrets above all, is not the file's.

var errChangedFile = errors.New("the configuration file has changed since it was read: PROXY RELOAD first")

// Rewrite implements admin.Settings.
func (r *reloader) Rewrite(context.Context) ([]admin.SettingChange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	file := r.inv.file
	if file.path == "" {
		return nil, errNoFile
	}
	text, err := os.ReadFile(file.path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("config: cannot read %s: %s", file.path, reason(err))
	case !bytes.Equal(text, file.text):
		return nil, errChangedFile
	}
	entries, changes := r.toWrite()
	if len(entries) == 0 {
		return changes, nil
	}
	next, err := rewritten(text, entries)
	if err != nil {
		return nil, fmt.Errorf("config: cannot rewrite %s: %w", file.path, err)
	}
	if err := replaceFile(file.path, next); err != nil {
		return nil, fmt.Errorf("config: cannot write %s: %s", file.path, reason(err))
	}
	written, err := parse(r.inv.args, io.Discard)
	if err != nil {
		return nil, fmt.Errorf("%s has been written, and cannot be read again: %w", file.path, onOneLine(err))
	}
	r.keepFixed(written)
	r.inv = written
	r.proxy.Adopt(written.settings.config())
	return changes, nil
}

// entry is a setting as the file is to have it.
type entry struct {
	name   string
	values []string // several for a setting that may be repeated
}

// toWrite returns what has been set at run time, but for what would have no effect in the file, and says so of each.
func (r *reloader) toWrite() (entries []entry, changes []admin.SettingChange) {
	inForce := r.inForce()
	for _, flag := range r.inv.table {
		now := inForce[flag.Name]
		if now.From != proxy.RunTime {
			continue
		}
		c := admin.SettingChange{Name: flag.Name, Was: shown(flag), Now: now.Value, Outcome: "written"}
		if origin := row(flag).origin(); origin != "default" && origin != r.inv.file.settings[flag.Name].origin {
			c.Outcome = "not written: " + origin + " goes before the file"
		} else {
			entries = append(entries, entry{flag.Name, strings.Split(now.Value, ";")})
		}
		changes = append(changes, c)
	}
	return entries, changes
}

// rewritten returns the text of a file with entries in it. It is an error if the file would not say just that.
func rewritten(text []byte, entries []entry) ([]byte, error) {
	next, err := editYAML(text, entries)
	if err != nil {
		return nil, err
	}
	want, got := wordsOf(text), wordsOf(next)
	for _, e := range entries {
		want[e.name] = e.values
	}
	for name, words := range got {
		if canonical(name, words) != canonical(name, want[name]) {
			return nil, fmt.Errorf("its form is not understood at %s; want a line for each setting, such as maxclients: 10000", name)
		}
	}
	if len(got) != len(want) {
		return nil, errors.New("its form is not understood; want a line for each setting, such as maxclients: 10000")
	}
	return next, nil
}

// wordsOf returns what the text of a file says of each setting.
func wordsOf(text []byte) map[string][]string {
	f := fileResolver{anyName: true}
	f.parse(text, nil)
	out := map[string][]string{}
	for name, g := range f.settings {
		out[name] = g.words
	}
	return out
}

// canonical is what words say of a setting, whatever the order of rules.
func canonical(name string, words []string) string {
	if name != "limit" {
		return strings.Join(words, "\n")
	}
	var texts []string
	for _, word := range words {
		for text := range strings.SplitSeq(word, ";") {
			texts = append(texts, inForceText(text))
		}
	}
	slices.Sort(texts)
	return strings.Join(texts, "\n")
}

// replaceFile puts another file in the place of one, with its mode and, where possible, its owner: whoever reads it sees the
// one or the other. Where the name is a symlink, what it leads to is replaced.
func replaceFile(path string, text []byte) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".redbouncer-*")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		keepOwner(f, info)
		err = f.Chmod(info.Mode().Perm()) // after the owner, whose change takes bits away
	}
	if err == nil {
		err = f.Sync()
	}
	if closing := f.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(f.Name(), target)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if dir, err := os.Open(filepath.Dir(target)); err == nil { // so that the name outlives a power failure, where that can be had
		_ = dir.Sync()
		_ = dir.Close()
	}
	return nil
}
