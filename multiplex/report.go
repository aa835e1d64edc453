package multiplex

import (
	"cmp"
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// LinkReport is what an operator is shown of an upstream connection.
type LinkReport struct {
	Link     *Link // for comparison only
	Kind     limits.Kind
	Key      Key
	Upstream string        // the address that it leads to
	State    string        // serving, draining or retiring
	InFlight int           // requests that have not been answered
	Silence  time.Duration // for how long an answer has been due, without a word
	Opened   time.Time
}

// linkStates are the words for a link's states.
var linkStates = [...]string{serving: "serving", draining: "draining", retiring: "retiring", closed: "closed"}

// Links returns what there is to say of each connection, in the order in which they were opened.
func (p *Pool) Links() []LinkReport {
	out := make([]LinkReport, 0, len(p.links))
	for k := range p.links {
		out = append(out, LinkReport{k, k.kind, k.ctx.Key, k.at.addr, linkStates[k.state], k.queue.len(), k.silence(), k.opened})
	}
	slices.SortFunc(out, func(a, b LinkReport) int { return cmp.Compare(a.Link.id, b.Link.id) })
	return out
}

// Connects returns how many upstream connections have been opened. It may be called from any goroutine.
func (p *Pool) Connects() uint64 { return p.connects.Load() }

// Actor returns the proxy itself, as it is on the control connection.
func (u *Upstream) Actor() Actor { return Actor{*u.credential(), 2} }
