package proxy_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/proxytest"
)

// The claim behind everything: an application does not notice. So every command that the server lists is sent
// both to a Redis and, through the proxy, to another one in the same state, with sensible and with wrong
// arguments, in both protocols and in every way that commands travel; and the replies are compared byte for
// byte. What cannot be compared stands in testdata/differential.txt with its reason.

// fixture is the state of both servers before each case.
const fixture = `
	FLUSHALL
	SCRIPT FLUSH
	SCRIPT LOAD "return ARGV[1]"
	FUNCTION FLUSH
	FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(k, a) return {k[1], a[1]} end) redis.register_function{function_name='ro', callback=function() return 'ro' end, flags={'no-writes'}}"
	ACL DELUSER bob
	ACL SETUSER alice reset on >pw ~* &* +@all
	ACL SETUSER limited reset on >pw ~lim:* resetchannels +@all -@dangerous
	ACL LOG RESET
	SLOWLOG RESET
	CLIENT UNPAUSE
	SELECT 1
	SET other "in db 1"
	SELECT 0
	MSET str hello str2 yellow num 10 float 3.5 bits "\x12\x34\xff" lim:1 mine
	SET exp v PXAT 9999999999000
	RPUSH list a b c
	SADD ints 1 2 3
	SADD set1 one
	SADD set2 one two
	HSET hash f1 v1 n 5 fl 1.5
	HSET hash1 f v
	ZADD zset 1 a 2 b 3 c
	ZADD zset2 10 b 20 x
	ZADD zset1 1 m
	ZADD lex 0 a 0 b 0 c
	GEOADD geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
	PFADD hll x y z
	XADD stream 1-1 f v
	XADD stream 2-1 f w
	XGROUP CREATE stream g 0
	XREADGROUP GROUP g c1 COUNT 1 STREAMS stream >
	XADD stream 3-1 f x
`

// sentinel is the argument of a PING that follows each case. Where it comes back, the case is over, and the
// connection is in step.
const sentinel = "sentinel-0f4c"

// quiet is how long the direct connection may be silent before that counts as its answer. Few commands are
// answered with silence; a server that is merely slow makes a case weaker, not wrong.
const quiet = 200 * time.Millisecond

// mode is a way in which commands travel.
type mode string

const (
	modeAlone       mode = "alone"       // each is sent when the one before was answered
	modePipeline    mode = "pipeline"    // all in one write
	modeTransaction mode = "transaction" // MULTI, all, EXEC in one write
	modeInteractive mode = "interactive" // MULTI, all, EXEC, each sent when the one before was answered
)

func TestEveryCommandIsAnsweredAsByRedisItself(t *testing.T) {
	pairs := make([]pair, 4) // it mostly waits, so that several are quicker
	for i := range pairs {
		pairs[i] = newPair(t)
	}
	tab := readTable(t, pairs[0].direct.values(t))
	groups := tab.byCommand()
	t.Run("and none is missing from the table", func(t *testing.T) { everyCommandHasACase(t, pairs[0].direct.redis, tab) })
	next := make(chan []diffCase)
	var comparing sync.WaitGroup
	for _, p := range pairs {
		comparing.Go(func() {
			for g := range next {
				t.Run(cmp.Or(g[0].name, "(empty)"), func(t *testing.T) { compareGroup(t, p.direct, p.behind, tab, g) })
			}
		})
	}
	cases := 0
	for _, g := range groups {
		next <- g
		cases += len(g)
	}
	close(next)
	comparing.Wait()
	t.Logf("%d commands, %d cases, each in 2 protocols and up to 4 modes", len(groups), cases)
}

// pair is a Redis, and another one behind a proxy.
type pair struct{ direct, behind *side }

func newPair(t *testing.T) pair {
	p := pair{newSide(t), newSide(t)}
	cfg := proxytest.Config(t, p.behind.redis)
	cfg.AllowDangerous = []string{"all"} // what is refused otherwise has tests of its own
	p.behind.addr = proxytest.Proxy(t, cfg).Addr()
	return p
}

// everyCommandHasACase fails for a command of the server, or of the proxy's own table, that the table of cases neither
// tries nor excuses: a new version's commands are to be looked at, not passed over.
func everyCommandHasACase(t *testing.T, s *proxytest.Server, tab *diffTable) {
	known := map[string]bool{}
	for name := range tab.skip {
		known[name] = true
	}
	for _, c := range tab.cases {
		known[c.name] = true
		known[strings.ToUpper(c.cmds[0][0])] = true
		for _, cmd := range c.cmds {
			known[commandName(cmd)] = true
		}
	}
	infos, err := s.Client().Do(context.Background(), "COMMAND").Slice()
	if err != nil || len(infos) < 200 {
		t.Fatalf("COMMAND lists %d commands, %v", len(infos), err)
	}
	check := func(name string) {
		name = strings.ToUpper(strings.ReplaceAll(name, "|", " "))
		if !known[name] {
			t.Errorf("%s has neither a case nor a reason to have none in testdata/differential.txt", name)
		}
	}
	for _, info := range infos {
		fields := info.([]any)
		check(fields[0].(string))
		if len(fields) < 10 {
			continue // before 7.0, COMMAND knew no subcommands
		}
		for _, sub := range fields[9].([]any) {
			check(sub.([]any)[0].(string))
		}
	}
	ours := proxy.TableNames()
	if len(ours) < 400 {
		t.Fatalf("the proxy's table has %d rows", len(ours))
	}
	for _, name := range ours {
		check(name)
	}
}

// side is a server, the address that its cases go to, and a connection that resets its state.
type side struct {
	redis *proxytest.Server
	addr  string
	admin *proxytest.Conn
	reset string // the fixture as one write
	steps int    // and the number of its replies
}

func newSide(t *testing.T) *side {
	s := &side{redis: proxytest.Redis(t)}
	s.addr = s.redis.Addr()
	s.admin = proxytest.Dial(t, s.addr)
	for line := range strings.Lines(fixture) {
		words, err := proxytest.Words(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if len(words) > 0 {
			s.reset += proxytest.Command(words...)
			s.steps++
		}
	}
	for _, r := range s.restore(t) {
		if r[0] == '-' {
			t.Logf("this server knows less than the fixture: %s", r)
		}
	}
	return s
}

// restore brings the server back to the fixture.
func (s *side) restore(t *testing.T) [][]byte {
	if err := s.admin.TryWrite([]byte(s.reset)); err != nil {
		t.Errorf("the fixture: %v", err)
		return nil
	}
	var replies [][]byte
	for range s.steps {
		b, err := s.admin.TryReadReply()
		if err != nil {
			t.Errorf("the fixture: %v", err)
			return nil
		}
		replies = append(replies, b)
	}
	return replies
}

// values returns what {dump} and so on stand for in the table.
func (s *side) values(t *testing.T) map[string]string {
	bulk := func(cmd ...string) string {
		r, _, err := parseReply(s.admin.Do(cmd...))
		if err != nil {
			t.Fatal(err)
		}
		return r.text
	}
	return map[string]string{
		"{dump}":      bulk("DUMP", "str"),
		"{functions}": bulk("FUNCTION", "DUMP"),
		"{sha}":       bulk("SCRIPT", "LOAD", "return ARGV[1]"),
	}
}

// run is one case in one protocol and mode.
type run struct {
	c     diffCase
	proto string
	mode  mode
}

// outcome is what came back: whole replies, then perhaps a part of one, and how it ended.
type outcome struct {
	steps   []int // how many replies had come when the n-th command was answered, where that was awaited
	replies [][]byte
	part    []byte
	end     string // "" for the sentinel, "closed" or "silent"
	err     error  // the case could not be run
}

// compareGroup runs the cases of a command on both sides. The direct side runs ahead: what it saw tells how
// much to wait for on the other.
func compareGroup(t *testing.T, direct, behind *side, tab *diffTable, group []diffCase) {
	runs := runsOf(tab, group)
	wants := make(chan outcome, len(runs))
	go directRuns(t, direct, runs, wants)
	failed := map[string][]string{} // by case: the ways in which it differs, the first told in full
	for _, r := range runs {
		want := <-wants
		got := behind.play(t, r, &want)
		masks := tab.masks(r.c)
		if same(want, got, masks) || r.c.kind == '~' && within(want, got) {
			continue
		}
		tell := fmt.Sprintf("RESP%s %s", r.proto, r.mode)
		if len(failed[r.c.what]) == 0 {
			tell += fmt.Sprintf("\n  direct: %s\n  proxy:  %s", want, got)
			if len(masks) > 0 {
				tell += fmt.Sprintf("\n  compared by %s", masks)
			}
			tell += "\n  and"
		}
		failed[r.c.what] = append(failed[r.c.what], tell)
	}
	for _, c := range group {
		if ways := failed[c.what]; len(ways) > 0 {
			t.Errorf("%s\n%s", c.what, strings.Join(ways, " "))
		}
	}
}

// directRuns sends the outcome of each run to wants, and ends with the last.
func directRuns(t *testing.T, direct *side, runs []run, wants chan<- outcome) {
	for _, r := range runs {
		wants <- direct.play(t, r, nil)
	}
}

// runsOf returns every way in which a group of cases is run. Under the race detector that is one in three: there the threads
// are of interest, and not each reply.
func runsOf(tab *diffTable, group []diffCase) []run {
	var runs []run
	n := 0
	for _, c := range group {
		for _, proto := range []string{"2", "3"} {
			for _, m := range tab.modes(c) {
				if n++; !underRace || n%3 == 1 {
					runs = append(runs, run{c, proto, m})
				}
			}
		}
	}
	return runs
}

// same reports whether two outcomes are equal but for what the masks leave out.
func same(want, got outcome, masks []mask) bool {
	if want.err != nil || got.err != nil || got.end != want.end || len(got.replies) != len(want.replies) ||
		!bytes.Equal(got.part, want.part) {
		return false
	}
	for i := range got.replies {
		if masked(got.replies[i], masks) != masked(want.replies[i], masks) {
			return false
		}
	}
	return true
}

// within reports whether got has nothing but replies that want has, in order, up to the end or a closing.
func within(want, got outcome) bool {
	i := 0
	for _, r := range got.replies {
		for i < len(want.replies) && !bytes.Equal(want.replies[i], r) {
			i++
		}
		if i == len(want.replies) {
			return false
		}
		i++
	}
	return got.err == nil && (got.end == want.end || got.end == "closed") && len(got.part) == 0
}

func (o outcome) String() string {
	var b strings.Builder
	for _, r := range o.replies {
		fmt.Fprintf(&b, "%s  ", proxytest.Quote(r))
	}
	if len(o.part) > 0 {
		fmt.Fprintf(&b, "%s...  ", proxytest.Quote(o.part))
	}
	if o.end != "" {
		fmt.Fprintf(&b, "(%s)", o.end)
	}
	if o.err != nil {
		fmt.Fprintf(&b, "(%v)", o.err)
	}
	return b.String()
}

// play restores the fixture and runs one case on a connection of its own. want is what the direct side saw,
// or nil for the direct side itself.
func (s *side) play(t *testing.T, r run, want *outcome) (o outcome) {
	s.restore(t)
	conn, err := proxytest.TryDial(s.addr)
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close()
	p := &player{conn: conn, want: want}
	if err := p.hello(r.proto); err != nil {
		t.Errorf("%s, HELLO %s: %v", s.addr, r.proto, err)
		return outcome{err: err}
	}
	cmds := r.c.cmds
	if r.mode == modeTransaction || r.mode == modeInteractive {
		cmds = slices.Concat([][]string{{"MULTI"}}, cmds, [][]string{{"EXEC"}})
	}
	if r.mode == modePipeline || r.mode == modeTransaction {
		p.inOneWrite(cmds)
	} else {
		p.oneByOne(cmds)
	}
	return p.out
}

// player sends one case and collects what comes back.
type player struct {
	conn *proxytest.Conn
	want *outcome
	out  outcome
}

func (p *player) hello(proto string) error {
	if proto == "2" {
		return nil // what a connection speaks that never said HELLO
	}
	if err := p.conn.TryWrite([]byte(proxytest.Command("HELLO", proto))); err != nil {
		return err
	}
	b, err := p.conn.TryReadReply()
	if err == nil && b[0] == '-' {
		err = fmt.Errorf("%s", b)
	}
	return err
}

func (p *player) inOneWrite(cmds [][]string) {
	var raw []byte
	for _, cmd := range cmds {
		raw = proxytest.AppendCommand(raw, cmd...)
	}
	raw = proxytest.AppendCommand(raw, "PING", sentinel)
	// A write may fail because a QUIT among the commands has been obeyed; reading tells what came before.
	_ = p.conn.TryWrite(raw)
	p.untilSentinel()
}

func (p *player) oneByOne(cmds [][]string) {
	for i, cmd := range cmds {
		_ = p.conn.TryWrite([]byte(proxytest.Command(cmd...)))
		if p.want == nil {
			p.read(quiet)
		} else if i < len(p.want.steps) {
			for len(p.out.replies) < p.want.steps[i] && p.out.end == "" {
				p.read(proxytest.ReplyTimeout)
			}
		}
		if p.out.end == "closed" {
			return
		}
		p.out.end = ""
		p.out.steps = append(p.out.steps, len(p.out.replies))
	}
	_ = p.conn.TryWrite([]byte(proxytest.Command("PING", sentinel)))
	p.untilSentinel()
}

// untilSentinel reads until the sentinel comes back, the connection ends, or nothing more is to come.
func (p *player) untilSentinel() {
	for p.out.end == "" {
		patience := quiet
		if p.want != nil && (p.want.end != "silent" || len(p.out.replies) < len(p.want.replies)) {
			patience = proxytest.ReplyTimeout
		}
		n := len(p.out.replies)
		p.read(patience)
		if len(p.out.replies) > n && bytes.Contains(p.out.replies[n], []byte(sentinel)) {
			return
		}
	}
}

// read reads one reply, or notes how the connection ended. The rest of a reply may come with the next one: to a wrong AUTH
// in a transaction Redis 7.2 and later say nothing, so that EXEC announces an element more than it has.
func (p *player) read(patience time.Duration) {
	p.conn.SetTimeout(patience)
	b, err := p.conn.TryReadReply()
	switch {
	case err == nil:
		p.out.replies, p.out.part = append(p.out.replies, b), nil
		return
	case proxytest.IsTimeout(err):
		p.out.end = "silent"
		p.conn.Unread(b)
	case proxytest.IsClosed(err):
		p.out.end = "closed"
	default:
		p.out.end = err.Error()
	}
	p.out.part = b
}
