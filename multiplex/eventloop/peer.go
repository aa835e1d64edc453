package eventloop

import (
	"net"
	"net/netip"
)

// Addrs returns the two addresses of a TCP connection, IPv4-mapped ones as IPv4. Those of a unix socket are zero. It is
// asked before Attach, like PeerPID.
func (in Incoming) Addrs() (local, remote netip.AddrPort) {
	if in.nc == nil {
		return in.addrsFD()
	}
	return addrPort(in.nc.LocalAddr()), addrPort(in.nc.RemoteAddr())
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := tcp.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// PeerPID returns the number of the process that connected to a unix socket; 0: not known. That is so for TCP, for a
// process in a namespace that ours does not see, and where the system does not tell.
func (in Incoming) PeerPID() int {
	if in.nc == nil {
		return peerPID(uintptr(in.fd))
	}
	u, ok := plain(in.nc).(*net.UnixConn)
	if !ok {
		return 0
	}
	pid := 0
	if raw, err := u.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { pid = peerPID(fd) }) // fails when it is closed
	}
	return pid
}

// plain returns the connection that carries nc, if that is TLS.
func plain(nc net.Conn) net.Conn {
	for {
		w, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = w.NetConn()
	}
}
