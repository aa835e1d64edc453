package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// subscription is what a session with a pin is subscribed to, as the upstream confirms it.
type subscription struct {
	channels, patterns, shards int
	family                     byte // of the command in flight: 's', 'p', or 'h' for shards; 0: not one of ours
	expect                     int  // frames that are still to come for the command in flight
}

func (sub *subscription) total() int { return sub.channels + sub.patterns + sub.shards }

// count returns the counter of a family.
func (sub *subscription) count(family byte) *int {
	switch family {
	case 'p':
		return &sub.patterns
	case 'h':
		return &sub.shards
	}
	return &sub.channels
}

// startSubscription has the pin deliver frame by frame from now on: messages come between replies, at any time.
func (s *session) startSubscription(c command) bool {
	s.pin.sub = &subscription{}
	s.pin.link.Frames(s.onFrame)
	return s.onSubscribed(c)
}

// onSubscribed treats a command of a session that is subscribed. One is under way at a time.
func (s *session) onSubscribed(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	p := s.pin
	p.sub.family, p.sub.expect = 0, 1
	switch c.row.how {
	case subscribe:
		name := c.row.name
		un := bytes.Contains([]byte(name), []byte("UNSUB"))
		p.sub.family = 's'
		switch {
		case name[0] == 'P':
			p.sub.family = 'p'
		case name[:2] == "SS" || name[:3] == "SUN":
			p.sub.family = 'h'
		}
		p.sub.expect = max(c.Len()-1, 1)
		if un && c.Len() == 1 {
			p.sub.expect = max(*p.sub.count(p.sub.family), 1)
		}
	case multi, auth, hello, relay, clientReply:
		return s.startRelay(c)
	case selectDB, noTouch, readOnly, stick, unknown, watch, once:
		p.sticky = true
	}
	p.link.Send(c.Bytes())
	s.inFlight = 1
	s.state = barred
	return true
}

// onFrame receives a frame from the upstream of a subscribed session: a message, a confirmation or a reply.
func (s *session) onFrame(frame []byte, top byte) {
	sub := s.pin.sub
	var kind []byte
	if top == '>' || s.protocol() == 2 { // in RESP3, an array is a reply, whatever it says
		kind = frameKind(frame, top)
	}
	family, delta := confirmation(kind)
	s.write(frame)
	if s.pin == nil || sub == nil { // the client has gone
		return
	}
	switch {
	case family != 0:
		sub.confirm(family, delta, frame)
		if s.inFlight == 0 || sub.family != family {
			return // unasked: the upstream took a subscription away
		}
	case isMessage(kind) || top == '>':
		return
	case s.inFlight == 0:
		return
	case sub.family != 0:
		sub.expect = 1 // an error: the only answer
	}
	sub.expect--
	if sub.expect <= 0 {
		s.inFlight = 0
		s.wake()
	}
}

// confirm counts what the upstream confirmed. Channels and patterns are counted together by Redis, in the last
// element of the frame, so that a subscription that was there already adds nothing.
func (sub *subscription) confirm(family byte, delta int, frame []byte) {
	n := sub.count(family)
	others := 0
	switch family {
	case 's':
		others = sub.patterns
	case 'p':
		others = sub.channels
	}
	if total, ok := lastInteger(frame); ok {
		*n = max(total-others, 0)
		return
	}
	*n = max(*n+delta, 0)
}

// confirmation returns the family of a frame that confirms a subscription, or its end.
func confirmation(kind []byte) (family byte, delta int) {
	switch string(kind) {
	case "subscribe":
		return 's', 1
	case "unsubscribe":
		return 's', -1
	case "psubscribe":
		return 'p', 1
	case "punsubscribe":
		return 'p', -1
	case "ssubscribe":
		return 'h', 1
	case "sunsubscribe":
		return 'h', -1
	}
	return 0, 0
}

func isMessage(kind []byte) bool {
	switch string(kind) {
	case "message", "pmessage", "smessage":
		return true
	}
	return false
}

// frameKind returns the first element of an array or a push, if it is a bulk string; otherwise nil.
func frameKind(frame []byte, top byte) []byte {
	if top != '*' && top != '>' {
		return nil
	}
	_, rest, ok := bytes.Cut(frame, []byte("\r\n"))
	if !ok || len(rest) == 0 || rest[0] != '$' {
		return nil
	}
	header, rest, ok := bytes.Cut(rest[1:], []byte("\r\n"))
	n, isInt := resp.ParseInt(header)
	if !ok || !isInt || n < 0 || int(n) > len(rest) {
		return nil
	}
	return rest[:n]
}

// lastInteger returns the integer that ends a frame.
func lastInteger(frame []byte) (int, bool) {
	frame = bytes.TrimSuffix(frame, []byte("\r\n"))
	i := bytes.LastIndexByte(frame, ':')
	if i < 0 {
		return 0, false
	}
	n, ok := resp.ParseInt(frame[i+1:])
	return int(n), ok
}
