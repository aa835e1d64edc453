package proxy

import (
	"bytes"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Passwords are checked by the upstream, each time, and who tries many has to wait for the next: see limits.Guesses. There are
// two ways to it. Who is in comes to session.authenticate with every command that shows a password, whatever its connection
// is, but for two: in a transaction, and where commands are passed on as they come, nobody could tell the reply to it, and
// the command is refused. Who is not in yet comes to worker.checkFor. A certificate's user has no password, and is no guess.

// replyGuesses is what a client is told whose source has so many checks waiting that this one is not made.
var replyGuesses = []byte("-ERR too many wrong passwords from where you are: wait a minute, and check the password\r\n")

// showsPassword reports whether a command is AUTH, or a HELLO that may be with AUTH.
func (c command) showsPassword() bool {
	return c.row.how == auth || c.row.how == hello && mentions(c, "AUTH")
}

// guess is the try of a password that a command of the session is.
func (s *session) guess(c command) limits.Guess {
	if c.row.how == auth {
		return guessOf(s.ticket.Identities(), authUser(c))
	}
	h, _ := parseHello(c)
	return guessOf(s.ticket.Identities(), h.user)
}

// authenticate treats a command that shows a password: when it is its turn, the upstream checks it, on the control
// connection, or on the session's pin.
func (s *session) authenticate(c command) bool {
	if s.pin != nil && s.pin.tx != nil {
		return s.spoil(noPasswordInTransaction)
	}
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	try := s.guess(c)
	switch wait, ok := s.turn(try); {
	case !ok:
		s.answer(replyGuesses)
		return true
	case wait > 0:
		s.state, s.wait = awaitingTurn, &waiting{since: s.w.loop.Now(), timer: s.w.loop.AfterFunc(wait, s.turnCame)}
		return false
	}
	switch {
	case s.pin != nil:
		return s.onPin(c)
	case c.row.how == auth:
		s.auth(c, try)
	default:
		s.helloAuth(c, try)
	}
	return true
}

// turn returns how long the session has to wait until what it has at the front of its input is checked: see limits.Guesses.
func (s *session) turn(try limits.Guess) (wait time.Duration, ok bool) {
	if f := s.front; f != nil && f.turn {
		f.turn = false
		return 0, true
	}
	return s.w.srv.guesses.Turn(try, s.w.loop.Now())
}

// turnCame goes on with a session whose password may be checked.
func (s *session) turnCame() {
	s.ahead().turn = true
	s.endWait(nil, false)
}

// noPasswordInTransaction is what AUTH, and HELLO with AUTH, are told between MULTI and EXEC.
const noPasswordInTransaction = "-ERR AUTH is not possible in a transaction through redbouncer: authenticate before MULTI\r\n"

// relayedPassword is what goes upstream in their place on a connection that is relayed: the name of a command that it does
// not know, which it quotes.
var relayedPassword = resp.AppendCommand(nil, "AUTH is not possible on this connection any more: use another")

// checkFor has the upstream check AUTH or HELLO for a client that is not in yet, when it is its source's turn and no pause lasts.
// Done gets the outcome on the loop. It reports false if it is not checked at all, as too many wait. The caller must not
// change raw.
func (w *worker) checkFor(try limits.Guess, raw []byte, done func(reply []byte, err error)) bool {
	wait, ok := w.srv.guesses.Turn(try, w.loop.Now())
	switch {
	case !ok:
		return false
	case wait == 0 && !w.held:
		return w.check(try, raw, done)
	}
	check := func() {
		if !w.check(try, raw, done) {
			done(replyGuesses, nil)
		}
	}
	w.loop.AfterFunc(wait, func() {
		if w.held {
			w.afterPause = append(w.afterPause, check)
		} else {
			check()
		}
	})
	return true
}

// check has the upstream check a password now, and notes the outcome.
func (w *worker) check(try limits.Guess, raw []byte, done func(reply []byte, err error)) bool {
	return w.control.Check(raw, func(reply []byte, err error) {
		w.loop.Post(func() {
			if err == nil {
				w.guessed(try, reply)
			}
			done(reply, err)
		})
	})
}

// guessOf is who a try of a client is counted with, its process or address, whatever it calls itself; and for which user it is.
func guessOf(ids *limits.Identities, user string) limits.Guess {
	nameless := *ids
	nameless[limits.ByName] = ""
	return limits.Guess{Source: nameless.Source(), User: user}
}

// guessed notes whether a password was right. What is neither, such as a server that is loading, is not counted.
func (w *worker) guessed(try limits.Guess, reply []byte) {
	wrong := isWrongPassword(reply)
	if !wrong && isErrorReply(reply) {
		return
	}
	if w.srv.guesses.Told(try, !wrong, w.loop.Now()) {
		w.log.Warn("wrong passwords: the next ones of this source have to wait", "source", try.Source)
	}
}

// isWrongPassword reports whether a reply says so, in the words of Redis 6 and later, or of those before.
func isWrongPassword(reply []byte) bool {
	return bytes.HasPrefix(reply, []byte("-WRONGPASS")) || bytes.HasPrefix(reply, []byte("-ERR invalid password"))
}
