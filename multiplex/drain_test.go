package multiplex_test

import (
	"testing"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
)

// A lane that is in the way of others answers what it has been sent, and goes. Its slot is free when Redis, too, has
// closed the connection.

func TestALaneThatIsInTheWayAnswersFirstAndThenGoes(t *testing.T) {
	bothWays(t, settings{size: 1}, func(s *stage) {
		s.keys["b"] = multiplex.Key{DB: 3, RESP: 2}
		s.play(`
			a? GET one
			up1: handshake
			up1> GET one
			b? GET two
		`)
		s.until("b to wait", func() bool { return s.budget.Waiting(limits.Lane) == 1 })
		s.play(`
			# a asks for a lane again, behind b.
			a? GET three
			up1< +1\r\n
			a< +1\r\n
			up1> (end)
		`)
		// Redis has not closed yet, so that it still counts this connection.
		s.do(func() {
			if s.budget.Open(limits.Lane) != 1 || s.redis.accepted() != 1 {
				s.t.Error("the slot was given back too early")
			}
		})
		s.play(`
			up1: close
			up2: handshake
			up2> SELECT 3
			up2< +OK\r\n
			up2> GET two
			up2< +2\r\n
			b< +2\r\n
			up2> (end)
			up2: close
			up3: handshake
			up3> GET three
			up3< +3\r\n
			a< +3\r\n
			a: idle
			b: idle
		`)
	})
}

func TestAnUpstreamThatDoesNotHangUpIsNotWaitedForLong(t *testing.T) {
	s := newStage(t, settings{size: 1})
	s.keys["b"] = multiplex.Key{DB: 3, RESP: 2}
	s.play(`
		a? GET one
		up1: handshake
		up1> GET one
		up1< +1\r\n
		a< +1\r\n
		b? GET two
		up1> (end)
		up2: handshake
		up2> SELECT 3
		up2< +OK\r\n
		up2> GET two
		up2< +2\r\n
		b< +2\r\n
	`)
}

func TestALaneThatBreaksWhileItDrainsHandsItsReadsToTheNext(t *testing.T) {
	bothWays(t, settings{size: 3}, func(s *stage) {
		s.keys["b"] = multiplex.Key{DB: 1, RESP: 2}
		s.keys["c"] = multiplex.Key{DB: 2, RESP: 2}
		s.play(`
			a? GET one
			up1: handshake
			up1> GET one
			b? GET two
			up2: handshake
			up2> SELECT 1
			up2< +OK\r\n
			up2> GET two
			c? GET three
		`)
		s.until("c to wait", func() bool { return s.budget.Waiting(limits.Lane) == 1 })
		s.play(`
			# The oldest makes room: it takes nothing new.
			a? GET four
			up1: close
			up3: handshake
			up3> SELECT 2
			up3< +OK\r\n
			up3> GET three
			up2< +2\r\n
			b< +2\r\n
			up2> (end)
			up2: close
			up4: handshake
			up4> GET one
			up4> GET four
			up4< +1\r\n+4\r\n
			a< +1\r\n+4\r\n
			up3< +3\r\n
			c< +3\r\n
		`)
	})
}

// A lane on which somebody waits for what may never come, such as acknowledgements of replicas, takes nothing new. It
// is not waited for once he has gone, but for the others' replies it is.
func TestAnAbortedLaneAnswersTheOthersFirst(t *testing.T) {
	bothWays(t, settings{}, func(s *stage) {
		s.play(`
			a: open
			up1: handshake
			a: linked
			a? GET one
			b? GET two
			up1> GET one
			up1> GET two
			w> WAIT 1 0
			up1> WAIT 1 0
		`)
		w := s.client("w")
		var link *multiplex.Link
		s.do(func() {
			link = w.ctx.Link()
			link.Drain()
		})
		s.play("w: leave")
		s.do(link.Abort)
		s.play(`
			up1< +1\r\n
			a< +1\r\n
			up1< +2\r\n
			b< +2\r\n
			up1> (end)
			up1: close
			a: idle
			b: idle
		`)
		s.until("the slot to be free", func() bool { return s.budget.Open(limits.Lane) == 0 })
	})
}
