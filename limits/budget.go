package limits

import "sync"

// Kind is what an upstream connection is for.
type Kind uint8

const (
	// Lane is a connection that many sessions share.
	Lane Kind = iota
	// Pin is a connection lent to one session.
	Pin
	// Control is a connection that carries no client's data: it checks credentials, and overtakes what others wait for.
	Control
	kinds
)

func (k Kind) String() string { return [...]string{"lane", "pin", "control"}[k] }

// Budget bounds the upstream connections of the whole process. Nobody opens one without a grant, and whoever has
// one gives it back with Release once the connection has been closed.
//
// A slot is kept for the control connection (from a size of 3 on), and as many for lanes as there are loops, so
// that pins, which may be held for ever, cannot stop the traffic that shares. Within that, requests are
// granted in the order in which they came; one that only its kind's share holds back does not hold up the others.
type Budget struct {
	// Static after construction.
	lanes int // slots that are never lent as pins
	nudge func()

	// mu guards the following fields. It is not held while a grant is delivered.
	mu      sync.Mutex
	size    int // the bound in force
	target  int // what it is to be: see SetSize
	control int // slots kept for Control
	pins    int // how many may be pins
	open    [kinds]int
	wait    [kinds][]*Request
	seq     uint64
}

// Request is a place in the queue for an upstream connection.
type Request struct {
	kind  Kind
	seq   uint64
	grant func()
}

// NewBudget returns a budget of size connections, of which at least lanes are never lent as pins (as far as there
// are enough). Nudge is called, from any goroutine, when somebody waits for a connection that others may be able to
// make room for; nil: nothing is called.
func NewBudget(size, lanes int, nudge func()) *Budget {
	b := &Budget{lanes: max(lanes, 1), nudge: nudge}
	b.size = size
	b.share(size)
	return b
}

// share divides a budget of size among the kinds.
func (b *Budget) share(size int) {
	b.target, b.control = size, 0
	if size >= 3 {
		b.control = 1
	}
	b.pins = max(1, size-b.control-b.lanes)
}

// SetSize changes the bound. It rises at once. It sinks as fast as connections can be closed without a client noticing:
// a pin is its client's until that gives it back. Until then no pin is lent, and the bound in force is what pins, lanes
// and control need, so that it is kept, and traffic that shares goes on.
func (b *Budget) SetSize(size int) {
	b.mu.Lock()
	b.share(size)
	b.size = max(size, b.size)
	b.sink()
	b.grantAll()
}

// sink lowers the bound as far as it can be by now.
func (b *Budget) sink() {
	if b.size <= b.target {
		return
	}
	lanes := max(b.open[Lane], min(b.lanes, b.target))
	b.size = min(b.size, max(b.target, b.open[Pin]+lanes+max(b.open[Control], b.control)))
}

// MaxLanes returns how many loops of one lane each a budget of size can serve with room for a pin.
func MaxLanes(size int) int {
	if size >= 3 {
		return max(1, size-2)
	}
	return 1
}

// LeastSize returns the smallest budget that so many loops of one lane each can have.
func LeastSize(loops int) int {
	if loops <= 1 {
		return 1
	}
	return loops + 2
}

// Size returns the bound in force.
func (b *Budget) Size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// Open returns how many connections of a kind have been granted and not been given back.
func (b *Budget) Open(k Kind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open[k]
}

// Waiting returns how many requests of a kind wait.
func (b *Budget) Waiting(k Kind) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.wait[k])
}

// Acquire asks for a connection. It returns nil when it was granted at once. Otherwise the request waits, and
// grant is called once, by whoever makes room; it must not block.
func (b *Budget) Acquire(k Kind, grant func()) *Request {
	b.mu.Lock()
	if len(b.wait[k]) == 0 && b.room(k) {
		b.open[k]++
		b.mu.Unlock()
		return nil
	}
	b.seq++
	r := &Request{kind: k, seq: b.seq, grant: grant}
	b.wait[k] = append(b.wait[k], r)
	b.mu.Unlock()
	if b.nudge != nil {
		b.nudge()
	}
	return r
}

// Cancel takes a request out of the queue. It reports false if the request has been granted already: then grant
// has been or is being called, and the connection must be given back.
func (b *Budget) Cancel(r *Request) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, w := range b.wait[r.kind] {
		if w == r {
			b.wait[r.kind] = append(b.wait[r.kind][:i], b.wait[r.kind][i+1:]...)
			return true
		}
	}
	return false
}

// Heir returns the request that would be granted if a connection of a kind were given back now; nil if there is none.
// Whoever can serve it with that very connection cancels it, and passes the connection on.
func (b *Budget) Heir(k Kind) *Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[k]--
	defer func() { b.open[k]++ }()
	return b.next()
}

// Release gives a connection back, once it has been closed, and grants what can be granted now.
func (b *Budget) Release(k Kind) {
	b.mu.Lock()
	if b.open[k] == 0 {
		panic("bug: an upstream connection was given back twice")
	}
	b.open[k]--
	b.sink()
	b.grantAll()
}

// grantAll grants all that can be granted. It is called with mu held, and gives it up.
func (b *Budget) grantAll() {
	var granted []*Request
	for {
		r := b.next()
		if r == nil {
			break
		}
		b.wait[r.kind] = b.wait[r.kind][1:]
		b.open[r.kind]++
		granted = append(granted, r)
	}
	wanted := b.wanted()
	b.mu.Unlock()
	for _, r := range granted {
		r.grant()
	}
	if wanted && b.nudge != nil {
		b.nudge()
	}
}

// next returns the oldest request that there is room for.
func (b *Budget) next() *Request {
	var oldest *Request
	for k := range kinds {
		if len(b.wait[k]) > 0 && b.room(k) && (oldest == nil || b.wait[k][0].seq < oldest.seq) {
			oldest = b.wait[k][0]
		}
	}
	return oldest
}

// room reports whether one more connection of a kind may be opened.
func (b *Budget) room(k Kind) bool {
	data := b.open[Lane] + b.open[Pin]
	switch k {
	case Control:
		return data+b.open[Control] < b.size
	case Pin:
		if b.open[Pin] >= b.pins {
			return false
		}
	}
	return data+max(b.open[Control], b.control) < b.size
}

// Wanted reports whether anybody waits, or the bound is to sink, so that nobody may keep a connection that he does not use.
func (b *Budget) Wanted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wanted()
}

func (b *Budget) wanted() bool {
	return len(b.wait[Lane])+len(b.wait[Pin])+len(b.wait[Control]) > 0 || b.size > b.target
}

// Pressed reports whether somebody waits for a connection that a lane could make room for, or there are more lanes than a
// bound that is to sink leaves room for.
func (b *Budget) Pressed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pressed()
}

func (b *Budget) pressed() bool {
	return b.size > b.target && b.open[Lane] > b.lanes || len(b.wait[Lane]) > 0 || len(b.wait[Control]) > 0 || len(b.wait[Pin]) > 0 && b.open[Pin] < b.pins
}
