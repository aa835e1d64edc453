package main

import (
	"strings"
	"testing"
)

func TestRepliesAreCountedHoweverTheyAreCut(t *testing.T) {
	streams := map[string]int{
		"+OK\r\n":                                  1,
		"+OK\r\n:1\r\n$-1\r\n":                     3,
		"$5\r\na\r\nb!\r\n$0\r\n\r\n":              2,
		"*0\r\n*-1\r\n*2\r\n$1\r\na\r\n:2\r\n":     3,
		"*2\r\n*1\r\n+x\r\n*0\r\n+OK\r\n":          2,
		"%1\r\n+k\r\n:1\r\n_\r\n":                  2,
		">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n:1\r\n": 1,
		"$3\r\nab":          0,
		"*2\r\n$1\r\na\r\n": 0,
	}
	for stream, want := range streams {
		for size := 1; size <= len(stream); size++ {
			var s scanner
			got := 0
			for rest := []byte(stream); len(rest) > 0; {
				n := min(size, len(rest))
				got += s.feed(rest[:n])
				rest = rest[n:]
			}
			if got != want || s.failure != "" {
				t.Errorf("%q in pieces of %d: %d replies, %q; want %d", stream, size, got, s.failure, want)
			}
		}
	}
}

func TestTheFirstErrorIsKept(t *testing.T) {
	for stream, want := range map[string]string{
		"+OK\r\n-ERR one\r\n-ERR two\r\n": "ERR one",
		"*2\r\n-WRONGTYPE x\r\n+OK\r\n":   "WRONGTYPE x",
		"\n":                              "an empty line is no reply",
		strings.Repeat("x", 2*maxLine):    "a line of more than 4,096 bytes is no reply",
	} {
		var s scanner
		s.feed([]byte(stream))
		if s.failure != want {
			t.Errorf("%.40q: got %q, want %q", stream, s.failure, want)
		}
	}
}

func FuzzTheScannerDoesNotCareHowAStreamIsCut(f *testing.F) {
	f.Add([]byte("*2\r\n$3\r\nabc\r\n:1\r\n-ERR\r\n"), 3)
	f.Fuzz(func(t *testing.T, stream []byte, at int) {
		var whole, cut scanner
		if len(stream) == 0 || len(stream) >= maxLine {
			return
		}
		at = max(at, -at) % len(stream)
		want := whole.feed(stream)
		if got := cut.feed(stream[:max(at, 0)]) + cut.feed(stream[max(at, 0):]); got != want || cut.failure != whole.failure {
			t.Errorf("%q: %d replies, cut at %d: %d", stream, want, at, got)
		}
	})
}
