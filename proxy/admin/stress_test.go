package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// Operators look and close while clients come and go in every condition. The race detector watches; at the end the books
// balance.
func TestOperatorsLookAndCloseWhileClientsComeAndGo(t *testing.T) {
	r := newRig(t, admin.Config{}, samples())
	end := time.Now().Add(time.Second)
	var running sync.WaitGroup
	for i := range 12 {
		running.Go(func() { comeAndGo(r.proxy.Addr(), i, end) })
	}
	running.Go(func() { scrapeUntil(t, r.admin, end) })
	for _, words := range []string{
		"SHOW CLIENTS", "SHOW PINS|SHOW LANES", "SHOW POOL|SHOW STATS|SHOW CONFIG", "KILL name c3|KILL pin watch", "INFO",
	} {
		running.Go(func() { look(t, r.admin.Addr().String(), strings.Split(words, "|"), end) })
	}
	running.Wait()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		st := r.proxy.Stats()
		if st.Clients == 0 && st.Pins == 0 && st.InFlight == 0 && st.Waiting == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the books do not balance: %+v", st)
		}
	}
}

// comeAndGo connects, brings itself into a condition, and leaves, until the end. It may be closed at any time.
func comeAndGo(addr string, i int, end time.Time) {
	commands := [][]string{{"GET", "k"}, {"WATCH", "k"}, {"MULTI"}, {"SUBSCRIBE", "c"}, {"BLPOP", "nothing", "0.01"}, {"SELECT", "3"}}
	for n := i; time.Now().Before(end); n++ {
		c, err := proxytest.TryDial(addr)
		if err != nil {
			continue
		}
		_ = c.TryWrite([]byte(proxytest.Command("CLIENT", "SETNAME", fmt.Sprintf("c%d", i)) + proxytest.Command(commands[n%len(commands)]...)))
		_, _ = c.TryReadReply()
		_, _ = c.TryReadReply()
		if n%3 == 0 {
			c.Reset()
		} else {
			c.Close()
		}
	}
}

// scrapeUntil fetches the metrics until the end.
func scrapeUntil(t *testing.T, s *admin.Server, end time.Time) {
	for time.Now().Before(end) {
		reply, err := http.Get("http://" + s.HTTPAddr().String() + "/metrics")
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := io.Copy(io.Discard, reply.Body); err != nil || reply.StatusCode != http.StatusOK {
			t.Errorf("status %d, %v", reply.StatusCode, err)
		}
		_ = reply.Body.Close()
	}
}

// look asks the console until the end.
func look(t *testing.T, addr string, commands []string, end time.Time) {
	c, err := proxytest.TryDial(addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	for n := 0; time.Now().Before(end); n++ {
		words := strings.Fields(commands[n%len(commands)])
		_ = c.TryWrite([]byte(proxytest.Command(words...)))
		if reply, err := c.TryReadReply(); err != nil || reply[0] == '-' {
			t.Errorf("%s: %q, %v", words, reply, err)
			return
		}
	}
}
