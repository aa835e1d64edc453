package multiplex_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/redbouncer/redbouncer/multiplex"
)

// What people write as the upstream is read as go-redis reads it, and no error, log line or reply ever repeats a
// password, or tells a client where the upstream is.

func TestAnUpstreamIsReadFromItsURL(t *testing.T) {
	for _, tt := range []struct {
		url         string
		want        string
		db          int
		credentials bool
	}{
		{"redis://h:7000", "h:7000", 0, false},
		{"redis://h", "h:6379", 0, false},
		{"redis://h/4", "h:6379", 4, false},
		{"redis://:secret@h", "h:6379", 0, true},
		{"redis://me:secret@h/1", "h:6379", 1, true},
		{"redis://me@h", "h:6379", 0, true}, // a user may have an empty password
		{"rediss://me:secret@h:1", "h:1", 0, true},
		{"redis://[::1]:7000", "[::1]:7000", 0, false},
		{"unix:///run/redis.sock?db=2", "/run/redis.sock", 2, false},
	} {
		up, err := multiplex.ParseUpstream(tt.url)
		if err != nil {
			t.Errorf("%s: %v", tt.url, err)
			continue
		}
		if up.String() != tt.want || up.HasCredentials() != tt.credentials {
			t.Errorf("%s is read as %s, credentials: %t", tt.url, up, up.HasCredentials())
		}
		pool := multiplex.NewPool(multiplex.Config{Upstream: up})
		if got, want := pool.Initial(), (multiplex.Key{DB: tt.db, RESP: 2}); got != want {
			t.Errorf("%s: clients begin in %+v, want %+v", tt.url, got, want)
		}
	}
}

func TestErrorsOfAnURLDoNotRepeatThePassword(t *testing.T) {
	for _, url := range []string{
		"redis://:secret/x@h", "redis://:7/secret@h", "unix://?x=secret", "redis://:se%zzsecret@h",
		"redis://me:secret@h:port", "redis://me:secret@h/x", "http://me:secret@h", "me:secret@h", "redis://me:secret@h%zz", "redis://me:secret@h?what=x", "://me:secret@h", "redis://me:secret@[::1",
	} {
		up, err := multiplex.ParseUpstream(url)
		if err == nil {
			t.Errorf("%s is taken as %s", url, up)
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
		if !strings.HasPrefix(err.Error(), "want redis://") {
			t.Errorf("%v does not say what is wanted", err)
		}
	}
}

func TestErrorLineIsOneReplyThatNamesNoAddress(t *testing.T) {
	refused := &net.OpError{
		Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 6379},
		Err: os.NewSyscallError("connect", syscall.ECONNREFUSED),
	}
	reply := &multiplex.ReplyError{Line: []byte("-WRONGPASS no\r\n")}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{reply, "-WRONGPASS no\r\n"},
		{fmt.Errorf("opening a lane: %w", reply), "-WRONGPASS no\r\n"},
		{&multiplex.UnreachableError{Addr: "192.0.2.1:6379", Err: refused}, "-ERR upstream is not available: connect: connection refused\r\n"},
		{
			&multiplex.UnreachableError{Addr: "192.0.2.1:6379", Err: &multiplex.ReplyError{Line: []byte("-ERR max number of clients reached\r\n")}},
			"-ERR upstream is not available: ERR max number of clients reached\r\n",
		},
		{errors.New("two\r\nlines"), "-ERR two  lines\r\n"},
	} {
		if got := string(multiplex.ErrorLine(tt.err)); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func ExampleParseUpstream() {
	up, err := multiplex.ParseUpstream("redis://app:secret@redis.example:6379/2")
	fmt.Println(up, err)
	// Output: redis.example:6379 <nil>
}

func ExampleErrorLine() {
	err := &multiplex.UnreachableError{Addr: "redis.example:6379", Err: errors.New("connection refused")}
	fmt.Printf("%q\n", multiplex.ErrorLine(err))
	// Output: "-ERR upstream is not available: connection refused\r\n"
}
