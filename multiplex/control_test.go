package multiplex_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Credentials are checked by Redis alone, and what interrupts others overtakes them: one job at a time, on a connection
// that carries nothing else. A command is run as whom it is to be run, and once.

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
	d := &desk{s, multiplex.NewControl(multiplex.NewPrimary(multiplex.PrimaryConfig{Upstream: s.up}), s.budget, timeout)}
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

// actor returns whom clients of a user are, of a password that the upstream has accepted. "" has none.
func (d *desk) actor(user, password string, version uint8) multiplex.Actor {
	var as multiplex.Actor
	d.do(func() {
		if user != "" {
			d.pool.SetPassword(user, password)
		}
		as = d.pool.Context(multiplex.Key{User: user, RESP: version}).Actor()
	})
	return as
}

// command asks for a command to be run as somebody.
func (d *desk) command(as multiplex.Actor, words ...string) <-chan verdict {
	out := make(chan verdict, 1)
	raw := resp.AppendCommand(nil, words...)
	if !d.control.Do(as, raw, func(reply []byte, err error) { out <- verdict{string(reply), err} }) {
		d.t.Error("the command is not taken")
	}
	return out
}

func TestACommandIsRunAsWhomItIsToBeRun(t *testing.T) {
	d := newDesk(t, settings{login: "proxy:secret@"}, patience)
	us, ann, bob := d.actor("", "", 2), d.actor("ann", "1", 2), d.actor("bob", "2", 3)
	d.expectAfter("up1: handshake\nup1> A\nup1< +1\\r\\n", d.command(ann, "A"), "+1\r\n")
	d.expectAfter("up1> PING *\nup1< $32\\r\\n{nonce}\\r\\n\nup1> B\nup1< +2\\r\\n", d.command(ann, "B"), "+2\r\n")
	d.expectAfter("up1> HELLO 3 AUTH bob 2\nup1< "+helloLine+"\nup1> C\nup1< +3\\r\\n", d.command(bob, "C"), "+3\r\n")
	d.expectAfter("up1> HELLO 2 AUTH proxy secret\nup1< "+helloLine+"\nup1> D\nup1< +4\\r\\n", d.command(us, "D"), "+4\r\n")
	// After a check, nobody knows who the connection is.
	d.expectAfter("up1> AUTH 1\nup1< +OK\\r\\n", d.check("1"), "+OK\r\n")
	d.expectAfter("up1> HELLO 2 AUTH proxy secret\nup1< "+helloLine+"\nup1> E\nup1< +5\\r\\n", d.command(us, "E"), "+5\r\n")
	// A new password is another identity; one that is refused runs nothing.
	changed := d.command(d.actor("ann", "3", 2), "F")
	d.play("up1> HELLO 2 AUTH ann 3\nup1< " + wrongPass + "\\r\\n")
	var refused *multiplex.ReplyError
	if v := <-changed; !errors.As(v.err, &refused) || string(refused.Line) != wrongPass+"\r\n" {
		t.Errorf("%q, %v", v.reply, v.err)
	}
	d.expectAfter("up1> HELLO 2 AUTH proxy secret\nup1< "+helloLine+"\nup1> G\nup1< +6\\r\\n", d.command(us, "G"), "+6\r\n")
}

// helloLine is helloReply as a line of a conversation has it.
var helloLine = strings.ReplaceAll(helloReply, "\r\n", `\r\n`)

func TestWithoutCredentialsOnlyANewConnectionIsNobodyInParticular(t *testing.T) {
	d := newDesk(t, settings{path: "/3"}, patience)
	nobody := d.actor("", "", 2)
	d.expectAfter("up1: handshake\nup1> AUTH 1\nup1< +OK\\r\\n", d.check("1"), "+OK\r\n")
	d.expectAfter(`
		up1> (end)
		up1: close
		# No SELECT: a Redis that is busy refuses it.
		up2: handshake
		up2> A
		up2< -NOAUTH Authentication required.\r\n
	`, d.command(nobody, "A"), "-NOAUTH Authentication required.\r\n")
}

func TestACommandIsNotSentTwice(t *testing.T) {
	t.Run("the connection had ended before", func(t *testing.T) {
		d := newDesk(t, settings{}, patience)
		us := d.actor("", "", 2)
		d.expectAfter("up1: handshake\nup1> A\nup1< +1\\r\\n\nup1: close", d.command(us, "A"), "+1\r\n")
		d.expectAfter("up2: handshake\nup2> B\nup2< +2\\r\\n", d.command(us, "B"), "+2\r\n")
	})
	t.Run("it had said something unasked", func(t *testing.T) {
		d := newDesk(t, settings{}, patience)
		us := d.actor("", "", 2)
		d.expectAfter("up1: handshake\nup1> A\nup1< +1\\r\\n", d.command(us, "A"), "+1\r\n")
		d.expectAfter(`
			up1> PING *
			up1< +late\r\n
			up1> (end)
			up1: close
			up2: handshake
			up2> B
			up2< +2\r\n
		`, d.command(us, "B"), "+2\r\n")
	})
	for name, answer := range map[string]string{
		"it ends":              "up1: close",
		"it answers in part":   "up1< $5\\r\\nab\nup1: close",
		"it answers too much":  "up1< +1\\r\\n+2\\r\\n\nup1> (end)\nup1: close",
		"it answers with rot":  "up1< rot\\r\\n\nup1> (end)\nup1: close",
		"it resets, unwilling": "up1: reset",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t, settings{}, patience)
			us := d.actor("", "", 2)
			lost := d.command(us, "A")
			d.play("up1: handshake\nup1> A\n" + answer)
			if v := <-lost; !errors.Is(v.err, multiplex.ErrLost) {
				t.Errorf("%q, %v", v.reply, v.err)
			}
			d.expectAfter("up2: handshake\nup2> B\nup2< +2\\r\\n", d.command(us, "B"), "+2\r\n")
		})
	}
}
