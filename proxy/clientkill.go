package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redbouncer/redbouncer/multiplex"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// CLIENT KILL and CLIENT UNBLOCK are meant for the proxy's clients. The upstream is asked to do it to a client that it
// cannot have: so it checks permission, form and names, and does no harm.

const (
	noAddr = "0.0.0.0:1"           // the address of nobody
	noID   = "9223372036854775807" // the id of nobody
)

// killClients says how CLIENT KILL is asked, and answered.
func (s *session) killClients(c command) question {
	switch c.Len() {
	case 2:
		return question{safe: true} // it will be refused
	case 3:
		return s.killAddr(string(c.Arg(2)), c)
	}
	filter := parseFilter(c, 2)
	if filter.skipMe == nil {
		skip := true
		filter.skipMe = &skip
	}
	return question{raw: killNobody(c), safe: true, answer: func(reply []byte, done func([]byte)) {
		switch {
		case isErrorReply(reply) || reply[0] != ':':
			done(reply)
		case filter.unknown != "":
			done(filter.refusal())
		default:
			s.kill(filter.of(s), func(n int) { done(fmt.Appendf(nil, ":%d\r\n", n)) })
		}
	}}
}

// killAddr is the old form: one address, which may be the client's own.
func (s *session) killAddr(addr string, c command) question {
	filter := &clientFilter{conditions: map[string]func(*session) bool{
		"ADDR": func(s *session) bool { return s.remote == addr },
	}}
	raw := resp.AppendCommand(nil, c.Arg(0), c.Arg(1), []byte(noAddr))
	return question{raw: raw, safe: true, answer: func(reply []byte, done func([]byte)) {
		if !bytes.HasPrefix(reply, []byte("-ERR No such client")) {
			done(reply)
			return
		}
		s.kill(filter, func(n int) {
			if n == 0 {
				done(reply)
				return
			}
			done(replyOK)
		})
	}}
}

// killNobody returns a CLIENT KILL that is meant for nobody, and is wrong where the client's own is wrong. Its ids are
// replaced; if it has none, one goes in front.
func killNobody(c command) []byte {
	args := [][]byte{c.Arg(0), c.Arg(1)}
	ids := false
	for i := 2; i < c.Len(); {
		option := c.Arg(i)
		args = append(args, option)
		i++
		isID := isWord(option, "ID")
		ids = ids || isID
		first := i
		for ; i < c.Len() && (isID || isWord(option, "NOT-ID")); i++ {
			if id, ok := resp.ParseInt(c.Arg(i)); !ok || id < 1 {
				break
			}
			if isID {
				args = append(args, []byte(noID))
			} else {
				args = append(args, c.Arg(i))
			}
		}
		if i == first && i < c.Len() { // a value that is no id
			args = append(args, c.Arg(i))
			i++
		}
	}
	if !ids {
		args = slices.Insert(args, 2, []byte("ID"), []byte(noID))
	}
	return resp.AppendCommand(nil, args...)
}

// kill closes the sessions of all loops that match, and tells then how many they were. One that kills itself is
// answered first.
func (s *session) kill(filter *clientFilter, then func(n int)) {
	gather(s.w, func(x *session, killed []int64) []int64 {
		switch {
		case !filter.matches(x):
			return killed
		case x == s:
			x.killed = true
		default:
			x.w.log.Debug("client closed: CLIENT KILL", "client", x.remote, "by", s.remote)
			x.close()
		}
		return append(killed, x.id)
	}, func(a, b int64) int { return int(a - b) }, func(killed []int64) { then(len(killed)) })
}

// unblockClient says how CLIENT UNBLOCK is asked, and answered.
func (s *session) unblockClient(c command) question {
	if c.Len() < 3 {
		return question{safe: true}
	}
	id, ok := resp.ParseInt(c.Arg(2))
	if !ok {
		return question{safe: true} // it will be refused
	}
	args := make([][]byte, c.Len())
	for i := range args {
		args[i] = bytes.Clone(c.Arg(i))
	}
	byError := len(args) > 3 && isWord(args[3], "ERROR")
	args[2] = []byte(noID)
	return question{raw: resp.AppendCommand(nil, args...), safe: true, answer: func(reply []byte, done func([]byte)) {
		if isErrorReply(reply) || reply[0] != ':' {
			done(reply)
			return
		}
		s.tryUnblock(&unblocking{id: id, byError: byError, args: args, done: done})
	}}
}

// unblocking is a CLIENT UNBLOCK that is under way.
type unblocking struct {
	id      int64 // of the client that is to be unblocked
	byError bool
	args    [][]byte
	done    func([]byte)
	link    int64 // the upstream's id of the connection that was tried last; 0: none
	tries   int
}

const (
	// unblockPause is how long a command that was sent is given to reach the upstream before it is to be unblocked again.
	unblockPause = 2 * time.Millisecond
	unblockTries = 500
)

// tryUnblock unblocks a client, wherever it is. The order to do so goes another way than the command that it is to end,
// and may overtake it: then the upstream knows of nobody who is blocked. As long as the command is under way on that
// connection, it is asked again: either it has come by then, or its reply has.
func (s *session) tryUnblock(u *unblocking) {
	s.unblock(u.id, u.byError, func(links []int64, ended bool) {
		switch {
		case ended:
			u.done([]byte(":1\r\n"))
			return
		case len(links) == 0, u.link != 0 && links[0] != u.link, u.tries == unblockTries:
			u.done([]byte(":0\r\n"))
			return
		}
		u.link = links[0]
		u.tries++
		u.args[2] = strconv.AppendInt(nil, u.link, 10)
		s.askAgain(resp.AppendCommand(nil, u.args...), func(reply []byte) {
			if string(reply) != ":0\r\n" || s.state == gone {
				u.done(reply)
				return
			}
			s.w.loop.AfterFunc(unblockPause, func() { s.tryUnblock(u) })
		})
	})
}

// unblock finds the session with an id. If it waits for a connection for a command that may wait for others, that wait
// is ended. If it is in one, then gets the upstream's id of the connection, which carries nobody else's commands from
// now on: by the time the upstream is told, the command may be over.
func (s *session) unblock(id int64, byError bool, then func(links []int64, ended bool)) {
	const waited = 0
	gather(s.w, func(x *session, links []int64) []int64 {
		switch {
		case x.id != id || x == s || !x.blocked():
		case x.wait != nil && x.wait.blocks:
			x.endWait(unblockedReply(x.protocol(), byError), false)
			return append(links, waited)
		case x.acks != nil:
			if upstream, ok := upstreamID(x.acks); ok {
				return append(links, upstream)
			}
		default:
			x.pin.once = true
			if upstream, ok := upstreamID(x.pin.link); ok {
				return append(links, upstream)
			}
		}
		return links
	}, func(a, b int64) int { return int(a - b) }, func(links []int64) {
		then(links, len(links) > 0 && links[0] == waited)
	})
}

// unblockedReply is what a command is answered that is unblocked: as if its time had passed, or an error.
func unblockedReply(protocol uint8, byError bool) []byte {
	switch {
	case byError:
		return []byte("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
	case protocol == 3:
		return []byte("_\r\n")
	}
	return []byte("*-1\r\n")
}

// askAgain asks the upstream once more in the place of the client's command, which is still under way, on the control
// connection: what is to be interrupted may hold up all others.
func (s *session) askAgain(raw []byte, done func([]byte)) {
	w := s.w
	ok := w.control.Do(s.actor(), raw, func(reply []byte, err error) {
		w.loop.Post(func() {
			if err != nil {
				reply = multiplex.ErrorLine(err)
			}
			done(reply)
		})
	})
	if !ok {
		done(replyFull)
	}
}

// onUnblock treats CLIENT UNBLOCK of a client that is not in a transaction.
func (s *session) onUnblock(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	q, muted := s.unblockClient(c), s.mute() != 0
	if q.raw == nil {
		q.raw = bytes.Clone(c.Bytes())
	}
	s.inFlight = 1
	s.bar()
	s.askAgain(q.raw, func(reply []byte) {
		if q.answer == nil || isErrorReply(reply) {
			s.answerLate(reply, muted)
			return
		}
		q.answer(reply, func(reply []byte) { s.answerLate(reply, muted) })
	})
	return true
}

// answerLate answers a command that counts as in flight, unless the client has gone.
func (s *session) answerLate(reply []byte, muted bool) {
	if s.state == gone {
		return
	}
	if muted {
		reply = nil
	}
	s.Reply(reply, 1)
}
