package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/limits"
)

// Passwords are checked by the upstream, each time, and who tries many has to wait for the next: see limits.Guesses.

// replyGuesses is what a client is told whose source has so many checks waiting that this one is not made.
var replyGuesses = []byte("-ERR too many wrong passwords from where you are: wait a minute, and check the password\r\n")

// checkFor has the upstream check AUTH or HELLO for a client, when it is its source's turn. Done gets the outcome on the loop.
// It reports false if it is not checked at all, for that reason or as too many wait. The caller must not change raw.
func (w *worker) checkFor(ids *limits.Identities, raw []byte, done func(reply []byte, err error)) bool {
	source := guesserOf(ids)
	wait, ok := w.srv.guesses.Turn(source, w.loop.Now())
	if !ok {
		return false
	}
	check := func() bool {
		return w.control.Check(raw, func(reply []byte, err error) {
			w.loop.Post(func() {
				if err == nil {
					w.guessed(source, reply)
				}
				done(reply, err)
			})
		})
	}
	if wait == 0 {
		return check()
	}
	w.loop.AfterFunc(wait, func() {
		if !check() {
			done(replyGuesses, nil)
		}
	})
	return true
}

// guesserOf is who the tries of a client are counted with: its process or address, whatever it calls itself.
func guesserOf(ids *limits.Identities) string {
	nameless := *ids
	nameless[limits.ByName] = ""
	return nameless.Source()
}

// guessed notes whether a password was right. What is neither, such as a server that is loading, is not counted.
func (w *worker) guessed(source string, reply []byte) {
	wrong := isWrongPassword(reply)
	if !wrong && isErrorReply(reply) {
		return
	}
	if w.srv.guesses.Told(source, !wrong, w.loop.Now()) {
		w.log.Warn("wrong passwords: the next ones of this source have to wait", "source", source)
	}
}

// isWrongPassword reports whether a reply says so, in the words of Redis 6 and later, or of those before.
func isWrongPassword(reply []byte) bool {
	return bytes.HasPrefix(reply, []byte("-WRONGPASS")) || bytes.HasPrefix(reply, []byte("-ERR invalid password"))
}
