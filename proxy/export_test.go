package proxy

import (
	"net"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// UseStreams has a server handle every connection as it does on systems without epoll, and over TLS.
func UseStreams(c *Config) { c.streams = true }

// SessionSize is what a session takes, in bytes.
const SessionSize = unsafe.Sizeof(session{})

// BlockingTime returns which argument of a command says how long it blocks.
func BlockingTime(raw string) int {
	at, _ := blockingTime([]byte(raw))
	return at
}

// TableNames returns the names of all rows of the compiled-in table, but for those that stand for several commands.
func TableNames() []string {
	var names []string
	for _, c := range newTable().commands {
		names = append(names, c.name)
		for _, sub := range c.subs {
			if sub.full != "" {
				names = append(names, sub.name)
			}
		}
	}
	for name := range strings.FieldsSeq(dangerousCommands) {
		if !strings.HasSuffix(name, "|*") {
			names = append(names, name)
		}
	}
	return names
}

// Known is what a running server knows of a command.
type Known struct {
	Full   string
	Arity  int
	Writes bool
	Pinned bool // it does not share a lane
}

// Knows returns what each loop of a running server knows of a command, whose name is in the spelling of ACL rules.
func Knows(s *Server, name string) []Known {
	command, sub, _ := strings.Cut(name, "|")
	var all []Known
	for _, w := range s.workers {
		got := make(chan Known)
		w.loop.Post(func() {
			r := w.table.lookup([]byte(command), []byte(sub))
			got <- Known{r.full, r.arity, r.writes, !r.shared()}
		})
		all = append(all, <-got)
	}
	return all
}

// TreatmentsChangedBy returns the commands that the proxy treats otherwise than is compiled in, because of a reply to
// COMMAND, and how many the reply lists.
func TreatmentsChangedBy(reply []byte) (changed []string, listed int, err error) {
	all, err := parseFacts(reply)
	base := newTable()
	compare := func(was, is *row) {
		if was.how != is.how {
			changed = append(changed, is.name)
		}
	}
	for name, c := range base.merge(all).commands {
		was := base.lookup([]byte(name), nil)
		compare(was, c)
		for sub, s := range c.subs {
			if was.subs != nil {
				compare(base.lookup([]byte(name), []byte(sub)), s)
			}
		}
	}
	return changed, len(all), err
}

// IsLocal is what protected mode asks of a client's address.
var IsLocal = isLocal

// FindProcess has a client's process be found now, by its address.
func FindProcess(s *Server, remote string, p peer.Process) {
	s.onAll(func(w *worker) {
		for x := range w.all {
			if x.remote == remote {
				x.found(&p)
			}
		}
	}).Wait()
}

// Gauges returns how many clients are blocked, subscribed, tracking and watching.
func Gauges(s *Server) [4]int64 {
	g := &s.gauges
	return [4]int64{g.blocked.Load(), g.subscribed.Load(), g.tracking.Load(), g.watching.Load()}
}

// BecomeKnown has a client's identity become known, as when its process is found while it is at work.
func BecomeKnown(s *Server, remote string, kind limits.IdentityKind, value string) {
	for _, w := range s.workers {
		w.loop.Post(func() {
			for x := range w.all {
				if x.remote == remote {
					x.know(func(ids *limits.Identities) { ids[kind] = value })
				}
			}
		})
	}
}

// KnockWhileOneLeaves has a client knock on a loop, as one whose address a proxy has told, while the only one that is in
// leaves.
func KnockWhileOneLeaves(s *Server) error {
	w := s.workers[len(s.workers)-1]
	ours, theirs := net.Pipe()
	d := &door{w: w}
	first := s.gate.Admit(&limits.Identities{limits.ByAddr: "192.0.2.1"}, d, time.Now())
	var begun atomic.Bool
	left, knocked := make(chan struct{}), make(chan error, 1)
	go func() {
		for !begun.Load() {
		}
		first.Leave(time.Now())
		close(left)
	}()
	w.loop.Post(func() {
		conn, err := w.loop.Adopt(ours, d, false)
		begun.Store(true)
		if err == nil {
			s.knockWith(w, caller{remote: "127.0.0.1:1", ids: limits.Identities{limits.ByAddr: "127.0.0.1"}}, conn, nil)
		}
		knocked <- err
	})
	<-left
	err := <-knocked
	_ = theirs.Close()
	return err
}

// MaxHandshakes is how many TLS handshakes may be under way.
const MaxHandshakes = maxHandshakes

// Handshakes is how many are.
func (s *Server) Handshakes() int {
	s.handshakes.mu.Lock()
	defer s.handshakes.mu.Unlock()
	return len(s.handshakes.under)
}
