//go:build unix

package eventloop

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// duplicate returns a duplicate of a plain connection's descriptor.
func duplicate(nc net.Conn) (fd int, ok bool) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return -1, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return -1, false
	}
	fd = -1
	err = raw.Control(func(old uintptr) {
		if n, err := unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			fd = n
		}
	})
	return fd, err == nil && fd >= 0
}
