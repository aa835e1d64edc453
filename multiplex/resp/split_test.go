package resp_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Input is split by the network, wherever it likes. What a Reader or a Framer says must not depend on it: a proxy
// that takes a byte of one client's value for a command, or of one reply for the next, has given somebody else's
// data away. Here are the ways to split that all tests of this package go through.

// splits returns ways to cut n bytes into pieces: each is the ends of the pieces, in order.
func splits(n int, rnd *rand.Rand) map[string][]int {
	ways := map[string][]int{"all at once": {n}, "in empty pieces too": {0, n / 2, n / 2, n}}
	var single []int
	for end := 1; end <= n; end++ {
		if end < 200 || n-end < 200 { // of what is long, the middle is all the same
			single = append(single, end)
		}
	}
	ways["byte by byte"] = single
	for try := range 3 {
		var ends []int
		for at := 0; at < n; {
			at += 1 + rnd.IntN(1+rnd.IntN(max(40, n/50)))
			ends = append(ends, min(at, n))
		}
		ways[fmt.Sprint("at random ", try)] = append(ends, n)
	}
	return ways
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// read is what a Reader made of an input.
type read struct {
	Commands [][]string
	Consumed int
	Err      string
}

// interruption is what happens to a Reader between two pieces of a command.
type interruption int

const (
	none interruption = iota
	detached
	reset
)

// readAll has a Reader with r's settings read input in pieces. Every buffer that it gets is a copy of its own, as
// long as that is cheap: it must not remember one.
func readAll(t testing.TB, settings *resp.Reader, input []byte, ends []int, then interruption) read {
	t.Helper()
	r := &resp.Reader{MaxBulk: settings.MaxBulk, Unauthenticated: settings.Unauthenticated}
	got := read{Commands: [][]string{}}
	for _, end := range ends {
		for {
			buf := input[got.Consumed:end]
			if len(buf) < 4096 {
				buf = bytes.Clone(buf)
			}
			n, err := r.Next(buf)
			if err != nil {
				got.Err = err.Error()
				return got
			}
			if n == 0 {
				break
			}
			args := arguments(r)
			checkBytes(t, r, args, buf[:n])
			got.Commands = append(got.Commands, args)
			got.Consumed += n
		}
		switch then {
		case detached:
			next := r.Detach()
			if n, err := r.Next([]byte("PING\r\n")); n != 6 || err != nil || string(r.Arg(0)) != "PING" {
				t.Fatalf("after Detach, the old Reader reads PING as %d, %v", n, err)
			}
			r = next
		case reset:
			r.Reset()
		}
	}
	return got
}

func arguments(r *resp.Reader) []string {
	args := make([]string, r.Len())
	for i := range args {
		args[i] = string(r.Arg(i))
	}
	return args
}

// checkBytes checks that Bytes is the same command in the form in which it may be sent on.
func checkBytes(t testing.TB, r *resp.Reader, args []string, raw []byte) {
	t.Helper()
	if len(args) == 0 {
		return // nothing to send on
	}
	canonical := resp.AppendCommand(nil, args...)
	if !bytes.Equal(r.Bytes(), canonical) {
		t.Fatalf("%q is to be sent on as %q, want %q", raw, r.Bytes(), canonical)
	}
	again := &resp.Reader{MaxBulk: 1 << 30}
	n, err := again.Next(canonical)
	if n != len(canonical) || err != nil || !reflect.DeepEqual(arguments(again), args) {
		t.Fatalf("%q sent on is read as %d, %v, %q, want %q", raw, n, err, arguments(again), args)
	}
}

// readHoweverSplit reads input in all ways, and returns what all of them gave.
func readHoweverSplit(t testing.TB, settings *resp.Reader, input []byte, rnd *rand.Rand) read {
	t.Helper()
	want := readAll(t, settings, input, []int{len(input)}, none)
	for way, ends := range splits(len(input), rnd) {
		for _, then := range []interruption{none, detached, reset} {
			if got := readAll(t, settings, input, ends, then); !reflect.DeepEqual(got, want) {
				t.Fatalf("%.200q\n%s (%d): %.300q\nall at once: %.300q", input, way, then, fmt.Sprint(got), fmt.Sprint(want))
			}
		}
	}
	return want
}

// framed is what a Framer made of an input.
type framed struct {
	Frames   []string
	Tops     string
	Consumed int
	Between  bool
	Err      string
}

func frameAll(t testing.TB, input []byte, ends []int) framed {
	t.Helper()
	var f resp.Framer
	got := framed{Frames: []string{}, Between: true}
	start := 0
	for _, end := range ends {
		for {
			piece := bytes.Clone(input[got.Consumed:end])
			n, done, err := f.Next(piece)
			got.Consumed += n
			got.Between = f.Between()
			if err != nil {
				got.Err = err.Error()
				return got
			}
			if done != (f.Between() && n > 0) {
				t.Fatalf("%q: after %q, done is %t and Between is %t", input, piece[:n], done, f.Between())
			}
			if !done {
				if n != len(piece) {
					t.Fatalf("%q: of the piece %q it took %d bytes without being done", input, piece, n)
				}
				break
			}
			got.Frames = append(got.Frames, string(input[start:got.Consumed]))
			got.Tops += string(f.Top())
			start = got.Consumed
		}
	}
	return got
}

// frameHoweverSplit frames input in all ways, and returns what all of them gave.
func frameHoweverSplit(t testing.TB, input []byte, rnd *rand.Rand) framed {
	t.Helper()
	want := frameAll(t, input, []int{len(input)})
	for way, ends := range splits(len(input), rnd) {
		if got := frameAll(t, input, ends); !reflect.DeepEqual(got, want) {
			t.Fatalf("%.200q\n%s: %.300q\nall at once: %.300q", input, way, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
	return want
}
