package eventloop

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller is a loop's epoll instance.
type poller struct {
	// Static after construction.
	epoll   int
	aside   int // another epoll instance, which the first watches: of listeners and of connections that are set aside
	eventFD int

	// Owned by the loop.
	events    []unix.EpollEvent
	asideDue  bool // there is something to be heard from those that are set aside
	asideTill time.Time
	conns     []*Conn // by descriptor
	accept    map[int]*listener
	gen       int32
}

// asideBatch is how many events of those that are set aside are looked at at once.
const asideBatch = 16

// event is what epoll said of a connection.
type event struct {
	c     *Conn
	flags uint32
}

const (
	gone     = unix.EPOLLERR | unix.EPOLLHUP
	readable = unix.EPOLLIN | unix.EPOLLRDHUP | gone
)

func newPoller() (*poller, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	ev, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, os.NewSyscallError("eventfd", err)
	}
	aside, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		_ = unix.Close(ep)
		_ = unix.Close(ev)
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p := &poller{epoll: ep, aside: aside, eventFD: ev, events: make([]unix.EpollEvent, 1024), accept: map[int]*listener{}}
	for _, fd := range []int{ev, aside} {
		if err := control(p.epoll, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, 0); err != nil {
			p.close()
			return nil, err
		}
	}
	return p, nil
}

func (p *poller) close() {
	_ = unix.Close(p.epoll)
	_ = unix.Close(p.aside)
	_ = unix.Close(p.eventFD)
}

func control(epoll, op, fd int, flags uint32, gen int32) error {
	ev := unix.EpollEvent{Events: flags, Fd: int32(fd), Pad: gen}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(epoll, op, fd, &ev))
}

func (p *poller) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(p.eventFD, one[:]) // fails when it is awake as can be
}

// turn waits for events and delivers those of connections that are not late.
func (p *poller) turn(l *Loop) {
	n := p.wait(l)
	l.lookAtClock()
	for i := range n {
		ev := p.events[i]
		fd := int(ev.Fd)
		if fd >= len(p.conns) || p.conns[fd] == nil {
			p.other(fd)
			continue
		}
		c := p.conns[fd]
		switch {
		case c.gen != ev.Pad: // closed in this turn, and its number has been given out again
		case c.late:
			l.late = append(l.late, event{c, ev.Events})
		default:
			event{c, ev.Events}.deliver()
		}
	}
}

// wait returns the number of events. It looks first without telling the scheduler, which is cheaper; then, when there is
// nothing, lets those run who share the processor, as what they send may be there afterwards; and only then goes to sleep,
// through the scheduler. (With an upstream and clients on two processors, 50 clients cost a tenth less CPU a command so.)
func (p *poller) wait(l *Loop) int {
	if n := p.look(); n > 0 {
		return n
	}
	ms := -1
	if d := l.timeout(); d >= 0 {
		ms = int((d + time.Millisecond - 1) / time.Millisecond)
	}
	if ms == 0 {
		return 0
	}
	_, _, _ = syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	if n := p.look(); n > 0 {
		return n
	}
	k, err := unix.EpollWait(p.epoll, p.events, ms)
	if err != nil {
		return 0 // interrupted
	}
	return k
}

// look returns the number of events that there are.
func (p *poller) look() int {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.epoll),
		uintptr(unsafe.Pointer(&p.events[0])), uintptr(len(p.events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// other handles a descriptor that is no connection: the mailbox's, or that for those who are set aside.
func (p *poller) other(fd int) {
	switch fd {
	case p.eventFD:
		var buf [8]byte
		_, _ = unix.Read(fd, buf[:])
	case p.aside:
		p.asideDue = true
	}
}

// turnAside accepts connections, and hears what those have to say that are set aside, for a while. What is left then comes
// in the next turn.
func (p *poller) turnAside(l *Loop) {
	if !p.asideDue {
		return
	}
	p.asideDue = false
	p.asideTill = time.Now().Add(asideTime)
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, uintptr(p.aside),
		uintptr(unsafe.Pointer(&p.events[0])), asideBatch, 0, 0, 0)
	if errno != 0 {
		return
	}
	for i, ev := range p.events[:n] {
		if i > 0 && p.asideOver() {
			break
		}
		fd := int(ev.Fd)
		if ln := p.accept[fd]; ln != nil {
			ln.acceptSome()
		} else if fd < len(p.conns) && p.conns[fd] != nil && p.conns[fd].gen == ev.Pad {
			event{p.conns[fd], ev.Events}.deliver()
		}
	}
	l.opt.Flush()
}

// asideOver reports whether those who are set aside have had their time in this turn.
func (p *poller) asideOver() bool { return !time.Now().Before(p.asideTill) }

// deliver tells a connection's handler what happened.
func (ev event) deliver() {
	c := ev.c
	if ev.flags&unix.EPOLLOUT != 0 && !c.closed {
		c.interest &^= unix.EPOLLOUT
		c.control(unix.EPOLL_CTL_MOD)
		c.h.Writable()
	}
	if ev.flags&readable == 0 || c.closed {
		return
	}
	hungUp := c.paused && ev.flags&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 && c.interest&unix.EPOLLRDHUP != 0
	switch {
	case !c.paused && !c.eof:
		c.readFD()
		return
	case ev.flags&unix.EPOLLERR != 0:
		c.fail(unix.ECONNRESET)
		return
	case ev.flags&unix.EPOLLHUP != 0: // both sides are closed, in good order: epoll would say so for ever
		c.interest, c.unwatched = 0, true
		c.control(unix.EPOLL_CTL_DEL)
	case hungUp:
		c.interest &^= unix.EPOLLRDHUP // once is enough
		c.control(unix.EPOLL_CTL_MOD)
	}
	if hungUp {
		c.h.HungUp()
	}
}

// attachFD puts a socket on the loop, of which the caller says what there is to say.
func (l *Loop) attachFD(as Conn) (*Conn, error) {
	p := l.poller
	for int(as.fd) >= len(p.conns) {
		p.conns = append(p.conns, make([]*Conn, max(64, len(p.conns)))...)
	}
	p.gen++
	c := &as
	c.gen, c.interest = p.gen, unix.EPOLLIN|unix.EPOLLRDHUP
	if err := control(c.epoll(), unix.EPOLL_CTL_ADD, int(c.fd), c.interest, c.gen); err != nil {
		_ = unix.Close(int(c.fd))
		return nil, err
	}
	p.conns[c.fd] = c
	return c, nil
}

// epoll is the instance that watches the connection.
func (c *Conn) epoll() int {
	if c.aside {
		return c.loop.poller.aside
	}
	return c.loop.poller.epoll
}

func (c *Conn) control(op int) {
	_ = control(c.epoll(), op, int(c.fd), c.interest, c.gen) // fails on a closed descriptor only: a bug of ours
}

func (c *Conn) joinFD() {
	if c.unwatched {
		c.aside = false
		return
	}
	c.control(unix.EPOLL_CTL_DEL)
	c.aside = false
	c.control(unix.EPOLL_CTL_ADD)
}

// updateInterest tells epoll what the connection wants to hear.
func (c *Conn) updateInterest() {
	want := c.interest & unix.EPOLLOUT
	switch {
	case c.eof:
	case c.paused:
		want |= unix.EPOLLRDHUP
	default:
		want |= unix.EPOLLIN | unix.EPOLLRDHUP
	}
	switch {
	case want == c.interest:
	case c.unwatched && want&unix.EPOLLIN == 0: // there is nothing more to hear
	case c.unwatched:
		c.interest, c.unwatched = want, false
		c.control(unix.EPOLL_CTL_ADD)
	default:
		c.interest = want
		c.control(unix.EPOLL_CTL_MOD)
	}
}

func (c *Conn) readFD() {
	buf := c.loop.buf
	if c.into != nil {
		buf = *c.into
	}
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, uintptr(c.fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)))
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
	case errno != 0:
		c.fail(errno)
	case n == 0:
		c.eof = true
		c.h.EOF()
		if !c.closed { // most are
			c.updateInterest()
		}
	default:
		c.h.Data(buf[:n])
	}
}

func (c *Conn) writeFD(b []byte) (int, error) {
	total := 0
	for total < len(b) {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, uintptr(c.fd),
			uintptr(unsafe.Pointer(&b[total])), uintptr(len(b)-total))
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if c.interest&unix.EPOLLOUT == 0 {
				c.interest |= unix.EPOLLOUT
				c.control(unix.EPOLL_CTL_MOD)
			}
			return total, nil
		case errno != 0:
			return total, errno
		default:
			total += int(n)
		}
	}
	return total, nil
}

// writeLastFD has the kernel keep b for the segment that says that nothing more will come: the peer is woken once.
func (c *Conn) writeLastFD(b []byte) error {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(c.fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_MORE|unix.MSG_NOSIGNAL, 0, 0)
	switch {
	case errno != 0:
		return errno
	case int(n) < len(b):
		return unix.ENOBUFS
	}
	return nil
}

func (c *Conn) closeWriteFD() { _ = unix.Shutdown(int(c.fd), unix.SHUT_WR) }

func (c *Conn) closeFD() {
	c.loop.poller.conns[c.fd] = nil
	_ = unix.Close(int(c.fd))
}

func (c *Conn) detachFD() int {
	c.control(unix.EPOLL_CTL_DEL)
	c.loop.poller.conns[c.fd] = nil
	return int(c.fd)
}

func (c *Conn) localAddrFD() string {
	sa, err := unix.Getsockname(int(c.fd))
	if err != nil {
		return ""
	}
	return sockaddr(sa)
}

// takeFD takes the socket out of nc, if it is a plain one, and closes nc.
func takeFD(nc net.Conn) (int, bool) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default:
		return 0, false
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return 0, false
	}
	fd, ok := dup(raw)
	if ok {
		_ = nc.Close()
	}
	return fd, ok
}

func dup(raw syscall.RawConn) (int, bool) {
	fd := -1
	err := raw.Control(func(old uintptr) {
		if n, err := unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = n
		}
	})
	if err != nil || fd < 0 {
		return 0, false
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return 0, false
	}
	return fd, true
}

// listener is a listening socket on a loop.
type listener struct {
	l      *Loop
	fd     int
	closed bool
	accept func(Incoming)
	path   string // of a unix socket
	tcp    bool
	local  netip.AddrPort // of a TCP socket, unless it is for several addresses
}

// listenPolled accepts on the loop itself. It reports false for a listener that is not a plain socket's.
func (l *Loop) listenPolled(ln net.Listener, accept func(Incoming)) (func(), bool, error) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil, false, nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, false, err
	}
	fd, ok := dup(raw)
	if !ok {
		return nil, false, fmt.Errorf("listener %s: cannot duplicate its descriptor", ln.Addr())
	}
	x := &listener{l: l, fd: fd, accept: accept, tcp: ln.Addr().Network() == "tcp"}
	if x.tcp {
		if local := addrPort(ln.Addr()); !local.Addr().IsUnspecified() {
			x.local = local
		}
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // Linux has accepted sockets inherit it
	} else {
		x.path = ln.Addr().String()
	}
	l.poller.accept[fd] = x
	if err := control(l.poller.aside, unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN, 0); err != nil {
		x.close()
		return nil, false, err
	}
	return func() { x.close(); _ = ln.Close() }, true, nil
}

func (x *listener) close() {
	if !x.closed {
		x.closed = true
		delete(x.l.poller.accept, x.fd)
		_ = control(x.l.poller.aside, unix.EPOLL_CTL_DEL, x.fd, 0, 0) // somebody else may have the socket too
		_ = unix.Close(x.fd)
	}
}

// acceptSome accepts while there is time in this turn: one at least.
func (x *listener) acceptSome() {
	for first := true; !x.closed && (first || !x.l.poller.asideOver()); first = false {
		var sa unix.RawSockaddrAny
		size := uint32(unix.SizeofSockaddrAny)
		fd, _, errno := syscall.RawSyscall6(syscall.SYS_ACCEPT4, uintptr(x.fd), uintptr(unsafe.Pointer(&sa)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch errno {
		case 0:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EAGAIN:
			return
		default:
			x.rest()
			return
		}
		in := Incoming{fd: int(fd), tcp: x.tcp, remote: x.path + ":0"}
		if x.tcp {
			in.peer, in.local = rawAddrPort(&sa), x.local
			in.remote = in.peer.String()
		}
		x.accept(in)
	}
}

// rawAddrPort is the address that accept has told; an IPv4-mapped one as IPv4.
func rawAddrPort(sa *unix.RawSockaddrAny) netip.AddrPort {
	port := func(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), port(&in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), port(&in.Port))
	}
	return netip.AddrPort{}
}

// rest stops accepting for a moment: the system has no descriptors left, and would wake the loop at once again.
func (x *listener) rest() {
	p := x.l.poller
	_ = control(p.aside, unix.EPOLL_CTL_MOD, x.fd, 0, 0)
	x.l.AfterFunc(acceptPause, func() {
		if !x.closed {
			_ = control(p.aside, unix.EPOLL_CTL_MOD, x.fd, unix.EPOLLIN, 0)
		}
	})
}

// Close drops a connection that nobody took.
func (in Incoming) Close() {
	if in.nc != nil {
		_ = in.nc.Close()
		return
	}
	_ = unix.Close(in.fd)
}

// KeepAlive has the kernel probe the connection when it has been silent for idle; zero or less: never. Plain sockets have
// it from their listener, by SetKeepAlive, and are left as they are.
func (in Incoming) KeepAlive(idle time.Duration) {
	if tcp, ok := plain(in.nc).(*net.TCPConn); ok {
		setKeepAlive(tcp, idle)
	}
}

// SetKeepAlive has the kernel probe the TCP connections that ln accepts from now on when they have been silent for idle;
// zero or less: never. Linux has them inherit it, which saves four calls for each.
func SetKeepAlive(ln net.Listener, idle time.Duration) error {
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil
	}
	return controlListener(tcp, "setsockopt", func(fd int) error {
		if idle <= 0 {
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
		}
		// The intervals are Redis's own (anet.c: anetKeepAlive): a third of the idle time, three probes.
		s := max(int(idle/time.Second), 1)
		for _, o := range [...]struct{ level, option, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, s},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, max(s/3, 1)},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 3},
		} {
			if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func sockaddr(sa unix.Sockaddr) string {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
	case *unix.SockaddrInet6:
		return (&net.TCPAddr{IP: sa.Addr[:], Port: sa.Port}).String()
	case *unix.SockaddrUnix:
		return sa.Name + ":0"
	}
	return ""
}

// SetBacklog sets the length of the queue of connections that ln has not accepted yet.
func SetBacklog(ln net.Listener, n int) error {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil
	}
	return controlListener(sc, "listen", func(fd int) error { return unix.Listen(fd, n) })
}

// controlListener runs f on a listener's descriptor; an error names the call.
func controlListener(ln syscall.Conn, call string, f func(fd int) error) error {
	raw, err := ln.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return os.NewSyscallError(call, failed)
}
