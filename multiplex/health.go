package multiplex

import (
	"bytes"
	"errors"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// An upstream that hangs, or a path to it that has gone without a word, is noticed by silence where an answer is due: where
// the oldest request is a Prompt one. A command that blocks or is not known may rightly take long. And while a script runs, or
// what else keeps Redis from answering at all (a Long request), nobody's silence counts, on whatever loop.

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
	p.watching.Stop()
	if p.responseTimeout > 0 {
		p.watching = p.loop.AfterFunc(min(max(p.responseTimeout/healthChecks, healthMost), healthLeast), p.look)
	}
}

// SetResponseTimeout changes Config.ResponseTimeout, and has the pool look after its connections as often as that asks for.
func (p *Pool) SetResponseTimeout(timeout time.Duration) {
	p.responseTimeout = timeout
	p.Watch()
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
		case quiet > p.responseTimeout/2 && k.toils():
			p.primary.toils(p.loop.Now())
		case k.queue.front().flags&Prompt != 0 && quiet > p.responseTimeout:
			silent = append(silent, k)
		}
	}
	if !p.primary.toiled(p.loop.Now(), p.responseTimeout/2) {
		breakAll(silent, errSilent)
	}
}

// toils reports whether a request of this link may be what keeps the upstream from answering anybody. On a pin that is any
// Long one, as Redis answers when it has done all that it has read. On a lane it is the oldest: with many clients there is
// a script somewhere nearly always, and no hang would ever be noticed.
func (k *Link) toils() bool {
	if k.owner == nil {
		return k.queue.front().flags&Long != 0
	}
	for i := range k.queue.len() {
		if k.queue.at(i).flags&Long != 0 {
			return true
		}
	}
	return false
}

// toils takes note that the upstream may be at something long. It keeps it from answering the pools of all loops, which see
// only their own.
func (p *Primary) toils(now time.Time) { p.toil.Store(int64(now.Sub(p.began))) }

// toiled reports whether it may have been so, to any pool's knowledge, within some time: when it is over, the answers to all
// that has waited take a moment.
func (p *Primary) toiled(now time.Time, within time.Duration) bool {
	at := p.toil.Load()
	return at != 0 && now.Sub(p.began)-time.Duration(at) <= within
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
