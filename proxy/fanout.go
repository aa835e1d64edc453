package proxy

import (
	"bytes"
	"crypto/rand"
	"maps"
	"slices"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Subscriptions fan out: however many clients of a user subscribe to a channel, the upstream sees one subscription
// for each loop. Every SUBSCRIBE is sent on all the same, on the one connection that carries the user's: that is how
// Redis checks the permission, now, and its confirmation marks the place in the stream of messages from which on the
// client gets them. To the upstream, subscribing again changes nothing.

// family is a kind of subscription. Channels and patterns are counted together, shard channels apart.
type family uint8

const (
	toChannels family = iota
	toPatterns
	toShards
	families
)

// familyWords are the words of a family: what its commands and confirmations are called, and its messages.
var familyWords = [families]struct{ subscribe, unsubscribe, message string }{
	{"subscribe", "unsubscribe", "message"},
	{"psubscribe", "punsubscribe", "pmessage"},
	{"ssubscribe", "sunsubscribe", "smessage"},
}

// hub is the upstream connection that carries the subscriptions of a user's clients on one loop. It belongs to the
// loop. It speaks RESP3, where a message cannot be taken for a reply.
type hub struct {
	w       *worker
	ctx     *multiplex.Context // entered as long as the hub is in worker.hubs
	link    *multiplex.Link    // nil until it is there
	stuck   bool               // it has subscriptions that this user may not end
	request *multiplex.PinRequest
	next    *multiplex.PinRequest // of the connection that is to take this one's place
	spare   *multiplex.Link       // that connection, until the time has come

	waiting  map[*session]struct{}
	pending  []*confirmation // in the order in which the upstream will answer
	channels [families]map[string]*channel
}

// channel is what clients are subscribed to: a channel, a pattern or a shard channel.
type channel struct {
	hub     *hub
	family  family
	name    string
	members map[*session]struct{}
	pending int // SUBSCRIBE commands for it that have not been confirmed
}

// confirmation is what the upstream owes: a frame for each channel, or one error for all; or the reply to PUBLISH.
type confirmation struct {
	word     string                    // what the frames begin with; empty for PUBLISH
	s        *session                  // nil: the hub's own housekeeping
	channels []*channel                // of a session's SUBSCRIBE
	ended    func() []byte             // of a session's UNSUBSCRIBE: returns the frames that confirm it
	change   func(reply []byte) []byte // of PUBLISH; nil: the reply is the upstream's
	left     int
}

// hubOf returns the hub of a user, and makes one if there is none.
func (w *worker) hubOf(user string) *hub {
	if h := w.hubs[user]; h != nil {
		return h
	}
	h := &hub{
		w: w, ctx: w.pool.Context(multiplex.Key{User: user, RESP: 3}), waiting: map[*session]struct{}{},
	}
	for f := range h.channels {
		h.channels[f] = map[string]*channel{}
	}
	h.ctx.Enter()
	w.hubs[user] = h
	return h
}

// open asks for the connection.
func (h *hub) open() {
	if h.link != nil || h.request != nil {
		return
	}
	link, request := h.w.pool.AcquirePin(h.ctx, h, h.opened)
	h.request = request
	if link != nil {
		h.opened(link, nil)
	}
}

// opened receives the connection, or the upstream's reason for refusing it.
func (h *hub) opened(link *multiplex.Link, err error) {
	h.request = nil
	waiting := h.waiting
	h.waiting = map[*session]struct{}{}
	if err != nil {
		for s := range waiting {
			s.wait.hub = nil
			s.endWait(multiplex.ErrorLine(err), false)
		}
		h.closeMembers(err)
		h.settle()
		return
	}
	h.link = link
	link.Frames(h.frame)
	h.resubscribe()
	for s := range waiting {
		s.wait.hub = nil
		s.endWait(nil, false)
	}
	h.settle()
}

// abandon takes a session out of those that wait.
func (h *hub) abandon(s *session) {
	delete(h.waiting, s)
	h.settle()
}

// subscribe sends a session's SUBSCRIBE, PSUBSCRIBE or SSUBSCRIBE. The hub has a connection.
func (h *hub) subscribe(s *session, f family, c command) {
	conf := &confirmation{word: familyWords[f].subscribe, s: s, left: c.Len() - 1}
	for i := 1; i < c.Len(); i++ {
		ch := h.channels[f][string(c.Arg(i))]
		if ch == nil {
			ch = &channel{hub: h, family: f, name: string(c.Arg(i)), members: map[*session]struct{}{}}
			h.channels[f][ch.name] = ch
		}
		ch.pending++
		conf.channels = append(conf.channels, ch)
	}
	h.pending = append(h.pending, conf)
	h.link.Send(c.Bytes())
}

// nobody is a channel that no client knows of.
var nobody = "redbouncer:" + rand.Text()

// unsubscribe treats a session's UNSUBSCRIBE, PUNSUBSCRIBE or SUNSUBSCRIBE. It is sent for a channel that nobody is
// subscribed to: this is how the upstream checks the permission, and how the place comes about in the stream of messages
// up to which the client gets them, those included that are on their way. The hub has a connection.
func (h *hub) unsubscribe(s *session, f family, verb []byte, ended func() []byte) {
	h.pending = append(h.pending, &confirmation{word: familyWords[f].unsubscribe, s: s, ended: ended, left: 1})
	h.link.Send(resp.AppendCommand(nil, verb, []byte(nobody)))
}

// publish sends a session's PUBLISH, which has one reply. The hub has a connection.
func (h *hub) publish(s *session, c command) {
	h.pending = append(h.pending, &confirmation{s: s, change: s.reached(c), left: 1})
	h.link.Send(c.Bytes())
}

// send sends a command of the hub's own, for several channels.
func (h *hub) send(verb string, names []string) {
	for part := range slices.Chunk(names, 1024) {
		h.pending = append(h.pending, &confirmation{word: verb, left: len(part)})
		h.link.Send(resp.AppendCommand(nil, append([]string{verb}, part...)...))
	}
}

// leave takes a session out of channels, and unsubscribes from those that nobody is in any more.
func (h *hub) leave(s *session, f family, left []*channel) {
	var names []string
	for _, ch := range left {
		ch.part(s)
		if ch.unused() && h.channels[f][ch.name] == ch {
			names = append(names, ch.name)
			delete(h.channels[f], ch.name)
		}
	}
	if h.link != nil && len(names) > 0 {
		h.send(familyWords[f].unsubscribe, names)
	}
	h.settle()
}

// unused reports whether nobody is subscribed to a channel, or about to be.
func (ch *channel) unused() bool { return len(ch.members) == 0 && ch.pending == 0 }

// drop forgets a channel that turned out not to be used.
func (h *hub) drop(ch *channel) {
	if ch.unused() && h.channels[ch.family][ch.name] == ch {
		delete(h.channels[ch.family], ch.name)
		if h.link != nil {
			h.send(familyWords[ch.family].unsubscribe, []string{ch.name})
		}
	}
}

// settle has the hub end with this turn, if nobody needs it.
func (h *hub) settle() { h.w.idleHubs = append(h.w.idleHubs, h) }

// end gives the connection back if nobody is subscribed and the upstream has confirmed it.
func (h *hub) end() {
	if h.subscribers() || len(h.waiting) > 0 || len(h.pending) > 0 || h.w.hubs[h.ctx.User] != h {
		return
	}
	delete(h.w.hubs, h.ctx.User)
	h.dropNext()
	switch {
	case h.link != nil && h.stuck:
		h.w.pool.DiscardPin(h.link)
	case h.link != nil:
		h.w.pool.ReleasePin(h.link)
	case h.request != nil:
		h.request.Cancel()
	}
	h.link, h.request = nil, nil
	h.ctx.Leave()
}

// subscribers reports whether anybody is subscribed, or about to be.
func (h *hub) subscribers() bool {
	for _, channels := range h.channels {
		if len(channels) > 0 {
			return true
		}
	}
	return false
}

// frame receives what the upstream sends. It may be changed during the call.
func (h *hub) frame(frame []byte, top byte) {
	if top != '>' {
		h.replied(frame)
		return
	}
	kind, rest := firstBulk(frame)
	name, _ := bulk(rest)
	for f, words := range familyWords {
		switch string(kind) {
		case words.message:
			h.deliver(family(f), name, frame)
			return
		case words.subscribe, words.unsubscribe:
			h.confirmed(family(f), name, string(kind))
			return
		}
	}
}

// deliver hands a message to everybody who is subscribed.
func (h *hub) deliver(f family, name, frame []byte) {
	ch := h.channels[f][string(name)]
	if ch == nil {
		return // whom it was for has gone meanwhile
	}
	for s := range ch.members {
		s.push(frame)
	}
}

// confirmed goes on with what the upstream owes, or takes note of a subscription that it has taken away unasked (of a
// shard channel whose slot has moved).
func (h *hub) confirmed(f family, name []byte, word string) {
	if len(h.pending) == 0 || h.pending[0].word != word {
		h.taken(h.channels[f][string(name)])
		return
	}
	conf := h.pending[0]
	switch {
	case conf.ended != nil && conf.s.state != gone:
		conf.s.write(conf.ended())
	case conf.channels != nil:
		ch := conf.channels[len(conf.channels)-conf.left]
		ch.pending--
		if conf.s.state == gone {
			h.drop(ch)
		} else {
			ch.join(conf.s)
			conf.s.subscribed(ch)
		}
	}
	if conf.left--; conf.left == 0 {
		h.answered(conf)
	}
}

// taken tells everybody who is subscribed to a channel, if anybody is, that they are not any more.
func (h *hub) taken(ch *channel) {
	if ch == nil {
		return
	}
	for s := range ch.members {
		s.unsubscribed(ch)
		ch.part(s)
	}
	h.drop(ch)
	h.settle()
}

// replied hands on the reply to PUBLISH, or the error that the upstream answered to SUBSCRIBE: nothing of that command
// was subscribed to.
func (h *hub) replied(line []byte) {
	if len(h.pending) == 0 {
		return // nobody asked
	}
	conf := h.pending[0]
	switch {
	case conf.s == nil && strings.Contains(conf.word, "unsub"):
		h.stuck = true
	case conf.s == nil:
		h.closeMembers(&multiplex.ReplyError{Line: bytes.Clone(line)})
	case conf.s.state != gone && !conf.s.muted:
		if conf.change != nil {
			line = conf.change(line)
		}
		conf.s.write(line)
	}
	for _, ch := range conf.channels {
		ch.pending--
		h.drop(ch)
	}
	h.answered(conf)
}

// answered ends a command.
func (h *hub) answered(conf *confirmation) {
	h.pending[0] = nil
	h.pending = h.pending[1:]
	if conf.s != nil && conf.s.state != gone {
		conf.s.Reply(nil, 1)
	}
	h.changeOver()
	h.settle()
}

// Reply implements multiplex.Client. It is not used: the connection delivers frames.
func (h *hub) Reply([]byte, int) {}

// Gone implements multiplex.Client.
func (h *hub) Gone() bool { return false }

// Lost implements multiplex.Client. Messages may have been missed, and a client of Redis itself would learn that by
// the end of its connection; unless the subscribers are to ride through.
func (h *hub) Lost(err error) {
	if h.spare != nil && !h.spare.Serving() {
		h.spare = nil // it has never carried anything
		return
	}
	h.dropNext()
	h.link, h.stuck = nil, false
	h.dropPending(err)
	keeps := h.w.cfg.Resubscribe || h.w.held // whoever is held back publishes nothing that could be missed
	if !keeps {
		h.closeMembers(err)
	}
	for f := range h.channels {
		maps.DeleteFunc(h.channels[f], func(_ string, ch *channel) bool { return ch.unused() })
	}
	h.settle()
	if !h.w.held && (keeps && h.subscribers() || len(h.waiting) > 0) {
		h.open()
	}
}

// dropPending gives up what the upstream owes: its connection is gone.
func (h *hub) dropPending(err error) {
	pending := h.pending
	h.pending = nil
	for _, conf := range pending {
		for _, ch := range conf.channels[max(len(conf.channels)-conf.left, 0):] {
			ch.pending--
		}
		if conf.s != nil {
			conf.s.cut(err) // it may have been told half of it
		}
	}
}

// resubscribe asks the upstream again for all that the members have, on a new connection.
func (h *hub) resubscribe() {
	for f, channels := range h.channels {
		names := slices.Collect(maps.Keys(channels))
		if len(names) > 0 {
			h.w.log.Info("subscribed again", "user", h.ctx.User, "kind", familyWords[f].subscribe, "number", len(names))
			h.send(familyWords[f].subscribe, names)
		}
	}
}

// closeMembers closes everybody who is subscribed.
func (h *hub) closeMembers(err error) {
	members := map[*session]struct{}{}
	for _, channels := range h.channels {
		for _, ch := range channels {
			maps.Copy(members, ch.members)
		}
	}
	for s := range members {
		s.cut(err)
	}
}

// firstBulk returns the first element of a push, if it is a bulk string, and what follows it.
func firstBulk(frame []byte) (first, rest []byte) {
	i := bytes.IndexByte(frame, '\n')
	return bulk(frame[i+1:])
}

// bulk returns the bulk string at the front of b, and what follows it; nil if there is none.
func bulk(b []byte) (value, rest []byte) {
	if len(b) == 0 || b[0] != '$' {
		return nil, nil
	}
	header, rest, ok := bytes.Cut(b[1:], []byte("\r\n"))
	n, isInt := resp.ParseInt(header)
	if !ok || !isInt || n < 0 || int(n)+2 > len(rest) {
		return nil, nil
	}
	return rest[:n], rest[n+2:]
}
