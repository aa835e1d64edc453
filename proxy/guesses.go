package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/limits"
)

// Passwords are checked by the upstream, each time, and who tries many has to wait for the next: see limits.Guesses.

// replyGuesses is what a client is told whose source has so many checks waiting that this one is not made.
var replyGuesses = []byte("-ERR too many wrong passwords from where you are: wait a minute, and check the password\r\n")

// checkFor has the upstream check AUTH or HELLO for a client that is not in yet, when it is its source's turn.
// Done gets the outcome on the loop. It reports false if it is not checked at all, as too many wait. The caller must not
// change raw.
func (w *worker) checkFor(try limits.Guess, raw []byte, done func(reply []byte, err error)) bool {
	wait, ok := w.srv.guesses.Turn(try, w.loop.Now())
	switch {
	case !ok:
		return false
	case wait == 0:
		return w.check(try, raw, done)
	}
	w.loop.AfterFunc(wait, func() {
		if !w.check(try, raw, done) {
			done(replyGuesses, nil)
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
