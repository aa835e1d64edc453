package proxy

import (
	"strings"
	"testing"
	"time"
)

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
		{"a*b*c", "abbcbc", true},
		{"a*b*c", "abbcb", false},
		{"*ab", "aab", true},
		{"*a?", "aaab", true},
		{"*[ab]c*", "xaacx", true},
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

// A client may choose both: Redis was stopped that way once (CVE-2022-36021).
func TestNoPatternTakesLongToMatch(t *testing.T) {
	done := make(chan bool, 1)
	go func() { done <- matches([]byte(strings.Repeat("a*", 20)+"b"), []byte(strings.Repeat("a", 200))) }()
	select {
	case got := <-done:
		if got {
			t.Error("it matches")
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it is still being matched after 5 s")
	}
}
