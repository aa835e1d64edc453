package proxy

import (
	"strings"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/handover"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// What a client is, as it is written for the program that takes over. Each field of session is either in pack and adopt, or
// movable refuses a session in which it says anything; or it is the worker's book-keeping, which begins anew.

// movable reports whether nothing of the client would be lost if its socket and what pack writes were all that is left of
// it.
func (s *session) movable() bool {
	silent := s.state == flowing && len(s.in) == 0 || s.state == awaitingPlace && len(s.in) <= waitingInput
	idle := silent && s.inFlight == 0 && s.block == 0 && !s.queued && !s.pushed && s.out.size == 0 && s.partial == nil &&
		!s.inPlace && !s.inLent && !s.eof
	bare := s.pin == nil && !s.pinTaken && s.wait == nil && s.acks == nil && !s.relaying && s.tracks == nil &&
		!s.ctx.Tracking && s.subs.idle() && (s.who == nil || !s.who.byCert)
	plain := s.front == nil || s.front.moving == nil && s.front.redirects == nil && !s.front.turn && s.front.recalled == nil
	sound := s.doom == nil && s.denied == nil && !s.killed && !s.refused && !s.muted
	return idle && bare && plain && sound && s.conn.Detachable()
}

// idle reports whether the client hears of nothing by itself.
func (x *subscriber) idle() bool {
	if x == nil {
		return true
	}
	for _, channels := range x.to {
		if len(channels) > 0 {
			return false
		}
	}
	return x.held.size == 0 && x.inbox == nil
}

// pack writes the client down. It is movable.
func (s *session) pack() *handover.Client {
	now, ids := s.w.clock(), s.ticket.Identities()
	key := s.ctx.Key
	c := &handover.Client{
		ID: s.id, Remote: []byte(s.remote), Identities: packIdentities(ids), Process: packProcess(s.process),
		User: []byte(key.User), Password: []byte(s.ctx.Password()), DB: key.DB, RESP: key.RESP, NoTouch: key.NoTouch, ReadOnly: key.ReadOnly,
		NoEvict: s.noEvict, ReplyOff: s.replyOff, SkipNext: s.skipNext,
		Age: now - s.created, Active: now - s.active, Used: now - s.used,
		Commands: s.commands, Received: s.received - uint64(len(s.in)), Sent: s.sent, Signs: s.signs, Heard: s.in,
	}
	if s.who != nil {
		c.Name, c.LibName, c.LibVer = []byte(s.who.name), []byte(s.who.libName), []byte(s.who.libVer)
	}
	if s.last != nil {
		c.LastCommand = s.last.name
	}
	return c
}

// adopt makes a session of what pack has written, on the worker's loop. Whether a rule has room for what the client is, is for the
// gate to say if it has not been counted in that before.
func (w *worker) adopt(c *handover.Client, in eventloop.Incoming, t *limits.Ticket) {
	now := w.clock()
	s := &session{
		w: w, id: c.ID, remote: string(c.Remote), ticket: t, created: now - c.Age, active: now - c.Active, used: now - c.Used,
		process: unpackProcess(c.Process), noEvict: c.NoEvict, replyOff: c.ReplyOff, skipNext: c.SkipNext,
		commands: c.Commands, received: c.Received, sent: c.Sent, signs: c.Signs,
	}
	if len(c.Name)+len(c.LibName)+len(c.LibVer) > 0 {
		s.who = &identity{name: string(c.Name), libName: string(c.LibName), libVer: string(c.LibVer)}
	}
	if c.LastCommand != "" {
		name, sub, _ := strings.Cut(c.LastCommand, "|")
		s.last = w.table.lookup([]byte(name), []byte(sub))
	}
	t.Hold(s)
	place := t.Identify(func(ids *limits.Identities) { *ids = unpackIdentities(c.Identities) }, w.loop.Now())
	conn, err := w.loop.Attach(in, s)
	if err != nil {
		t.Leave(w.loop.Now())
		w.log.Error("client could not be taken over", "client", s.remote, "error", err)
		return
	}
	key := multiplex.Key{User: string(c.User), DB: c.DB, RESP: c.RESP, NoTouch: c.NoTouch, ReadOnly: c.ReadOnly}
	if key.User != "" {
		w.pool.SetPassword(key.User, string(c.Password))
	}
	w.place(s, conn, key)
	switch place {
	case limits.Waiting:
		s.limited = true
		w.srv.workers[0].loop.Post(w.srv.attend)
	case limits.Refused:
		s.refuseLate()
	}
	if len(c.Heard) > 0 && s.state < leaving {
		s.Data(c.Heard)
	}
	if w.stopping {
		s.close()
	}
}

func packIdentities(ids *limits.Identities) [][]byte {
	out := make([][]byte, len(ids))
	for i, value := range ids {
		out[i] = []byte(value)
	}
	return out
}

func unpackIdentities(values [][]byte) (ids limits.Identities) {
	for i := range min(len(values), len(ids)) {
		ids[i] = string(values[i])
	}
	return ids
}

func packProcess(p *peer.Process) *handover.Process {
	if p == nil {
		return nil
	}
	return &handover.Process{PID: p.PID, Executable: []byte(p.Executable), Command: []byte(p.Command), Container: []byte(p.Container)}
}

func unpackProcess(p *handover.Process) *peer.Process {
	if p == nil {
		return nil
	}
	return &peer.Process{PID: p.PID, Executable: string(p.Executable), Command: string(p.Command), Container: string(p.Container)}
}
