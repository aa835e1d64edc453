package proxy_test

import (
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The proxy asks the upstream which commands it has: once for all loops, on a connection that is there anyway, and
// again when the upstream may be another.

// knows waits until every loop of a proxy knows a command as want says.
func knows(t *testing.T, p *proxytest.Running, name string, want proxy.Known) {
	t.Helper()
	eventually(t, "what is known of "+name, func() string {
		for i, got := range proxy.Knows(p.Server, name) {
			if got != want {
				return fmt.Sprintf("loop %d: %+v, want %+v", i, got, want)
			}
		}
		return ""
	})
}

// timesAsked returns how often a server was asked for its commands.
func timesAsked(t *testing.T, s *proxytest.Server) int {
	t.Helper()
	info, err := s.Client().Info(t.Context(), "commandstats").Result()
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`cmdstat_command:calls=(\d+)`).FindStringSubmatch(info)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAllLoopsLearnFromOneAnswer(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.Loops = 3 })
	knows(t, p, "get", proxy.Known{Full: "get", Arity: 2})
	knows(t, p, "blpop", proxy.Known{Full: "blpop", Arity: -3, Writes: true, Pinned: true})
	for range 20 { // on several loops, and in several contexts
		c := proxytest.Dial(t, p.Addr())
		c.Do("SELECT", "1")
		c.Do("HELLO", "3")
		c.Do("GET", "k")
	}
	if n := timesAsked(t, s); n != 1 {
		t.Errorf("the upstream was asked %d times, want once", n)
	}
}

func TestNothingIsTreatedOtherwiseBecauseOfThisServer(t *testing.T) {
	s := proxytest.Redis(t)
	for _, protocol := range []string{"2", "3"} {
		c := proxytest.Dial(t, s.Addr())
		c.Do("HELLO", protocol)
		changed, listed, err := proxy.TreatmentsChangedBy(c.Do("COMMAND"))
		if err != nil || listed < 200 || len(changed) > 0 {
			t.Errorf("RESP%s: %d commands, %v; treated otherwise than is compiled in: %v", protocol, listed, err, changed)
		}
	}
}

func TestAnUpstreamThatWasGoneIsAskedAgain(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	knows(t, p, "get", proxy.Known{Full: "get", Arity: 2})
	s.Restart() // its statistics begin anew
	eventually(t, "the question", func() string {
		proxytest.Dial(t, p.Addr()).Do("PING")
		if n := timesAsked(t, s); n != 1 {
			return fmt.Sprintf("asked %d times", n)
		}
		return ""
	})
}

func TestAModuleThatWasNotLoadedChangesNothing(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.AllowDangerous = []string{"module"} })
	knows(t, p, "get", proxy.Known{Full: "get", Arity: 2})
	c := proxytest.Dial(t, p.Addr())
	for _, cmd := range []string{"MODULE LOAD /nonexistent", "MODULE UNLOAD nosuch"} {
		if got := c.Do(strings.Fields(cmd)...); got[0] != '-' {
			t.Errorf("%s: %q", cmd, got)
		}
	}
	time.Sleep(1200 * time.Millisecond) // longer than it would take to ask again
	if n := timesAsked(t, s); n != 1 {
		t.Errorf("a module that was not loaded had the upstream asked: %d times in all", n)
	}
}

func TestAnUpstreamThatDoesNotSayLeavesWhatIsCompiledIn(t *testing.T) {
	s, p := redisAndProxy(t, nil, "--rename-command", "COMMAND", "")
	c := proxytest.Dial(t, p.Addr())
	if got := string(c.Do("SET", "k", "v")); got != "+OK\r\n" {
		t.Errorf("SET: %q", got)
	}
	knows(t, p, "get", proxy.Known{Full: "get"})
	knows(t, p, "set", proxy.Known{Full: "set", Writes: true})
	if got := string(c.Do("GET", "k")); got != "$1\r\nv\r\n" {
		t.Errorf("GET: %q", got)
	}
	if n := timesAsked(t, s); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestWhereTheProxyMayNotAskAClientsConnectionDoes(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	direct := proxytest.Dial(t, s.Addr())
	knows(t, p, "get", proxy.Known{Full: "get", Arity: 2})
	direct.Do("ACL", "SETUSER", "dumb", "on", ">pw", "~*", "+@all", "-command")
	direct.Do("ACL", "SETUSER", "alice", "on", ">pw", "~*", "+@all")
	direct.Do("CONFIG", "SET", "requirepass", "secret")
	cfg := proxytest.Config(t, s)
	other := proxytest.Proxy(t, cfg)
	dumb := proxytest.Dial(t, other.Addr())
	dumb.Do("AUTH", "dumb", "pw")
	if got := string(dumb.Do("GET", "k")); got != "$-1\r\n" {
		t.Errorf("GET: %q", got)
	}
	knows(t, other, "get", proxy.Known{Full: "get"})
	alice := proxytest.Dial(t, other.Addr())
	alice.Do("AUTH", "alice", "pw")
	alice.Do("GET", "k")
	knows(t, other, "get", proxy.Known{Full: "get", Arity: 2})
}

// Some versions list a command that has been renamed under its old name.
func TestCommandsThatHaveBeenRenamedAreNamedInTheLogOnce(t *testing.T) {
	s := proxytest.Redis(t, "--rename-command", "WATCH", "xwatch", "--rename-command", "RESET", "")
	cfg := proxytest.Config(t, s)
	log := &lockedBuffer{}
	cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	p := proxytest.Proxy(t, cfg)
	for range 2 {
		eventually(t, "the line in the log", func() string {
			if text := log.String(); strings.Count(text, `commands="RESET WATCH"`) != 1 {
				return text
			}
			return ""
		})
		s.Restart()
		knows(t, p, "get", proxy.Known{Full: "get", Arity: 2})
	}
}
