package proxy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// subscriber is what a session is subscribed to.
type subscriber struct {
	to   [families]map[string]*channel
	held outbox // messages that came while a reply was under way

	inbox *inbox // where the upstream tells what others have redirected to the client; nil: nobody has
}

// subscriptions returns how many channels, patterns and shard channels the session is subscribed to.
func (s *session) subscriptions() (channels, patterns, shards int) {
	if s.subs == nil {
		return 0, 0, 0
	}
	return len(s.subs.to[toChannels]), len(s.subs.to[toPatterns]), len(s.subs.to[toShards])
}

// isSubscribed reports whether the session is subscribed to anything.
func (s *session) isSubscribed() bool {
	channels, patterns, shards := s.subscriptions()
	return channels+patterns+shards > 0
}

// total is what Redis counts in the confirmations of a family.
func (s *session) total(f family) int {
	channels, patterns, shards := s.subscriptions()
	if f == toShards {
		return shards
	}
	return channels + patterns
}

// familyOf returns the family of a command's subscriptions, and whether it ends them.
func familyOf(r *row) (f family, un bool) {
	name := strings.ToLower(r.name)
	for f, words := range familyWords {
		switch name {
		case words.subscribe:
			return family(f), false
		case words.unsubscribe:
			return family(f), true
		}
	}
	panic("bug: " + r.name + " has nothing to do with subscriptions")
}

// subscribe treats the commands that begin and end subscriptions.
func (s *session) subscribe(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	f, un := familyOf(c.row)
	switch {
	case s.ctx.Unauthenticated():
		c.row = onceRow // it will be refused; if not, the connection is dropped
		if s.pin != nil {
			return s.onPin(c)
		}
		return s.onNewPin(c)
	case un:
		return s.unsubscribe(c, f)
	case c.Len() == 1:
		return s.share(c, nil) // an error, and nothing else
	}
	h := s.w.hubOf(s.ctx.User)
	if h.link == nil && !s.awaitHub(h) {
		return s.denied != nil && s.deny(c)
	}
	s.inFlight = 1
	s.muted = s.mute() != 0 // of the confirmations only an error is
	h.subscribe(s, f, c)
	s.bar()
	return true
}

// onceRow stands for a command that is to have a connection that is closed afterwards.
var onceRow = &row{name: "SUBSCRIBE", how: once}

// awaitHub asks for the connection of a hub. It reports true if it is there, and otherwise has the session wait, or be
// denied.
func (s *session) awaitHub(h *hub) bool {
	h.open()
	switch {
	case h.link != nil:
		return true
	case h.request.Queued() && s.w.cfg.PoolTimeout == 0:
		h.settle()
		s.w.counters.poolTimeouts.Add(1)
		s.denied = &verdict{replyFull, true}
		return false
	}
	h.waiting[s] = struct{}{}
	s.wait = &waiting{hub: h, since: s.w.loop.Now(), forOthers: true}
	s.wait.timer = s.w.loop.AfterFunc(s.w.cfg.PoolTimeout, s.hubTimeout)
	s.state = awaitingPin
	return false
}

// subscribed confirms a subscription to the client.
func (s *session) subscribed(ch *channel) {
	if s.subs == nil {
		s.subs = &subscriber{}
	}
	to := &s.subs.to[ch.family]
	if *to == nil {
		*to = map[string]*channel{}
	}
	if was := (*to)[ch.name]; was != nil && was != ch { // from when the client was another user
		was.hub.leave(s, ch.family, []*channel{was})
	}
	(*to)[ch.name] = ch
	s.write(s.confirm(nil, ch.family, familyWords[ch.family].subscribe, []byte(ch.name)))
}

// unsubscribed tells the client that the upstream has taken a subscription away.
func (s *session) unsubscribed(ch *channel) {
	delete(s.subs.to[ch.family], ch.name)
	s.recount()
	s.push(s.confirm(nil, ch.family, familyWords[ch.family].unsubscribe, []byte(ch.name)))
}

// confirm appends the frame that confirms the begin or the end of a subscription. A nil name is for the end of all of
// them where there are none.
func (s *session) confirm(b []byte, f family, word string, name []byte) []byte {
	if s.protocol() == 3 {
		b = append(b, ">3\r\n"...)
	} else {
		b = append(b, "*3\r\n"...)
	}
	b = resp.AppendBulk(b, word)
	switch {
	case name != nil:
		b = resp.AppendBulk(b, name)
	case s.protocol() == 3:
		b = append(b, "_\r\n"...)
	default:
		b = append(b, "$-1\r\n"...)
	}
	return fmt.Appendf(b, ":%d\r\n", s.total(f))
}

// unsubscribe ends subscriptions. The upstream is only asked whether the client may, if there are any on the connection
// that carries them: a reply that came on another would overtake messages.
func (s *session) unsubscribe(c command, f family) bool {
	names := make([][]byte, 0, c.Len()-1)
	for i := 1; i < c.Len(); i++ {
		names = append(names, bytes.Clone(c.Arg(i)))
	}
	ended := func() []byte { return s.endSubscriptions(f, names) }
	h := s.w.hubs[s.ctx.User]
	if h == nil || !h.carries(s, f) {
		return s.ifAllowed(c, ended)
	}
	s.inFlight = 1
	s.muted = s.mute() != 0
	h.unsubscribe(s, f, c.Arg(0), ended)
	s.bar()
	return true
}

// carries reports whether the hub has subscriptions of a session, and can be asked about their end. (In a cluster it
// is another node that would be asked about a shard channel of another name.)
func (h *hub) carries(s *session, f family) bool {
	if h.link == nil || s.subs == nil || f == toShards && string(h.link.HelloField("mode")) != "standalone" {
		return false
	}
	for _, ch := range s.subs.to[f] {
		if ch.hub == h {
			return true
		}
	}
	return false
}

// endSubscriptions leaves channels, all of a family if none is named, and returns the frames that confirm it.
func (s *session) endSubscriptions(f family, names [][]byte) []byte {
	word := familyWords[f].unsubscribe
	if len(names) == 0 && s.subs != nil {
		for _, name := range slices.Sorted(maps.Keys(s.subs.to[f])) {
			names = append(names, []byte(name))
		}
	}
	if len(names) == 0 {
		return s.confirm(nil, f, word, nil)
	}
	var frames []byte
	left := map[*hub][]*channel{}
	for _, name := range names {
		if s.subs != nil {
			if ch := s.subs.to[f][string(name)]; ch != nil {
				delete(s.subs.to[f], ch.name)
				left[ch.hub] = append(left[ch.hub], ch)
			}
		}
		frames = s.confirm(frames, f, word, name)
	}
	for h, channels := range left {
		h.leave(s, f, channels)
	}
	return frames
}

// unsubscribeAll leaves everything, without a word.
func (s *session) unsubscribeAll() {
	if s.subs == nil {
		return
	}
	all := s.subs.to
	s.subs.to = [families]map[string]*channel{}
	for f, to := range all {
		left := map[*hub][]*channel{}
		for _, ch := range to {
			left[ch.hub] = append(left[ch.hub], ch)
		}
		for h, channels := range left {
			h.leave(s, family(f), channels)
		}
	}
}

// push sends a frame that nobody asked for. What comes in one turn is written at its end, in one go; what comes while a
// reply is under way waits until it is complete.
func (s *session) push(frame []byte) {
	if s.state >= leaving || s.subs == nil {
		return
	}
	s.active = s.w.clock()
	s.sent += uint64(len(frame))
	frame[0] = '>'
	if s.protocol() == 2 {
		frame[0] = '*'
	}
	switch {
	case s.midway() || s.subs.held.size > 0:
		s.subs.held.add(frame, &s.w.pieces)
	case len(frame) > outboxPiece: // a copy for each subscriber would cost more than a write
		s.write(frame)
		return
	default:
		s.out.add(frame, &s.w.pieces)
		s.flushLater()
	}
	s.boundOutput()
}

// flushLater has what is in the outbox written at the end of this turn.
func (s *session) flushLater() {
	if !s.pushed {
		s.pushed = true
		s.w.pushed = append(s.w.pushed, s)
	}
}

// midway reports whether the client has got a part of something whose rest is still to come.
func (s *session) midway() bool {
	return s.link != nil && s.link.Midway(s) || s.pin != nil && s.pin.link.Midway(s)
}

// releaseHeld lets go of the messages that waited for the end of a reply.
func (s *session) releaseHeld() {
	held := &s.subs.held
	if held.pieces != nil {
		for _, piece := range *held.pieces {
			s.out.add(piece, &s.w.pieces)
		}
	}
	*held = outbox{}
	s.flushLater()
}

// outOfTheWay reports whether a command of a subscriber needs a treatment of its own.
func (s *session) outOfTheWay(c command) bool {
	return s.isSubscribed() && (s.protocol() == 2 || c.row.publishes)
}

// onSubscriber treats such a command.
func (s *session) onSubscriber(c command) bool {
	if c.row.how == refuse {
		return s.refuse(c)
	}
	if s.protocol() == 2 {
		return s.onRestricted(c)
	}
	if s.pin != nil && s.pin.tx != nil {
		return s.onPin(c)
	}
	return s.publish(c)
}

// publish sends PUBLISH on the connection that carries the client's subscriptions, so that what it sends to itself
// comes before or after the reply as it does from Redis, whose versions differ in that.
func (s *session) publish(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	h := s.w.hubs[s.ctx.User]
	if h == nil || h.link == nil {
		if s.pin != nil {
			return s.onPin(c)
		}
		return s.share(c, nil)
	}
	s.inFlight = 1
	s.muted = s.mute() != 0
	h.publish(s, c)
	s.bar()
	return true
}
