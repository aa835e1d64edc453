package proxy

import (
	"bytes"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// PROXY is for the operator, and no command of Redis's: it is answered by Config.Console, which may ask all loops and
// wait for them. So it runs in a goroutine of its own, at a barrier, and the client is answered when it has ended.

// ConsoleCommand is a PROXY command, as Config.Console gets it.
type ConsoleCommand struct {
	Args   [][]byte // the word PROXY and what follows
	User   string   // the ACL user that the client acts as
	Client int64    // the client's id
	Remote string   // its address
	RESP   int      // the version of the protocol that the reply is to have
}

// installConsole has a table know PROXY. Without a Console the upstream is asked, which does not know it.
func (t *table) installConsole() {
	row := t.at("PROXY")
	row.how, row.writes = console, false
}

// onConsole treats PROXY. Whoever has not authenticated, or acts as somebody whom the proxy does not know, is told so.
func (s *session) onConsole(c command) bool {
	if s.inFlight > 0 {
		s.state = barred
		return false
	}
	switch {
	case s.ctx.Unauthenticated():
		s.answer([]byte("-NOAUTH Authentication required.\r\n"))
		return true
	case s.pin != nil && s.pin.stranger:
		s.answer([]byte("-ERR PROXY is not possible on this connection any more: use another\r\n"))
		return true
	}
	cmd := ConsoleCommand{User: s.user(), Client: s.id, Remote: s.remote, RESP: int(s.protocol())}
	for i := range c.Len() {
		cmd.Args = append(cmd.Args, bytes.Clone(c.Arg(i)))
	}
	s.await(func(done func([]byte, error)) bool {
		s.w.srv.consoles.Add(1)
		go s.w.srv.runConsole(cmd, done)
		return true
	}, func(reply []byte, _ error) { s.answer(reply) })
	return true
}

// runConsole ends when the command has been answered: Config.Console bounds how long that takes.
func (s *Server) runConsole(cmd ConsoleCommand, done func([]byte, error)) {
	defer s.consoles.Done()
	done(s.cfg.Console(cmd), nil)
}

// noConsoleInTransaction is what PROXY is told between MULTI and EXEC.
const noConsoleInTransaction = "-ERR PROXY is not possible in a transaction\r\n"

// relayedConsole is what goes upstream in the place of PROXY on a connection that is relayed: the name of a command that
// it does not know, which it quotes.
var relayedConsole = resp.AppendCommand(nil, "PROXY is not possible on this connection any more: use another")
