package eventloop

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

func (in Incoming) addrsFD() (local, remote netip.AddrPort) {
	if in.local.IsValid() {
		return in.local, in.peer
	}
	own, _ := unix.Getsockname(in.fd)
	return sockaddrPort(own), in.peer
}

func sockaddrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// peerPID asks for the process that called connect. The kernel says 0 of TCP, and of one in another namespace.
func peerPID(fd uintptr) int {
	cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0
	}
	return int(cred.Pid)
}
