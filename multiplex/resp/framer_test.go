package resp_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A lane is in order: the n-th reply belongs to the n-th request. So one end found too early or too late hands
// every client behind it somebody else's data, and what is not a reply at all has to end the lane.

func TestFramerFindsTheEndOfEveryTypeOfReply(t *testing.T) {
	for _, frame := range []string{
		// RESP2
		"+OK\r\n", "+\r\n", "-ERR no\r\n", ":1\r\n", ":-1\r\n", "$0\r\n\r\n", "$5\r\nhello\r\n", "$-1\r\n", "*0\r\n", "*-1\r\n",
		"*2\r\n$1\r\na\r\n:1\r\n", "*2\r\n*1\r\n+a\r\n*2\r\n:1\r\n$-1\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*0\r\n",
		"*3\r\n*-1\r\n*0\r\n$-1\r\n",
		// Payloads that look like protocol, and line feeds that end nothing.
		"$7\r\n+OK\r\n*1\r\n", "$2\r\n\r\n\r\n", "+a\nb\r\n", "-ERR a\n+OK\r\n", "+\n\r\n", "+a\rb\r\n", "+a\r\r\n",
		// RESP3
		"_\r\n", "#t\r\n", "#f\r\n", ",3.14\r\n", ",inf\r\n", "(3492890328409238509324850943850943825024385\r\n",
		"!8\r\nERR a\r\nb\r\n", "=15\r\ntxt:Some string\r\n", "~2\r\n:1\r\n:2\r\n", "~0\r\n", "%0\r\n",
		"%2\r\n+a\r\n:1\r\n+b\r\n*2\r\n:1\r\n_\r\n", "%1\r\n%1\r\n+k\r\n+v\r\n~1\r\n#t\r\n",
		// A push at the top is a frame of its own.
		">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n", ">2\r\n+invalidate\r\n_\r\n", ">0\r\n",
		">2\r\n+invalidate\r\n*2\r\n+a\r\n+b\r\n",
		// A push inside a reply is none of its elements.
		"*2\r\n>3\r\n+message\r\n+c\r\n+m\r\n:1\r\n+PONG\r\n", "*1\r\n>1\r\n+x\r\n:1\r\n", "%1\r\n+k\r\n>1\r\n+x\r\n+v\r\n",
		"*2\r\n:1\r\n*1\r\n>2\r\n*0\r\n+x\r\n:1\r\n",
		// Attributes belong to what follows, wherever they are.
		"|1\r\n+ttl\r\n:3600\r\n+OK\r\n", "|0\r\n:1\r\n", "|1\r\n+a\r\n*2\r\n:1\r\n:2\r\n|1\r\n+b\r\n%1\r\n+k\r\n+v\r\n*1\r\n+x\r\n",
		"*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n", "*2\r\n:1\r\n|1\r\n+a\r\n+b\r\n:2\r\n", "|1\r\n|1\r\n+c\r\n+d\r\n+a\r\n+b\r\n:1\r\n",
	} {
		for _, input := range []string{frame, frame + frame, frame + "+after\r\n" + frame + "$3\r\nhal"} {
			got := frameHoweverSplit(t, []byte(input), random(8))
			want := []string{frame}
			switch {
			case len(input) == 2*len(frame):
				want = []string{frame, frame}
			case len(input) > len(frame):
				want = []string{frame, "+after\r\n", frame}
			}
			if got.Err != "" || got.Consumed != len(input) || !reflect.DeepEqual(got.Frames, want) {
				t.Errorf("%q has the frames %q (%d of %d bytes, %s), want %q", input, got.Frames, got.Consumed, len(input), got.Err, want)
			}
		}
	}
}

func TestTopIsTheTypeOfTheReplyBehindItsAttributes(t *testing.T) {
	for input, want := range map[string]string{
		"+OK\r\n-ERR x\r\n$-1\r\n":     "+-$",
		"*1\r\n-ERR x\r\n":             "*",
		">1\r\n+x\r\n:1\r\n":           ">:",
		"*1\r\n>1\r\n+x\r\n:1\r\n":     "*",
		"|1\r\n+a\r\n-b\r\n-ERR x\r\n": "-",
		"|1\r\n+a\r\n*1\r\n:1\r\n|1\r\n+a\r\n+b\r\n%1\r\n+a\r\n:1\r\n_\r\n": "%_",
		"|1\r\n+a\r\n+b\r\n>1\r\n+x\r\n!1\r\nx\r\n":                         ">!",
	} {
		if got := frameHoweverSplit(t, []byte(input), random(9)); got.Tops != want || got.Err != "" {
			t.Errorf("%q has the tops %q, %s, want %q", input, got.Tops, got.Err, want)
		}
	}
}

func TestTopIsKnownBeforeTheReplyIsComplete(t *testing.T) {
	var f resp.Framer
	if _, done, err := f.Next([]byte(">2\r\n+x")); done || err != nil || f.Top() != '>' {
		t.Errorf("done %t, %v, top %q", done, err, f.Top())
	}
}

func TestBytesThatAreNoReplyAreAFrameError(t *testing.T) {
	for _, tt := range []struct{ good, bad string }{
		{"", "x"}, {"", "\r\n"}, {"", "\n"}, {"", "PONG\r\n"}, {"", "\x00"}, {"", "HTTP/1.1 400 Bad Request\r\n"},
		{"+OK\r\n", "\n"}, {"+OK\r\n", "OK\r\n"}, // a reply, and what is none behind it
		{"*2\r\n:1\r\n", "x"}, {"%1\r\n+k\r\n", "?"}, {"|1\r\n", "&"}, {"*1\r\n", "\r\n"},
		{"$", "x"}, {"$", "\r\n"}, {"$", "\n"}, {"$", "+1\r\n"}, {"$1", "\n"}, {"$1", "x"}, {"$1", "-"}, {"$-", "-1\r\n"}, {"$-", "\r\n"},
		{"$1\r", "1"}, {"$1\r", "\r\n"}, {"*", "\r\n"}, {"*?", ""}, {"$?", ""}, {"*1 ", ""}, {"%", "x"}, {">", "x"}, {"|", "x"}, {"~", "x"},
		{"$3\r\nabc", "d\r\n"}, {"$3\r\nabc", "\n"}, {"$3\r\nabc\r", "\r\n"}, {"$0\r\n", "x"}, {"=4\r\ntxt:", "x"}, {"!1\r\nE", "x"},
		{"*9999999999999", "9\r\n"}, {"$9999999999999", "9\r\n"}, // more than anybody can have
	} {
		if tt.bad == "" { // the last good byte is the bad one
			tt.good, tt.bad = tt.good[:len(tt.good)-1], tt.good[len(tt.good)-1:]
		}
		got := frameHoweverSplit(t, []byte(tt.good+tt.bad), random(10))
		want := (&resp.FrameError{Byte: tt.bad[0]}).Error()
		if got.Err != want || got.Consumed != len(tt.good) {
			t.Errorf("%q and %q: %q after %d bytes, want %q", tt.good, tt.bad, got.Err, got.Consumed, want)
		}
	}
}

func TestAFrameErrorCanBeToldFromOthers(t *testing.T) {
	var f resp.Framer
	_, _, err := f.Next([]byte("?"))
	var frameErr *resp.FrameError
	if !errors.As(err, &frameErr) || frameErr.Byte != '?' {
		t.Errorf("%v", err)
	}
}

func TestHugeRepliesAreWaitedForWithoutMemory(t *testing.T) {
	for _, input := range []string{"*2147483647\r\n:1\r\n", "%2147483647\r\n:1\r\n", "$536870912\r\nx", ">1000000000\r\n", "|1000000000\r\n"} {
		got := frameHoweverSplit(t, []byte(input), random(11))
		if got.Err != "" || len(got.Frames) != 0 || got.Consumed != len(input) || got.Between {
			t.Errorf("%q: %q", input, fmt.Sprint(got))
		}
	}
	deep := strings.Repeat("*1\r\n", 100_000) + ":1\r\n"
	if got := frameAll(t, []byte(deep), []int{len(deep) / 2, len(deep)}); got.Err != "" || len(got.Frames) != 1 {
		t.Errorf("arrays in arrays: %d frames, %s", len(got.Frames), got.Err)
	}
}

// reply appends a reply of any type, of at most the given depth, which pushes and attributes may come before or
// be part of.
func reply(rnd *rand.Rand, b []byte, depth int, inside bool) []byte {
	if depth > 0 && rnd.IntN(12) == 0 {
		n := rnd.IntN(3)
		b = fmt.Appendf(b, "|%d\r\n", n)
		for range 2 * n {
			b = reply(rnd, b, depth-1, false)
		}
	}
	if inside && rnd.IntN(12) == 0 {
		n := rnd.IntN(3)
		b = fmt.Appendf(b, ">%d\r\n", n)
		for range n {
			b = reply(rnd, b, 0, false)
		}
	}
	text := "\r\n+$*x:"[:rnd.IntN(7)]
	kinds := "+-:_#,($$$!="
	if depth > 0 {
		kinds += "*~%*~%"
	}
	switch kind := kinds[rnd.IntN(len(kinds))]; kind {
	case '$', '!', '=':
		if rnd.IntN(5) == 0 {
			return append(b, "$-1\r\n"...)
		}
		return fmt.Appendf(b, "%c%d\r\n%s\r\n", kind, len(text), text)
	case '*', '~', '%':
		if rnd.IntN(8) == 0 {
			return append(b, "*-1\r\n"...)
		}
		n := rnd.IntN(4)
		b = fmt.Appendf(b, "%c%d\r\n", kind, n)
		if kind == '%' {
			n *= 2
		}
		for range n {
			b = reply(rnd, b, depth-1, true)
		}
		return b
	default:
		return fmt.Appendf(b, "%c%s\r\n", kind, strings.ReplaceAll(text, "\r\n", "\n"))
	}
}

func TestFramerFindsTheEndsOfRandomReplies(t *testing.T) {
	rnd := random(12)
	for range 300 {
		var input []byte
		want := framed{Frames: []string{}, Between: true}
		for range 1 + rnd.IntN(6) {
			from := len(input)
			input = reply(rnd, input, 1+rnd.IntN(4), false)
			want.Frames = append(want.Frames, string(input[from:]))
		}
		want.Consumed = len(input)
		got := frameHoweverSplit(t, input, rnd)
		want.Tops = got.Tops
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q\n%q", fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

func TestNextFramesABulkReplyWithoutAllocating(t *testing.T) {
	input := bulk(64)
	var f resp.Framer
	if n := testing.AllocsPerRun(1000, func() {
		if n, done, err := f.Next(input); n != len(input) || !done || err != nil {
			t.Fatal(n, done, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a reply, want 0", n)
	}
}

func bulk(n int) []byte { return resp.AppendBulk(nil, strings.Repeat("x", n)) }

func BenchmarkFramerNext(b *testing.B) {
	for name, input := range map[string][]byte{
		"bulk": bulk(64), "status": []byte("+OK\r\n"), "array": append([]byte("*2\r\n"), append(bulk(8), bulk(8)...)...),
	} {
		b.Run(name, func(b *testing.B) {
			var f resp.Framer
			b.ReportAllocs()
			b.SetBytes(int64(len(input)))
			for b.Loop() {
				if _, _, err := f.Next(input); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
