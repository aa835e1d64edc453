package proxy_test

import (
	"context"
	"fmt"
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

// Whoever has a connection of its own goes past the lanes, not past the waiting. (A restricted subscriber is refused.)
func TestWhoTriesPasswordsWaitsWhateverItsConnection(t *testing.T) {
	s, p := redisAndProxy(t, func(c *proxy.Config) { c.AuthDelay = 2 * time.Second })
	setUser(t, s, "boss", ">pw")
	for _, first := range []string{"GET k", "WATCH k", "SUBSCRIBE ch", "HELLO 3; SUBSCRIBE ch", "CLIENT TRACKING ON BCAST", "CLIENT NO-TOUCH ON"} {
		for _, try := range []string{"AUTH boss wrong", "HELLO 3 AUTH boss wrong"} {
			c := proxytest.Dial(t, p.Addr())
			for _, cmd := range strings.Split(first, "; ") {
				c.Do(strings.Fields(cmd)...)
			}
			time.Sleep(150 * time.Millisecond) // until its process is known
			begin, tries := time.Now(), 0
			for time.Since(begin) < 500*time.Millisecond {
				switch got := string(c.Do(strings.Fields(try)...)); {
				case strings.HasPrefix(got, "-WRONGPASS"):
					tries++
				case !strings.HasPrefix(got, "-ERR Can't execute"):
					t.Fatalf("after %s, %s is answered %q", first, try, got)
				}
			}
			if tries > 12 {
				t.Errorf("after %s, %d times %s in half a second", first, tries, try)
			}
			c.Close()
		}
	}
	right := proxytest.Dial(t, p.Addr())
	expect(t, right, "WATCH k", "+OK\r\n")
	expect(t, right, "AUTH boss pw", "+OK\r\n")
	expect(t, right, "ACL WHOAMI", "$4\r\nboss\r\n")
}

// Where nobody can tell the reply to a password, it is not sent.
func TestPasswordsAreRefusedWhereTheyCouldNotBeCounted(t *testing.T) {
	s, p := redisAndProxy(t, nil)
	setUser(t, s, "boss", ">pw")
	for _, try := range []string{"AUTH boss pw", "HELLO 3 AUTH boss pw", "hello 2 setname x auth boss pw"} {
		tx := proxytest.Dial(t, p.Addr())
		expect(t, tx, "MULTI", "+OK\r\n")
		expect(t, tx, "SET k v", "+QUEUED\r\n")
		if got := string(tx.Do(strings.Fields(try)...)); !strings.HasPrefix(got, "-ERR AUTH is not possible in a transaction") {
			t.Errorf("%s in a transaction is answered %q", try, got)
		}
		expect(t, tx, "EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
		expect(t, tx, "ACL WHOAMI", "$7\r\ndefault\r\n")

		whole := proxytest.Dial(t, p.Addr())
		inOneWrite(t, whole, "MULTI; SET k v; "+try+"; EXEC; ACL WHOAMI")
		for _, want := range []string{"+OK", "+QUEUED", "-ERR AUTH is not possible in a transaction", "-EXECABORT", "$7\r\ndefault"} {
			if got := string(whole.ReadReply()); !strings.HasPrefix(got, want) {
				t.Errorf("%s in a transaction in one write: %q, want %q", try, got, want)
			}
		}

		relayed := proxytest.Dial(t, p.Addr())
		expect(t, relayed, "MULTI", "+OK\r\n")
		expect(t, relayed, "CLIENT REPLY ON", "+QUEUED\r\n") // it is relayed from here on
		if got := string(relayed.Do(strings.Fields(try)...)); !strings.Contains(got, "AUTH is not possible on this connection any more") {
			t.Errorf("%s on a connection that is relayed is answered %q", try, got)
		}
	}
}

func TestWhoWaitsForItsTurnHoldsUpNeitherAPauseNorTheEnd(t *testing.T) {
	_, p := redisAndProxy(t, func(c *proxy.Config) { c.AuthDelay = 2 * time.Second }, "--requirepass", "secret")
	guesser := proxytest.Dial(t, p.Addr())
	time.Sleep(200 * time.Millisecond) // until its process is known
	for range 9 {
		guesser.Do("AUTH", "wrong")
	}
	var waiting []*proxytest.Conn
	for range 12 {
		waiting = append(waiting, proxytest.Dial(t, p.Addr()))
	}
	time.Sleep(300 * time.Millisecond)
	for _, c := range waiting {
		c.Send("AUTH", "wrong")
	}
	eventually(t, "they wait for their turn", func() string {
		all, err := p.Clients(context.Background(), proxy.ClientFilter{})
		n := 0
		for _, c := range all {
			if c.State == "awaiting-turn" {
				n++
			}
		}
		if err != nil || n < 10 {
			return fmt.Sprintf("%d do, %v", n, err)
		}
		return ""
	})
	begin := time.Now()
	if pauses(t, p, ""); time.Since(begin) > time.Second {
		t.Errorf("PAUSE took %s", time.Since(begin))
	}
	resumes(t, p)
	expectNext(t, waiting[0], "-WRONGPASS invalid username-password pair or user is disabled.\r\n") // it has waited again
	begin = time.Now()
	if err := p.Stop(); err != nil || time.Since(begin) > time.Second {
		t.Errorf("the end took %s: %v", time.Since(begin), err)
	}
}

// setUser has a server know a user who may do everything.
func setUser(t *testing.T, s *proxytest.Server, name, password string) {
	t.Helper()
	if err := s.Client().Do(context.Background(), "ACL", "SETUSER", name, "on", password, "~*", "&*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
}
