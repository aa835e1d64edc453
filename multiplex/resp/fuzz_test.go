package resp_test

import (
	"testing"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// most bounds the inputs of the fuzz targets: what takes many bytes, such as the limits, has tests of its own.
const most = 2048

// FuzzReader checks that a Reader says the same of an input however it is split, and that what is sent on is the
// same command again.
func FuzzReader(f *testing.F) {
	for _, seed := range []string{
		"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n", "PING\r\nSET k \"a\\x41\\n b\" 'c\\'d'\r\n\r\n*0\r\n*-1\r\n",
		"*1\rx$4\rxPINGxx\n", "*3\r\n$3\r\nSET\r\n$0\r\n\r\n$2\r\n\r\n\r\n", "*11\r\n$1\r\n1\r\n", "*1\r\n$16385\r\n",
		"*1\r\n$-1\r\n", "*2147483647\r\n$1\r\nx\r\n", "*2147483648\r\n", "*1\r\n:1\r\n", "*1\r\n\r\n", "\"a", "a\x00b\v\f\n",
		"*01\r\n", "*1\n$1\r\nx\r\n", "*1\r\n$4\r\nPI",
	} {
		f.Add([]byte(seed), uint64(len(seed)), true)
		f.Add([]byte(seed), uint64(1), false)
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64, authenticated bool) {
		if len(input) > most {
			return
		}
		got := readHoweverSplit(t, &resp.Reader{Unauthenticated: !authenticated}, input, random(seed))
		if got.Consumed > len(input) {
			t.Fatalf("of %d bytes it took %d", len(input), got.Consumed)
		}
	})
}

// FuzzFramer checks that a Framer says the same of an input however it is split, and that each frame is one by
// itself.
func FuzzFramer(f *testing.F) {
	for _, seed := range []string{
		"+OK\r\n-ERR x\r\n:1\r\n$5\r\nhello\r\n$-1\r\n*-1\r\n*2\r\n:1\r\n$0\r\n\r\n", "_\r\n#t\r\n,1.5\r\n(1\r\n!3\r\nERR\r\n=7\r\ntxt:abc\r\n",
		"%1\r\n+k\r\n~2\r\n:1\r\n:2\r\n", ">2\r\n+invalidate\r\n*1\r\n+k\r\n+OK\r\n", "*2\r\n>3\r\n+message\r\n+c\r\n+m\r\n:1\r\n+PONG\r\n",
		"|1\r\n+ttl\r\n:1\r\n*1\r\n|0\r\n:1\r\n", "+a\nb\r\n+a\r\r\n", "*1\r\n*1\r\n*1\r\n", "*9999999999999999\r\n", "$3\r\nabcd\r\n", "$\r\n",
		"*?\r\n", "$1\r\r\n", "HTTP/1.1 200 OK\r\n",
	} {
		f.Add([]byte(seed), uint64(len(seed)))
	}
	f.Fuzz(func(t *testing.T, input []byte, seed uint64) {
		if len(input) > most {
			return
		}
		got := frameHoweverSplit(t, input, random(seed))
		for _, frame := range got.Frames {
			alone := frameAll(t, []byte(frame), []int{len(frame)})
			if len(alone.Frames) != 1 || alone.Frames[0] != frame || alone.Err != "" {
				t.Fatalf("%q, a frame of %q, has the frames %q by itself", frame, input, alone.Frames)
			}
		}
	})
}
