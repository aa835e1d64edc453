package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
	"github.com/redbouncer/redbouncer/proxy/handover"
)

// What the program is started with besides its settings: listening sockets that systemd has opened (LISTEN_FDS), or the line to
// the program that it is to replace.

// handoverVariable is the environment variable that holds the descriptor of that line.
const handoverVariable = "REDBOUNCER_HANDOVER_FD"

// declineTimeout bounds how long it takes to say why this program cannot replace another.
const declineTimeout = time.Second

// inheritance is what there is of it.
type inheritance struct {
	activated []*os.File     // sockets of systemd's
	line      *handover.Line // nil: nobody is to be replaced
	err       error          // why that cannot be used
	begun     bool           // this program serves
}

// inherit takes what there is out of the environment, so that no other program takes it for its own.
func inherit() *inheritance {
	h := &inheritance{activated: activation.Files(true)}
	text, ok := os.LookupEnv(handoverVariable)
	if !ok {
		return h
	}
	_ = os.Unsetenv(handoverVariable) // fails for names that are none
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		h.err = fmt.Errorf("%s: %q is no descriptor that a program has been started with: it is not for people to set", handoverVariable, text)
		return h
	}
	if h.line, err = handover.Open(os.NewFile(uintptr(fd), "handover")); err != nil {
		h.err = fmt.Errorf("%s: %w: it is not for people to set", handoverVariable, err)
	}
	return h
}

// decline tells the program that was to be replaced why it is not.
func (h *inheritance) decline(err error) {
	if h.line == nil || h.begun {
		return
	}
	h.line.SetDeadline(time.Now().Add(declineTimeout))
	_ = h.line.Send(handover.FailedKind, &handover.Failed{Error: strings.Join(report(err), "; ")}) // it may be gone
	h.line.Close()
}

// share gives the sockets to those whose settings they are for.
func (h *inheritance) share(cfg *proxy.Config, operators *admin.Config) error {
	cfg.Inherited, operators.Inherited = map[string]proxy.Inherited{}, map[string]proxy.Inherited{}
	switch {
	case h.err != nil:
		return h.err
	case h.line != nil:
		return h.shareOffer(cfg, operators)
	}
	for _, f := range h.activated {
		if err := h.shareSocket(f, cfg, operators); err != nil {
			return err
		}
	}
	return nil
}

// shareOffer gives away what the program before this one offers. An address that is not in the settings any more is not
// listened at any longer.
func (h *inheritance) shareOffer(cfg *proxy.Config, operators *admin.Config) error {
	var offer handover.Offer
	r, err := h.line.Expect(handover.OfferKind, &offer)
	if err != nil {
		return fmt.Errorf("the program before this one says nothing: %w", err)
	}
	defer r.Close()
	if offer.Version != handover.Version {
		return fmt.Errorf("the running program hands over in version %d, and this one knows version %d: stop it and start this one",
			offer.Version, handover.Version)
	}
	if len(offer.Listeners) != len(r.FDs) {
		return fmt.Errorf("%d listeners came with %d sockets", len(offer.Listeners), len(r.FDs))
	}
	fds := r.FDs
	r.FDs = nil
	for i, l := range offer.Listeners {
		ln, err := handover.Received(fds[i])
		if err != nil {
			return fmt.Errorf("%s %s cannot be taken over: %w", l.Setting, l.Addr, err)
		}
		switch inherited := (proxy.Inherited{Listener: ln, Kept: l.Kept}); {
		case l.Setting == "listen" && slices.Contains(cfg.Listen, l.Addr):
			cfg.Inherited[l.Addr] = inherited
		case l.Setting == "admin-listen" && operators.Listen == l.Addr, l.Setting == "http-listen" && operators.HTTPListen == l.Addr:
			operators.Inherited[l.Setting] = inherited
		default:
			_ = ln.Close()
		}
	}
	return nil
}

// shareSocket gives a socket of systemd's to the setting that has its address.
func (h *inheritance) shareSocket(f *os.File, cfg *proxy.Config, operators *admin.Config) error {
	ln, err := net.FileListener(f)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("the socket %s in LISTEN_FDS is not one to accept connections at: %w; want ListenStream= in the socket unit",
			f.Name(), err)
	}
	inherited := proxy.Inherited{Listener: ln, Kept: true}
	for _, addr := range cfg.Listen {
		if _, taken := cfg.Inherited[addr]; !taken && listensAt(ln.Addr(), addr) {
			cfg.Inherited[addr] = inherited
			return nil
		}
	}
	for setting, addr := range map[string]string{"admin-listen": operators.Listen, "http-listen": operators.HTTPListen} {
		if listensAt(ln.Addr(), addr) {
			operators.Inherited[setting] = inherited
			return nil
		}
	}
	_ = ln.Close()
	return fmt.Errorf("the socket %s in LISTEN_FDS is at %s, which is not an address in listen, admin-listen or http-listen: want it there, "+
		"or not in the socket unit", f.Name(), ln.Addr())
}

// listensAt reports whether a socket is one that an address in the settings stands for.
func listensAt(at net.Addr, addr string) bool {
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		return at.Network() == "unix" && at.String() == path
	}
	own, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return false
	}
	want, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(addr, "tls://"))
	if err != nil || want.Port != int(own.Port()) {
		return false
	}
	ip, ok := netip.AddrFromSlice(want.IP)
	if !ok || ip.IsUnspecified() {
		return own.Addr().IsUnspecified()
	}
	return ip.Unmap() == own.Addr().Unmap()
}

// succeed replaces the program before this one, if there is one: when it returns nil, this one is to serve.
func (h *inheritance) succeed(server *proxy.Server) error {
	if h.line == nil {
		return nil
	}
	if err := server.Succeed(h.line); err != nil {
		return err
	}
	h.begun = true
	return nil
}
