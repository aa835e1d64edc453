package proxy

import "testing"

// The patterns are those of Redis's own tests of PSUBSCRIBE and KEYS, and of its documentation.
func TestPatternsMatchAsInRedis(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"*", "anything", true},
		{"**a**", "bab", true},
		{"h?llo", "hello", true},
		{"h?llo", "hllo", false},
		{"h*llo", "heeeello", true},
		{"h*llo", "heeeell", false},
		{"h[ae]llo", "hallo", true},
		{"h[ae]llo", "hillo", false},
		{"h[^e]llo", "hbllo", true},
		{"h[^e]llo", "hello", false},
		{"h[a-b]llo", "hbllo", true},
		{"h[b-a]llo", "hallo", true},
		{"h[a-b]llo", "hcllo", false},
		{"h\\*llo", "h*llo", true},
		{"h\\*llo", "hello", false},
		{"h[\\^x]llo", "h^llo", true},
		{"h[a", "ha", true}, // a class without end ends with the pattern
		{"a\\", "a\\", true},
		{"news.*", "news.", true},
		{"news.*", "new.s", false},
		{"[", "a", false},
	} {
		if got := matches([]byte(tc.pattern), []byte(tc.name)); got != tc.want {
			t.Errorf("%q matches %q: %t, want %t", tc.pattern, tc.name, got, tc.want)
		}
	}
}
