package peer

import "net/netip"

// onThisHost reports whether a client's address is one of this host. A client that does not choose its address is
// given the very one that it connects to, or a loopback one.
func onThisHost(local, remote netip.Addr) bool {
	return local.IsValid() && (local == remote || local.IsLoopback() && remote.IsLoopback() && local.Is4() == remote.Is4())
}
