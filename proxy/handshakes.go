package proxy

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Before the TLS handshake of a client is over, it has been counted by no rule, and has cost more than it ever will again:
// a millisecond and more of CPU time, where the key is RSA. So three things are bounded for all listeners together:
//
//   - how many are under way: maxHandshakes. When all of these places are taken, who has had its peer wait for it the longest
//     makes room for others, if that is longer than shedAfter; otherwise nobody is accepted, and the kernel's queue is where
//     clients wait. So neither a flood of connections that say nothing keeps others out, nor are those turned away that wait
//     because the machine is slow;
//   - how many compute at the same time: half of the processors. Places to compute are not held by who waits for its peer;
//   - how long each may take: handshake-timeout, or handshakeTime.
const (
	maxHandshakes = 512
	shedAfter     = time.Second
	handshakeTime = 10 * time.Second
)

// handshakes are those under way.
type handshakes struct {
	// Static after construction.
	places    chan struct{} // one is taken by each that is under way
	computing chan struct{} // one is taken by each that computes
	stopped   chan struct{} // closed by stop
	stopping  sync.Once

	// mu guards the following fields.
	mu    sync.Mutex
	under map[*paced]struct{}

	running sync.WaitGroup // all goroutines
}

func newHandshakes() *handshakes {
	return &handshakes{
		places:    make(chan struct{}, maxHandshakes),
		computing: make(chan struct{}, max(runtime.GOMAXPROCS(0)/2, 1)),
		stopped:   make(chan struct{}),
		under:     map[*paced]struct{}{},
	}
}

// place waits for a place, and reports false if there will be none any more.
func (h *handshakes) place() bool {
	for {
		select {
		case h.places <- struct{}{}:
			return true
		case <-h.stopped:
			return false
		default:
		}
		h.shed()
		t := time.NewTimer(20 * time.Millisecond)
		select {
		case h.places <- struct{}{}:
			t.Stop()
			return true
		case <-h.stopped:
			t.Stop()
			return false
		case <-t.C:
		}
	}
}

// shed ends the handshake that has been waited for the longest, if that is too long.
func (h *handshakes) shed() {
	h.mu.Lock()
	defer h.mu.Unlock()
	var slowest *paced
	longest := shedAfter
	for p := range h.under {
		if d := p.keptWaiting(); d > longest && !p.shed.Load() {
			slowest, longest = p, d
		}
	}
	if slowest != nil {
		slowest.shed.Store(true)
		_ = slowest.Conn.Close()
	}
}

// begin notes a handshake whose place has been taken. Its end is end.
func (h *handshakes) begin(nc net.Conn) *paced {
	p := &paced{Conn: nc, h: h}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.under[p] = struct{}{}
	select {
	case <-h.stopped:
		_ = nc.Close()
	default:
	}
	return p
}

// idle reports whether none is under way.
func (h *handshakes) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.under) == 0
}

func (h *handshakes) end(p *paced) {
	h.mu.Lock()
	delete(h.under, p)
	h.mu.Unlock()
	<-h.places
}

// stop ends all that are under way. Their goroutines end then. It may be called more than once.
func (h *handshakes) stop() {
	h.stopping.Do(func() { close(h.stopped) })
	h.mu.Lock()
	defer h.mu.Unlock()
	for p := range h.under {
		_ = p.Conn.Close()
	}
}

// paced is the connection below a handshake. While it waits for its peer, somebody else may compute.
type paced struct {
	net.Conn
	h *handshakes

	heard []byte // what was read and is to be read again

	// free says that the handshake is over. It is set before anybody else gets the connection.
	free bool

	// Atomic.
	shed   atomic.Bool  // it has been closed to make room
	since  atomic.Int64 // when it began to wait for its peer, in Unix nanoseconds; 0: it does not
	waited atomic.Int64 // for how long it has waited before
}

// NetConn returns the connection below, as tls.Conn does.
func (p *paced) NetConn() net.Conn { return p.Conn }

func (p *paced) keptWaiting() time.Duration {
	d := p.waited.Load()
	if since := p.since.Load(); since != 0 {
		d += time.Now().UnixNano() - since
	}
	return time.Duration(d)
}

// Read implements net.Conn.
func (p *paced) Read(b []byte) (int, error) {
	if p.free {
		return p.Conn.Read(b)
	}
	if len(p.heard) > 0 {
		n := copy(b, p.heard)
		p.heard = p.heard[n:]
		return n, nil
	}
	defer p.wait()()
	return p.Conn.Read(b)
}

// Write implements net.Conn. A peer that does not read may keep it waiting too.
func (p *paced) Write(b []byte) (int, error) {
	if p.free {
		return p.Conn.Write(b)
	}
	defer p.wait()()
	return p.Conn.Write(b)
}

// wait gives up the place to compute, and returns what takes one again.
func (p *paced) wait() (done func()) {
	<-p.h.computing
	begin := time.Now().UnixNano()
	p.since.Store(begin)
	return func() {
		p.since.Store(0)
		p.waited.Add(time.Now().UnixNano() - begin)
		p.h.computing <- struct{}{}
	}
}
