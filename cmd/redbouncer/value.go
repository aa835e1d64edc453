package main

import (
	"encoding"
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

// value is one setting of type T: what it is, and what was given where. A value that cannot be used keeps the
// reason instead of failing at once, so that an operator is told of all of them together.
type value[T any] struct {
	is    T
	given given
	err   error
}

// given is what somebody said about a setting.
type given struct {
	words  []string // more than one for a setting that may be repeated
	origin string   // "--maxclients", "REDBOUNCER_MAXCLIENTS", "redbouncer.yaml:3", "default"; empty for nobody
	err    error    // why the words cannot be had: the file holds something else in this place
}

// setting is a value of any type.
type setting interface {
	origin() string
	said() string      // the words, secrets masked
	inForce() []string // the value as the file would spell it, secrets masked
	spelled() string   // the value, secrets and all, to be compared
	problem() error    // what would be usable instead; nil for a good value

	// choices are the words of a setting that has few, and whether it may be repeated.
	choices() (words []string, repeated bool)
}

// isSetting tells a row of the table from --help.
func isSetting(flag *kong.Flag) bool {
	_, ok := flag.Target.Addr().Interface().(setting)
	return ok
}

// row is the setting behind a flag of the table.
func row(flag *kong.Flag) setting {
	return flag.Target.Addr().Interface().(setting)
}

// Decode implements kong.MapperValue. It is called with the default, then with whatever has been given. A
// repeated flag calls it again on the same value.
func (v *value[T]) Decode(ctx *kong.DecodeContext) error {
	var g given
	switch token := ctx.Scan.Pop(); said := token.Value.(type) {
	case given: // from the environment or the file
		g = said
	case string:
		g = given{words: []string{said}, origin: "--" + ctx.Value.Name}
		if ctx.Value.Target.Addr().Interface() == any(v) {
			// Kong decodes defaults into the field itself, and everything else beside it.
			g.origin = "default"
		}
	default:
		return errors.New("say its value, as in " + ctx.Value.Flag.String())
	}
	if _, ok := any(&v.is).(repeatable); ok {
		g.words = append(v.given.words, g.words...)
	} else if len(g.words) > 1 {
		g.err = errors.New("want one value, not several")
	}
	v.set(g)
	return nil
}

// set makes the words the value.
func (v *value[T]) set(g given) {
	var zero T
	v.is, v.given, v.err = zero, g, g.err
	for _, word := range g.words {
		if v.err == nil {
			v.err = any(&v.is).(encoding.TextUnmarshaler).UnmarshalText([]byte(word))
		}
	}
}

func (v *value[T]) origin() string { return v.given.origin }
func (v *value[T]) problem() error { return v.err }

func (v *value[T]) said() string {
	text := strings.Join(v.given.words, ",")
	if m, ok := any(&v.is).(masker); ok {
		return m.mask(text)
	}
	return text
}

func (v *value[T]) inForce() []string {
	if r, ok := any(&v.is).(repeatable); ok {
		return r.list()
	}
	return []string{fmt.Sprint(v.is)}
}

func (v *value[T]) spelled() string {
	if _, ok := any(&v.is).(masker); ok {
		return strings.Join(v.given.words, "\n")
	}
	return strings.Join(v.inForce(), "\n")
}

// repeatable is implemented by types that hold a list. They split a word at its commas.
type repeatable interface{ list() []string }

// masker is implemented by types whose words may hold a secret.
type masker interface{ mask(text string) string }
