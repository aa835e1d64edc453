package admin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Who may see the page, and what they may do with it, are those of the console:
//
//   - somebody on this host, who asks at an address that only this host has, under such a name, may do all, unless admin-users or
//     stats-users names anybody;
//   - whoever shows an ACL user's name and password (Basic) may do what these lists say, if the upstream takes the password;
//   - whoever shows the token of http-token-file (Bearer, or Basic with any name) may do all.
//
// The name counts, as the browser of somebody on this host can be brought here under another one (DNS rebinding), by a page that
// may then read what we answer. A reverse proxy on this host is not somebody on this host if it says that it is one.

const (
	leastToken = 16   // characters of a token
	mostToken  = 4096 // bytes of its file
	// knownFor is how long a password that the upstream has taken counts without asking again. While the upstream cannot be asked,
	// which is when the page is needed most, it is knownAtMost.
	knownFor    = time.Minute
	knownAtMost = time.Hour
	// mostKnown bounds the passwords that are remembered; of these, only a keyed hash is.
	mostKnown = 256
	// tokenUser is how the log calls who has shown the token.
	tokenUser = "http-token-file"
)

// access decides who may do what over HTTP.
type access struct {
	// Static after construction.
	console *Console
	local   bool // only this host can reach the listener
	unix    string
	guesses *limits.Guesses
	key     []byte
	log     *slog.Logger

	// mu guards the following field.
	mu    sync.Mutex
	known map[[sha256.Size]byte]time.Time // when the upstream took it last
}

func newAccess(console *Console, addr net.Addr) *access {
	a := &access{
		console: console, guesses: limits.NewGuesses(console.cfg.AuthDelay), key: make([]byte, sha256.Size), log: console.cfg.Log,
		known: map[[sha256.Size]byte]time.Time{},
	}
	_, _ = rand.Read(a.key) // never fails
	switch addr := addr.(type) {
	case *net.TCPAddr:
		a.local = addr.IP.IsLoopback()
	case *net.UnixAddr:
		a.local, a.unix = true, "unix:"+addr.Name
	}
	return a
}

// denial is why somebody may not do what they want, over HTTP.
type denial struct {
	status int
	text   string
	ask    bool // for a name and a password
}

// who returns who asks, and what they may do; or why they may nothing.
func (a *access) who(r *http.Request) (Who, *denial) {
	who := Who{Remote: r.RemoteAddr}
	if a.unix != "" {
		who.Remote = a.unix
	}
	restricted := a.console.users.Load().restricted()
	if !restricted && a.direct(r) {
		who.rights = adminRights
		return who, nil
	}
	user, password, shown := credentialsOf(r)
	token := a.console.tokenFile()
	switch {
	case !restricted && token == "":
		return who, &denial{status: http.StatusForbidden, text: "this is for who asks on the proxy's own host, at a loopback address or " +
			"localhost: set admin-users, stats-users or http-token-file to let others in"}
	case !shown:
		return who, &denial{http.StatusUnauthorized, "want the name and the password of a user in admin-users or stats-users, or the token " +
			"in http-token-file", true}
	}
	if d := a.check(r.Context(), &who, user, password); d != nil {
		return who, d
	}
	if who.rights == noRights {
		return who, &denial{http.StatusForbidden, (&permissionError{who.User, "proxy"}).Error(), true}
	}
	return who, nil
}

// direct reports whether a request has been made on this host, to this host, and by nobody for somebody else.
func (a *access) direct(r *http.Request) bool {
	for _, forwarded := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"} {
		if r.Header.Get(forwarded) != "" {
			return false
		}
	}
	return a.local && (a.unix != "" || isLoopback(r.RemoteAddr)) && isLoopback(r.Host)
}

// isLoopback reports whether an address, or a host with a port or without, is this host's own.
func isLoopback(hostPort string) bool {
	host := strings.Trim(hostPort, "[]")
	if h, _, err := net.SplitHostPort(hostPort); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// credentialsOf returns what a request shows. A token has no user.
func credentialsOf(r *http.Request) (user, password string, shown bool) {
	if user, password, shown = r.BasicAuth(); shown {
		return user, password, true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return "", strings.TrimSpace(token), strings.EqualFold(scheme, "Bearer")
}

// check finds out who somebody is by what they show. Who is wrong too often waits, longer and longer.
func (a *access) check(ctx context.Context, who *Who, user, password string) *denial {
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	id := a.hash(user, password)
	if a.remembers(id, knownFor) || a.isOld(id) {
		who.User, who.rights = user, a.console.users.Load().rightsOf(user)
		return nil
	}
	try := limits.Guess{Source: who.Remote, User: user}
	if host, _, err := net.SplitHostPort(try.Source); err == nil {
		try.Source = host
	}
	switch wait, ok := a.guesses.Turn(try, time.Now()); {
	case !ok || wait > consoleTimeout:
		return &denial{status: http.StatusTooManyRequests, text: "too many wrong passwords from where you are: wait a minute, and check the password"}
	case wait > 0:
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return &denial{status: http.StatusServiceUnavailable, text: "the request has ended"}
		}
	}
	right, err := a.right(ctx, who, user, password)
	switch {
	case err != nil && a.remembers(id, knownAtMost):
		who.User, who.rights = user, a.console.users.Load().rightsOf(user)
		return nil
	case err != nil:
		return &denial{status: http.StatusServiceUnavailable, text: "the password cannot be checked: " + err.Error()}
	}
	if a.guesses.Told(try, right, time.Now()) {
		a.log.Warn("wrong passwords over HTTP: the next ones of this source have to wait", "source", try.Source)
	}
	if !right {
		a.forget(id)
		return &denial{http.StatusUnauthorized, "the name, the password or the token is wrong", true}
	}
	if who.User != tokenUser {
		a.remember(id)
	}
	return nil
}

// right reports whether what somebody shows is the token, or an ACL user's password; and then says who they are. An error is
// that of an upstream that cannot be asked.
func (a *access) right(ctx context.Context, who *Who, user, password string) (bool, error) {
	if file := a.console.tokenFile(); file != "" {
		token, err := readToken(file)
		if err != nil {
			a.log.Warn("nobody gets in by token", "http-token-file", file, "error", err)
		} else if hmac.Equal(a.sum(token), a.sum(password)) { // of equal length, whatever is shown
			who.User, who.rights = tokenUser, adminRights
			return true, nil
		}
	}
	b := a.console.backends.Load()
	switch {
	case user == "" || !a.console.users.Load().restricted():
		return false, nil
	case b == nil:
		return false, errStarting
	}
	refused, err := b.Proxy.Authenticate(ctx, user, password)
	if err != nil || refused != nil {
		return false, err
	}
	who.User, who.rights = user, a.console.users.Load().rightsOf(user)
	return true, nil
}

func (a *access) sum(text string) []byte {
	h := hmac.New(sha256.New, a.key)
	_, _ = io.WriteString(h, text)
	return h.Sum(nil)
}

func (a *access) hash(user, password string) [sha256.Size]byte {
	return [sha256.Size]byte(a.sum(fmt.Sprintf("%d %s %s", len(user), user, password)))
}

// isOld reports whether the upstream took a password a while ago, and is not to be asked now: while the proxy pauses, nothing is
// sent to it.
func (a *access) isOld(id [sha256.Size]byte) bool {
	b := a.console.backends.Load()
	if b == nil {
		return false
	}
	switch b.Proxy.State() {
	case "pausing", "paused", "resuming":
		return a.remembers(id, knownAtMost)
	}
	return false
}

// remembers reports whether the upstream took a password so short a time ago.
func (a *access) remembers(id [sha256.Size]byte, within time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.known[id]
	return ok && time.Since(at) < within
}

func (a *access) remember(id [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for old, at := range a.known {
		if time.Since(at) >= knownAtMost || len(a.known) >= mostKnown {
			delete(a.known, old)
		}
	}
	a.known[id] = time.Now()
}

func (a *access) forget(id [sha256.Size]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.known, id)
}

// readToken reads a token from its file.
func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("%w; want a file with a token, or %s", err, None)
	}
	defer func() { _ = f.Close() }()
	text, err := io.ReadAll(io.LimitReader(f, mostToken+1))
	token := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		return "", err
	case len(token) < leastToken || len(text) > mostToken || strings.ContainsAny(token, " \t\r\n"):
		return "", errors.New("want a file with a token of 16 characters or more and nothing else, such as openssl rand -hex 32 writes")
	}
	return token, nil
}
