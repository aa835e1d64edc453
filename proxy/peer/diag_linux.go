package peer

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// ends are the two ends of a TCP connection, as its client sees them.
type ends struct{ own, other netip.AddrPort }

// diag asks the kernel for one socket by its addresses (sock_diag(7)): a look-up in its hash table, some 4 us however
// many sockets there are. It takes no privileges. Used by one goroutine.
type diag struct {
	fd  int
	seq uint32
	buf [512]byte
}

// errNoDiag says that the kernel does not answer: it has been built without, or a sandbox forbids it.
var errNoDiag = errors.New("the kernel does not answer questions about sockets")

const (
	sizeHeader  = 16 // struct nlmsghdr
	sizeRequest = 56 // struct inet_diag_req_v2
	offsetInode = 68 // in struct inet_diag_msg
	sizeMessage = 72

	tcpListen = 10 // the kernel's TCP_LISTEN
	noCookie  = 0xffffffff
)

// openDiag opens a socket for questions, and tries whether they are answered. That has to be tried: a kernel that
// lacks the module says of every socket that it does not exist.
func openDiag() (*diag, error) {
	try, err := newDiag()
	if err != nil {
		return nil, err
	}
	defer try.close()
	// All listening sockets are few. The answer is in several parts, which the socket takes along when it is closed.
	kind, _, err := try.ask(unix.AF_INET, unix.NLM_F_DUMP, 1<<tcpListen, ends{})
	if err != nil {
		return nil, err
	}
	if kind == unix.NLMSG_ERROR {
		return nil, errNoDiag
	}
	return newDiag()
}

func newDiag() (*diag, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	return &diag{fd: fd}, nil
}

func (d *diag) close() { _ = unix.Close(d.fd) }

// inode returns the inode of the socket with these ends; 0: there is none, or it is nobody's any more. An error says
// that the kernel has stopped answering.
func (d *diag) inode(e ends) (uint32, error) {
	// Java opens IPv6 sockets for IPv4 too, with mapped addresses. Linux finds a socket of either family by its IPv4
	// address; what plays Linux need not.
	families := []uint8{unix.AF_INET, unix.AF_INET6}
	if !e.own.Addr().Is4() {
		families = families[1:]
	}
	for _, family := range families {
		kind, msg, err := d.ask(family, 0, 0xffffffff, e)
		if err != nil {
			return 0, err
		}
		if kind != unix.SOCK_DIAG_BY_FAMILY || len(msg) < sizeMessage || msg[1] == tcpListen {
			continue // not found; where there is no connection, the kernel offers whoever listens on the port
		}
		if inode := binary.NativeEndian.Uint32(msg[offsetInode:]); inode != 0 {
			return inode, nil
		}
	}
	return 0, nil
}

// ask sends one question and returns the first message of the answer, which is there when the question has been written.
func (d *diag) ask(family uint8, flags uint16, states uint32, e ends) (kind uint16, msg []byte, err error) {
	d.seq++
	q := d.buf[:sizeHeader+sizeRequest]
	clear(q)
	ne := binary.NativeEndian
	ne.PutUint32(q[0:], uint32(len(q)))
	ne.PutUint16(q[4:], unix.SOCK_DIAG_BY_FAMILY)
	ne.PutUint16(q[6:], unix.NLM_F_REQUEST|flags)
	ne.PutUint32(q[8:], d.seq)
	r := q[sizeHeader:]
	r[0], r[1] = family, unix.IPPROTO_TCP
	ne.PutUint32(r[4:], states)
	binary.BigEndian.PutUint16(r[8:], e.own.Port())
	binary.BigEndian.PutUint16(r[10:], e.other.Port())
	putAddr(r[12:28], family, e.own.Addr())
	putAddr(r[28:44], family, e.other.Addr())
	ne.PutUint32(r[48:], noCookie)
	ne.PutUint32(r[52:], noCookie)
	if _, err := unix.Write(d.fd, q); err != nil { // a socket that is not connected writes to the kernel
		return 0, nil, os.NewSyscallError("write", err)
	}
	for {
		n, err := unix.Read(d.fd, d.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, nil, os.NewSyscallError("read", err)
		case n < sizeHeader:
			return 0, nil, errNoDiag
		case ne.Uint32(d.buf[8:]) == d.seq: // others answer a question that was given up
			return ne.Uint16(d.buf[4:]), d.buf[sizeHeader:n], nil
		}
	}
}

func putAddr(b []byte, family uint8, a netip.Addr) {
	switch {
	case !a.IsValid():
	case family == unix.AF_INET:
		a4 := a.As4()
		copy(b, a4[:])
	default:
		a16 := a.As16() // an IPv4 address becomes a mapped one
		copy(b, a16[:])
	}
}
