package doctor

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"
)

// width is that of a terminal which nobody has made wider. Commands that are longer are continued behind a backslash.
const width = 80

// paint is how a terminal shows levels.
type paint bool

const (
	bold   = "1"
	red    = "1;31"
	yellow = "33"
	green  = "32"
)

func (p paint) in(style, text string) string {
	if !p {
		return text
	}
	return "\x1b[" + style + "m" + text + "\x1b[0m"
}

// printer writes reports for people.
type printer struct {
	*bufio.Writer
	paint
}

func newPrinter(w io.Writer, colour bool) *printer {
	return &printer{bufio.NewWriter(w), paint(colour)}
}

// writeText writes the report for people, and returns the first error.
func (r *Report) writeText(w io.Writer, colour bool) error {
	p := newPrinter(w, colour)
	p.heading(r)
	if r.Connections != nil {
		p.figures(r)
	}
	if r.Trouble != nil {
		p.trouble(r.Trouble)
	} else {
		p.findings(r.Findings)
	}
	if r.Sources != nil && len(r.Sources.Addr) > 0 {
		p.sources(r)
		p.idlest(r.Idlest)
	}
	p.blind(r.Blind)
	p.advice(r.Advice)
	return p.Flush()
}

func (p *printer) heading(r *Report) {
	style := map[string]string{"healthy": green, "warning": yellow}[r.Status]
	if style == "" {
		style = red
	}
	fmt.Fprintf(p, "%s  %s\n", p.in(style, strings.ToUpper(r.Status)), safe(r.Target, width-12))
	if s := r.Server; s != nil {
		words := strings.TrimSpace(safe(s.Product+" "+s.Version, 40))
		if s.Redbouncer != "" {
			words = fmt.Sprintf("redbouncer %s in front of %s", safe(s.Redbouncer, 20), cmp.Or(words, safe(s.Upstream, 40)))
		}
		if words != "" {
			fmt.Fprintf(p, "%s, %s, %s, up %s\n", words, safe(s.Mode, 20), safe(s.Role, 20), span(time.Duration(s.UptimeS)*time.Second))
		}
	}
}

func shown[T any](n *T, format string) string {
	if n == nil {
		return "?"
	}
	return fmt.Sprintf(format, *n)
}

func (p *printer) figures(r *Report) {
	c, s := r.Connections, r.Settings
	line := func(name, format string, args ...any) {
		p.wrap(fmt.Sprintf("%-14s", name), strings.Repeat(" ", 14), fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(p)
	if c.Used == nil && c.MaxClients == nil {
		line("connections", "this user may not see how many there are")
		return
	}
	line("connections", "%s of %s used (%s %%), %s left; headroom %s %%", shown(c.Used, "%d"), shown(c.MaxClients, "%d"),
		shown(c.UsedPercent, "%.1f"), shown(c.Left, "%d"), shown(c.HeadroomPercent, "%.1f"))
	if c.Clients != nil || c.Listed != nil {
		line("", "%d blocked, %d pub/sub, %d replicas, %d cluster links", c.Blocked, c.PubSub, c.Replicas, c.ClusterLinks)
	}
	if c.Listed != nil {
		line("", "%s idle > %s, %s never spoke, %s without a name", shown(c.Idle, "%d"), span(time.Duration(c.IdleS)*time.Second),
			shown(c.NeverSpoke, "%d"), shown(c.Unnamed, "%d"))
	}
	if c.Clients != nil {
		line("in "+span(time.Duration(c.WatchedS*float64(time.Second))), "%+d connections; %d opened (%.1f/s), peak %s", *c.Grown, c.Opened, c.OpenedPerSecond,
			shown(c.Peak, "%d"))
		line("rejected", "%d since the start, %d while watching (%.1f/s)", c.RejectedTotal, c.Rejected, c.RejectedPerSecond)
	}
	if r.Refused > 0 {
		line("our tries", "%d refused before one got in", r.Refused)
	}
	if sv := r.Server; sv.Redbouncer != "" {
		line("upstream", "%d of %d connections to %s, %d pins; %d clients wait", sv.UpstreamOpen, sv.PoolSize, safe(sv.Upstream, 40), sv.Pins, sv.ClientsWaiting)
	} else {
		from := ""
		if s.OpenFilesFrom != "" {
			from = " (" + s.OpenFilesFrom + ")"
		}
		line("open files", "%s%s", shown(s.OpenFiles, "%d"), from)
	}
	line("settings", "timeout %s, tcp-keepalive %s", shown(s.Timeout, "%d"), shown(s.TCPKeepAlive, "%d"))
}

func (p *printer) title(text string) { fmt.Fprintf(p, "\n%s\n", p.in(bold, text)) }

func (p *printer) findings(all []Finding) {
	if len(all) == 0 {
		return
	}
	p.title("FOUND")
	for level := Critical; level >= Notice; level-- {
		for _, f := range all {
			if f.Level != level {
				continue
			}
			style := map[Level]string{Critical: red, Warning: yellow}[level]
			label := fmt.Sprintf("  %-9s", level)
			if style != "" {
				label = p.in(style, label)
			}
			p.wrapWide(label, 11, f.Text)
		}
	}
}

func (p *printer) trouble(t *Trouble) {
	fmt.Fprintln(p)
	p.wrap("  ", "  ", upperFirst(strings.TrimRight(safe(t.Text, 400), "."))+".")
	if t.Sockets == nil {
		return
	}
	s := t.Sockets
	if !s.Server {
		p.title(fmt.Sprintf("THIS HOST HAS %d TCP CONNECTIONS TO IT", s.Total))
		return
	}
	p.title(fmt.Sprintf("THE KERNEL OF THIS HOST KNOWS OF %d TCP CONNECTIONS TO IT, FROM", s.Total))
	for _, x := range s.Sources[:min(len(s.Sources), topShown)] {
		fmt.Fprintf(p, "  %-40s %6d\n", x.Value, x.Open)
	}
}

func (p *printer) sources(r *Report) {
	p.title("WHO HOLDS THEM")
	fmt.Fprintf(p, "  %-52s %6s %6s %8s\n", "", "open", "idle", "silent")
	for _, kind := range []struct {
		word string
		all  []Source
	}{{"addr", r.Sources.Addr}, {"name", r.Sources.Name}, {"user", r.Sources.User}, {"lib", r.Sources.Lib}} {
		word := kind.word
		for _, s := range kind.all[:min(len(kind.all), topShown)] {
			value := safe(s.Value, 42)
			if s.Value == "" {
				value = "(none)"
			}
			fmt.Fprintf(p, "  %-6s %-45s %6d %6d %8d\n", word, value, s.Open, s.Idle, s.NeverSpoke)
			word = ""
		}
	}
}

func (p *printer) idlest(all []ClientReport) {
	if len(all) == 0 {
		return
	}
	p.title("IDLE THE LONGEST")
	for _, c := range all[:min(len(all), topShown)] {
		last := c.Last
		if last == "" {
			last = "none"
		}
		name := c.Name
		if name == "" {
			name = "(no name)"
		}
		fmt.Fprintf(p, "  %-24s %-20s idle %-7s last %s\n", safe(c.Addr, 23), safe(name, 19), span(time.Duration(c.IdleS)*time.Second), safe(last, 13))
	}
}

func (p *printer) blind(all []Blind) {
	if len(all) == 0 {
		return
	}
	p.title("COULD NOT SEE")
	for _, b := range all {
		p.wrap("  ", "    ", b.What+": "+safe(b.Why, 200))
	}
}

func (p *printer) advice(all []Advice) {
	if len(all) == 0 {
		return
	}
	p.title("WHAT TO DO, WHAT HELPS MOST FIRST")
	for i, a := range all {
		p.wrap(fmt.Sprintf("%2d. ", i+1), "    ", a.Title)
		p.wrap("    ", "    ", a.Why)
		for _, c := range a.Commands {
			p.command(c)
		}
	}
}

// command writes a command, its comment in front of it. It is not escaped: what it is made of was quoted for a shell, and has
// no character that a terminal obeys.
func (p *printer) command(text string) {
	text, comment, _ := strings.Cut(text, "   # ")
	if comment != "" {
		fmt.Fprintf(p, "      # %s\n", comment)
	}
	const room = width - 9
	indent := "      "
	for len(text) > room {
		at := breakAt(text, room)
		if at <= 0 {
			break
		}
		fmt.Fprintf(p, "%s%s \\\n", indent, text[:at])
		text, indent = text[at+1:], "        "
	}
	fmt.Fprintf(p, "%s%s\n", indent, text)
}

// breakAt is the last space outside of quotes within so many bytes; 0 if there is none.
func breakAt(text string, room int) (at int) {
	in := rune(0)
	for i, r := range text {
		switch {
		case i >= room-2:
			return at
		case in == 0 && (r == '\'' || r == '"'):
			in = r
		case r == in:
			in = 0
		case r == ' ' && in == 0:
			at = i
		}
	}
	return at
}

// escaped is how many characters a byte takes that is escaped, at most.
const escaped = 10

// wrap writes text in lines of width, behind first and then behind rest. What a terminal would obey is escaped.
func (p *printer) wrap(first, rest, text string) { p.lines(first, len([]rune(first)), rest, text) }

// wrapWide is wrap for a label with colours, which takes so many columns.
func (p *printer) wrapWide(label string, columns int, text string) {
	p.lines(label, columns, strings.Repeat(" ", columns), text)
}

func (p *printer) lines(first string, columns int, rest, text string) {
	fmt.Fprint(p, first)
	at := columns
	for i, word := range strings.Fields(text) {
		word = safe(word, len(text)*escaped)
		n := len([]rune(word))
		switch {
		case i == 0:
		case at+1+n > width:
			fmt.Fprintf(p, "\n%s", rest)
			at = len(rest)
		default:
			fmt.Fprint(p, " ")
			at++
		}
		fmt.Fprint(p, word)
		at += n
	}
	fmt.Fprintln(p)
}
