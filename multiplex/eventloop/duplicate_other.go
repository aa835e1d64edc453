//go:build !unix

package eventloop

import "net"

// duplicate is not possible on this system.
func duplicate(net.Conn) (fd int, ok bool) { return -1, false }
