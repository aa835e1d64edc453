package multiplex

import (
	"bytes"
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Client receives the replies to what it submitted, in order. All calls come from its loop.
type Client interface {
	// Reply delivers a piece of the stream of replies, and says how many replies are complete with it. b is valid
	// during the call only.
	Reply(b []byte, done int)
	// Lost says that the link broke with requests of the client in flight that may have had an effect, or whose
	// replies have come in part. Nobody knows their outcome, so the client has to be closed. It is also called
	// when a pin breaks, at any time.
	Lost(err error)
	// Gone reports whether the client wants no more replies.
	Gone() bool
}

// Flags say how a request may be treated.
type Flags uint8

const (
	// Safe requests only read: they may be sent again if their link breaks.
	Safe Flags = 1 << iota
	// Mute requests have their reply dropped; the client is told that it is complete all the same.
	Mute
	// Prompt requests are answered at once by an upstream that is well: see Config.ResponseTimeout.
	Prompt
	// Long requests may keep the upstream from answering anybody.
	Long
	// resent requests have been sent again once.
	resent
)

// Special treats one reply otherwise. Its functions run on the loop.
type Special struct {
	// Collect holds the reply back from the client, and hands all of it to Done. Otherwise the reply goes to the
	// client as it comes, and Done gets no more than its beginning.
	Collect bool
	// Expect is the only reply that is in order, if it is not nil: the link is broken as soon as anything else comes.
	Expect []byte
	// Done is called once the reply is complete, after Client.Reply where that is called. For a reply that was
	// collected, Client.Reply is not called: Done delivers what there is to deliver, and counts.
	Done func(reply []byte)
}

// headSize is how much of a reply that is not collected Special.Done gets, in bytes.
const headSize = 32

// entry is a request that is in flight.
type entry struct {
	c     Client // nil: a request of our own
	sp    *Special
	size  uint32
	began uint32 // by eventloop.Loop.Micros
	flags Flags
}

// resend is a request that is to be sent again.
type resend struct {
	entry
	raw []byte
}

type linkState uint8

const (
	serving  linkState = iota // takes requests
	draining                  // answers what is in flight, then retires
	retiring                  // has said goodbye to the upstream and waits for it to hang up
	closed                    // terminal
)

// Link is one upstream connection, as a lane or as a pin.
type Link struct {
	// Static after construction.
	pool    *Pool
	ctx     *Context
	conn    *eventloop.Conn
	name    string // what the upstream knows it as
	hello   []byte
	unauth  bool // the upstream wants authentication, and this connection has none
	canEcho bool
	id      uint64
	opened  time.Time
	at      place

	// Owned by the loop.
	kind    limits.Kind
	state   linkState
	dirty   bool // is in pool.dirty
	aborted bool // goes without the replies that are for clients that have gone
	noPing  bool // its user may not use PING
	doubt   *doubt
	since   time.Time // since when the upstream has been silent on it
	partial bool      // a part of the front request's reply has been delivered
	send    sendQueue
	queue   fifo
	framer  resp.Framer
	held    []byte // the reply that is being collected
	pushed  []byte // the push that is being collected
	heard   bool   // has pushes of its own, and clients who count on them
	head    []byte // the beginning of the reply that is being delivered, where somebody asked for it
	used    time.Time
	bye     *eventloop.Timer

	// Of a pin.
	owner   Client
	stale   bool // closed when it is given back
	parting bool // we have told the upstream that nothing more will come: it hangs up when it has answered
	frames  func(frame []byte, top byte)
	raw     func(b []byte)
}

// User returns the ACL user whose connection it is; empty: the proxy's own.
func (k *Link) User() string { return k.ctx.User }

// Name returns the name that the upstream knows the connection by.
func (k *Link) Name() string { return k.name }

// Hello returns the upstream's reply to this connection's HELLO, as on the wire. It is an error where the upstream
// wants authentication and the connection has none. The caller must not change it.
func (k *Link) Hello() []byte { return k.hello }

// HelloField returns a field of the upstream's reply to HELLO that is a bulk string, such as "version"; nil if there is
// none.
func (k *Link) HelloField(name string) []byte { return helloField(k.hello, name) }

func helloField(hello []byte, name string) []byte {
	_, rest, ok := bytes.Cut(hello, resp.AppendBulk(nil, name))
	if !ok || len(rest) == 0 || rest[0] != '$' {
		return nil
	}
	_, rest, _ = bytes.Cut(rest, []byte("\r\n"))
	value, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return value
}

// Serving reports whether the link takes requests.
func (k *Link) Serving() bool { return k.state == serving }

// CanEcho reports whether this connection's user may use ECHO, which Barrier needs.
func (k *Link) CanEcho() bool { return k.canEcho }

// Midway reports whether c has been given a part of a reply, or of a push, whose rest is still to come: nothing else
// may be written to it before.
func (k *Link) Midway(c Client) bool {
	switch {
	case k.framer.Between():
		return false
	case k.framer.Top() == '>':
		return k.owner == c
	case k.queue.len() == 0:
		return false
	}
	e := k.queue.front()
	return e.c == c && e.flags&Mute == 0 && (e.sp == nil || !e.sp.Collect)
}

// Submit sends a request: one command in canonical form. It is copied. The reply goes to c.
func (k *Link) Submit(c Client, raw []byte, flags Flags) {
	k.push(entry{c: c, size: uint32(len(raw)), flags: flags})
	k.send.add(raw)
}

// SubmitSpecial is Submit for a request whose reply is treated otherwise.
func (k *Link) SubmitSpecial(c Client, raw []byte, flags Flags, sp *Special) {
	k.push(entry{c: c, sp: sp, size: uint32(len(raw)), flags: flags})
	k.send.add(raw)
}

// SubmitOwned is Submit without a copy: the request is the first n bytes of buf. The caller gives all of buf away, but for
// what is behind the request, which it may look at until it returns to the loop.
func (k *Link) SubmitOwned(c Client, buf []byte, n int, flags Flags) {
	k.push(entry{c: c, size: uint32(n), flags: flags})
	k.send.addOwned(buf, n)
}

// Barrier checks that the stream of replies is in step: it sends ECHO with 128 random bits, and breaks the link if
// anything else comes back. It goes behind a request that could make the upstream answer more than once, in
// front of anybody else's.
func (k *Link) Barrier() {
	nonce := newNonce()
	k.SubmitSpecial(nil, resp.AppendCommand(nil, "ECHO", nonce), Prompt, &Special{
		Collect: true, Expect: resp.AppendBulk(nil, nonce), Done: func([]byte) {},
	})
}

func (k *Link) push(e entry) {
	if k.queue.len() == 0 {
		k.since = k.pool.loop.Now()
	}
	if e.flags&resent == 0 {
		e.began = k.pool.loop.Micros()
	}
	k.queue.push(e)
	k.markDirty()
}

func (k *Link) markDirty() {
	if !k.dirty {
		k.dirty = true
		k.pool.dirty = append(k.pool.dirty, k)
	}
}

// flush writes what has been submitted.
func (k *Link) flush() {
	k.dirty = false
	if k.state > draining {
		return
	}
	if err := k.send.flush(k.conn.Write); err != nil {
		k.broke(err)
		return
	}
	if k.frames != nil || k.raw != nil {
		k.send.answerSent()
	}
}

// Data implements eventloop.Handler: replies have come.
func (k *Link) Data(b []byte) {
	k.since = k.pool.loop.Now()
	switch {
	case k.state > draining:
	case k.doubt != nil:
		k.dataInDoubt(b)
	case k.raw != nil:
		k.raw(b)
	case k.frames != nil:
		k.dataFrames(b)
	default:
		k.dataCounted(b)
	}
}

// dataCounted hands each reply to the client whose request it answers. Neighbouring replies of one client are
// handed over together.
func (k *Link) dataCounted(b []byte) {
	var run struct {
		c    Client
		from int
		done int
	}
	deliver := func(to int) (alive bool) {
		if c := run.c; c != nil {
			run.c = nil
			c.Reply(b[run.from:to], run.done)
		}
		return k.state <= draining // a pin's owner may have given it up
	}
	for pos := 0; pos < len(b); {
		begins := k.framer.Between()
		n, done, err := k.framer.Next(b[pos:])
		if begins && b[pos] == '-' {
			k.listen(b[pos : pos+n])
		}
		if err != nil {
			deliver(pos)
			k.broke(err)
			return
		}
		if k.framer.Top() == '>' {
			if !deliver(pos) || !k.push3(b[pos:pos+n], done) {
				return
			}
			pos += n
			continue
		}
		if k.queue.len() == 0 || k.heard && k.framer.HasPush() {
			deliver(pos)
			k.broke(errOutOfStep)
			return
		}
		e := k.queue.front()
		if !k.send.isSent(int(e.size)) {
			deliver(pos)
			k.broke(errOutOfStep)
			return
		}
		if e.sp != nil || e.flags&Mute != 0 {
			if !deliver(pos) {
				return
			}
			k.special(e, b[pos:pos+n], done)
			if k.state > draining {
				return
			}
			pos += n
			if k.doubt != nil {
				k.dataInDoubt(b[pos:])
				return
			}
			continue
		}
		if e.c != run.c {
			deliver(pos)
			run.c, run.from, run.done = e.c, pos, 0
		}
		pos += n
		k.partial = !done
		if done {
			run.done++
			k.answered(e)
		}
	}
	if deliver(len(b)) {
		k.settle()
	}
}

// answered takes the front request off the queue, whose reply is complete.
func (k *Link) answered(e *entry) {
	if e.c != nil && k.owner == nil {
		k.pool.took.note(k.pool.loop.Micros() - e.began)
	}
	k.send.answer(int(e.size))
	k.queue.pop()
}

// push3 handles a push of RESP3, or a piece of one: on a pin it is its owner's; on a lane it has no business, unless
// the context is one that has pushes.
func (k *Link) push3(b []byte, done bool) bool {
	switch {
	case k.owner != nil:
		k.owner.Reply(b, 0)
	case !k.heard:
		k.broke(errOutOfStep)
		return false
	default:
		k.pushed = append(k.pushed, b...)
		if done {
			frame := k.pushed
			k.pushed = nil
			k.pool.pushed(k.ctx, frame)
		}
	}
	return k.state <= draining
}

// unheard says that nobody hears any more what the lane's clients count on being told.
func (k *Link) unheard() {
	if k.heard {
		k.heard = false
		k.pool.untracked(k.ctx)
	}
}

// special handles a piece of a reply that does not simply go to its client.
func (k *Link) special(front *entry, b []byte, done bool) {
	e := *front
	collect := e.sp != nil && e.sp.Collect
	switch {
	case collect:
		k.held = append(k.held, b...)
		if e.sp.Expect != nil && !bytes.HasPrefix(e.sp.Expect, k.held) && !couldBeBusy(k.held) {
			k.broke(errNotExpected)
			return
		}
	case e.sp != nil && len(k.head) < headSize:
		k.head = append(k.head, b[:min(len(b), headSize-len(k.head))]...)
	}
	k.partial = !done && !collect
	if !done {
		if !collect && e.flags&Mute == 0 {
			e.c.Reply(b, 0)
		}
		return
	}
	k.answered(&e)
	held, head := k.held, k.head
	k.held, k.head = nil, nil
	if !collect {
		if e.flags&Mute != 0 {
			b = nil
		}
		e.c.Reply(b, 1)
	}
	switch {
	case e.sp == nil:
	case collect && e.sp.Expect != nil && !bytes.Equal(held, e.sp.Expect):
		k.startDoubt()
	case collect:
		e.sp.Done(held)
	default:
		e.sp.Done(head)
	}
}

// dataFrames hands complete frames to whoever asked for them, one by one.
func (k *Link) dataFrames(b []byte) {
	for len(b) > 0 && k.frames != nil && k.state <= draining {
		n, done, err := k.framer.Next(b)
		if err != nil {
			k.broke(err)
			return
		}
		frame := b[:n]
		if len(k.held) > 0 || !done {
			k.held = append(k.held, frame...)
			frame = k.held
		}
		b = b[n:]
		if done {
			k.held = nil
			k.frames(frame, k.framer.Top())
		}
	}
	if len(b) > 0 && k.state <= draining {
		k.Data(b)
	}
}

// settle lets a lane that is to go go, once nothing is in flight that anybody waits for.
func (k *Link) settle() {
	if k.state == draining && (k.queue.len() == 0 || k.aborted && k.abandoned()) {
		k.retire()
	}
}

// abandoned reports whether nobody wants the replies that are still to come.
func (k *Link) abandoned() bool {
	for i := range k.queue.len() {
		if c := k.queue.at(i).c; c != nil && !c.Gone() {
			return false
		}
	}
	return true
}

// unlend has the link not be lent any more.
func (k *Link) unlend() {
	k.pool.idle = slices.DeleteFunc(k.pool.idle, func(x *Link) bool { return x == k })
}

// fifo is a queue of entries.
type fifo struct {
	q    []entry
	from int
}

func (f *fifo) len() int       { return len(f.q) - f.from }
func (f *fifo) front() *entry  { return &f.q[f.from] }
func (f *fifo) at(i int) entry { return f.q[f.from+i] }

func (f *fifo) push(e entry) {
	if f.from > 1024 && f.from > len(f.q)/2 && len(f.q) == cap(f.q) {
		n := copy(f.q, f.q[f.from:])
		clear(f.q[n:])
		f.q, f.from = f.q[:n], 0
	}
	f.q = append(f.q, e)
}

func (f *fifo) pop() entry {
	e := f.q[f.from]
	f.q[f.from] = entry{}
	f.from++
	if f.from == len(f.q) {
		f.q, f.from = f.q[:0], 0
	}
	return e
}
