package proxy

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Newer servers have filters and fields that the one of the tests refuses. What they mean is tried on sessions that
// have no connection.

// sessionsForTest returns sessions a, b and c, each of which differs from the others.
func sessionsForTest(t *testing.T) []*session {
	t.Helper()
	up, err := multiplex.ParseUpstream((&url.URL{Scheme: "redis", Host: "127.0.0.1:1"}).String())
	if err != nil {
		t.Fatal(err)
	}
	loop, err := eventloop.New(eventloop.Options{Streams: true})
	if err != nil {
		t.Fatal(err)
	}
	srv := &Server{started: time.Now().Add(-time.Hour)}
	w := &worker{srv: srv, cfg: &Config{Upstream: up}, loop: loop}
	w.pool = multiplex.NewPool(multiplex.Config{Loop: loop, Upstream: up})
	var out []*session
	for i, remote := range []string{"127.0.0.1:1000", "[::1]:2000", "/run/r.sock:0"} {
		name := string(rune('a' + i))
		out = append(out, &session{
			w: w, id: int64(i + 1), remote: remote, who: &identity{name: name, libName: "lib-" + name, libVer: "1." + name},
			created: w.clock() - time.Duration(10*(i+1))*time.Second, active: w.clock() - time.Duration(i)*time.Second,
			ctx:      w.pool.Context(multiplex.Key{User: []string{"", "bob", "eve"}[i], DB: i, RESP: 2, NoTouch: i == 1, ReadOnly: i == 1}),
			received: 100, sent: 200, commands: 3,
		})
	}
	out[1].pin = &pin{tx: &transaction{queued: 2}}
	out[1].subs = &subscriber{}
	out[1].subs.to[toChannels] = map[string]*channel{"ch": nil}
	return out
}

func commandForTest(t *testing.T, words string) command {
	t.Helper()
	r := &resp.Reader{}
	raw := resp.AppendCommand(nil, strings.Fields(words)...)
	if n, err := r.Next(raw); err != nil || n != len(raw) {
		t.Fatal(n, err)
	}
	return command{Reader: r, row: unknownRow}
}

func TestEveryFilterOfNewerServersIsKnown(t *testing.T) {
	sessions := sessionsForTest(t)
	for _, tc := range []struct{ filter, want string }{
		{"", "abc"},
		{"ID 1 3", "ac"},
		{"ID 1 ID 3", "c"},
		{"ID 9223372036854775807", ""},
		{"id 1 2 name b", "b"},
		{"NOT-ID 1 3", "b"},
		{"ADDR 127.0.0.1:1000", "a"},
		{"NOT-ADDR 127.0.0.1:1000", "bc"},
		{"IP 127.0.0.1", "a"},
		{"IP ::1", "b"},
		{"NOT-IP ::1", "ac"},
		{"USER default", "a"},
		{"USER eve", "c"},
		{"NOT-USER eve", "ab"},
		{"TYPE pubsub", "b"},
		{"TYPE normal", "ac"},
		{"NOT-TYPE normal", "b"},
		{"TYPE primary", ""},
		{"SKIPME yes", "bc"},
		{"SKIPME no", "abc"},
		{"MAXAGE 20", "bc"},
		{"MAXAGE 31", ""},
		{"IDLE 1", "bc"},
		{"IDLE 2", "c"},
		{"NAME c", "c"},
		{"NOT-NAME c", "ab"},
		{"LIB-NAME lib-b", "b"},
		{"NOT-LIB-NAME lib-b", "ac"},
		{"LIB-VER 1.a", "a"},
		{"NOT-LIB-VER 1.a", "bc"},
		{"DB 2", "c"},
		{"NOT-DB 2", "ab"},
		{"FLAGS P", "b"},
		{"FLAGS Px", "b"},
		{"FLAGS PU", ""},
		{"FLAGS N", "a"},
		{"NOT-FLAGS U", "ab"},
		{"CAPA r", ""},
		{"NOT-CAPA r", "abc"},
		{"MAXAGE 10 NOT-FLAGS P USER default", "a"},
	} {
		f := parseFilter(commandForTest(t, "CLIENT LIST "+tc.filter), 2).of(sessions[0])
		got := ""
		for _, s := range sessions {
			if f.matches(s) {
				got += s.who.name
			}
		}
		if got != tc.want || f.unknown != "" {
			t.Errorf("%s: %q, want %q; unknown: %q", tc.filter, got, tc.want, f.unknown)
		}
	}
}

// A filter that is ignored would have CLIENT KILL close everybody.
func TestAFilterThatIsNotKnownIsRefused(t *testing.T) {
	for _, words := range []string{"SHOESIZE 44", "TYPE normal SHOESIZE 44", "SHOESIZE 44 TYPE normal", "NOT-SKIPME yes"} {
		f := parseFilter(commandForTest(t, "CLIENT KILL "+words), 2)
		if f.unknown == "" || !strings.HasPrefix(string(f.refusal()), "-ERR the proxy does not know the filter '") {
			t.Errorf("%s: %q, %q", words, f.unknown, f.refusal())
		}
	}
}

// The upstream is to find all that is wrong with the client's command, and nobody to kill.
func TestWhatTheUpstreamIsAskedToKillIsNobody(t *testing.T) {
	for words, want := range map[string]string{
		"TYPE normal":             "ID #1 TYPE normal",
		"ID 5":                    "ID #1",
		"ID 5 6 7 TYPE normal":    "ID #1 #1 #1 TYPE normal",
		"ID 5 ID 6":               "ID #1 ID #1",
		"ID 0":                    "ID 0",
		"ID five":                 "ID five",
		"ID 5 ID":                 "ID #1 ID",
		"ID 9223372036854775806":  "ID 9223372036854775806",
		"USER bob SKIPME no":      "ID #1 USER bob SKIPME no",
		"USER id":                 "ID #1 USER id",
		"NOT-ID 5 MAXAGE 1":       "ID #1 NOT-ID 5 MAXAGE 1",
		"TYPE normal USER":        "ID #1 TYPE normal USER",
		"NOT-ID 5 6 ID 7":         "NOT-ID 5 6 ID #1",
		"id 5 -1":                 "id #1 -1",
		"ADDR ID 5 LADDR 1.2.3:4": "ID #1 ADDR ID 5 LADDR 1.2.3:4",
	} {
		want = strings.ReplaceAll(want, "#1", noID)
		got := killNobody(commandForTest(t, "CLIENT KILL "+words))
		if !bytes.Equal(got, resp.AppendCommand(nil, strings.Fields("CLIENT KILL "+want)...)) {
			t.Errorf("%s: %q, want %s", words, got, want)
		}
	}
}

// Redis 8 and Valkey 9 have fields that 7.0 does not. One that is known to nobody has no value of another connection.
func TestALineHasTheFieldsOfTheUpstreamAndTheFactsOfTheClient(t *testing.T) {
	s := sessionsForTest(t)[1]
	format := formatOf("id=9 addr=1.1.1.1:1 name=lane age=77 idle=7 flags=NbT capa=r db=8 sub=9 psub=9 multi=-1 watch=4 " +
		"resp=3 lib-name=secret lib-ver=9 user=root io-thread=2 tot-net-in=5 tot-net-out=6 tot-cmds=7 read-events=8 " +
		"future=12 other=text")
	got := string(s.appendLine(nil, format))
	want := "id=2 addr=[::1]:2000 name=b age=20 idle=1 flags=PxrT capa= db=1 sub=1 psub=0 multi=2 watch=0 " +
		"resp=2 lib-name=lib-b lib-ver=1.b user=bob io-thread=0 tot-net-in=100 tot-net-out=200 tot-cmds=3 read-events=0 " +
		"future=0 other="
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	for _, reply := range []string{"$0\r\n\r\n", "=4\r\ntxt:\r\n", "-ERR no\r\n", "$-1\r\n", "_\r\n"} {
		if line := lineIn([]byte(reply)); line != "" {
			t.Errorf("%q has the line %q", reply, line)
		}
	}
	fields := fmt.Sprint(formatOf(plainLine))
	if !slices.Equal(strings.Fields(fields)[:1], []string{"[{id"}) {
		t.Errorf("the plain line: %s", fields)
	}
}
