package admin

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redbouncer/redbouncer/multiplex/resp"
	"github.com/redbouncer/redbouncer/proxy"
)

// What redis-cli and client libraries say when they connect, and a little of what monitoring asks a Redis. Everything
// else on the admin listener is a verb of the console.

var replyOK = []byte("+OK\r\n")

var pleasantries map[string]func(*listener, *peer, []string) []byte

func init() {
	pleasantries = map[string]func(*listener, *peer, []string) []byte{
		"PING": ping, "COMMAND": commandList, "SELECT": selectDB, "CLIENT": client, "INFO": info, "CONFIG": config,
	}
}

func wrongNumber(word string) []byte {
	return fmt.Appendf(nil, "-ERR wrong number of arguments for '%s' command\r\n", strings.ToLower(word))
}

func ping(_ *listener, _ *peer, args []string) []byte {
	switch len(args) {
	case 1:
		return []byte("+PONG\r\n")
	case 2:
		return resp.AppendBulk(nil, args[1])
	}
	return wrongNumber(args[0])
}

// commandList says that there is nothing to be known: redis-cli asks for hints, and takes none.
func commandList(_ *listener, p *peer, args []string) []byte {
	switch {
	case len(args) > 1 && strings.EqualFold(args[1], "COUNT"):
		return []byte(":0\r\n")
	case len(args) > 1 && strings.EqualFold(args[1], "DOCS") && p.who.RESP == 3:
		return []byte("%0\r\n")
	}
	return []byte("*0\r\n")
}

func selectDB(_ *listener, _ *peer, args []string) []byte {
	switch {
	case len(args) != 2:
		return wrongNumber(args[0])
	case args[1] != "0":
		return []byte("-ERR DB index is out of range: the console has none but 0\r\n")
	}
	return replyOK
}

// client treats CLIENT of the connection itself: the proxy's clients are for SHOW CLIENTS and KILL.
func client(_ *listener, p *peer, args []string) []byte {
	sub := ""
	if len(args) > 1 {
		sub = strings.ToUpper(args[1])
	}
	switch {
	case sub == "ID" && len(args) == 2:
		return fmt.Appendf(nil, ":%d\r\n", p.id)
	case sub == "SETNAME" && len(args) == 3:
		p.name = args[2]
		return replyOK
	case sub == "GETNAME" && len(args) == 2:
		return resp.AppendBulk(nil, p.name)
	case sub == "SETINFO" && len(args) == 4:
		return replyOK
	}
	return fmt.Appendf(nil, "-ERR unknown subcommand '%s'. The proxy's clients are for PROXY SHOW CLIENTS and PROXY KILL.\r\n",
		oneLine(sub))
}

// info treats INFO: what the proxy knows of itself, whichever section is asked for.
func info(l *listener, p *peer, _ []string) []byte {
	b := l.console.backends.Load()
	switch {
	case p.who.rights < statsRights:
		return refusal(&permissionError{p.who.User, "info"})
	case b == nil:
		return resp.AppendBulk(nil, "")
	case p.who.RESP == 3:
		return verbatim(b.Proxy.Info())
	}
	return resp.AppendBulk(nil, b.Proxy.Info())
}

// config treats CONFIG GET and SET in Redis's form, of the proxy's settings.
func config(l *listener, p *peer, args []string) []byte {
	sub := ""
	if len(args) > 1 {
		sub = strings.ToUpper(args[1])
	}
	switch {
	case sub == "SET" && len(args) == 4:
		return l.console.Execute(l.ctx, []string{"SET", args[2], args[3]}, p.who)
	case sub == "REWRITE" && len(args) == 2:
		return l.console.Execute(l.ctx, []string{"CONFIG", "REWRITE"}, p.who)
	case sub != "GET" || len(args) < 3:
		return []byte("-ERR want CONFIG GET pattern [pattern ...], CONFIG SET setting value or CONFIG REWRITE\r\n")
	case p.who.rights < statsRights:
		return refusal(&permissionError{p.who.User, "config|get"})
	}
	b := l.console.backends.Load()
	if b == nil {
		return []byte("*0\r\n")
	}
	t := pairs()
	for _, s := range (&request{Backends: *b, console: l.console}).settings() {
		for _, pattern := range args[2:] {
			if matchName(pattern, s.Name) {
				t.add(s.Name, s.Value)
				break
			}
		}
	}
	return t.appendMaps(nil, p.who.RESP)
}

// matchName reports whether a pattern is meant for a name, in any case.
func matchName(pattern, name string) bool {
	return proxy.GlobMatch(strings.ToLower(pattern), name)
}

// introduce treats AUTH, HELLO and RESET: who somebody is, and how they want to be spoken to.
func (l *listener) introduce(p *peer, word string, args []string) []byte {
	switch word {
	case "RESET":
		*p = peer{id: p.id, who: Who{Remote: p.who.Remote, RESP: 2}}
		return []byte("+RESET\r\n")
	case "AUTH":
		switch len(args) {
		case 2:
			return l.login(p, "default", args[1])
		case 3:
			return l.login(p, args[1], args[2])
		}
		return wrongNumber(args[0])
	}
	return l.hello(p, args)
}

// hello treats HELLO [2|3 [AUTH user password] [SETNAME name]].
func (l *listener) hello(p *peer, args []string) []byte {
	version, name := p.who.RESP, p.name
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil || n != 2 && n != 3 {
			return []byte("-NOPROTO unsupported protocol version\r\n")
		}
		version = n
	}
	for i := 2; i < len(args); i++ {
		switch left := len(args) - 1 - i; {
		case strings.EqualFold(args[i], "AUTH") && left >= 2:
			if reply := l.login(p, args[i+1], args[i+2]); !bytes.Equal(reply, replyOK) {
				return reply
			}
			i += 2
		case strings.EqualFold(args[i], "SETNAME") && left >= 1:
			name = args[i+1]
			i++
		default:
			return []byte("-ERR Syntax error in HELLO\r\n")
		}
	}
	if l.strange(p) {
		return []byte("-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH " +
			"<user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time\r\n")
	}
	p.who.RESP, p.name = version, name
	t := pairs()
	t.add("server", "redbouncer")
	t.add("version", l.console.cfg.Version)
	t.add("proto", p.who.RESP)
	t.add("id", p.id)
	t.add("mode", "standalone")
	t.add("role", "master")
	t.add("modules", list{})
	return t.appendMaps(nil, p.who.RESP)
}

// login has the upstream check a password. What somebody may do is for the lists of users to say; without lists they
// may do all, and the name is for the log.
func (l *listener) login(p *peer, user, password string) []byte {
	b := l.console.backends.Load()
	if b == nil {
		return []byte("-ERR the proxy is starting\r\n")
	}
	ctx, cancel := context.WithTimeout(l.ctx, consoleTimeout)
	defer cancel()
	refused, err := b.Proxy.Authenticate(ctx, user, password)
	switch {
	case err != nil:
		return failure(err)
	case refused != nil:
		l.console.cfg.Log.Warn("console: the upstream refuses a password", "user", user, "client", p.who.Remote)
		return refused
	}
	p.who.User, p.loggedIn = user, true
	return replyOK
}
