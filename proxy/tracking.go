package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// CLIENT TRACKING ON without options makes the upstream remember which keys a connection has read, and tell it, once,
// when one of them changes. Clients that ask for it share a lane that has it on, and the proxy remembers in turn which
// of them has read what: what the upstream tells comes in the lane's stream of replies, so that each client hears of
// a change after the reply that it outdates, and not before. With options (BCAST, OPTIN, OPTOUT, NOLOOP, REDIRECT)
// tracking is the connection's own business, and the client gets one for life.
//
// A client may be told of a change that does not concern it, never not be told of one that does. When a lane goes, its
// clients are told that everything may have changed, in the words that Redis has for it after FLUSHALL.

// trackingTable is who has read what, among the clients of a context.
type trackingTable struct {
	members map[*session]struct{}
	readers map[string]map[*session]struct{} // by key
	any     map[*session]struct{}            // have read keys that we do not know
	size    int                              // entries in readers
}

// maxTracked bounds the entries of a table. Beyond it, everybody is told to forget everything. (Redis has
// tracking-table-max-keys for the same purpose.)
const maxTracked = 1 << 20

// invalidateAll is the push that says that everything may have changed.
const invalidateAll = ">2\r\n$10\r\ninvalidate\r\n_\r\n"

// tracks returns the table of a context, and makes one if there is none.
func (w *worker) tracks(c *multiplex.Context) *trackingTable {
	t := w.tracking[c]
	if t == nil {
		t = &trackingTable{members: map[*session]struct{}{}}
		t.forget()
		w.tracking[c] = t
	}
	return t
}

func (t *trackingTable) forget() {
	t.readers, t.any, t.size = map[string]map[*session]struct{}{}, map[*session]struct{}{}, 0
}

// joinTracking has the session hear of changes to what it reads in its context.
func (s *session) joinTracking() {
	if s.subs == nil {
		s.subs = &subscriber{}
	}
	s.tracks = s.w.tracks(s.ctx)
	s.tracks.members[s] = struct{}{}
}

// leaveTracking ends that. What the session has read so far may change without its being told. The table is rid of it
// when a key changes, or is swept.
func (s *session) leaveTracking() {
	t := s.tracks
	if t == nil {
		return
	}
	s.tracks = nil
	delete(t.members, s)
	delete(t.any, s)
	if len(t.members) == 0 {
		delete(s.w.tracking, s.ctx)
	}
}

// sweep takes those out of the table that have left.
func (t *trackingTable) sweep() {
	for key, readers := range t.readers {
		for s := range readers {
			if s.tracks != t {
				delete(readers, s)
				t.size--
			}
		}
		if len(readers) == 0 {
			delete(t.readers, key)
		}
	}
}

// remember takes note that the session has read keys: those of a command, or any.
func (s *session) remember(keys []string, known bool) {
	t := s.tracks
	if t == nil {
		return
	}
	if !known {
		t.any[s] = struct{}{}
		return
	}
	for _, key := range keys {
		readers := t.readers[key]
		if readers == nil {
			readers = map[*session]struct{}{}
			t.readers[key] = readers
		}
		if _, ok := readers[s]; !ok {
			readers[s] = struct{}{}
			t.size++
		}
	}
	if t.size <= maxTracked {
		return
	}
	if t.sweep(); t.size > maxTracked/2 {
		t.tellAll()
	}
}

// tellAll tells everybody that everything may have changed.
func (t *trackingTable) tellAll() {
	t.forget()
	for s := range t.members {
		s.pushTracking([]byte(invalidateAll))
	}
}

// pushTracking delivers a push about tracking. RESP2 has none. What a client with a connection of its own is waiting for
// comes first, as that may be what has changed the key.
func (s *session) pushTracking(frame []byte) {
	switch {
	case s.protocol() != 3 || s.subs == nil || s.state >= leaving:
	case s.pin != nil && s.inFlight > 0 && !s.pin.blocking:
		s.subs.held.add(frame, &s.w.pieces)
		s.boundOutput()
	default:
		s.push(frame)
	}
}

// trackingPushed receives what the upstream says on the lane of a context that tracks.
func (w *worker) trackingPushed(c *multiplex.Context, frame []byte) {
	t := w.tracking[c]
	if t == nil {
		return
	}
	kind, rest := firstBulk(frame)
	if string(kind) != "invalidate" {
		return
	}
	if len(rest) == 0 || rest[0] != '*' || bytes.HasPrefix(rest, []byte("*-1")) {
		t.tellAll()
		return
	}
	_, rest, _ = bytes.Cut(rest, []byte("\r\n"))
	for len(rest) > 0 {
		var key []byte
		if key, rest = bulk(rest); key == nil {
			return
		}
		t.changed(key)
	}
}

// changed tells those who have read a key that it has changed.
func (t *trackingTable) changed(key []byte) {
	frame := resp.AppendBulk([]byte(">2\r\n$10\r\ninvalidate\r\n*1\r\n"), key)
	readers := t.readers[string(key)]
	delete(t.readers, string(key))
	t.size -= len(readers)
	for s := range readers {
		if s.tracks == t {
			s.pushTracking(frame)
		}
	}
	for s := range t.any {
		if _, told := readers[s]; !told {
			s.pushTracking(frame)
		}
	}
}

// untracked is called when the lane of a context that tracks has gone.
func (w *worker) untracked(c *multiplex.Context) {
	if t := w.tracking[c]; t != nil {
		t.tellAll()
	}
}

// noteRead returns the Special for a command of a session that tracks: when it has been answered, the session has read
// its keys. It is nil for commands that read none.
func (s *session) noteRead(c command) *multiplex.Special {
	keys, known, reads := readKeys(c)
	if !reads || s.ctx.RESP == 2 { // RESP2 has no pushes to be told by
		return nil
	}
	return &multiplex.Special{Done: func([]byte) { s.remember(keys, known) }}
}

// readKeys returns the keys that a command reads, copied, and whether they are known; reads is false if there are none.
func readKeys(c command) (keys []string, known, reads bool) {
	switch {
	case c.row.how == script:
		return nil, false, true // a script reads what it likes
	case c.row.how != read && c.row.how != blockOption:
		return nil, true, false
	}
	spec := c.row.keys
	if !spec.known {
		return nil, false, true
	}
	if spec.first == 0 {
		return nil, true, false
	}
	last := spec.last
	if last < 0 {
		last += c.Len()
	}
	for i := spec.first; i <= last && i < c.Len(); i += max(spec.step, 1) {
		keys = append(keys, string(c.Arg(i)))
	}
	return keys, true, len(keys) > 0
}

// keySpec says where the keys of a command are, as the upstream's COMMAND tells it.
type keySpec struct {
	known             bool // false: they are somewhere else, or it is not known
	first, last, step int  // first 0: there are none; last is counted from the end if it is negative
}

// track treats CLIENT TRACKING of a client without a connection of its own. Without options, it goes to a lane that is in
// the state it asks for already, as in switchContext.
func (s *session) track(c command) bool {
	on, off := false, false
	if c.Len() == 3 {
		on, off = isWord(c.Arg(2), "ON"), isWord(c.Arg(2), "OFF")
	}
	if !on && !off || s.ctx.Unauthenticated() {
		return s.onNewPin(c)
	}
	key := s.ctx.Key
	key.Tracking = on
	return s.switchTo(c, key)
}

// trackOnPin treats CLIENT TRACKING on a connection of the client's own, which is for life from then on.
func (s *session) trackOnPin(c command, raw []byte, to redirection) {
	p := s.pin
	off := c.Len() > 2 && isWord(c.Arg(2), "OFF")
	follow := p.follow(c)
	s.submitRaw(p.link, raw, 0, &multiplex.Special{Done: func(head []byte) {
		if head[0] == '-' {
			return
		}
		p.sticky = true
		follow()
		p.redirect = to
		if off && s.state != gone && s.ctx.Tracking {
			key := s.ctx.Key
			key.Tracking = false
			s.setContext(key)
		}
	}})
}
