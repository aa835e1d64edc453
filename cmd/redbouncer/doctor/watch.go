package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// Event is something that has changed while a server was watched. It is what --exec and --webhook are told, and the JSON output.
type Event struct {
	Schema     int      `json:"schema"`
	Time       string   `json:"time"`
	Event      string   `json:"event"` // one of the Event constants
	Level      Level    `json:"level"`
	Target     string   `json:"target"`
	Text       string   `json:"text"`
	Used       *int     `json:"used"`
	MaxClients *int     `json:"maxclients"`
	Percent    *float64 `json:"percent"`
	Top        []Source `json:"top,omitempty"` // by address
}

// The events. Each that begins something is told once, and what ends it once.
const (
	EventWatching  = "watching"  // the first look
	EventThreshold = "threshold" // the threshold was reached
	EventCalm      = "calm"      // it is well below again
	EventRejecting = "rejecting" // connections are refused
	EventAdmitting = "admitting" // none has been, for a while
	EventLost      = "lost"      // it cannot be reached, or refuses us
	EventBack      = "back"
	EventSuspect   = "suspect" // a leak rule has named a source
	EventCleared   = "cleared"
	EventFailed    = "failed" // --exec or --webhook did not work
)

const (
	// calmBelow is by how many points it has to fall below the threshold to be over, so that what hovers is told once.
	calmBelow = 5
	// quietLooks is how many looks without a refusal end it.
	quietLooks = 3
	// suspectsAfter is two windows of the ledger, and a little.
	suspectsAfter = 2*limits.LedgerWindow + time.Second
)

// watcher watches a server until it is told not to.
type watcher struct {
	// Static after construction.
	cfg    *Config
	server *server
	alarms *alarms

	// Owned by run.
	survey    *survey
	full      bool // the threshold has been reached
	rejecting bool
	quiet     int // looks without a refusal
	lost      bool
	status    Level
	suspects  map[string]limits.LeakRule // that have been told of

	// mu guards the following field.
	mu  sync.Mutex
	out io.Writer
}

// runWatch watches until ctx is done, or for as long as cfg says. The status is that of the last look.
func runWatch(ctx context.Context, cfg *Config, s *server, out io.Writer) (int, error) {
	w := &watcher{cfg: cfg, server: s, out: out, status: Unknown, suspects: map[string]limits.LeakRule{}}
	w.alarms = newAlarms(cfg, w.print)
	defer w.alarms.close()
	if cfg.forGiven {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.For)
		defer cancel()
	}
	ticker := time.NewTicker(cfg.Watch)
	defer ticker.Stop()
	for {
		w.look(ctx)
		select {
		case <-ctx.Done():
			return exitStatus(w.status), nil
		case <-ticker.C:
		}
	}
}

// look takes one look, and connects again if need be.
func (w *watcher) look(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	first := w.survey == nil
	err := w.see(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		w.survey = nil
		w.lose(err)
		return
	}
	if w.lost {
		w.lost = false
		w.tell(EventBack, Notice, "it answers again")
	} else if first {
		w.tell(EventWatching, Notice, w.figures())
	}
	w.status = w.survey.status(nil)
	w.judgeFullness()
	w.judgeRefusals()
	w.judgeSuspects()
}

func (w *watcher) see(ctx context.Context) (err error) {
	if w.survey == nil {
		if err := w.server.connect(ctx); err != nil {
			return err
		}
		w.survey, err = newSurvey(ctx, w.cfg, w.server)
		return err
	}
	before := w.survey.now
	err = w.survey.look(ctx)
	w.survey.first = before
	return err
}

// lose says once that the server cannot be looked at.
func (w *watcher) lose(err error) {
	w.status = Unknown
	level := Warning
	if isFull(err) {
		w.status, level = Critical, Critical
	}
	if !w.lost {
		w.lost = true
		w.tell(EventLost, level, err.Error())
	}
}

func (w *watcher) figures() string {
	v := w.survey
	if v.percent() < 0 {
		return "it cannot be seen how full it is"
	}
	return fmt.Sprintf("%d of %d connections are used (%.0f %%)", v.used(), v.maxclients, v.percent())
}

func (w *watcher) judgeFullness() {
	percent := w.survey.percent()
	level := Warning
	if percent >= criticalPercent {
		level = Critical
	}
	switch {
	case percent >= float64(w.cfg.Threshold):
		w.status = max(w.status, level)
		if !w.full {
			w.full = true
			w.tell(EventThreshold, level, fmt.Sprintf("%s, the threshold is %d %%", w.figures(), w.cfg.Threshold))
		}
	case w.full && percent >= 0 && percent < float64(w.cfg.Threshold-calmBelow):
		w.full = false
		w.tell(EventCalm, Notice, w.figures())
	}
}

func (w *watcher) judgeRefusals() {
	n := w.survey.since("rejected_connections")
	switch {
	case n > 0:
		w.status, w.quiet = Critical, 0
		if !w.rejecting {
			w.rejecting = true
			w.tell(EventRejecting, Critical, fmt.Sprintf("%s refused since the last look", plural(n, "connection was", "connections were")))
		}
	case w.rejecting:
		if w.quiet++; w.quiet >= quietLooks {
			w.rejecting = false
			w.tell(EventAdmitting, Notice, "no connection has been refused for a while")
		}
	}
}

// judgeSuspects tells of each suspect once, when it has been watched for as long as a leak rule takes to name anybody.
func (w *watcher) judgeSuspects() {
	if time.Since(w.survey.began) < suspectsAfter {
		return
	}
	here := map[string]bool{}
	for _, s := range w.survey.suspects() {
		w.status = max(w.status, Warning)
		here[s.Source] = true
		if w.suspects[s.Source] != s.Rule {
			w.suspects[s.Source] = s.Rule
			w.tell(EventSuspect, Warning, fmt.Sprintf("%s: %s (%s); %s", safe(s.Source, 60), s.Reason, s.Rule, s.Advice))
		}
	}
	for source := range w.suspects {
		if !here[source] {
			delete(w.suspects, source)
			w.tell(EventCleared, Notice, safe(source, 60)+" is no suspect any more")
		}
	}
}

// tell prints an event, and raises an alarm for those that are not the beginning.
func (w *watcher) tell(event string, level Level, text string) {
	e := Event{
		Schema: schema, Time: time.Now().UTC().Format(time.RFC3339), Event: event, Level: level, Target: w.cfg.Shown, Text: text,
	}
	if v := w.survey; v != nil {
		e.Used, e.MaxClients = known(v.used()), known(v.maxclients)
		if p := v.percent(); p >= 0 {
			p = round(p)
			e.Percent = &p
		}
		top := v.sources(byAddr)
		e.Top = top[:min(len(top), topShown)]
	}
	w.print(e)
	if event != EventWatching {
		w.alarms.raise(e)
	}
}

// print writes an event, a line each.
func (w *watcher) print(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cfg.JSON {
		_ = writeLine(w.out, e)
		return
	}
	top := []string{}
	if e.Event == EventThreshold {
		for _, s := range e.Top {
			top = append(top, fmt.Sprintf("%s: %d", safe(s.Value, 40), s.Open))
		}
	}
	p := newPrinter(w.out, w.cfg.Colour)
	text := safe(e.Text, 400)
	if len(top) > 0 {
		text += "; most from " + strings.Join(top, ", ")
	}
	style := map[Level]string{Critical: red, Warning: yellow}[e.Level]
	label := fmt.Sprintf("%s %-8s ", e.Time, e.Level)
	if style != "" {
		label = p.in(style, label)
	}
	p.wrapWide(label, len(e.Time)+10, text)
	_ = p.Flush()
}

var errNoAlarm = errors.New("there are too many alarms to send; this one is not")
