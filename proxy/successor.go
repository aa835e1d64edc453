package proxy

import (
	"sync"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// successor is the program that takes over, as the old one sees it: what it is to be told, in order. Loops say what there
// is; a goroutine of its own, send, writes it, as that may block.
type successor struct {
	// Static after construction.
	line   *handover.Line
	broken chan struct{} // closed when the line is
	sent   chan struct{} // closed when send has ended

	// mu guards the following fields.
	mu      sync.Mutex
	changed sync.Cond
	queue   []parcel
	sockets int // in queue
	closed  bool
	moved   int // clients that have been sent

	breaking sync.Once
}

// parcel is a record to be sent.
type parcel struct {
	kind   handover.Kind
	record any
	fd     int // to be sent along, and closed; -1: none
}

// maxSockets bounds the clients that are on their way. More wait in the old program, where they are served.
const maxSockets = 256

func newSuccessor(line *handover.Line) *successor {
	n := &successor{line: line, broken: make(chan struct{}), sent: make(chan struct{})}
	n.changed.L = &n.mu
	return n
}

// room reports whether one more client can be on its way.
func (n *successor) room() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sockets < maxSockets && !n.closed
}

// tell has something said. It never blocks.
func (n *successor) tell(kind handover.Kind, record any) { n.put(parcel{kind, record, -1}) }

// give has a client sent. The socket is the successor's from now on.
func (n *successor) give(kind handover.Kind, record any, fd int) { n.put(parcel{kind, record, fd}) }

func (n *successor) put(p parcel) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		handover.Drop(p.fd)
		return
	}
	n.queue = append(n.queue, p)
	if p.fd >= 0 {
		n.sockets++
	}
	n.changed.Signal()
}

// send ends when all that there was to say has been said after close, or the line breaks.
func (n *successor) send() {
	defer close(n.sent)
	for {
		n.mu.Lock()
		for len(n.queue) == 0 && !n.closed {
			n.changed.Wait()
		}
		batch := n.queue
		n.queue = nil
		n.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		for _, p := range batch {
			n.sendOne(p)
		}
	}
}

func (n *successor) sendOne(p parcel) {
	var fds []int
	if p.fd >= 0 {
		fds = []int{p.fd}
	}
	if err := n.line.Send(p.kind, p.record, fds...); err != nil {
		n.lost()
	}
	handover.Drop(p.fd)
	if p.fd < 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sockets--
	if p.kind == handover.ClientKind {
		n.moved++
	}
}

// lost notes that the successor has hung up.
func (n *successor) lost() { n.breaking.Do(func() { close(n.broken) }) }

// listen ends when the successor hangs up: it has nothing more to say.
func (n *successor) listen() {
	for {
		r, err := n.line.Receive()
		if err != nil {
			n.lost()
			return
		}
		r.Close()
	}
}

// close has nothing more said than what has been. Send ends then.
func (n *successor) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	n.changed.Signal()
}

// clients is how many have been sent.
func (n *successor) clients() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.moved
}

// placeOf says that the successor is to count a client.
func placeOf(s *session) *handover.Place {
	return &handover.Place{
		Client: s.id, Identities: packIdentities(s.ticket.Identities()), Outside: s.ticket.State() != limits.Admitted,
	}
}
