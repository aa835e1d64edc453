package resp_test

import (
	"reflect"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// People type commands as lines, into telnet or from a shell script, and Redis has its own idea of quotes and
// blanks (sds.c: sdssplitargs). Each row was sent to Redis 7.0.15 as the arguments of RPUSH, and the list read back.

func TestLinesAreSplitIntoTheWordsThatRedisSees(t *testing.T) {
	for _, tt := range []struct {
		line string
		want []string // nil: unbalanced quotes
	}{
		{`a b`, []string{"a", "b"}},
		{"  a\t b  ", []string{"a", "b"}},
		{"a\rb\r", []string{"a", "b"}},
		{"a\vb", []string{"a\vb"}}, // white space between words only
		{"a\fb", []string{"a\fb"}},
		{"\va \fb", []string{"a", "b"}},
		{"\"a\"\vb", []string{"a", "b"}},
		{`a\nb`, []string{`a\nb`}}, // a backslash means nothing without quotes
		{"\x80\xff", []string{"\x80\xff"}},

		{`"a b"`, []string{"a b"}},
		{`""`, []string{""}},
		{`a"b"`, []string{"ab"}}, // quotes may begin in a word, but not end in one
		{`a"b"c`, nil},
		{`"a"b`, nil},
		{`"a""b"`, nil},
		{`"a`, nil},
		{`"`, nil},
		{`"a\"`, nil},
		{`"a\`, nil},
		{`"\n\r\t\b\a"`, []string{"\n\r\t\b\a"}},
		{`"\q\\\""`, []string{`q\"`}},
		{`"\x41\xfF\x00"`, []string{"A\xff\x00"}},
		{`"\x4"`, []string{"x4"}},
		{`"\xzz"`, []string{"xzz"}},
		{`"\x4g"`, []string{"x4g"}},
		{`"\X41"`, []string{"X41"}},
		{`"\x4`, nil},
		{`"it's"`, []string{"it's"}},

		{`'a b'`, []string{"a b"}},
		{`''`, []string{""}},
		{`a'b'`, []string{"ab"}},
		{`'a'b`, nil},
		{`'a`, nil},
		{`'\`, nil},
		{`'\''`, []string{"'"}},
		{`'\n\x41\"'`, []string{`\n\x41\"`}}, // only \' means something
		{`'say "x"'`, []string{`say "x"`}},
	} {
		got := readHoweverSplit(t, &resp.Reader{}, []byte("RPUSH l "+tt.line+"\r\n"), random(7))
		if tt.want == nil {
			if got.Err != "Protocol error: unbalanced quotes in request" || len(got.Commands) != 0 {
				t.Errorf("%q is read as %q, %q", tt.line, got.Commands, got.Err)
			}
			continue
		}
		want := [][]string{append([]string{"RPUSH", "l"}, tt.want...)}
		if got.Err != "" || !reflect.DeepEqual(got.Commands, want) {
			t.Errorf("%q is read as %q, %q, want %q", tt.line, got.Commands, got.Err, want)
		}
	}
}
