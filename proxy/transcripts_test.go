package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// A transcript is what a client library reports of everything that applications ask it to do: values, errors, messages,
// in its own types. It has neither times nor addresses in it, so that one of Redis and one of the proxy in front of it
// are equal, byte for byte. What Redis says is right by definition.

// libraries write transcripts of the server at an address, leaving out some steps.
var libraries = []struct {
	name       string
	transcript func(t *testing.T, addr string, leftOut []string) string
	probe      []string // exits 0 where the library is there; none if it always is
}{
	{"go-redis", goRedisTranscript, nil},
	{"redis-py", scripted("/usr/bin/python3", "transcript.py"), []string{"/usr/bin/python3", "-c", "import redis"}},
	{"ioredis", scripted("node", "transcript_ioredis.js"), []string{"node", "-e", "require('ioredis')"}},
	{"node-redis", scripted("node", "transcript_node_redis.js"), []string{"node", "-e", "require('redis')"}},
}

// difference is a line in which the proxy differs today.
type difference struct {
	beginning string // of the line
	why       string
}

var toldOtherwise = []difference{
	{beginning: "more after FLUSHDB: ", why: "a client that tracks and has a pin is told by both of its connections"},
}

// clientsDir holds the scripts for other languages.
var clientsDir = filepath.Join("testdata", "clients")

func TestClientLibrariesAreToldWhatRedisTellsThem(t *testing.T) {
	for _, lib := range libraries {
		t.Run(lib.name, func(t *testing.T) {
			if why := missing(lib.probe); why != "" {
				t.Logf("not tried, since it is not installed: %s", why)
				return
			}
			t.Parallel() // they mostly wait
			s := proxytest.Redis(t)
			direct := ""
			for _, pool := range []int{6, proxy.DefaultPoolSize} {
				t.Run(fmt.Sprintf("pool-size %d", pool), func(t *testing.T) {
					cfg := proxytest.Config(t, s)
					cfg.PoolSize = pool
					p := proxytest.Proxy(t, cfg)
					var leftOut []string
					if !redirects(t, p.Addr()) {
						leftOut = []string{"redirect"}
						t.Log("CLIENT TRACKING … REDIRECT knows no clients of the proxy: not tried")
					}
					if direct == "" {
						direct = lib.transcript(t, s.Addr(), leftOut)
					}
					empty(t, s)
					compareTranscripts(t, direct, lib.transcript(t, p.Addr(), leftOut))
					if n := upstreamConnections(t, s); n > pool {
						t.Errorf("%d upstream connections, the bound is %d", n, pool)
					}
					allGone(t, p)
				})
			}
		})
	}
}

// missing runs a probe, and returns the last line of what it says if it fails.
func missing(probe []string) string {
	if probe == nil {
		return ""
	}
	cmd := exec.Command(probe[0], probe[1:]...)
	cmd.Dir = clientsDir
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return fmt.Sprintf("%v: %s", err, lines[len(lines)-1])
}

// scripted returns what runs a script of clientsDir. Its standard output is the transcript.
func scripted(program, script string) func(t *testing.T, addr string, leftOut []string) string {
	return func(t *testing.T, addr string, leftOut []string) string {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{script, addr}, leftOut...)...)
		cmd.Dir = clientsDir
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); err != nil {
			t.Errorf("%s %s: %v\n%s\nat the end of\n%s", program, script, err, stderr.String(), quote(stdout.String()))
		}
		return stdout.String()
	}
}

// redirects reports whether a client can have its invalidations sent to another.
func redirects(t *testing.T, addr string) bool {
	listener, c := proxytest.Dial(t, addr), proxytest.Dial(t, addr)
	defer listener.Close()
	defer c.Close()
	id := strings.Trim(string(listener.Do("CLIENT", "ID")), ":\r\n")
	return string(c.Do("CLIENT", "TRACKING", "ON", "REDIRECT", id)) == "+OK\r\n"
}

// empty removes what an earlier run has left.
func empty(t *testing.T, s *proxytest.Server) {
	t.Helper()
	c := proxytest.Dial(t, s.Addr())
	defer c.Close()
	for _, command := range []string{"FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"} {
		if got := string(c.Do(strings.Fields(command)...)); got != "+OK\r\n" {
			t.Fatalf("%s: %q", command, got)
		}
	}
}

// compareTranscripts has the test fail for each line that differs, and for a difference that is known but not there.
func compareTranscripts(t *testing.T, direct, proxied string) {
	t.Helper()
	want, got := strings.Split(direct, "\n"), strings.Split(proxied, "\n")
	step, differs := "", map[difference]bool{}
	for i, line := range want {
		if strings.HasPrefix(line, "# ") {
			step = line
		}
		if i >= len(got) {
			t.Fatalf("%s: the transcript ends before %s", step, quote(line))
		}
		d := slices.IndexFunc(toldOtherwise, func(d difference) bool {
			return strings.HasPrefix(line, d.beginning) && strings.HasPrefix(got[i], d.beginning)
		})
		switch {
		case d >= 0:
			differs[toldOtherwise[d]] = differs[toldOtherwise[d]] || line != got[i]
		case line != got[i]:
			t.Errorf("%s:\n direct %s\nproxied %s", step, quote(line), quote(got[i]))
		}
	}
	if len(got) > len(want) {
		t.Errorf("after the end there is %s", quote(got[len(want)]))
	}
	for d, differs := range differs {
		if !differs {
			t.Errorf("%q no longer differs (%s): take it out of toldOtherwise", d.beginning, d.why)
		}
	}
	if !slices.Contains(want, "# errors, RESP2") {
		t.Error("the transcript has not all steps")
	}
}
