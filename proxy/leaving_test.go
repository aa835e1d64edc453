package proxy_test

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A client may hang up right behind its last command, while the commands before it are still under way. What waits for
// others is cancelled all the same, as by Redis: nobody is there any more to wait.
func TestWhoHangsUpBehindACommandThatWaitsIsNotWaitedFor(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	for i, last := range []string{
		"WAIT 1 0", // may take a second here, before it is given up
		"BLPOP none 0",
		"RPUSH list x\r\nBLPOP list 0",
		"SUBSCRIBE a",
		"XREAD BLOCK 0 STREAMS none $",
		"MULTI\r\nSUBSCRIBE a\r\nSET k v\r\nEXEC",
		"MULTI\r\nSUBSCRIBE a\r\nSET k v",
		"WATCH k\r\nMULTI\r\nGET k",
	} {
		t.Run(last, func(t *testing.T) {
			raw := "SET k v\r\nSELECT 1\r\nGET none\r\n" + last + "\r\n"
			want := answerToHalfClosed(t, s.Addr(), raw)
			for range min(1+4*i, 5) {
				if got := answerToHalfClosed(t, p.Addr(), raw); got != want {
					t.Errorf("got  %s\nwant %s", quote(got), quote(want))
				}
			}
			allGone(t, p)
		})
	}
	nobodySubscribed(t, proxytest.Dial(t, s.Addr()))
}

var laneID = regexp.MustCompile(`(?m)^id=(\d+) .*:lane `)

// A script can be written such that Redis answers it twice. That breaks the connection which it was sent on: a lane must
// not be that connection, as its other clients would be closed.
func TestAScriptThatIsAnsweredTwiceDoesNotBreakALane(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct, victim := proxytest.Dial(t, s.Addr()), proxytest.Dial(t, p.Addr())
	victim.Do("PING")
	lane := func() string {
		return fmt.Sprint(laneID.FindAllStringSubmatch(string(direct.Do("CLIENT", "LIST")), -1))
	}
	before := lane()
	for _, quotes := range []string{`"`, `'`, ``} {
		script := "#!lua flags=" + quotes + `a\r\n+INJECTED` + quotes + "\nreturn 1"
		for _, commands := range [][][]string{
			{{"EVAL", script, "0"}},
			{{"eval_ro", script, "0"}},
			{{"SCRIPT", "LOAD", script}},
			{{"MULTI"}, {"EVAL", script, "0"}, {"EXEC"}},
			{{"MULTI"}, {"GET", "k"}, {"SCRIPT", "LOAD", script}, {"DISCARD"}},
			{{"FUNCTION", "LOAD", `#!"a\r\n+INJECTED" name=x` + "\n"}},
			{{"FUNCTION", "LIST", "a\r\n+INJECTED"}},
		} {
			c := proxytest.Dial(t, p.Addr())
			var raw []byte
			for _, cmd := range commands {
				raw = proxytest.AppendCommand(raw, cmd...)
			}
			c.Write(string(raw) + "PING\r\nQUIT\r\n")
			c.ReadAll()
			if after := lane(); after != before {
				t.Fatalf("after %q there are other lanes: %s, not %s", commands, after, before)
			}
		}
	}
	if got := string(victim.Do("PING")); got != "+PONG\r\n" {
		t.Errorf("got %q", got)
	}
}
