package resp_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// What Redis reads as a command, the proxy reads as the same command; what Redis refuses, it refuses in the same
// words, so that clients and their logs cannot tell the difference. The texts and bounds were measured on Redis
// 7.0.15.

func TestReaderFindsTheCommandsInAStream(t *testing.T) {
	for _, tt := range []struct {
		name  string
		input string
		want  [][]string
	}{
		{"an array of bulk strings", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", [][]string{{"GET", "k"}}},
		{"a pipeline", "*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\nhi\r\n", [][]string{{"PING"}, {"ECHO", "hi"}}},
		{"values that look like protocol", "*2\r\n$4\r\nECHO\r\n$9\r\n*1\r\n$1\r\nx\r\n", [][]string{{"ECHO", "*1\r\n$1\r\nx"}}},
		{"empty values", "*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", [][]string{{"ECHO", ""}}},
		{"every byte in a value", "*1\r\n$6\r\n\x00\xff\r\n*$\r\n", [][]string{{"\x00\xff\r\n*$"}}},
		{"nothing, as an array", "*0\r\n*1\r\n$4\r\nPING\r\n", [][]string{{}, {"PING"}}},
		{"nothing, with a negative count", "*-1\r\n*-100\r\n*1\r\n$4\r\nPING\r\n", [][]string{{}, {}, {"PING"}}},
		{"nothing, as a line", "\r\n\n   \t\r\nPING\r\n", [][]string{{}, {}, {}, {"PING"}}},
		{"a line", "SET  k\t\"a b\"\r\n", [][]string{{"SET", "k", "a b"}}},
		{"a line that ends without a carriage return", "PING\nPING\r\n", [][]string{{"PING"}, {"PING"}}},
		{"lines and arrays in turn", "PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n", [][]string{{"PING"}, {"PING"}, {"PING"}}},
		{"anything in place of the line end behind a value", "*2\r\n$4\r\nECHO!!$2\r\nhi**PING\r\n", [][]string{{"ECHO", "hi"}, {"PING"}}},
		{"anything behind the carriage return of a header", "*1\rx$4\ryPING\r\nPING\r\n", [][]string{{"PING"}, {"PING"}}},
		{"an unfinished command behind a whole one", "PING\r\n*2\r\n$3\r\nGE", [][]string{{"PING"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := readHoweverSplit(t, &resp.Reader{}, []byte(tt.input), random(1))
			if got.Err != "" || !reflect.DeepEqual(got.Commands, tt.want) {
				t.Errorf("%q is read as %q, %s, want %q", tt.input, got.Commands, got.Err, tt.want)
			}
		})
	}
}

func TestReaderRefusesWhatRedisRefusesInItsWords(t *testing.T) {
	digits := func(n int) string { return strings.Repeat("1", n) }
	for _, tt := range []struct {
		name   string
		input  string
		want   string // "": it is waiting for more
		strict bool   // not authenticated
	}{
		{name: "a line of 64 KiB is waited for", input: strings.Repeat("x", resp.MaxLine)},
		{name: "a longer one is not", input: strings.Repeat("x", resp.MaxLine+1), want: "too big inline request"},
		{name: "a count of 64 KiB is waited for", input: "*" + digits(resp.MaxLine-1)},
		{name: "a longer one is not", input: "*" + digits(resp.MaxLine), want: "too big mbulk count string"},
		{name: "a length of 64 KiB is waited for", input: "*1\r\n$" + digits(resp.MaxLine-1)},
		{name: "a longer one is not", input: "*1\r\n$" + digits(resp.MaxLine), want: "too big bulk count string"},
		{name: "the largest count", input: "*2147483647\r\n"},
		{name: "a larger one", input: "*2147483648\r\n", want: "invalid multibulk length"},
		{name: "a much larger one", input: "*9223372036854775808\r\n", want: "invalid multibulk length"},
		{name: "a count that is no number", input: "*x\r\n", want: "invalid multibulk length"},
		{name: "no count", input: "*\r\n", want: "invalid multibulk length"},
		{name: "a count with a zero in front", input: "*01\r\n", want: "invalid multibulk length"},
		{name: "a count of minus nothing", input: "*-0\r\n", want: "invalid multibulk length"},
		{name: "a count with a blank in front", input: "* 1\r\n", want: "invalid multibulk length"},
		{name: "a count that ends without a carriage return", input: "*1\n$4\r\nPING\r\n", want: "invalid multibulk length"},
		{name: "the largest value", input: "*1\r\n$536870912\r\n"},
		{name: "a larger one", input: "*1\r\n$536870913\r\n", want: "invalid bulk length"},
		{name: "a value of a negative length", input: "*1\r\n$-1\r\n", want: "invalid bulk length"},
		{name: "a length that is no number", input: "*1\r\n$x\r\n", want: "invalid bulk length"},
		{name: "no length", input: "*1\r\n$\r\n", want: "invalid bulk length"},
		{name: "a length with a zero in front", input: "*1\r\n$04\r\nPING\r\n", want: "invalid bulk length"},
		{name: "a length with a sign", input: "*1\r\n$+4\r\nPING\r\n", want: "invalid bulk length"},
		{name: "another type than a bulk string", input: "*1\r\n:4\r\n", want: "expected '$', got ':'"},
		{name: "the same as the second argument", input: "*2\r\n$4\r\nECHO\r\nhi\r\n", want: "expected '$', got 'h'"},
		{name: "an empty line for a header", input: "*1\r\n\r\n", want: "expected '$', got ' '"},
		{name: "a line feed for a header", input: "*1\r\n\n\r\n", want: "expected '$', got ' '"},
		{name: "quotes that do not end", input: "SET k \"v\r\n", want: "unbalanced quotes in request"},

		{name: "ten arguments of a stranger", input: "*10\r\n", strict: true},
		{name: "eleven", input: "*11\r\n", want: "unauthenticated multibulk length", strict: true},
		{name: "more than anybody may have", input: "*2147483648\r\n", want: "invalid multibulk length", strict: true},
		{name: "16 KiB of a stranger", input: "*1\r\n$16384\r\n", strict: true},
		{name: "one byte more", input: "*1\r\n$16385\r\n", want: "unauthenticated bulk length", strict: true},
		{name: "more than anybody may send", input: "*1\r\n$536870913\r\n", want: "invalid bulk length", strict: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			settings := &resp.Reader{Unauthenticated: tt.strict}
			got := readHoweverSplit(t, settings, []byte(tt.input), random(2))
			want := read{Commands: [][]string{}}
			if tt.want != "" {
				want.Err = "Protocol error: " + tt.want
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%.100q: %.200q, want %q", tt.input, fmt.Sprint(got), fmt.Sprint(want))
			}
		})
	}
}

func TestReaderDoesNotBoundTheLinesOfAStranger(t *testing.T) {
	input := "ECHO " + strings.Repeat("x ", 20) + strings.Repeat("y", 20<<10) + "\r\n"
	got := readHoweverSplit(t, &resp.Reader{Unauthenticated: true}, []byte(input), random(3))
	if got.Err != "" || len(got.Commands) != 1 || len(got.Commands[0]) != 22 {
		t.Errorf("%.200q", fmt.Sprint(got))
	}
}

func TestReaderReturnsTheCommandsInFrontOfABadOne(t *testing.T) {
	const good = "PING\r\n*2\r\n$4\r\nECHO\r\n$1\r\nx\r\n"
	got := readHoweverSplit(t, &resp.Reader{}, []byte(good+"*1\r\n!oops\r\n"), random(4))
	want := read{
		Commands: [][]string{{"PING"}, {"ECHO", "x"}}, Consumed: len(good),
		Err: "Protocol error: expected '$', got '!'",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestMaxBulkBoundsTheArguments(t *testing.T) {
	settings := &resp.Reader{MaxBulk: 5}
	if got := readHoweverSplit(t, settings, resp.AppendCommand(nil, "ECHO", "12345"), random(5)); got.Err != "" {
		t.Errorf("an argument of the largest size is refused: %s", got.Err)
	}
	got := readHoweverSplit(t, settings, resp.AppendCommand(nil, "ECHO", "123456"), random(5))
	if got.Err != "Protocol error: invalid bulk length" {
		t.Errorf("an argument above it is treated with %q", got.Err)
	}
}

func TestReaderReadsALineOf64KiBAndACommandOfManyArguments(t *testing.T) {
	line := "ECHO " + strings.Repeat("x", resp.MaxLine-5) + "\n"
	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprint("argument ", i)
	}
	input := append([]byte(line), resp.AppendCommand(nil, many...)...)
	got := readHoweverSplit(t, &resp.Reader{}, input, random(6))
	if got.Err != "" || got.Consumed != len(input) || len(got.Commands) != 2 || !reflect.DeepEqual(got.Commands[1], many) {
		t.Errorf("%d of %d bytes, %d commands, %s", got.Consumed, len(input), len(got.Commands), got.Err)
	}
}

func TestBytesIsTheInputItselfWhereThatIsCanonical(t *testing.T) {
	input := resp.AppendCommand(nil, "SET", "k", "v")
	var r resp.Reader
	if _, err := r.Next(input); err != nil {
		t.Fatal(err)
	}
	if &r.Bytes()[0] != &input[0] || &r.Arg(2)[0] != &input[len(input)-3] {
		t.Error("the command was copied")
	}
	if arg := r.Arg(1); cap(arg) != len(arg) {
		t.Error("appending to an argument would overwrite what follows it")
	}
}

func TestMissingTellsWhatAnArgumentLacks(t *testing.T) {
	input := "*2\r\n$3\r\nGET\r\n$10\r\n0123456789\r\n"
	header := strings.Index(input, "0123")
	var r resp.Reader
	for have := range len(input) {
		if n, err := r.Next([]byte(input[:have])); n != 0 || err != nil {
			t.Fatalf("at %d: %d, %v", have, n, err)
		}
		want := 0
		switch name := len("*2\r\n$3\r\n"); {
		case have >= name && have < name+5:
			want = name + 5 - have
		case have >= header:
			want = len(input) - have
		}
		if got := r.Missing(have); got != want {
			t.Errorf("after %q it misses %d bytes, want %d", input[:have], got, want)
		}
	}
}

func TestDetachKeepsTheSettingsOfTheReader(t *testing.T) {
	r := &resp.Reader{MaxBulk: 3, Unauthenticated: true}
	if n, err := r.Next([]byte("*1\r\n")); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := r.Detach().Next([]byte("*1\r\n$4\r\n")); err == nil {
		t.Error("the detached Reader has forgotten MaxBulk")
	}
	if _, err := r.Next([]byte("*11\r\n")); err == nil {
		t.Error("the Reader itself has forgotten that nobody has authenticated")
	}
}

func TestNextReadsAPlainCommandWithoutAllocating(t *testing.T) {
	input := resp.AppendCommand(nil, "GET", "key:1234567890")
	var r resp.Reader
	if n := testing.AllocsPerRun(1000, func() {
		if n, err := r.Next(input); n != len(input) || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a command, want 0", n)
	}
}

func BenchmarkReaderNext(b *testing.B) {
	input := resp.AppendCommand(nil, "GET", "key:1234567890")
	var r resp.Reader
	b.ReportAllocs()
	b.SetBytes(int64(len(input)))
	for b.Loop() {
		if _, err := r.Next(input); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseIntTakesRedisFormOfIntegersOnly(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int64
		ok   bool
	}{
		{"0", 0, true}, {"7", 7, true}, {"10", 10, true}, {"-1", -1, true}, {"-10", -10, true},
		{"999999999999999999", 999999999999999999, true}, {"-999999999999999999", -999999999999999999, true},
		{"", 0, false}, {"-", 0, false}, {"-0", 0, false}, {"00", 0, false}, {"01", 0, false}, {"+1", 0, false},
		{" 1", 0, false}, {"1 ", 0, false}, {"1x", 0, false}, {"--1", 0, false}, {"1-", 0, false}, {"1.0", 0, false},
		{"1000000000000000000", 0, false},
	} {
		if got, ok := resp.ParseInt([]byte(tt.in)); got != tt.want || ok != tt.ok {
			t.Errorf("ParseInt(%q) = %d, %t, want %d, %t", tt.in, got, ok, tt.want, tt.ok)
		}
	}
}
