package proxy

import (
	"net"
	"net/netip"
)

// Protected mode is Redis's: it does not serve other hosts while nobody has said who may connect. Here that is so while
// the proxy holds credentials for the upstream: a client that says nothing acts with them. Who has shown a TLS certificate
// that an authority of ours has signed has been told that it may.

var replyProtected = []byte("-DENIED redbouncer is running in protected mode because it holds credentials for its " +
	"upstream and asks clients for none. In this mode connections are only accepted from the loopback interface and " +
	"on unix sockets. If you want to connect from other hosts, you may adopt one of the following solutions: 1) Have " +
	"it listen on the loopback interface or a unix socket, and connect from its own host. 2) Set protected-mode to no, " +
	"if only those can reach it who may use its credentials. 3) Give it an upstream URL without credentials, so that " +
	"clients authenticate themselves with AUTH.\r\n")

// protects reports whether protected mode is in force. A certificate that the upstream is shown is a credential like a
// password.
func (c Config) protects() bool {
	return c.ProtectedMode != "no" && (c.Upstream.HasCredentials() || c.UpstreamTLS.Files.Cert != "")
}

// isLocal reports whether a client's address, as Incoming.Remote has it, is on this host: the loopback interface, or
// a unix socket, whose path is no IP address.
func isLocal(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote != "" // a path with colons in it
	}
	ip, err := netip.ParseAddr(host)
	return err != nil || ip.Unmap().IsLoopback()
}

// beyondLoopback reports whether other hosts may be able to reach a listener.
func beyondLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && !tcp.IP.IsLoopback()
}
