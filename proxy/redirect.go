package proxy

import (
	"bytes"
	"fmt"
	"math"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// CLIENT TRACKING ... REDIRECT names the client that is to hear of changes, by its id. To the upstream, that client is
// a connection of its own, its inbox, which is opened for this purpose and carries nothing else.

// inbox is the upstream connection that receives what is redirected to a session. It belongs to the session's loop.
type inbox struct {
	s       *session
	ctx     *multiplex.Context // entered
	link    *multiplex.Link
	request *multiplex.PinRequest
	timer   *eventloop.Timer
	asking  []func(id int64, refusal []byte)
}

// noClient is an id that no client has.
const noClient = math.MaxInt64

// redirection is where a client has had redirected what it is to be told: the id of a client, and that of its inbox.
type redirection struct{ client, inbox int64 }

// redirectTarget returns the place of the id in CLIENT TRACKING ON ... REDIRECT id, and the id; 0 if there is none.
func redirectTarget(c command) (at int, id int64) {
	for i := 3; i < c.Len()-1; i++ {
		switch {
		case isWord(c.Arg(i), "PREFIX"):
			i++
		case isWord(c.Arg(i), "REDIRECT"):
			if id, ok := resp.ParseInt(c.Arg(i + 1)); ok {
				return i + 1, id
			}
			return 0, 0
		}
	}
	return 0, 0
}

// redirect returns what is sent in the place of CLIENT TRACKING ON ... REDIRECT id. It reports false if the command has
// to wait until the inbox is there; then it will come again.
func (s *session) redirect(c command) (raw []byte, to redirection, ready bool) {
	at, id := redirectTarget(c)
	if at == 0 {
		return c.Bytes(), redirection{}, true
	}
	if to := s.ahead().redirects; to != nil && to.client == id {
		s.front.redirects = nil
		args := make([][]byte, c.Len())
		for i := range args {
			args[i] = c.Arg(i)
		}
		args[at] = fmt.Append(nil, to.inbox)
		return resp.AppendCommand(nil, args...), *to, true
	}
	if s.inFlight > 0 {
		s.state = barred
		return nil, redirection{}, false
	}
	var found int64
	s.await(func(done func([]byte, error)) bool {
		s.w.inboxOf(id, func(inbox int64, refusal []byte) {
			found = inbox
			done(refusal, nil)
		})
		return true
	}, func(refusal []byte, _ error) {
		if refusal != nil {
			s.denied = &verdict{refusal, true}
			if s.pin != nil {
				s.pin.fresh = false // it is not for this command any more
			}
			return
		}
		s.ahead().redirects = &redirection{id, found}
	})
	return nil, redirection{}, false
}

// inboxOf finds the session with an id, on whatever loop it is, and has it open an inbox. Then gets the upstream's id of
// the inbox, or nobody, or what the client who asked is to be told; from any goroutine.
func (w *worker) inboxOf(id int64, then func(inbox int64, refusal []byte)) {
	gather(w, func(s *session, found []*session) []*session {
		if s.id == id {
			found = append(found, s)
		}
		return found
	}, func(a, b *session) int { return int(a.id - b.id) }, func(found []*session) {
		if len(found) == 0 || !found[0].w.loop.Post(func() { found[0].openInbox(then) }) {
			then(noClient, nil)
		}
	})
}

// noRedirectToRelayed is what a client is told that names one which is told nothing any more but by its own connection.
const noRedirectToRelayed = "-ERR redbouncer cannot redirect to a client that has used MONITOR, or SUBSCRIBE in a transaction\r\n"

// openInbox opens the session's inbox, if it has none.
func (s *session) openInbox(then func(id int64, refusal []byte)) {
	switch {
	case s.state >= leaving:
		then(noClient, nil)
		return
	case s.relaying:
		then(noClient, []byte(noRedirectToRelayed))
		return
	}
	if s.subs == nil {
		s.subs = &subscriber{}
	}
	in := s.subs.inbox
	if in == nil {
		in = &inbox{s: s, ctx: s.w.pool.Context(multiplex.Key{User: s.ctx.User, RESP: 3})}
		in.ctx.Enter()
		s.subs.inbox = in
	}
	in.asking = append(in.asking, then)
	switch {
	case in.link != nil:
		in.tell(nil)
	case in.request == nil:
		in.open()
	}
}

func (in *inbox) open() {
	w := in.s.w
	link, request := w.pool.AcquirePin(in.ctx, in, in.opened)
	switch {
	case link != nil:
		in.opened(link, nil)
	case request.Queued() && w.cfg.PoolTimeout == 0:
		in.request = request
		in.timeout()
	default:
		in.request = request
		in.timer = w.loop.AfterFunc(max(w.cfg.PoolTimeout, w.cfg.UpstreamTimeout, connectTime), in.timeout)
	}
}

func (in *inbox) timeout() {
	in.request.Cancel()
	in.request = nil
	in.s.w.counters.poolTimeouts.Add(1)
	in.tell(replyFull)
}

// opened receives the connection, or the upstream's reason for refusing it.
func (in *inbox) opened(link *multiplex.Link, err error) {
	in.timer.Stop()
	in.request = nil
	if err != nil {
		in.tell(multiplex.ErrorLine(err))
		return
	}
	in.link = link
	link.Frames(in.frame)
	in.tell(nil)
}

// tell answers those who have asked for the inbox.
func (in *inbox) tell(refusal []byte) {
	id := int64(noClient)
	if in.link != nil {
		if n, ok := upstreamID(in.link); ok {
			id = n
		}
	}
	asking := in.asking
	in.asking = nil
	for _, then := range asking {
		then(id, refusal)
	}
}

// frame hands on what the upstream has redirected here: to a client of RESP2 as a message, if it is subscribed to
// anything at all, as from Redis (tracking.c: sendTrackingMessage).
func (in *inbox) frame(frame []byte, top byte) {
	kind, rest := firstBulk(frame)
	switch {
	case top != '>' || string(kind) != "invalidate":
	case in.s.protocol() == 3:
		in.s.push(frame)
	case in.s.isSubscribed():
		if bytes.HasPrefix(rest, []byte("_")) {
			rest = []byte("$-1\r\n")
		}
		in.s.push(append([]byte("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n"), rest...))
	}
}

// close gives the inbox up with its session. The upstream tells those who redirected to it.
func (in *inbox) close() {
	in.timer.Stop()
	if in.request != nil {
		in.request.Cancel()
	}
	if in.link != nil {
		in.s.w.pool.DiscardPin(in.link)
	}
	in.link, in.request = nil, nil
	in.ctx.Leave()
	in.tell(nil)
}

// Reply implements multiplex.Client. It is not used: the connection delivers frames.
func (in *inbox) Reply([]byte, int) {}

// Gone implements multiplex.Client.
func (in *inbox) Gone() bool { return in.s.state == gone }

// Lost implements multiplex.Client. Nobody would tell the client any more, so it must not believe that it is told.
func (in *inbox) Lost(err error) {
	in.link = nil
	in.s.cut(err)
}

// redirectionBroken begins the push that says that the client has gone that is to be told.
const redirectionBroken = ">2\r\n$21\r\ntracking-redir-broken\r\n"

// redirectReply puts the client's id for that of its inbox in the reply to CLIENT GETREDIR or TRACKINGINFO, or in the
// push that says that the client has gone.
func (p *pin) redirectReply(reply []byte) []byte {
	if p.redirect.inbox == 0 || len(reply) == 0 {
		return reply
	}
	was, is := fmt.Appendf(nil, ":%d\r\n", p.redirect.inbox), fmt.Appendf(nil, ":%d\r\n", p.redirect.client)
	if reply[0] == ':' || bytes.HasPrefix(reply, []byte(redirectionBroken)) {
		return bytes.Replace(reply, was, is, 1)
	}
	field := resp.AppendBulk(nil, "redirect")
	return bytes.Replace(reply, append(bytes.Clone(field), was...), append(field, is...), 1)
}
