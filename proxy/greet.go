package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/certs"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// TLS clients are accepted and greeted in goroutines of their own, as a handshake would hold up all the others of a loop.
// They come to the loops when they can be talked to, and are counted and let in, or told that they are not, like all.

// acceptPause is how long a listener rests when the system has no descriptors left.
const acceptPause = 50 * time.Millisecond

// greeter accepts the clients of a TLS listener.
type greeter struct {
	// Static after construction.
	s     *Server
	ln    net.Listener
	name  string // as Config.Listen spells it
	certs *certs.Store
}

// acceptTLS opens a TLS listener's door. Stop closes it, and ends the handshakes of all such listeners.
func (s *Server) acceptTLS(ln net.Listener, name string) {
	g := &greeter{s: s, ln: ln, name: name, certs: s.certs}
	s.handshakes.running.Go(g.accept)
}

// accept ends when the listener is closed.
func (g *greeter) accept() {
	h := g.s.handshakes
	for h.place() {
		nc, err := g.ln.Accept()
		switch {
		case err == nil:
			p := h.begin(nc)
			h.running.Go(func() { g.greet(p) })
			continue
		case errors.Is(err, net.ErrClosed):
			<-h.places
			return
		}
		<-h.places
		time.Sleep(acceptPause) // out of descriptors, most likely; some will be closed
	}
}

// greet brings a connection to where its client can be talked to, and hands it to the loops. It ends in bounded time.
func (g *greeter) greet(p *paced) {
	h := g.s.handshakes
	defer h.end(p)
	cfg := g.s.current.Load() // a reload changes some of it
	timeout := handshakeTime
	if cfg.HandshakeTimeout > 0 {
		timeout = cfg.HandshakeTimeout
	}
	_ = p.SetDeadline(time.Now().Add(timeout))
	c := greeted{listener: g.name, remote: p.RemoteAddr()}
	h.computing <- struct{}{}
	if slices.Contains(cfg.AcceptProxy, g.name) && !g.introduce(p, &c, cfg.TrustedProxies) {
		<-h.computing
		_ = p.Close()
		return
	}
	conn := tls.Server(p, g.certs.Config())
	err := conn.Handshake()
	<-h.computing
	if err != nil {
		g.refuse(p, &c, err)
		return
	}
	_ = p.SetDeadline(time.Time{})
	p.free = true // a goroutine that reads is started later
	if state := conn.ConnectionState(); len(state.VerifiedChains) > 0 {
		cert := state.PeerCertificates[0]
		c.certified, c.cert = true, certName(cert)
		c.byCert, c.certUser = g.s.cfg.TLS.AuthClientsUser == "CN", cert.Subject.CommonName
	}
	c.in = eventloop.Accepted(conn)
	if !g.s.workers[0].loop.Post(func() { g.s.incomingTLS(&c) }) {
		_ = p.Close()
	}
}

// greeted is a client that can be talked to.
type greeted struct {
	in        eventloop.Incoming
	listener  string
	remote    net.Addr
	source    netip.AddrPort // what a PROXY protocol header has told; or invalid
	certified bool           // it has shown a certificate, which is good
	cert      string         // the name in it
	byCert    bool           // it is to act as certUser
	certUser  string
}

// addr is the client's address as far as it is known.
func (c *greeted) addr() string {
	if c.source.IsValid() {
		return c.source.String()
	}
	return c.remote.String()
}

// introduce reads a PROXY protocol header, and reports false if there was none that could be believed. The log has been told
// then.
func (g *greeter) introduce(p *paced, c *greeted, trusted peer.Trusted) bool {
	distrust := func(why string) bool {
		g.s.refuseGreeting(c, why)
		return false
	}
	from, err := netip.ParseAddrPort(c.remote.String())
	if err != nil || !trusted.Contains(from.Addr().Unmap()) {
		return distrust("not among trusted-proxies")
	}
	var heard []byte
	buf := make([]byte, 512)
	for {
		n, err := p.Read(buf)
		heard = append(heard, buf[:n]...)
		header, used, bad := peer.ReadHeader(heard)
		switch {
		case bad != nil:
			return distrust(fmt.Sprintf("bad PROXY protocol header: %v", bad))
		case used > 0:
			if !header.Local {
				c.source = header.Source
			}
			p.heard = heard[used:]
			return true
		case errors.Is(err, io.EOF):
			return false // a health check that only connects
		case p.shed.Load():
			return distrust("its PROXY protocol header took long, and others waited")
		case err != nil:
			return distrust("no PROXY protocol header in time")
		}
	}
}

// refuse ends a connection whose handshake has failed. Who speaks plain text is told so in plain text.
func (g *greeter) refuse(p *paced, c *greeted, err error) {
	why, worth := tlsRefusal(err)
	var header tls.RecordHeaderError
	switch {
	case p.shed.Load():
		why, worth = "its TLS handshake took long, and others waited", true
	case errors.As(err, &header) && header.Conn != nil:
		g.tellInPlain(p.Conn)
	}
	_ = p.Close()
	if !worth {
		g.s.gate.CountRefusal()
		return
	}
	more := []any{"listener", g.name, "error", err.Error()}
	if cert := describe(err); cert != "" {
		more = append(more, "certificate", cert)
	}
	g.s.refuseGreeting(c, why, more...)
}

// tellInPlain tells a client that speaks no TLS what it is to do, in Redis's protocol, which it most likely speaks.
func (g *greeter) tellInPlain(nc net.Conn) {
	_ = nc.SetDeadline(time.Now().Add(lingerTime))
	if _, err := nc.Write(replyWantsTLS); err != nil {
		return
	}
	if tcp, ok := nc.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(nc, waitingInput)) // else what it still sends would have the text thrown away
	}
}

var replyWantsTLS = []byte("-ERR this address is for TLS connections only (redis-cli --tls, rediss:// in a URL)\r\n")

// refuseGreeting has the log told of a client that has not come as far as to be talked to.
func (s *Server) refuseGreeting(c *greeted, why string, more ...any) {
	s.gate.CountRefusal()
	addr := c.addr()
	s.tell(limits.Refusal{Source: hostOf(addr), Reason: limits.Reason(why)}, addr, more...)
}

// incomingTLS is incoming for a client that has been greeted. It runs on the first worker's loop.
func (s *Server) incomingTLS(g *greeted) {
	c := &s.caller
	*c = s.call(g.in, g.listener)
	if g.source.IsValid() {
		c.become(g.source)
	}
	c.certified, c.ids[limits.ByCert] = g.certified, g.cert
	if c.byCert, c.certUser = g.byCert, g.certUser; c.byCert {
		c.ids[limits.ByUser] = c.certUser
	}
	s.decideOn(c)
}
