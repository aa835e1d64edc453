package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/redcon"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// The admin listener is served by redcon, with a goroutine a connection: it is for a few operators, not for load. What
// redcon does not bound is bounded here, and it reads nothing but whole commands that our own reader has taken apart.

const (
	maxConns       = 64               // connections at once
	maxCommandSize = 64 << 10         // bytes of one command
	idleTimeout    = 10 * time.Minute // how long a connection may say nothing
	writeTimeout   = 10 * time.Second // how long it may leave a reply unread
)

// listener serves the console on connections of its own.
type listener struct {
	// Static after construction.
	console *Console
	ln      net.Listener
	cancel  context.CancelFunc
	ctx     context.Context // ends when the listener is stopped

	// Atomic.
	ids   atomic.Int64
	open  atomic.Int64
	conns sync.WaitGroup
}

func newListener(console *Console, ln net.Listener) *listener {
	ctx, cancel := context.WithCancel(context.Background())
	return &listener{console: console, ln: ln, ctx: ctx, cancel: cancel}
}

// serve accepts until stop is called. It returns when the last connection has been closed.
func (l *listener) serve() error {
	server := redcon.NewServerNetwork(l.ln.Addr().Network(), l.ln.Addr().String(), l.handle, l.accept, l.closed)
	server.SetIdleClose(idleTimeout)
	err := server.Serve(&guardedListener{l.ln})
	l.conns.Wait()
	return err
}

// stop has serve return.
func (l *listener) stop() {
	l.cancel()
	_ = l.ln.Close() // redcon closes its connections then
}

// peer is somebody at the other end. It belongs to the goroutine of the connection.
type peer struct {
	id       int64
	who      Who
	loggedIn bool
	name     string
}

// accept implements redcon's hook: it runs on the goroutine that accepts.
func (l *listener) accept(conn redcon.Conn) bool {
	if l.open.Add(1) > maxConns {
		l.open.Add(-1)
		conn.WriteError("ERR max number of clients reached")
		return false
	}
	l.conns.Add(1)
	p := &peer{id: l.ids.Add(1), who: Who{Remote: conn.RemoteAddr(), RESP: 2}}
	if p.who.Remote == "" || p.who.Remote == "@" {
		p.who.Remote = "unix:" + l.ln.Addr().String()
	}
	conn.SetContext(p)
	return true
}

// closed implements redcon's hook.
func (l *listener) closed(redcon.Conn, error) {
	l.open.Add(-1)
	l.conns.Done()
}

// handle implements redcon's handler: one command, on the goroutine of its connection.
func (l *listener) handle(conn redcon.Conn, cmd redcon.Command) {
	p := conn.Context().(*peer)
	args := make([]string, len(cmd.Args))
	for i, arg := range cmd.Args {
		args[i] = string(arg)
	}
	reply, hangUp := l.answer(p, args)
	conn.WriteRaw(reply)
	if hangUp {
		_ = conn.Close()
	}
}

// answer returns the reply to a command, and whether it is the last one.
func (l *listener) answer(p *peer, args []string) (reply []byte, hangUp bool) {
	word := strings.ToUpper(args[0])
	p.who.rights = l.rightsOf(p)
	switch word {
	case "POST", "HOST:": // a browser that has been made to speak to us: see Redis's securityWarningCommand
		return nil, true
	case "QUIT":
		return replyOK, true
	case "AUTH", "HELLO", "RESET":
		return l.introduce(p, word, args), false
	}
	if l.strange(p) {
		return []byte("-NOAUTH Authentication required.\r\n"), false
	}
	if f := pleasantries[word]; f != nil {
		return f(l, p, args), false
	}
	if word == "PROXY" {
		args = args[1:]
	}
	return l.console.Execute(l.ctx, args, p.who), false
}

// strange reports whether somebody has to authenticate first.
func (l *listener) strange(p *peer) bool { return !p.loggedIn && l.console.users.Load().restricted() }

// rightsOf returns what somebody may do now: the lists of users may have been changed.
func (l *listener) rightsOf(p *peer) rights {
	users := l.console.users.Load()
	switch {
	case !users.restricted():
		return adminRights
	case p.loggedIn:
		return users.rightsOf(p.who.User)
	}
	return noRights
}

// guardedListener hands out connections that are guarded.
type guardedListener struct{ net.Listener }

// Accept implements net.Listener. After an error, such as too few file descriptors, it waits: redcon tries again at once.
func (l *guardedListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			time.Sleep(100 * time.Millisecond)
		}
		return nil, err
	}
	return &guarded{Conn: nc, reader: resp.Reader{MaxBulk: maxCommandSize}}, nil
}

// guarded stands between redcon's reader and what has been sent: a length that it does not check would end the whole
// process. Each Read gives it one command in canonical form, or a piece of one.
type guarded struct {
	net.Conn
	reader resp.Reader
	in     []byte // has come and is not a whole command yet
	ready  []byte // is for redcon
}

// Read implements net.Conn.
func (g *guarded) Read(p []byte) (int, error) {
	for len(g.ready) == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, g.ready)
	g.ready = g.ready[n:]
	return n, nil
}

// next takes the next command apart, or reads more. An error is told and ends the connection.
func (g *guarded) next() error {
	if len(g.in) > 0 {
		n, err := g.reader.Next(g.in)
		if err == nil && n == 0 && len(g.in) > maxCommandSize {
			err = errors.New("Protocol error: too big request") //nolint:staticcheck // as Redis says it
		}
		if err != nil {
			_, _ = fmt.Fprintf(g, "-ERR %s\r\n", err)
			return io.EOF
		}
		if n > 0 {
			if g.reader.Len() > 0 {
				g.ready = append([]byte(nil), g.reader.Bytes()...)
			}
			g.in = g.in[n:]
			return nil
		}
	}
	var buf [4096]byte
	n, err := g.Conn.Read(buf[:])
	g.in = append(g.in, buf[:n]...)
	if n > 0 {
		return nil
	}
	return err
}

// Write implements net.Conn: nobody holds up the goroutine for ever by not reading.
func (g *guarded) Write(p []byte) (int, error) {
	if err := g.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}
