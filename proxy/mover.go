package proxy

import (
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// A mover hands the clients of a loop over to the program that takes over: who is idle in steps, on a timer, and who is at
// work right behind an answer. It also tells what becomes of those that are left, so that both programs together keep to
// the limits. It belongs to its worker's loop.

const (
	// moveStep is how often idle clients are handed over, and moveBatch how many of them at once.
	moveStep  = 2 * time.Millisecond
	moveBatch = 32
	// moveRest is how often those are looked at that could not be handed over before.
	moveRest = 20 * time.Millisecond
)

type mover struct {
	w      *worker
	to     *successor
	moving bool     // the successor serves; before, it is only told what becomes of clients
	going  *session // is being handed over, and has not left
}

// take reports which clients the worker has, and notes from now on what becomes of them.
func (w *worker) take(to *successor) []*handover.Place {
	w.mover = &mover{w: w, to: to}
	places := make([]*handover.Place, 0, w.count)
	for s := range w.all {
		places = append(places, placeOf(s))
	}
	return places
}

// begin hands over whoever can be.
func (m *mover) begin() {
	m.moving = true
	m.step()
}

// step hands some over who are idle.
func (m *mover) step() {
	if m.w.mover != m || m.w.stopping {
		return
	}
	left := moveBatch
	m.moveWaiting()
	for s := range m.w.all {
		if left == 0 || !m.to.room() {
			break
		}
		if s.movable() {
			m.move(s)
			left--
		}
	}
	pause := moveRest
	if left < moveBatch {
		pause = moveStep
	}
	m.w.loop.AfterFunc(pause, m.step)
}

// moveWaiting hands those over that wait for a place: no place becomes theirs here any more.
func (m *mover) moveWaiting() {
	for d := range m.w.waiting {
		m.moveDoor(d)
	}
	for s := range m.w.all {
		if s.limited && s.movable() && m.to.room() {
			m.move(s)
		}
	}
}

// offer hands a client over that has just been answered.
func (m *mover) offer(s *session) {
	if m.moving && s.movable() && m.to.room() {
		m.move(s)
	}
}

// move hands a client over.
func (m *mover) move(s *session) {
	s.conn.Detach(func() bool { return m.w.mover == m && !m.w.stopping && s.movable() }, func(fd int) {
		client := s.pack()
		m.going = s
		s.release()
		m.going = nil
		m.to.give(handover.ClientKind, client, fd)
	})
}

// moveDoor hands a client over that waits to be let in. One whose credentials are being checked is left until they have been.
func (m *mover) moveDoor(d *door) {
	if d.closed || d.conn == nil || d.peek.checking || !d.conn.Detachable() || !m.to.room() || d.ticket.State() != limits.Waiting {
		return
	}
	still := func() bool {
		return m.w.mover == m && !d.closed && !d.peek.checking && d.ticket.State() == limits.Waiting
	}
	d.conn.Detach(still, func(fd int) {
		d.leave()
		m.to.give(handover.CallerKind, &handover.Caller{
			Remote: []byte(d.remote), OnHost: d.onHost, Identities: packIdentities(&d.ids), Process: packProcess(d.process), Heard: d.heard,
		}, fd)
	})
}

// came says that there is another client.
func (m *mover) came(s *session) { m.to.tell(handover.PlaceKind, placeOf(s)) }

// changed says that something else is known of a client, or that a rule has room for it by now.
func (m *mover) changed(s *session) { m.to.tell(handover.KnownKind, placeOf(s)) }

// left says that a client has gone; one that is being handed over has not.
func (m *mover) left(s *session) {
	if s != m.going {
		m.to.tell(handover.LeftKind, &handover.Left{Client: s.id})
	}
}
