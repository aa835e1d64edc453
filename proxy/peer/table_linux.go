package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
)

// Where the kernel answers no questions it still prints its table of connections. Reading that takes some 2 us for
// each, so it is read for all lookups at once.

// readTables returns the inodes of those sockets that are wanted.
func readTables(wanted map[ends]uint32) {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue // without IPv6 there is one table
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if e, inode, ok := tableLine(lines.Bytes()); ok {
				if _, ok := wanted[e]; ok {
					wanted[e] = inode
				}
			}
		}
		_ = f.Close()
	}
}

// tableLine reads a line such as
//
//	0: 0100007F:A557 0100007F:18EB 01 00000000:00000000 00:00000000 00000000 0 0 1599253 1 ...
//
// It reports false for the heading and for sockets that are nobody's any more.
func tableLine(line []byte) (e ends, inode uint32, ok bool) {
	var fields [10][]byte // up to the inode
	n := 0
	for f := range bytes.FieldsSeq(line) {
		fields[n] = f
		if n++; n == len(fields) {
			break
		}
	}
	if n < len(fields) {
		return ends{}, 0, false
	}
	i, err := strconv.ParseUint(string(fields[9]), 10, 32)
	if err != nil || i == 0 {
		return ends{}, 0, false
	}
	own, ok1 := tableAddr(fields[1])
	other, ok2 := tableAddr(fields[2])
	return ends{own, other}, uint32(i), ok1 && ok2
}

// tableAddr reads an address: words of four bytes as the machine has them, and a port, all in hexadecimal digits.
func tableAddr(text []byte) (netip.AddrPort, bool) {
	digits, port, _ := bytes.Cut(text, []byte(":"))
	var b [16]byte
	if len(digits) > 2*len(b) {
		return netip.AddrPort{}, false
	}
	n, err := hex.Decode(b[:], digits)
	p, err2 := strconv.ParseUint(string(port), 16, 16)
	if err != nil || err2 != nil || n%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < n; i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	addr, ok := netip.AddrFromSlice(b[:n])
	return netip.AddrPortFrom(addr.Unmap(), uint16(p)), ok
}
