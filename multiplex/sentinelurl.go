package multiplex

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/multiplex/certs"
)

// watched says whom to ask where the primary is. It is static after construction.
type watched struct {
	master         string   // the name that the sentinels have for it
	sentinels      []string // host:port
	user, password string   // the sentinels' own
	tls            *tls.Config
	certs          *certs.Store // nil: tls is all there is to say; see Upstream.WithTLS
}

// dial connects to a sentinel, with the certificates as they are now. The library's own way would keep those of the start.
func (w *watched) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d := &net.Dialer{Timeout: sentinelTimeout}
	if w.tls == nil {
		return d.DialContext(ctx, network, addr)
	}
	config := w.tls
	if w.certs != nil {
		config = w.certs.Config().Clone()
		config.ServerName = ""
	}
	nc, err := (&tls.Dialer{NetDialer: d, Config: config}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return frankConn{nc}, nil
}

// frankConn is a connection whose failed writes tell why the other side has hung up, if it has said so. With TLS 1.3 a
// server refuses a client's certificate after the handshake, and what we write meanwhile is answered with a reset.
type frankConn struct{ net.Conn }

func (c frankConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil {
		return n, nil
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, said := c.Read(make([]byte, 1)); said != nil {
		err = errors.Join(err, said)
	}
	return n, err
}

// Options in the query of a sentinel URL.
const (
	sentinelUserOption     = "sentinel-user"
	sentinelPasswordOption = "sentinel-password"
)

const defaultSentinelPort = "26379"

// cutSentinelScheme reports whether a URL names sentinels, with or without TLS, and returns what follows the scheme.
func cutSentinelScheme(raw string) (rest string, secure, ok bool) {
	if rest, ok = strings.CutPrefix(raw, "redis+sentinel://"); ok {
		return rest, false, true
	}
	rest, ok = strings.CutPrefix(raw, "rediss+sentinel://")
	return rest, true, ok
}

// parseSentinelURL reads what follows the scheme of [user:password@]host:port,host:port/master[/db]. User and password
// are the primary's, as in every other URL; sentinels have their own, in the query, or none. Its errors quote nothing
// that could be a piece of a password.
func parseSentinelURL(rest string, secure bool) (*Upstream, error) {
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		return nil, errNoMasterName
	}
	at := strings.LastIndex(rest[:end], "@") + 1
	// The standard library reads one host only, so the list is taken out.
	parsed, err := url.Parse("redis://" + rest[:at] + "sentinels" + rest[end:])
	if err != nil {
		return nil, errors.New("user, password or path are not written as in a URL: escape special characters as %XX")
	}
	w := &watched{}
	for host := range strings.SplitSeq(rest[at:end], ",") {
		addr, err := sentinelAddr(host)
		if err != nil {
			return nil, err
		}
		w.sentinels = append(w.sentinels, addr)
	}
	u := &Upstream{network: "tcp", user: parsed.User.Username(), watched: w}
	u.password, _ = parsed.User.Password()
	path := strings.Split(strings.Trim(parsed.Path, "/"), "/")
	switch {
	case path[0] == "":
		return nil, errNoMasterName
	case len(path) > 2:
		return nil, errors.New("behind the master's name there is the database and nothing else")
	case len(path) == 2:
		if u.db, err = strconv.Atoi(path[1]); err != nil || u.db < 0 {
			return nil, errors.New("the database behind the master's name is not a number")
		}
	}
	w.master = path[0]
	if secure {
		u.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		w.tls = u.tls
	}
	u.addr = w.master + "@" + strings.Join(w.sentinels, ",")
	query, err := url.ParseQuery(parsed.RawQuery)
	if err != nil {
		return nil, errors.New("the query is not written as in a URL: escape special characters as %XX")
	}
	return u, w.options(query)
}

var errNoMasterName = errors.New("the name of the master is missing: it comes behind the sentinels, as in /mymaster")

// options reads the query.
func (w *watched) options(query url.Values) error {
	for key, values := range query {
		switch key {
		case sentinelUserOption:
			w.user = values[0]
		case sentinelPasswordOption:
			w.password = values[0]
		default:
			return fmt.Errorf("there is no such option in the query: want %s and %s", sentinelUserOption, sentinelPasswordOption)
		}
	}
	if w.user != "" && w.password == "" {
		return fmt.Errorf("%s needs %s", sentinelUserOption, sentinelPasswordOption)
	}
	return nil
}

// sentinelAddr completes the address of a sentinel.
func sentinelAddr(host string) (string, error) {
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = strings.Trim(host, "[]"), defaultSentinelPort
		if strings.Contains(name, ":") && !strings.HasPrefix(host, "[") {
			return "", errSentinelAddr
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || name == "" {
		return "", errSentinelAddr
	}
	return net.JoinHostPort(name, port), nil
}

var errSentinelAddr = errors.New("want the sentinels as host:port, with commas between them")
