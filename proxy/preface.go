package proxy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// Behind a load balancer, all clients come from its address. On listeners that accept-proxy names, each connection begins
// with a PROXY protocol header that tells the true one, and only the peers in trusted-proxies may say so: whoever could
// claim an address could be anybody.

const (
	// prefaceTime is how long a header may take.
	prefaceTime = 5 * time.Second
	// maxPrefaces bounds the connections of a worker whose header has not come yet.
	maxPrefaces = 512
)

// preface is a connection whose header has not come yet. It implements eventloop.Handler.
type preface struct {
	w      *worker
	caller caller
	conn   *eventloop.Conn
	timer  *eventloop.Timer
	heard  []byte
}

// introduce waits for a header, on the worker's loop.
func (w *worker) introduce(c caller) {
	if _, remote := c.in.Addrs(); !w.cfg.TrustedProxies.Contains(remote.Addr()) {
		w.srv.distrust(c, "not among trusted-proxies")
		c.in.Close()
		return
	}
	if w.prefaces >= maxPrefaces || w.stopping {
		w.srv.distrust(c, "too many connections wait for their PROXY protocol header")
		c.in.Close()
		return
	}
	p := &preface{w: w, caller: c}
	conn, err := w.loop.Attach(c.in, p)
	if err != nil {
		return
	}
	w.prefaces++
	p.conn = conn
	p.timer = w.loop.AfterFunc(prefaceTime, func() { p.fail("no PROXY protocol header in time") })
}

// distrust has the log told of a connection that is not a trusted proxy's.
func (s *Server) distrust(c caller, why string) {
	s.gate.CountRefusal()
	s.tell(limits.Refusal{Source: c.ids[limits.ByAddr], Reason: limits.Reason(why)}, c.remote)
}

func (p *preface) end() {
	p.timer.Stop()
	p.w.prefaces--
}

func (p *preface) fail(why string) {
	p.end()
	p.w.srv.distrust(p.caller, why)
	p.conn.Close()
}

// Data implements eventloop.Handler.
func (p *preface) Data(b []byte) {
	p.heard = append(p.heard, b...)
	h, n, err := peer.ReadHeader(p.heard)
	switch {
	case err != nil:
		p.fail(fmt.Sprintf("bad PROXY protocol header: %v", err))
		return
	case n == 0:
		return
	}
	p.end()
	c := p.caller
	if !h.Local {
		c.become(h.Source)
	}
	p.w.srv.knockWith(p.w, c, p.conn, p.heard[n:])
}

// become gives a caller the address that its proxy has told.
func (c *caller) become(source netip.AddrPort) {
	c.remote = source.String()
	c.ids[limits.ByAddr] = source.Addr().String()
	c.ids[limits.ByPID], c.ids[limits.ByProcess], c.ids[limits.ByContainer] = "", "", "" // those are the proxy's
	c.onHost, c.process = false, nil
}

// EOF implements eventloop.Handler: a health check that only connects.
func (p *preface) EOF() {
	p.end()
	p.conn.Close()
}

// HungUp implements eventloop.Handler.
func (p *preface) HungUp() {}

// Writable implements eventloop.Handler.
func (p *preface) Writable() {}

// Failed implements eventloop.Handler.
func (p *preface) Failed(error) { p.end() }
