package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/limits"
)

const (
	// sampleEvery is how often the list of clients is asked for; where it is long, as rarely as makes it 2 % of Redis's time.
	sampleEvery = 250 * time.Millisecond
	sampleShare = 50
	rarest      = 2 * time.Second
	topShown    = 5
)

// survey is what has been found out about a server.
type survey struct {
	cfg    *Config
	server *server
	began  time.Time
	took   time.Duration // for how long it was watched
	tries  tries

	// Asked once.
	maxclients, timeout, keepalive int // -1: not known
	blind                          []Blind
	files                          openFiles
	suspectsOfProxy                []proxySuspect

	// The first look and the last.
	first, now info
	clients    []client // the last list, without our own connection; nil if it is not to be had
	listed     bool
	listTook   time.Duration // what the last list took
	peak       int           // most connections that were seen
	listedNew  int           // connections that have come while it was watched, and were listed
	middle     *half         // when half of the time was over
	book       *book
}

// half is how it stood in the middle of the time. What has happened before and after is no burst.
type half struct{ used, brief int }

// Blind is something that could not be seen. It is part of the JSON output.
type Blind struct {
	What string `json:"what"`          // the command
	Why  string `json:"why"`           // the server's own words
	ACL  string `json:"acl,omitempty"` // the rule that would let us
}

// newSurvey asks what is asked once, and takes the first look.
func newSurvey(ctx context.Context, cfg *Config, s *server) (*survey, error) {
	v := &survey{cfg: cfg, server: s, began: time.Now(), maxclients: -1, timeout: -1, keepalive: -1}
	if err := v.look(ctx); err != nil {
		return nil, err
	}
	v.first = v.now
	for setting, into := range map[string]*int{"maxclients": &v.maxclients, "timeout": &v.timeout, "tcp-keepalive": &v.keepalive} {
		v.config(ctx, setting, into)
	}
	if n := v.now.number("maxclients"); n > 0 {
		v.maxclients = n
	}
	v.files = findOpenFiles(v)
	if v.now.isProxy() {
		v.askProxy(ctx)
	}
	slices.SortFunc(v.blind, func(a, b Blind) int { return cmp.Compare(a.What, b.What) })
	return v, nil
}

// config asks for a setting that is a number.
func (v *survey) config(ctx context.Context, setting string, into *int) {
	values, err := v.server.client.ConfigGet(ctx, setting).Result()
	if err != nil {
		v.cannot("CONFIG GET", err, "+config|get")
		return
	}
	if text, ok := values[setting]; ok {
		*into = settingNumber(text)
	}
}

// settingNumber reads a setting that is a number, or seconds as the console of a redbouncer writes them: "300s".
func settingNumber(text string) int {
	if lasts, err := time.ParseDuration(text); err == nil {
		return int(lasts.Seconds())
	}
	return number(text)
}

// cannot notes once that a command is not to be had; rule is what would let a user have it, or "" if no rule of an ACL does.
func (v *survey) cannot(what string, err error, rule string) {
	for _, b := range v.blind {
		if b.What == what {
			return
		}
	}
	b := Blind{What: what, Why: reply(err)}
	if isReply(err, "NOPERM") && rule != "" {
		b.ACL = fmt.Sprintf("ACL SETUSER %s %s", quoted(cmp.Or(v.server.options.Username, "default")), rule)
	}
	v.blind = append(v.blind, b)
}

// look asks for INFO and CLIENT LIST. What the user may not see is noted, and not asked for again: it would fill ACL LOG.
// Other errors end the look.
func (v *survey) look(ctx context.Context) error {
	if v.now == nil {
		v.now = info{}
	}
	err := v.ask("INFO", "+info", func() error {
		text, err := v.server.client.Info(ctx).Result()
		if err == nil {
			v.now = parseInfo(text)
		}
		return err
	})
	if err != nil {
		return err
	}
	err = v.ask("CLIENT LIST", "+client|list +client|id", func() error {
		began := time.Now()
		text, err := v.server.client.ClientList(ctx).Result()
		if v.listTook = time.Since(began); err == nil {
			v.list(parseClients(text), time.Now())
		}
		return err
	})
	v.peak = max(v.peak, v.used())
	return err
}

// ask asks for something that the user may not be allowed to see; rule is what would allow it.
func (v *survey) ask(what, rule string, question func() error) error {
	if slices.ContainsFunc(v.blind, func(b Blind) bool { return b.What == what }) {
		return nil
	}
	err := question()
	switch {
	case isRefusal(err):
		v.cannot(what, err, rule)
	case err != nil:
		return v.server.explain(err)
	}
	return nil
}

// isRefusal reports whether the server has answered, and that it will not.
func isRefusal(err error) bool {
	var said redis.Error
	return errors.As(err, &said)
}

// list takes a list of clients.
func (v *survey) list(all []client, now time.Time) {
	v.clients = slices.DeleteFunc(all, func(c client) bool { return c.id == v.server.id && c.id != 0 })
	if !v.listed {
		v.listed = true
		v.book = newBook(v.clients, now)
		return
	}
	v.listedNew += v.newcomers()
	v.book.see(v.clients, now)
}

// newcomers counts those in the list that were not in the one before.
func (v *survey) newcomers() (n int) {
	for i := range v.clients {
		c := &v.clients[i]
		if v.book.open[c.id] == nil && !c.isPeer() {
			n++
		}
	}
	return n
}

// watch looks again and again until the time is over or ctx is done.
func (v *survey) watch(ctx context.Context, lasts time.Duration) error {
	end := time.Now().Add(lasts)
	middle := end.Add(-lasts / 2)
	for {
		if v.middle == nil && !time.Now().Before(middle) {
			v.middle = &half{v.used(), v.brief()}
		}
		rest := min(max(sampleEvery, sampleShare*v.listTook), rarest)
		left := time.Until(end)
		if left <= 0 {
			break
		}
		select {
		case <-ctx.Done():
			v.took = time.Since(v.began)
			return nil
		case <-time.After(min(rest, left)):
		}
		if err := v.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	v.took = time.Since(v.began)
	return nil
}

// used is how many connections count against maxclients, our own among them; -1 if that is not known.
func (v *survey) used() int {
	switch {
	case v.now["connected_clients"] != "":
		return v.now.used()
	case v.listed:
		return len(v.clients) + 1
	}
	return -1
}

// percent is how much of maxclients is used; -1 if that is not known.
func (v *survey) percent() float64 {
	if v.used() < 0 || v.maxclients <= 0 {
		return -1
	}
	return float64(v.used()) * 100 / float64(v.maxclients)
}

// since is by how much a counter of INFO has risen while it was watched.
func (v *survey) since(key string) int { return max(v.now.number(key)-v.first.number(key), 0) }

// count counts those clients for whom it holds.
func (v *survey) count(holds func(*client) bool) (n int) {
	for i := range v.clients {
		if holds(&v.clients[i]) {
			n++
		}
	}
	return n
}

// Source is how many connections somebody holds. It is part of the JSON output.
type Source struct {
	Value      string `json:"value"` // "" if they do not say
	Open       int    `json:"open"`
	Idle       int    `json:"idle"`        // for longer than idle_s
	NeverSpoke int    `json:"never_spoke"` // have sent no command
}

// sources counts the clients by what of returns, those with the most first.
func (v *survey) sources(of func(*client) string) []Source {
	counts := map[string]*Source{}
	for i := range v.clients {
		c := &v.clients[i]
		value := of(c)
		s := counts[value]
		if s == nil {
			s = &Source{Value: value}
			counts[value] = s
		}
		s.Open++
		if c.isIdle(v.cfg.Idle) {
			s.Idle++
		}
		if c.neverSpoke() && !c.isPeer() {
			s.NeverSpoke++
		}
	}
	all := make([]Source, 0, len(counts))
	for _, s := range counts {
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Source) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Value, b.Value))
	})
	return all
}

func byAddr(c *client) string { return c.host }
func byName(c *client) string { return c.name }
func byUser(c *client) string { return c.user }
func byLib(c *client) string  { return c.lib }

// suspects are the sources that the leak rules name, but for those of which a redbouncer has said so itself: it knows their process.
func (v *survey) suspects() []limits.Suspect {
	if v.book == nil {
		return nil
	}
	suspects := slices.DeleteFunc(v.book.suspects(), func(s limits.Suspect) bool {
		return slices.ContainsFunc(v.suspectsOfProxy, func(p proxySuspect) bool { return p.Rule == string(s.Rule) })
	})
	slices.SortStableFunc(suspects, func(a, b limits.Suspect) int { return cmp.Compare(b.Report.Open, a.Report.Open) })
	return suspects
}

// brief is how many connections have come while it was watched and have gone again at once: most of them between two looks.
func (v *survey) brief() int {
	if !v.listed || v.first["total_connections_received"] == "" {
		return 0
	}
	n := max(v.since("total_connections_received")-v.listedNew, 0)
	for _, m := range v.book.brief {
		n += m
	}
	return n
}

// briefPerMinute is their rate, if they came in both halves of the time, and else 0.
func (v *survey) briefPerMinute() float64 {
	n := v.brief()
	if v.middle == nil || v.took < time.Second || min(v.middle.brief, n-v.middle.brief)*4 < n {
		return 0
	}
	return float64(n) / v.took.Minutes()
}

// growth is by how much connections have become more while it was watched, and whether they did so in both halves of the time.
func (v *survey) growth() (n int, steady bool) {
	if v.first["connected_clients"] == "" || v.middle == nil {
		return 0, false
	}
	n = v.used() - v.first.used()
	return n, n > 0 && min(v.middle.used-v.first.used(), v.used()-v.middle.used)*4 >= n
}

// idleClients are those idle for longer than asked for, the longest first.
func (v *survey) idleClients(longer time.Duration) (idle []client) {
	for _, c := range v.clients {
		if c.isIdle(longer) {
			idle = append(idle, c)
		}
	}
	slices.SortFunc(idle, func(a, b client) int { return cmp.Or(cmp.Compare(b.idle, a.idle), cmp.Compare(a.id, b.id)) })
	return idle
}
