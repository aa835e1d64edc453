package multiplex

import (
	"bytes"
	"errors"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// An upstream that hangs, or a path to it that has gone without a word, is noticed by silence where an answer is due. What
// may rightly take long does not count: a command that blocks or is not known, a script. And while a script runs, or what
// else keeps Redis from answering at all, nobody's silence counts.

// Health is how the upstream stands, as a pool sees it.
type Health struct {
	Down  bool      // the last attempt to open a connection has failed; the next one waits for its time
	Since time.Time // since when
	Tries int       // attempts that have failed since
	Err   error     // why the last one has
}

// Health returns how the upstream stands.
func (p *Pool) Health() Health {
	b := &p.backoff
	return Health{Down: b.down, Since: b.since, Tries: b.tries, Err: b.err}
}

const (
	// healthChecks is how often in a response-timeout connections are looked at.
	healthChecks = 4
	// healthMost and healthLeast bound how often that is.
	healthMost, healthLeast = 10 * time.Millisecond, time.Second
	// signsOfLife is how many signs of life a lane that is idle is asked for in a response-timeout.
	signsOfLife = 3
)

// Watch has the pool look after its connections from now on.
func (p *Pool) Watch() {
	if p.responseTimeout > 0 {
		p.loop.AfterFunc(min(max(p.responseTimeout/healthChecks, healthMost), healthLeast), p.look)
	}
}

// look breaks connections that are silent, and has those that are idle asked for a sign of life.
func (p *Pool) look() {
	p.Watch()
	if p.excused != nil && p.excused() {
		for k := range p.links {
			k.since = p.loop.Now()
		}
		return
	}
	var silent []*Link
	for k := range p.links {
		quiet := p.loop.Now().Sub(k.since)
		switch {
		case k.state > draining || k.doubt != nil:
		case k.queue.len() == 0:
			if k.kind == limits.Lane && k.state == serving && !k.noPing && quiet > p.responseTimeout/signsOfLife {
				k.ping()
			}
		case k.queue.front().flags&Long != 0 && quiet > p.responseTimeout/2:
			return
		case k.queue.front().flags&Prompt != 0 && quiet > p.responseTimeout:
			silent = append(silent, k)
		}
	}
	for _, k := range silent {
		k.broke(errSilent)
	}
}

var errSilent = errors.New("it has not answered within upstream-response-timeout")

// ping asks for a sign of life. An error is one too.
func (k *Link) ping() {
	k.SubmitSpecial(nil, pingCommand, Prompt, &Special{Collect: true, Done: func(reply []byte) {
		k.noPing = bytes.HasPrefix(reply, []byte("-NOPERM"))
	}})
}

var pingCommand = resp.AppendCommand(nil, "PING")

// silence returns for how long the upstream has owed an answer without a word.
func (k *Link) silence() time.Duration {
	if k.queue.len() == 0 {
		return 0
	}
	return k.pool.loop.Now().Sub(k.since)
}
