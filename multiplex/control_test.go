package multiplex_test

import (
	"errors"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// Credentials are checked by Redis alone, one check at a time, on a connection that carries nothing else.

// verdict is the outcome of a check.
type verdict struct {
	reply string
	err   error
}

// desk is a stage with a Control.
type desk struct {
	*stage
	control *multiplex.Control
}

func newDesk(t *testing.T, cfg settings, timeout time.Duration) *desk {
	t.Helper()
	s := newStage(t, cfg)
	d := &desk{s, multiplex.NewControl(s.up, s.budget, timeout)}
	ended := make(chan struct{})
	go d.run(ended)
	t.Cleanup(func() {
		s.redis.hangUp() // a goodbye is waited for
		d.control.Stop()
		wait(t, "its end", ended)
		if n := s.budget.Open(limits.Control); n != 0 {
			t.Errorf("at the end, %d connections are open", n)
		}
	})
	return d
}

// run checks until the Control is stopped.
func (d *desk) run(ended chan<- struct{}) {
	defer close(ended)
	d.control.Run()
}

// check asks for a check of a password.
func (d *desk) check(password string) <-chan verdict {
	out := make(chan verdict, 1)
	raw := []byte("*2\r\n$4\r\nAUTH\r\n$1\r\n" + password + "\r\n")
	if !d.control.Check(raw, func(reply []byte, err error) { out <- verdict{string(reply), err} }) {
		d.t.Error("the check is not taken")
	}
	return out
}

// expect waits for a verdict.
func (d *desk) expect(c <-chan verdict, want string) {
	d.t.Helper()
	select {
	case v := <-c:
		if v.reply != want || v.err != nil {
			d.t.Errorf("%q, %v, want %q", v.reply, v.err, want)
		}
	case <-time.After(patience):
		d.t.Fatal("no verdict")
	}
}

// expectAfter plays a script, and then waits for a verdict.
func (d *desk) expectAfter(script string, c <-chan verdict, want string) {
	d.t.Helper()
	d.play(script)
	d.expect(c, want)
}

const wrongPass = `-WRONGPASS invalid username-password pair or user is disabled.`

func TestChecksGoOneAtATimeOnAConnectionOfTheirOwn(t *testing.T) {
	d := newDesk(t, settings{}, patience)
	one, two := d.check("1"), d.check("2")
	d.play(`
		up1: handshake
		up1> AUTH 1
		up1: silent
		up1< ` + wrongPass + `\r\n
		up1> AUTH 2
		up1< +OK\r\n
	`)
	d.expect(one, wrongPass+"\r\n")
	d.expect(two, "+OK\r\n")
	d.expectAfter("up1> AUTH 3\nup1< +OK\\r\\n", d.check("3"), "+OK\r\n") // it is kept
	if n := d.budget.Open(limits.Control); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestACheckIsTriedAgainWhereTheConnectionHadEndedMeanwhile(t *testing.T) {
	d := newDesk(t, settings{}, patience)
	d.expectAfter("up1: handshake\nup1> AUTH 1\nup1< +OK\\r\\n\nup1: close", d.check("1"), "+OK\r\n")
	d.expectAfter("up2: handshake\nup2> AUTH 2\nup2< +OK\\r\\n", d.check("2"), "+OK\r\n")
}

func TestAnAnswerTooManyEndsTheConnection(t *testing.T) {
	d := newDesk(t, settings{}, patience)
	d.expectAfter("up1: handshake\nup1> AUTH 1\nup1< +OK\\r\\n", d.check("1"), "+OK\r\n")
	d.expectAfter(`
		up1> AUTH 2
		up1< -WRONGPASS no\r\n+OK\r\n
		up1> (end)
		up1: close
		up2: handshake
		up2> AUTH 2
		up2< -WRONGPASS no\r\n
	`, d.check("2"), "-WRONGPASS no\r\n")
}

func TestAConnectionThatEndsOnEveryCheckIsAnError(t *testing.T) {
	d := newDesk(t, settings{}, patience)
	c := d.check("1")
	d.play("up1: handshake\nup1> AUTH 1\nup1: close")
	var unreachable *multiplex.UnreachableError
	if v := <-c; !errors.As(v.err, &unreachable) {
		t.Errorf("%q, %v", v.reply, v.err)
	}
}

func TestAnUpstreamThatIsGoneIsWaitedForUpToTheTimeout(t *testing.T) {
	t.Run("it comes back", func(t *testing.T) {
		d := newDesk(t, settings{}, patience)
		c := d.check("1")
		d.expectAfter("up1: close\nup2< "+full+"\nup2: close\nup3: handshake\nup3> AUTH 1\nup3< +OK\\r\\n", c, "+OK\r\n")
	})
	t.Run("it does not", func(t *testing.T) {
		d := newDesk(t, settings{}, 50*time.Millisecond)
		_ = d.redis.ln.Close()
		var unreachable *multiplex.UnreachableError
		if v := <-d.check("1"); !errors.As(v.err, &unreachable) {
			t.Errorf("%q, %v", v.reply, v.err)
		}
	})
}

func TestWithoutASlotOfItsOwnTheControlConnectionMakesRoomAgain(t *testing.T) {
	d := newDesk(t, settings{size: 1}, patience)
	d.play("a? GET k\nup1: handshake\nup1> GET k\nup1< +v\\r\\n\na< +v\\r\\n")
	c := d.check("1")
	d.expectAfter(`
		# An idle lane goes for it,
		up1> (end)
		up1: close
		up2: handshake
		up2> AUTH 1
		up2< +OK\r\n
	`, c, "+OK\r\n")
	d.play(`
		# and it goes again by itself.
		up2> (end)
		up2: close
		b? GET k
		up3: handshake
		up3> GET k
		up3< +v\r\n
		b< +v\r\n
	`)
}

func TestNoRoomForACheckIsAnErrorInTheEnd(t *testing.T) {
	d := newDesk(t, settings{size: 1}, 30*time.Millisecond)
	d.play(pinned)
	if v := <-d.check("1"); v.err == nil || v.err.Error() != "max number of clients reached" {
		t.Errorf("%q, %v", v.reply, v.err)
	}
	d.play("a: discard")
}
