package proxy_test

import (
	"context"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Who tries passwords waits for the next. Others do not notice.

func TestWhoTriesPasswordsWaitsAndOthersDoNot(t *testing.T) {
	log := &lockedBuffer{}
	_, p := redisAndProxy(t, func(c *proxy.Config) {
		c.AuthDelay, c.Log = 400*time.Millisecond, slog.New(slog.NewTextHandler(log, nil))
	}, "--requirepass", "secret")
	guesser := proxytest.DialFrom(t, "127.0.0.2", p.Addr())
	try := func(c *proxytest.Conn, password, want string) time.Duration {
		t.Helper()
		begin := time.Now()
		if got := string(c.Do("AUTH", password)); !strings.HasPrefix(got, want) {
			t.Errorf("AUTH %s: %q, want %s", password, got, want)
		}
		return time.Since(begin)
	}
	time.Sleep(200 * time.Millisecond) // until its process is known: the tries are counted by that
	for range 5 {
		try(guesser, "wrong", "-WRONGPASS")
	}
	var waited time.Duration
	for range 4 { // 50, 50, 100 and 200 ms
		waited += try(guesser, "wrong", "-WRONGPASS")
	}
	if waited < 300*time.Millisecond {
		t.Errorf("four more took %s", waited)
	}
	host, port, _ := net.SplitHostPort(p.Addr())
	begin := time.Now()
	other := exec.CommandContext(t.Context(), "redis-cli", "-h", host, "-p", port, "-a", "secret", "--no-auth-warning", "PING")
	if said, err := other.CombinedOutput(); string(said) != "PONG\n" || err != nil || time.Since(begin) > 300*time.Millisecond {
		t.Errorf("another process is told %q, %v, after %s", said, err, time.Since(begin))
	}
	try(guesser, "secret", "+OK")
	if took := try(guesser, "wrong", "-WRONGPASS"); took > 300*time.Millisecond {
		t.Errorf("it has given the right one, and waits for %s", took)
	}
	if n := strings.Count(log.String(), "wrong passwords"); n != 1 || !strings.Contains(log.String(), "source=") {
		t.Errorf("the log has it %d times: %s", n, log.String())
	}
}

func TestManyConnectionsDoNotHelpWhoTriesPasswords(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.AuthDelay = 50 * time.Millisecond }, "--requirepass", "secret")
	begin := time.Now()
	var tries sync.WaitGroup
	var mu sync.Mutex
	checked, turnedAway := 0, 0
	for range 60 {
		tries.Go(func() {
			c, err := proxytest.TryDialFrom("127.0.0.2", p.Addr())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.TryWrite([]byte(strings.Repeat(proxytest.Command("AUTH", "wrong"), 3)))
			for range 3 {
				got, err := c.TryReadReply()
				mu.Lock()
				switch {
				case err != nil:
					t.Errorf("%q, %v", got, err)
				case strings.HasPrefix(string(got), "-WRONGPASS"):
					checked++
				case strings.HasPrefix(string(got), "-ERR too many wrong passwords"):
					turnedAway++
				default:
					t.Errorf("%q", got)
				}
				mu.Unlock()
			}
		})
	}
	tries.Wait()
	// Those that came before the first five were told, once by address and once by process.
	most := 2*60 + 10 + int(time.Since(begin)/(50*time.Millisecond))
	if checked > most || turnedAway == 0 {
		t.Errorf("%d were checked, want at most %d; %d were turned away", checked, most, turnedAway)
	}
}

func TestAPasswordThatIsRightDoesNotHelpWithAnother(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.AuthDelay = 2 * time.Second })
	setUser(t, s, "boss", ">pw")
	setUser(t, s, "me", ">mine")
	c := proxytest.Dial(t, p.Addr())
	time.Sleep(200 * time.Millisecond) // until its process is known
	begin, tries := time.Now(), 0
	for time.Since(begin) < time.Second {
		for range 4 {
			c.Do("AUTH", "boss", "wrong")
			tries++
		}
		expect(t, c, "AUTH me mine", "+OK\r\n")
	}
	if tries > 16 {
		t.Errorf("%d wrong passwords in a second", tries)
	}
	begin = time.Now()
	if expect(t, c, "AUTH me mine", "+OK\r\n"); time.Since(begin) > time.Second {
		t.Errorf("who has been right waits for %s", time.Since(begin))
	}
}

// setUser has a server know a user who may do everything.
func setUser(t *testing.T, s *proxytest.Server, name, password string) {
	t.Helper()
	if err := s.Client().Do(context.Background(), "ACL", "SETUSER", name, "on", password, "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
}
