// Package doctor looks at a Redis or Valkey whose clients are told "max number of clients reached": it says who holds the
// connections, why, and what to do, with the commands.
//
// It asks INFO, CLIENT LIST and CONFIG GET, over one connection, and changes nothing unless it was told to close idle clients.
// The leak rules are those of package limits.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/redis/go-redis/v9"
)

// Config says whom to look at, and how. Times that are zero stand for their defaults, unless it says otherwise.
type Config struct {
	URL   string // redis://, rediss:// or unix://; empty is allowed with Size alone
	Shown string // the URL with its password masked
	TLS   TLSFiles

	For  time.Duration // how long to look, and to knock where it is full; default 10 s, and with Watch for ever
	Idle time.Duration // who is idle for longer is counted as idle; default 300 s
	Top  int           // how many sources of a kind, and idle clients, the JSON output has; default 50

	Watch     time.Duration // look again and again, so often; 0 is once
	Threshold int           // percent of maxclients that is warned of; default 80
	Exec      string        // a command that is run with each warning, by sh
	Webhook   string        // a URL that each warning is posted to

	KillIdle time.Duration // close who is idle for longer; 0 is not
	Yes      bool          // do it, and not only say whom

	Size       string // work out pool sizes from this; "" is not
	MaxClients int    // for Size without a URL, or in the place of the server's

	JSON   bool
	Colour bool // for a terminal

	forGiven bool // For is not its default
}

// Defaults of Config.
const (
	DefaultFor       = 10 * time.Second
	DefaultIdle      = 300 * time.Second
	DefaultThreshold = 80
	DefaultTop       = 50
)

// Validate returns what cannot be used, naming flag and value, or nil.
func (c *Config) Validate() error {
	modes := 0
	for _, on := range []bool{c.Watch > 0, c.KillIdle > 0, c.Size != ""} {
		if on {
			modes++
		}
	}
	switch {
	case modes > 1:
		return errors.New("--watch, --kill-idle and --size are for one at a time")
	case c.URL == "" && c.Size == "":
		return errors.New("say whom to look at: redbouncer doctor redis://host:6379, or put the URL into REDBOUNCER_UPSTREAM")
	case c.Size != "" && c.URL == "" && c.MaxClients <= 0:
		return errors.New("--size needs the URL of a server, or --maxclients N")
	case c.Size == "" && c.MaxClients > 0:
		return errors.New("--maxclients is for --size: the server's own is asked of it")
	case c.Yes && c.KillIdle == 0:
		return errors.New("--yes is for --kill-idle")
	case c.Watch == 0 && (c.Exec != "" || c.Webhook != ""):
		return errors.New("--exec and --webhook are for --watch")
	case c.Watch > 0 && c.Watch < time.Second:
		return fmt.Errorf("--watch %s: want 1s or more", c.Watch)
	case c.KillIdle > 0 && c.KillIdle < 10*time.Second:
		return fmt.Errorf("--kill-idle %s: want 10s or more; who was idle for less is about to be used", c.KillIdle)
	case c.Threshold < 0 || c.Threshold > 100:
		return fmt.Errorf("--threshold %d: want percent, from 1 to 100", c.Threshold)
	}
	return c.validateWebhook()
}

func (c *Config) fill() {
	c.forGiven = c.For > 0
	if c.For <= 0 {
		c.For = DefaultFor
	}
	if c.Idle <= 0 {
		c.Idle = DefaultIdle
	}
	if c.Threshold == 0 {
		c.Threshold = DefaultThreshold
	}
	if c.Top <= 0 {
		c.Top = DefaultTop
	}
}

// Run does what cfg says and writes it to out, until it is done or ctx is. It returns the exit status. What cannot be used or
// written is an error, and the status is ExitUnknown then.
func Run(ctx context.Context, cfg Config, out io.Writer) (int, error) {
	if err := cfg.Validate(); err != nil {
		return ExitUnknown, err
	}
	cfg.fill()
	redis.SetLogger(silence{}) // it writes to standard error of what we are told as well
	if cfg.Size != "" {
		return runSize(ctx, &cfg, out)
	}
	s, err := newServer(&cfg)
	if err != nil {
		return ExitUnknown, err
	}
	defer s.close()
	switch {
	case cfg.Watch > 0:
		return runWatch(ctx, &cfg, s, out)
	case cfg.KillIdle > 0:
		return runKill(ctx, &cfg, s, out)
	}
	r := examine(ctx, &cfg, s)
	return r.ExitStatus, r.write(out, &cfg)
}

// silence is a log for the client library.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}

// leastWatch is how long a server is watched whose last place it took long to get.
const leastWatch = 3 * time.Second

// examine looks for as long as cfg says, and reports.
func examine(ctx context.Context, cfg *Config, s *server) *Report {
	tries, err := s.enter(ctx, cfg.For)
	if err != nil {
		return troubleReport(cfg, s, tries, err)
	}
	v, err := newSurvey(ctx, cfg, s)
	if err != nil {
		return troubleReport(cfg, s, tries, err)
	}
	v.tries = tries
	if err := v.watch(ctx, max(cfg.For-tries.took, min(cfg.For, leastWatch))); err != nil {
		return troubleReport(cfg, s, tries, err)
	}
	return v.report()
}

// troubleReport says why there is nothing to look at. That it is full is an answer: the worst one.
func troubleReport(cfg *Config, s *server, tries tries, err error) *Report {
	var t *trouble
	if !errors.As(err, &t) {
		t = troubled(TroubleSilent, err.Error(), "try again")
	}
	status := Unknown
	if t.kind == TroubleFull {
		status = Critical
		t.text = fmt.Sprintf("it refuses connections with \"max number of clients reached\": all of %s, in %s",
			plural(tries.refused, "try", "tries"), span(tries.took))
	}
	if t.again && t.kind != TroubleFull {
		t.text += fmt.Sprintf("; so it was with %s in %s", plural(tries.refused, "try", "tries"), span(tries.took))
	}
	r := &Report{
		Schema: schema, Time: time.Now().UTC().Format(time.RFC3339), Status: statusWord(status), ExitStatus: exitStatus(status),
		Target: cfg.Shown, Refused: tries.refused, Trouble: &Trouble{Kind: t.kind, Text: t.text},
		Findings: []Finding{{"trouble-" + t.kind, status, t.text}}, Advice: troubleAdvice(t, s.options, s),
	}
	if t.again {
		r.Trouble.Sockets = socketsTo(s.options.Network, s.options.Addr)
	}
	return r
}

// writeLine writes one line of JSON.
func writeLine(out io.Writer, what any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	return e.Encode(what)
}

// write writes the report in the form that cfg says.
func (r *Report) write(out io.Writer, cfg *Config) error {
	if cfg.JSON {
		return writeJSON(out, r)
	}
	return r.writeText(out, cfg.Colour)
}

func writeJSON(out io.Writer, what any) error {
	e := json.NewEncoder(out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(what)
}
