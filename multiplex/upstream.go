package multiplex

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// Upstream is the Redis or Valkey that the proxy stands in front of. It is static after construction.
type Upstream struct {
	network  string
	addr     string
	user     string
	password string
	db       int
	tls      *tls.Config          // nil: connections are not encrypted
	certs    *certs.Store         // nil: tls is all there is to say; see WithTLS
	watched  *watched             // nil: it is at addr; otherwise addr says whom to ask
	resolver func() *net.Resolver // for tests; nil: the usual one
	host     string               // this machine, as it appears in the names of our connections
}

// ParseUpstream reads an upstream's URL: redis://, rediss:// (TLS) or unix://, with user, password and database,
// as go-redis reads them; or redis+sentinel://[user:password@]host:port,host:port/master[/db] (rediss+sentinel:// with
// TLS), where the sentinels say who the primary is.
func ParseUpstream(raw string) (*Upstream, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	if rest, secure, ok := cutSentinelScheme(raw); ok {
		u, err := parseSentinelURL(rest, secure)
		if err != nil {
			return nil, fmt.Errorf("want redis+sentinel://[user:password@]host:port,host:port/master[/db]: %w", err)
		}
		u.host = nameable(host)
		return u, nil
	}
	opt, err := redis.ParseURL(raw)
	if err != nil {
		return nil, fmt.Errorf("want redis://[user:password@]host:port/db, rediss://... or unix://path: %w",
			whatIsWrong(raw))
	}
	return &Upstream{
		network: opt.Network, addr: opt.Addr, user: opt.Username, password: opt.Password, db: opt.DB,
		tls: opt.TLSConfig, host: nameable(host),
	}, nil
}

// whatIsWrong says what is wrong with a URL that go-redis does not take, without quoting any of it: where it is not written as it should be, a piece of a
// password may stand anywhere.
func whatIsWrong(raw string) error {
	parsed, err := url.Parse(raw)
	switch {
	case err != nil:
		return errors.New("it is not written as a URL: escape special characters of user and password as %XX, as / by %2F and @ by %40")
	case parsed.Scheme != "redis" && parsed.Scheme != "rediss" && parsed.Scheme != "unix":
		return errors.New("it begins with none of these")
	case parsed.Scheme == "unix" && parsed.Path == "":
		return errors.New("the path of the socket is missing")
	case parsed.Scheme != "unix" && !isNumber(strings.Trim(parsed.Path, "/")):
		return errors.New("the database at its end is not a number")
	}
	return errors.New("there is an option in its query that is not known, or has no such value")
}

// isNumber reports whether s is a number, or nothing.
func isNumber(s string) bool {
	_, err := strconv.Atoi(s)
	return s == "" || err == nil
}

// nameable replaces the characters that Redis does not accept in a client's name.
func nameable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < '!' || r > '~' {
			return '-'
		}
		return r
	}, s)
}

// String returns the upstream's address, without credentials.
func (u *Upstream) String() string { return u.addr }

// User returns the ACL user that clients act as that have not authenticated.
func (u *Upstream) User() string { return u.userName() }

// userName returns the user that the proxy itself authenticates as.
func (u *Upstream) userName() string {
	if u.user == "" {
		return "default"
	}
	return u.user
}

// credential returns what the proxy itself authenticates with.
func (u *Upstream) credential() *credential {
	return &credential{u.userName(), u.password, u.user != "" || u.password != ""}
}

// HasCredentials reports whether the proxy itself authenticates to the upstream. Clients that do not
// authenticate then act as the proxy's user.
func (u *Upstream) HasCredentials() bool { return u.credential().login }

// ReplyError is an error that the upstream answered, when a connection was opened, to what a client wants to be
// or to have: a wrong password, a database that does not exist. It is the client's answer too.
type ReplyError struct {
	Line []byte // as on the wire: "-WRONGPASS ...\r\n"
}

func (e *ReplyError) Error() string { return strings.TrimSpace(string(e.Line[1:])) }

// UnreachableError says that no connection to the upstream could be opened, or was accepted. Nothing of a client
// has been sent.
type UnreachableError struct {
	Addr string
	Err  error
}

func (e *UnreachableError) Error() string { return fmt.Sprintf("upstream %s: %v", e.Addr, e.Err) }
func (e *UnreachableError) Unwrap() error { return e.Err }

// handshakeTimeout bounds the time from dialing to a connection that is ready, per try.
const handshakeTimeout = 5 * time.Second

// established is a connection that has gone through its handshake. Whoever gets it owns it.
type established struct {
	nc      net.Conn
	hello   []byte // the upstream's reply to HELLO, complete; an error where it wants authentication first
	unauth  bool   // the upstream wants authentication, and this connection has none
	canEcho bool   // this user may use ECHO
	name    string
	at      place
}

// dial opens a connection and brings it into the state that key names, if that is done before ctx is. Credentials are those
// of key's user.
func (u *Upstream) dial(ctx context.Context, key Key, cred *credential, kind limits.Kind) (*established, error) {
	nc, err := u.connect(ctx)
	if err != nil {
		return nil, &UnreachableError{u.addr, err}
	}
	onTime := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	est := &established{nc: nc, name: "redbouncer:" + u.host + ":" + kind.String()}
	if err := u.handshake(est, key, cred, kind); err != nil {
		onTime()
		hangUp(nc)
		return nil, err
	}
	if !onTime() {
		hangUp(nc)
		return nil, &UnreachableError{u.addr, context.Cause(ctx)}
	}
	return est, nil
}

// hangUp closes a connection and waits, for no longer than goodbye, until the upstream has closed it too: until then
// the upstream counts it.
func hangUp(nc net.Conn) {
	if cw, ok := nc.(interface{ CloseWrite() error }); ok && cw.CloseWrite() == nil {
		_ = nc.SetDeadline(time.Now().Add(goodbye))
		_, _ = io.Copy(io.Discard, nc)
	}
	_ = nc.Close()
}

func (u *Upstream) connect(ctx context.Context) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	if u.resolver != nil {
		d.Resolver = u.resolver()
	}
	if u.tls != nil {
		return (&tls.Dialer{NetDialer: &d, Config: u.tlsConfig()}).DialContext(ctx, u.network, u.addr)
	}
	return d.DialContext(ctx, u.network, u.addr)
}

// handshake authenticates first, with nothing else under way: a failed AUTH behind other replies is answered
// with nothing at all by Redis 7.2 and later (redis/redis#15640). The rest goes in one write.
func (u *Upstream) handshake(est *established, key Key, cred *credential, kind limits.Kind) error {
	r := bufio.NewReader(est.nc)
	hello := []string{"HELLO", strconv.Itoa(int(key.RESP))}
	if cred.login {
		hello = append(hello, "AUTH", cred.user, cred.password)
	}
	reply, err := u.ask(est.nc, r, hello...)
	if err != nil {
		return err
	}
	if isError(reply) {
		initial := key.RESP == 2 && (key.DB == u.db || kind == limits.Control)
		if initial && bytes.HasPrefix(reply, []byte("-NOAUTH")) {
			est.hello, est.unauth = reply, true
			return nil
		}
		return u.refused(reply)
	}
	est.hello = reply
	return u.prepare(est, r, key)
}

// prepare sends what follows authentication. What the connection is called and whether Redis may evict it is
// asked for, not insisted on: a user may lack the right.
func (u *Upstream) prepare(est *established, r *bufio.Reader, key Key) error {
	commands := [][]string{{"CLIENT", "SETNAME", est.name}, {"CLIENT", "NO-EVICT", "ON"}, {"ECHO", "redbouncer"}, {"PING"}}
	optional := len(commands)
	if key.DB != 0 {
		commands = append(commands, []string{"SELECT", strconv.Itoa(key.DB)})
	}
	if key.NoTouch {
		commands = append(commands, []string{"CLIENT", "NO-TOUCH", "ON"})
	}
	if key.Tracking {
		commands = append(commands, []string{"CLIENT", "TRACKING", "ON"})
	}
	if key.ReadOnly {
		commands = append(commands, []string{"READONLY"})
	}
	replies, err := u.askAll(est.nc, r, commands)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(replies[3], []byte("-LOADING")) { // all but PING is answered all the same
		return u.refused(replies[3])
	}
	est.canEcho = !bytes.HasPrefix(replies[2], []byte("-NOPERM"))
	for _, reply := range replies[optional:] {
		if isError(reply) {
			return u.refused(reply)
		}
	}
	if r.Buffered() > 0 {
		return &UnreachableError{u.addr, errors.New("it sent more than it was asked for")}
	}
	return nil
}

// askAll sends commands in one write and returns the reply to each.
func (u *Upstream) askAll(nc net.Conn, r *bufio.Reader, commands [][]string) ([][]byte, error) {
	var b []byte
	for _, c := range commands {
		b = resp.AppendCommand(b, c...)
	}
	if _, err := nc.Write(b); err != nil {
		return nil, &UnreachableError{u.addr, err}
	}
	replies := make([][]byte, len(commands))
	for i := range commands {
		reply, err := readReply(r)
		if err != nil {
			return nil, &UnreachableError{u.addr, err}
		}
		replies[i] = reply
	}
	return replies, nil
}

// ask sends one command and returns the reply to it.
func (u *Upstream) ask(nc net.Conn, r *bufio.Reader, args ...string) ([]byte, error) {
	// A server that refuses the connection says so unasked, and resets it when we write. So the error of the
	// write tells less than what there is to read.
	_, writeErr := nc.Write(resp.AppendCommand(nil, args...))
	reply, err := readReply(r)
	if err != nil {
		return nil, &UnreachableError{u.addr, errors.Join(writeErr, err)}
	}
	return reply, nil
}

// refused tells an answer for the client from one for us: that the upstream takes no more connections, or none
// from this host, concerns no command.
func (u *Upstream) refused(reply []byte) error {
	for _, prefix := range []string{"-ERR max number of clients", "-DENIED", "-LOADING", "-MASTERDOWN", "-BUSY"} {
		if bytes.HasPrefix(reply, []byte(prefix)) {
			return &UnreachableError{u.addr, &ReplyError{reply}}
		}
	}
	return &ReplyError{reply}
}

func isError(reply []byte) bool { return len(reply) > 0 && (reply[0] == '-' || reply[0] == '!') }

// readReply reads exactly one reply.
func readReply(r *bufio.Reader) ([]byte, error) {
	var f resp.Framer
	var reply []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) && len(reply) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		reply = append(reply, b)
		_, done, err := f.Next(reply[len(reply)-1:])
		if err != nil {
			return nil, err
		}
		if done {
			return reply, nil
		}
	}
}

// newNonce returns 128 random bits as text.
func newNonce() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return hex.EncodeToString(b[:])
}

// ErrorLine returns err as a reply on the wire: what the upstream said, or that it is not to be had, and why. It
// names no address.
func ErrorLine(err error) []byte {
	var reply *ReplyError
	var unreachable *UnreachableError
	switch {
	case errors.As(err, &unreachable):
		err = unreachable.Err
		if errors.As(err, &reply) {
			if bytes.HasPrefix(reply.Line, []byte("-LOADING")) {
				return reply.Line // libraries know it
			}
			err = reply
		}
		err = withoutNames(err)
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err
		}
		return fmt.Appendf(nil, "-ERR upstream is not available: %s\r\n", oneLine(err.Error()))
	case errors.As(err, &reply):
		return reply.Line
	}
	return fmt.Appendf(nil, "-ERR %s\r\n", oneLine(err.Error()))
}

func oneLine(s string) string { return strings.NewReplacer("\r", " ", "\n", " ").Replace(s) }
