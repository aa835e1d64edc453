package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// reloadable is a program with a configuration file, an operator, and a client that must not notice anything.
type reloadable struct {
	*process
	file     string
	addr     string
	operator *proxytest.Conn
	client   *proxytest.Conn
	visits   int
}

// startReloadable starts the program with a file of that text, and more arguments.
func startReloadable(t *testing.T, file string, args ...string) *reloadable {
	t.Helper()
	p := startProgram(t, append([]string{
		"serve", "--upstream", "embedded", "--listen", "127.0.0.1:0", "--config", file, "--shutdown-timeout", "2",
	}, args...)...)
	r := &reloadable{process: p, file: file}
	r.operator = proxytest.Dial(t, p.logged("console is served")["admin-listen"].(string))
	r.addr = p.logged("listening")["listen"].(string)
	p.logged("redbouncer is ready")
	r.client = proxytest.Dial(t, r.addr)
	r.unnoticed()
	return r
}

// unnoticed checks that the client is still there.
func (r *reloadable) unnoticed() {
	r.t.Helper()
	r.visits++
	if got := string(r.client.Do("INCR", "visits")); got != fmt.Sprintf(":%d\r\n", r.visits) {
		r.t.Fatalf("a> INCR visits\na< %q, want %d", got, r.visits)
	}
}

// say has the operator say something, and checks that each of these is in the reply.
func (r *reloadable) say(words string, want ...string) {
	r.t.Helper()
	args, err := proxytest.Words(words)
	if err != nil {
		r.t.Fatal(err)
	}
	reply := spaces(string(r.operator.Do(args...)))
	for _, w := range want {
		if !strings.Contains(reply, w) {
			r.t.Errorf("o> %s\no< %s\nwant %s", words, reply, w)
		}
	}
}

// spaces makes the columns of a table one blank apart.
func spaces(s string) string {
	lines := strings.Split(s, "\r\n")
	for i := range lines {
		lines[i] = strings.Join(strings.Fields(lines[i]), " ")
	}
	return strings.Join(lines, "\n")
}

// write changes the file in place, as some editors do.
func (r *reloadable) write(text string) {
	r.t.Helper()
	if err := os.WriteFile(r.file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// read waits until the settings have been read again, and returns what the log says of it.
func (r *reloadable) read() map[string]any {
	r.t.Helper()
	return r.logged("settings read again")
}

// replace puts another file in the place of one, as editors and rename(2) do.
func replace(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file+".new", []byte(text), 0o600))
	must(t, os.Rename(file+".new", file))
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not yet after %v", what, patience)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
