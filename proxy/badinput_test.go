package proxy_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// On a connection that many share, one client's bad input is everybody's: Redis closes a connection on which
// the protocol is broken. So the proxy judges input itself, by Redis's own rules and with Redis's own words.
// The tests here send the same bytes to a Redis and to a proxy and compare what comes back up to the end.

// badInput is something that no client library sends.
type badInput struct {
	name string
	raw  string
	// want is what a Redis says to it before it closes; if empty, the connection stays. It stands here to be
	// read: what is compared is what the server really says.
	want string
}

// quirk is what a server does with some input that is no rule of the protocol, from a version on. The proxy judges as all
// others do.
type quirk struct {
	server, version string
	input, before   string // names; empty: any
	means           string // what is no protocol error, in a form that every server takes
}

var quirks = []quirk{
	// It notices what is wrong behind a blocking command only when more comes.
	{"redis", "8.0", "", "behind a blocking command", ""},
	// It takes quotes that end inside a word as a shell does.
	{"valkey", "9.1", "quotes that end inside a word", "", ""},
	// It looks at the two bytes where others expect a line to end.
	{"valkey", "9.1", "two other bytes where a line ends", "", "PING\r\n"},
}

// quirkOf returns what the server does otherwise with an input behind another, or nil.
func quirkOf(s *proxytest.Server, input, before string) *quirk {
	for i, q := range quirks {
		if (q.input == "" || q.input == input) && (q.before == "" || q.before == before) && s.Is(q.server, q.version) {
			return &quirks[i]
		}
	}
	return nil
}

const protocolError = "-ERR Protocol error: "

var (
	manyOnes = strings.Repeat("1", 70_000)
	longWord = strings.Repeat("x", 100_000)
)

// protocolErrors all end the connection.
var protocolErrors = []badInput{
	{"a count that is no number", "*abc\r\n", "invalid multibulk length"},
	{"a count with a blank", "* 1\r\n$4\r\nPING\r\n", "invalid multibulk length"},
	{"a count beyond 32 bits", "*2147483648\r\n", "invalid multibulk length"},
	{"a count beyond 64 bits", "*99999999999999999999\r\n", "invalid multibulk length"},
	{"a count ended by a newline alone", "*1\n$4\r\nPING\r\n", "invalid multibulk length"},
	{"a count without end", "*" + manyOnes, "too big mbulk count string"},
	{"a word where a bulk belongs", "*1\r\nfoo\r\n", "expected '$', got 'f'"},
	{"an integer where a bulk belongs", "*1\r\n:3\r\n", "expected '$', got ':'"},
	{"an empty line where a bulk belongs", "*1\r\n\r\n", "expected '$', got ' '"},
	{"a second argument that is no bulk", "*2\r\n$4\r\nECHO\r\n*1\r\n", "expected '$', got '*'"},
	{"a bulk length that is no number", "*1\r\n$abc\r\n", "invalid bulk length"},
	{"a bulk length that is missing", "*1\r\n$\r\n", "invalid bulk length"},
	{"a null argument", "*2\r\n$4\r\nECHO\r\n$-1\r\n", "invalid bulk length"},
	{"a negative bulk length", "*1\r\n$-5\r\n", "invalid bulk length"},
	{"a bulk above proto-max-bulk-len", "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$536870913\r\n", "invalid bulk length"},
	{"a bulk length beyond 64 bits", "*1\r\n$99999999999999999999\r\n", "invalid bulk length"},
	{"a bulk length without end", "*1\r\n$" + manyOnes, "too big bulk count string"},
	{"an inline command without end", longWord, "too big inline request"},
	{"double quotes that do not end", "SET \"a b\r\n", "unbalanced quotes in request"},
	{"single quotes that do not end", "SET 'a b\r\n", "unbalanced quotes in request"},
	{"quotes that end inside a word", "SET \"a\"b c\r\n", "unbalanced quotes in request"},
}

// oddities look wrong and are not: the connection lives on.
var oddities = []badInput{
	{name: "no arguments", raw: "*0\r\n"},
	{name: "a null command", raw: "*-1\r\n"},
	{name: "a negative count", raw: "*-100\r\n"},
	{name: "an empty line", raw: "\r\n"},
	{name: "a bare newline", raw: "\n"},
	{name: "a line of blanks", raw: " \t  \r\n"},
	{name: "many commands without arguments", raw: strings.Repeat("*0\r\n\r\n*-1\r\n", 100)},
	{name: "an empty command name", raw: "*1\r\n$0\r\n\r\n"},
	{name: "an empty inline command name", raw: "\"\"\r\n"},
	{name: "an inline command", raw: "SET k v\r\nGET k\r\n"},
	{name: "an inline command ended by a newline alone", raw: "SET k v\nGET k\n"},
	{name: "an inline command with blanks", raw: "  SET\t k    v  \r\nGET k\r\n"},
	{name: "inline quotes", raw: `SET k "a b\x41\n\r\t\a\b\"\\\z"` + "\r\nGET k\r\nSET k 'a \\' \\n b'\r\nGET k\r\nSET k \"\"\r\nGET k\r\n"},
	{name: "inline and array commands by turns", raw: "SET k v\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\nGET k\r\n*1\r\n$4\r\nPING\r\n"},
	{name: "an inline command of 60 KB", raw: "ECHO " + strings.Repeat("y", 60_000) + "\r\n"},
	{name: "a bulk with leading zeros", raw: "*1\r\n$04\r\nPING\r\n"},
	{name: "a count with leading zeros", raw: "*01\r\n$4\r\nPING\r\n"},
	{name: "a count with a plus", raw: "*+1\r\n$4\r\nPING\r\n"},
	{name: "two other bytes where a line ends", raw: "*1\r\n$4\r\nPINGxx"},
	{name: "a NUL in an argument", raw: "*2\r\n$4\r\nECHO\r\n$3\r\na\x00b\r\n"},
	{name: "more arguments than any command takes", raw: "*20001\r\n" + strings.Repeat("$1\r\na\r\n", 20001)},
	{name: "an RESP3 map as a command", raw: "%1\r\n$4\r\nPING\r\n"},
	{name: "a GET from a browser", raw: "GET / HTTP/1.1\r\n\r\n"},
}

// before is what goes ahead of bad input in the same write; its replies must arrive all the same.
var before = []badInput{
	{name: "at once", raw: ""},
	{name: "behind a pipeline", raw: proxytest.Command("SET", "k", "v") + proxytest.Command("GET", "k") + "PING\r\n"},
	{name: "behind a blocking command", raw: proxytest.Command("BLPOP", "nothing", "0.01")},
	{name: "in a transaction", raw: proxytest.Command("MULTI") + proxytest.Command("SET", "k", "v")},
	{name: "behind commands for connections of their own", raw: proxytest.Command("SELECT", "2") +
		proxytest.Command("WATCH", "k") + proxytest.Command("UNWATCH") + proxytest.Command("CLIENT", "SETNAME", "x") +
		proxytest.Command("HELLO", "2", "NONSENSE") + proxytest.Command("GET", "nothing")},
}

func TestAProtocolErrorIsToldInRedissWordsAfterEarlierReplies(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	calm := newBystander(t, p.Addr())
	for _, in := range protocolErrors {
		for _, b := range before {
			t.Run(in.name+" "+b.name, func(t *testing.T) {
				var want string
				if quirkOf(s, in.name, b.name) != nil {
					earlier := answerTo(t, s.Addr(), b.raw+"QUIT\r\n")
					want = strings.TrimSuffix(earlier, "+OK\r\n(end)") + protocolError + in.want + "\r\n(end)"
				} else {
					want = answerTo(t, s.Addr(), b.raw+in.raw)
				}
				if !strings.HasSuffix(want, protocolError+in.want+"\r\n(end)") {
					t.Errorf("this server says %s, not %q", proxytest.Quote([]byte(want)), in.want)
				}
				if got := answerTo(t, p.Addr(), b.raw+in.raw); got != want {
					t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(b.raw+in.raw), quote(want), quote(got))
				}
			})
		}
	}
	calm.stop(t)
}

func TestOddInputIsTakenAsRedisTakesIt(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	calm := newBystander(t, p.Addr())
	for _, in := range oddities {
		t.Run(in.name, func(t *testing.T) {
			direct := in.raw
			if q := quirkOf(s, in.name, ""); q != nil {
				direct = q.means
			}
			// In one write, and in two with a reply between them: the reader must find its place again.
			for _, first := range []string{"", "PING\r\n"} {
				want := answerTo(t, s.Addr(), first, direct+"QUIT\r\n")
				got := answerTo(t, p.Addr(), first, in.raw+"QUIT\r\n")
				if got != want {
					t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(first+in.raw), quote(want), quote(got))
				}
			}
		})
	}
	calm.stop(t)
}

// An exception. Redis looks for the end of an inline command as for that of a C string: behind a NUL it finds
// none, says nothing, and keeps what comes until it is 64 KB. Nobody can want that. The proxy takes the line for
// what it is; what counts is that only its sender sees what comes of it.
func TestANULInAnInlineCommandIsAByteLikeAnyOther(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	calm := newBystander(t, p.Addr())
	proxytest.Converse(t, p.Addr(), nil, `
		a>> ECHO a\x00b\r\nPING\r\n
		a< $3\r\na\x00b
		a< +PONG
	`)
	calm.stop(t)
}

// Redis takes POST and Host: for an attack by a browser's form and drops the connection, and whatever replies
// it still held. It does so to the connection that the word arrives on: relayed, to all clients of a lane.
func TestAWordFromABrowserEndsOnlyItsSender(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	calm := newBystander(t, p.Addr())
	for _, raw := range []string{
		"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "post\r\n", "Host: localhost\r\n", "HOST: x\r\nPING\r\n",
		proxytest.Command("POST", "/"), proxytest.Command("hOsT:"), proxytest.Command("POST") + proxytest.Command("PING"),
	} {
		want, got := answerTo(t, s.Addr(), raw), answerTo(t, p.Addr(), raw)
		if got != want || got != "(end)" {
			t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(raw), quote(want), quote(got))
		}
		// Redis may lose replies that it already had; the proxy may lose or deliver them. Both end.
		got = answerTo(t, p.Addr(), "PING\r\nECHO a\r\n"+raw)
		if got != "(end)" && got != "+PONG\r\n$1\r\na\r\n(end)" {
			t.Errorf("behind a PING and an ECHO, %s is answered with %s", quote(raw), quote(got))
		}
	}
	calm.stop(t)
}

// Before a client has given its password it is nobody, and Redis lends it little memory.
func TestAClientWithoutPasswordIsHeldToSmallerLimits(t *testing.T) {
	t.Parallel() // it mostly waits
	s, p := redisAndProxy(t, nil, "--requirepass", "pw")
	cases := []badInput{
		{"eleven arguments", "*11\r\n", "unauthenticated multibulk length"},
		{"an argument of 16385 bytes", "*2\r\n$4\r\nECHO\r\n$16385\r\n", "unauthenticated bulk length"},
		{"ten arguments", "*10\r\n" + strings.Repeat("$1\r\na\r\n", 10) + "QUIT\r\n", ""},
		{"an argument of 16384 bytes", "*2\r\n$4\r\nECHO\r\n$16384\r\n" + strings.Repeat("a", 16384) + "\r\nQUIT\r\n", ""},
		// Redis would say that ECHO takes one argument; the proxy cannot ask it without sending all of them.
		{"an inline command of eleven words", "MGET a b c d e f g h i j\r\nQUIT\r\n", ""},
	}
	for _, in := range cases {
		t.Run(in.name, func(t *testing.T) {
			want, got := answerTo(t, s.Addr(), in.raw), answerTo(t, p.Addr(), in.raw)
			if got != want {
				t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(in.raw), quote(want), quote(got))
			}
			auth := proxytest.Command("AUTH", "pw")
			want, got = answerTo(t, s.Addr(), auth, in.raw), answerTo(t, p.Addr(), auth, in.raw)
			if got != want {
				t.Errorf("with the password given\n> %s\ndirect: %s\nproxy:  %s", quote(in.raw), quote(want), quote(got))
			}
		})
	}
}

func TestAnArgumentAboveTheProxysOwnLimitIsRefusedAsByRedis(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.ProtoMaxBulkLen = 1 << 20 }, "--proto-max-bulk-len", "1mb")
	for _, raw := range []string{
		"*2\r\n$4\r\nECHO\r\n$1048577\r\n",
		"*2\r\n$4\r\nECHO\r\n$1048576\r\n" + strings.Repeat("z", 1<<20) + "\r\nQUIT\r\n",
		"PING\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048577\r\n",
	} {
		if want, got := answerTo(t, s.Addr(), raw), answerTo(t, p.Addr(), raw); got != want {
			t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(raw), quote(want), quote(got))
		}
	}
}

// A command in pieces is a command: what a reader keeps between two reads is where such code goes wrong.
func TestACommandMayArriveByteByByte(t *testing.T) {
	_, p := redisAndProxy(t, nil)
	c := proxytest.Dial(t, p.Addr())
	raw := proxytest.Command("SET", "k", "a\r\nb") + "GET k\r\n" + proxytest.Command("MULTI") +
		proxytest.Command("GET", "k") + proxytest.Command("EXEC") + "\r\n*0\r\n" + proxytest.Command("PING")
	for i := range len(raw) {
		c.Write(raw[i : i+1])
	}
	want := []string{"+OK\r\n", "$4\r\na\r\nb\r\n", "+OK\r\n", "+QUEUED\r\n", "*1\r\n$4\r\na\r\nb\r\n", "+PONG\r\n"}
	for _, w := range want {
		if got := string(c.ReadReply()); got != w {
			t.Fatalf("got %q, want %q", got, w)
		}
	}
}

// What was sent before the end of the connection is carried out and answered, as with printf and nc; what was
// half sent is not. Each proxy is a new one, so that the end arrives while upstream connections are still opened.
func TestAClientThatStopsSendingStillGetsItsReplies(t *testing.T) {
	for _, raw := range []string{
		"SET k v\r\nGET k\r\n",
		"SET k v\r\nGET k\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\nhalf",
		"SET k v\r\nMULTI\r\nSET k w\r\nEXEC\r\nGET k\r\n",
		"SET k v\r\nMULTI\r\nSET k w\r\n",
		"SET k v\r\nWATCH k\r\nMULTI\r\nSET k w\r\n",
		"WATCH k\r\nMULTI\r\nSET k v\r\nEXEC\r\nGET k\r\n",
		"SELECT 1\r\nSET k v\r\nGET k\r\nSELECT 99\r\n",
		"NOSUCHCOMMAND\r\nPING\r\n",
		"WAIT 0 1\r\nPING\r\n",
		"AUTH a b\r\nPING\r\n",
		"*2\r\n$4\r\nECHO",
		"PIN",
		"",
	} {
		t.Run(quote(raw), func(t *testing.T) {
			s, p := redisAndProxy(t, nil)
			want := answerToHalfClosed(t, s.Addr(), raw)
			direct := proxytest.Dial(t, s.Addr())
			direct.Do("FLUSHALL")
			if got := answerToHalfClosed(t, p.Addr(), raw); got != want {
				t.Errorf("> %s\ndirect: %s\nproxy:  %s", quote(raw), quote(want), quote(got))
			}
		})
	}
}

// Redis 7.4 and later do not read on before FLUSHALL is done, and forget a client whose end comes meanwhile: what it is told
// is a matter of timing. The proxy waits, as Redis did before.
func TestAClientThatStopsSendingIsToldThatAllIsFlushed(t *testing.T) {
	for raw, want := range map[string]string{
		"SET k v\r\nFLUSHALL\r\nGET k\r\n":                    "+OK\r\n+OK\r\n$-1\r\n(end)",
		"FLUSHALL\r\nPING\r\n":                                "+OK\r\n+PONG\r\n(end)",
		"SET k v\r\nFLUSHDB SYNC\r\nFLUSHALL\r\nEXISTS k\r\n": "+OK\r\n+OK\r\n+OK\r\n:0\r\n(end)",
	} {
		t.Run(quote(raw), func(t *testing.T) {
			_, p := redisAndProxy(t, nil)
			if got := answerToHalfClosed(t, p.Addr(), raw); got != want {
				t.Errorf("> %s\n%s, want %s", quote(raw), quote(got), quote(want))
			}
		})
	}
}

// redisAndProxy starts a Redis and a proxy in front of it; change, if any, adjusts the proxy's configuration.
func redisAndProxy(t *testing.T, change func(*proxy.Config), args ...string) (*proxytest.Server, *proxytest.Running) {
	t.Helper()
	s := proxytest.Redis(t, args...)
	cfg := proxytest.Config(t, s)
	if change != nil {
		change(&cfg)
	}
	return s, proxytest.Proxy(t, cfg)
}

// answerTo sends the writes, awaiting one reply after each but the last, and returns everything that comes
// back: up to the end, marked "(end)", or until the connection is silent, marked "(silent)". A QUIT at the end
// of a write spares the silence.
func answerTo(t *testing.T, addr string, writes ...string) string {
	t.Helper()
	c := proxytest.Dial(t, addr)
	defer c.Close()
	writes = slices.DeleteFunc(writes, func(w string) bool { return w == "" })
	var all strings.Builder
	for _, w := range writes[:len(writes)-1] {
		c.Write(w)
		all.Write(c.ReadReply())
	}
	// The other side may have closed before it has read everything: what it said is there to be read.
	if err := c.TryWrite([]byte(writes[len(writes)-1])); err != nil && !proxytest.IsClosed(err) {
		t.Fatalf("writing %s: %v", quote(writes[len(writes)-1]), err)
	}
	for {
		c.SetTimeout(silence)
		b, err := c.TryReadReply()
		all.Write(b)
		switch {
		case err == nil:
		case proxytest.IsClosed(err):
			return all.String() + "(end)"
		case proxytest.IsTimeout(err):
			return all.String() + "(silent)"
		default:
			return all.String() + "(" + err.Error() + ")"
		}
	}
}

// answerToHalfClosed sends raw and a FIN and returns everything that comes back.
func answerToHalfClosed(t *testing.T, addr, raw string) string {
	t.Helper()
	c := proxytest.Dial(t, addr)
	c.Write(raw)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	return string(c.ReadAll()) + "(end)"
}

func quote(s string) string {
	if len(s) > 300 {
		return proxytest.Quote([]byte(s[:100])) + " ... " + proxytest.Quote([]byte(s[len(s)-100:]))
	}
	return proxytest.Quote([]byte(s))
}
