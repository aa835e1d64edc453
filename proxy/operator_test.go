package proxy_test

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// What operators know how to do with a Redis works here as it stands: the same tools, commands and fields.

func TestTheRecipesOfOperatorsWorkWithRedisPy(t *testing.T) {
	t.Parallel() // it mostly waits
	const python = "/usr/bin/python3"
	if out, err := exec.Command(python, "-c", "import redis").CombinedOutput(); err != nil {
		t.Logf("not tried, since it is not installed: %v: %s", err, out)
		return
	}
	onLoops(t, func(t *testing.T, _ *proxytest.Server, p *proxytest.Running) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, python, "operators.py", p.Addr())
		cmd.Dir = filepath.Join("testdata", "clients")
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil || strings.Count(string(out), "ok ") < 30 {
			t.Errorf("%v", err)
		}
	})
}

func TestTheRecipesOfOperatorsWorkWithRedisCLI(t *testing.T) {
	if _, err := exec.LookPath("redis-cli"); err != nil {
		t.Logf("not tried: %v", err)
		return
	}
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 2 })
	for range 4 {
		c := proxytest.Dial(t, p.Addr())
		c.Do("CLIENT", "SETNAME", "web")
	}
	host, port, _ := strings.Cut(p.Addr(), ":")
	cli := "redis-cli -h " + host + " -p " + port + " "
	for _, tc := range []struct{ shell, want string }{
		{cli + "client list | wc -l", "5"},
		{cli + "client list | grep -o ' name=[^ ]*' | sort | uniq -c | sort -rn | head -1 | tr -s ' '", " 4 name=web"},
		{cli + "client list | grep -o ' addr=[^: ]*' | sort | uniq -c | tr -s ' '", " 5 addr=127.0.0.1"},
		{cli + "-3 client list | grep -c name=web", "4"},
		{cli + "info clients | grep -E '^(connected_clients|maxclients):' | tr -d '\\r' | tr '\\n' ' '", "connected_clients:5 maxclients:10000 "},
		{cli + "info proxy | head -1 | tr -d '\\r'", "# Proxy"},
		{cli + "config set maxclients 12000 timeout 300", "OK"},
		{cli + "config get 'maxc*' timeout | sort | tr '\\n' ' '", "12000 300 maxclients timeout "},
		{cli + "config set maxclients 10", "OK"},
		{cli + "info clients | awk -F'[:\\r]' '{v[$1]=$2} END {print (v[\"connected_clients\"] / v[\"maxclients\"] >= 0.8)}'", "0"},
		{cli + "config set maxclients 6", "OK"},
		{cli + "info clients | awk -F'[:\\r]' '{v[$1]=$2} END {print (v[\"connected_clients\"] / v[\"maxclients\"] >= 0.8)}'", "1"},
		{"id=$(" + cli + "client list | grep name=web | head -1 | sed 's/id=\\([0-9]*\\).*/\\1/'); " + cli + "client kill id $id", "1"},
		{"addr=$(" + cli + "client list | grep name=web | head -1 | sed 's/.* addr=\\([^ ]*\\).*/\\1/'); " + cli + "client kill $addr", "OK"},
		{cli + "client kill type normal skipme yes", "2"},
		{cli + "client kill type normal", "0"},
		{cli + "info clients | grep -c connected_clients:1", "1"},
	} {
		out, err := exec.Command("sh", "-c", tc.shell).CombinedOutput()
		if got := strings.TrimSuffix(string(out), "\n"); got != tc.want || err != nil {
			t.Errorf("%s\n got %q, %v\nwant %q", tc.shell, got, err, tc.want)
		}
	}
}
