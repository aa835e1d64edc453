package proxytest_test

import (
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The helpers are what every other claim rests on, so they are tried against a Redis alone: nothing here
// knows the proxy.

func TestAServerAnswersAndComesBackOnTheSamePort(t *testing.T) {
	s := proxytest.Redis(t, "--enable-debug-command", "yes")
	addr := s.Addr()
	if v := s.Version(); strings.Count(v, ".") < 2 {
		t.Errorf("version %q", v)
	}
	if redis, valkey := s.Is("redis", "6.2"), s.Is("valkey", "7.2"); redis == valkey {
		t.Errorf("redis: %t, valkey: %t", redis, valkey)
	}
	if s.Is("redis", "99") || s.Is("valkey", "99") || !s.Is("redis", s.Version()) && !s.Is("valkey", s.Version()+".0") {
		t.Errorf("version %q is not itself, or a later one", s.Version())
	}
	c := proxytest.Dial(t, addr)
	if got := string(c.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("got %q", got)
	}
	s.Restart()
	if b := c.ReadAll(); len(b) > 0 {
		t.Errorf("a killed server said %q", b)
	}
	proxytest.Converse(t, "unix:"+s.Socket(), map[string]string{"b": addr}, `
		a> SET k v
		a< +OK
		b> GET k
		b< $1\r\nv
	`)
}

func TestAConversationReadsWholeRepliesOfEitherProtocol(t *testing.T) {
	s := proxytest.Redis(t, "--enable-debug-command", "yes")
	proxytest.Converse(t, s.Addr(), nil, `
		# Strings, a null, an array of two, a transaction sent in one write.
		a+ SET k "two words"
		a> GET k
		a< +OK
		a< $9\r\ntwo words
		a> GET missing
		a< $-1
		a+ MULTI
		a+ INCR n
		a> EXEC
		a< +OK
		a< +QUEUED
		a< *1\r\n:1

		# RESP3: a map, a null, a push, an attribute that belongs to the reply after it.
		b> HELLO 3
		b~ ^%7\r\n(?s).*proto\r\n:3
		b> GET missing
		b< _
		b> DEBUG PROTOCOL attrib
		b~ ^\|1\r\n(?s).*Some real reply
		b> SUBSCRIBE ch
		b< >3\r\n$9\r\nsubscribe\r\n$2\r\nch\r\n:1
		a> PUBLISH ch hi
		a< :1
		b< >3\r\n$7\r\nmessage\r\n$2\r\nch\r\n$2\r\nhi

		# A protocol error, and the end.
		c>> *1\r\nx\r\n
		c< -ERR Protocol error: expected '$', got 'x'
		c< (end)
		a>> PIN
		a>> G\r\n
		a< +PONG
		a: half
		a< (end)
	`)
}

func TestWordsAreSplitAsRedisCliDoes(t *testing.T) {
	got, err := proxytest.Words(`SET "a \x00\r\n\"b" '' 'c d'  e`)
	want := []string{"SET", "a \x00\r\n\"b", "", "c d", "e"}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %q, %v", got, err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("word %d: got %q, want %q", i, got[i], want[i])
		}
	}
	if _, err := proxytest.Words(`SET "a`); err == nil {
		t.Error("quotes that do not end were accepted")
	}
}
