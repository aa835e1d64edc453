package proxy

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// The keeper looks at all clients once in a while, writes into the ledger what they hold, and tells the log which sources
// seem to leak, and that limits are nearly reached. The leak rules themselves are in package limits.

// keepEvery is how often the keeper looks at how full it is. Each limits.LedgerWindow it looks at all clients.
const keepEvery = time.Second

// keepUntil runs until ctx is done, and then closes done.
func (s *Server) keepUntil(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	ticker := time.NewTicker(keepEvery)
	defer ticker.Stop()
	clients := fullness{what: "clients", setting: "maxclients"}
	pool := fullness{what: "upstream connections", setting: "pool-size"}
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			st := s.gate.Stats()
			clients.look(s, st.Open, st.Max, s.topByClients)
			pool.look(s, s.openUpstream(), s.budget.Size(), s.topByPins)
			if now.Sub(looked) >= limits.LedgerWindow-keepEvery/2 { // a tick may come a little early
				looked = now
				s.look()
			}
		}
	}
}

// look has the ledger look at all clients, one loop after the other, on that loop: a copy of what ten thousand idle clients
// are would take more memory than a third of them, for a look that takes some milliseconds.
func (s *Server) look() {
	notices := s.ledger.ObserveEach(time.Now(), func(see func(*limits.ClientFacts)) {
		for _, w := range s.workers {
			seen := make(chan struct{})
			ok := w.loop.Post(func() {
				defer close(seen)
				var facts limits.ClientFacts
				for x := range w.all {
					facts = x.facts()
					see(&facts)
				}
			})
			if ok {
				<-seen
			}
		}
	})
	for _, n := range notices {
		s.tellSuspect(n)
	}
}

// facts are what the ledger sees of a client.
func (s *session) facts() limits.ClientFacts {
	now := s.w.clock()
	f := limits.ClientFacts{
		ID: s.id, Identities: s.ticket.Identities(), Remote: s.remote, Command: s.commandLine(),
		Age: now - s.created, Idle: now - s.used, Commands: s.doings(), InUse: s.inUse(), Subscribed: s.isSubscribed(),
	}
	f.Last = s.lastCommand()
	return f
}

// usage is what the ledger is told of a client that goes.
func (s *session) usage() limits.Usage {
	return limits.Usage{
		Commands: s.doings(), Age: s.w.clock() - s.created, Command: s.commandLine(), Last: s.lastCommand(),
	}
}

// count notes that a command has been sent.
func (s *session) count() {
	s.commands++
	s.w.commands++
	if s.showsLife() {
		s.signs++
		return
	}
	s.used = s.w.clock()
}

// showsLife reports whether the last command only keeps a connection open that is there to listen. go-redis sends one every
// three seconds for each subscriber, whether or not anybody reads what comes: that a connection is used it does not say.
func (s *session) showsLife() bool { return s.last != nil && s.last.name == "PING" && s.isSubscribed() }

// doings is how many commands the client has sent that are more than a sign of life.
func (s *session) doings() uint64 { return s.commands - uint64(s.signs) }

// lastCommand is the last of them, or "". A subscriber's is taken to be that by which it became one.
func (s *session) lastCommand() string {
	switch {
	case s.last == nil:
		return ""
	case s.showsLife():
		for f, channels := range s.subs.to {
			if len(channels) > 0 {
				return familyWords[f].subscribe
			}
		}
	}
	return s.last.full
}

// inUse reports whether the client waits for something, or holds an upstream connection.
func (s *session) inUse() bool {
	return s.inFlight > 0 || s.pin != nil || s.wait != nil || s.acks != nil
}

// tellSuspect has the log told of a source that seems to leak, with what one needs to find the code.
func (s *Server) tellSuspect(n limits.Notice) {
	attrs := []slog.Attr{
		slog.String("source", n.Source), slog.String("rule", string(n.Rule)), slog.String("reason", n.Reason),
		slog.String("advice", n.Advice), slog.Int("open", n.Report.Open), slog.Int("in_use", n.Report.InUse),
	}
	for _, k := range []limits.IdentityKind{
		limits.ByAddr, limits.ByPID, limits.ByProcess, limits.ByContainer, limits.ByCert, limits.ByName, limits.ByLib, limits.ByUser,
	} {
		if value := n.Report.Identities[k]; value != "" {
			attrs = append(attrs, slog.String(k.String(), value))
		}
	}
	if n.Report.Command != "" {
		attrs = append(attrs, slog.String("command_line", n.Report.Command))
	}
	if n.Report.Last != "" {
		attrs = append(attrs, slog.String("last_command", n.Report.Last))
	}
	var oldest []string
	for _, c := range n.Report.Oldest {
		oldest = append(oldest, fmt.Sprintf("%s (age %s, idle %s)", c.Remote, c.Age.Truncate(time.Second), c.Idle.Truncate(time.Second)))
	}
	if len(oldest) > 0 {
		attrs = append(attrs, slog.String("oldest", strings.Join(oldest, ", ")))
	}
	level, what := slog.LevelWarn, "connection leak suspected"
	switch n.What {
	case limits.Still:
		what = "connection leak still suspected"
	case limits.Cleared:
		level, what = slog.LevelInfo, "connection leak not suspected any more"
	}
	s.cfg.Log.LogAttrs(context.Background(), level, what, attrs...)
}

// fullness watches how much of a limit is used. It tells once when a threshold is reached, and once when it is well below
// the lowest again.
type fullness struct {
	what, setting string
	reached       int // percent; 0: none
}

// thresholds are in percent of the limit; when use is below calm, a warning is over.
var thresholds = []int{95, 80}

const calm = 70

func (f *fullness) look(s *Server, used, limit int, top func() string) {
	percent := used * 100 / max(limit, 1)
	now := 0
	for _, t := range thresholds {
		if percent >= t {
			now = max(now, t)
		}
	}
	switch {
	case now > f.reached:
		f.reached = now
		s.cfg.Log.Warn(fmt.Sprintf("%d %% of %s reached", now, f.setting), "used", used, f.setting, limit, "top_sources", top())
	case f.reached > 0 && percent < calm:
		f.reached = 0
		s.cfg.Log.Info(fmt.Sprintf("%s are below %d %% of %s again", f.what, calm, f.setting), "used", used, f.setting, limit)
	}
}

// topShown is how many sources a warning names.
const topShown = 3

// topByClients names the sources with the most clients.
func (s *Server) topByClients() string {
	var top []string
	for _, r := range s.ledger.BySource() {
		if len(top) == topShown || r.Open == 0 {
			break
		}
		top = append(top, fmt.Sprintf("%s: %d", r.Value, r.Open))
	}
	return strings.Join(top, ", ")
}

// topByPins names the sources with the most upstream connections of their own.
func (s *Server) topByPins() string {
	per := make([]map[string]int, len(s.workers))
	s.onAll(func(w *worker) {
		mine := map[string]int{}
		for x := range w.all {
			if x.pin != nil {
				mine[x.ticket.Identities().Source()]++
			}
		}
		per[w.index] = mine
	}).Wait()
	all := map[string]int{}
	for _, mine := range per {
		for source, n := range mine {
			all[source] += n
		}
	}
	sources := make([]string, 0, len(all))
	for source := range all {
		sources = append(sources, source)
	}
	slices.SortFunc(sources, func(a, b string) int { return cmp.Or(cmp.Compare(all[b], all[a]), cmp.Compare(a, b)) })
	var top []string
	for _, source := range sources[:min(topShown, len(sources))] {
		top = append(top, fmt.Sprintf("%s: %d", source, all[source]))
	}
	return strings.Join(top, ", ")
}

// openUpstream is how many upstream connections there are.
func (s *Server) openUpstream() (n int) {
	for _, k := range []limits.Kind{limits.Lane, limits.Pin, limits.Control} {
		n += s.budget.Open(k)
	}
	return n
}
