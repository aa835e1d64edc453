package doctor

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// socketsTo counts the TCP connections to a server that the kernel of this host knows of, which takes no place at the server.
// It returns nil where there is nothing to be read, and for a unix socket.
func socketsTo(network, addr string) *SocketsReport {
	host, portText, err := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(portText)
	if network == "unix" || err != nil || port == 0 {
		return nil
	}
	found, err := net.LookupIP(host)
	if err != nil {
		return nil
	}
	here := isLocal(network, addr)
	counts := map[string]int{}
	readable := false
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.Open(name)
		if err != nil {
			continue
		}
		readable = true
		for lines := bufio.NewScanner(text); lines.Scan(); {
			local, remote, ok := establishedEnds(lines.Text())
			switch {
			case !ok:
			case here && int(local.Port()) == port:
				counts[remote.Addr().String()]++
			case !here && int(remote.Port()) == port && slices.ContainsFunc(found, func(ip net.IP) bool {
				a, _ := netip.AddrFromSlice(ip)
				return a.Unmap() == remote.Addr()
			}):
				counts["this host"]++
			}
		}
		_ = text.Close()
	}
	if !readable {
		return nil
	}
	r := &SocketsReport{Server: here}
	for value, n := range counts {
		r.Total += n
		r.Sources = append(r.Sources, Source{Value: value, Open: n})
	}
	slices.SortFunc(r.Sources, func(a, b Source) int { return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(a.Value, b.Value)) })
	return r
}

// established is the state in /proc/net/tcp.
const established = "01"

// establishedEnds reads a line of /proc/net/tcp or tcp6. It reports false for one that is no established connection.
func establishedEnds(line string) (local, remote netip.AddrPort, ok bool) {
	words := strings.Fields(line)
	if len(words) < 4 || words[3] != established {
		return local, remote, false
	}
	local, ok = kernelAddr(words[1])
	if !ok {
		return local, remote, false
	}
	remote, ok = kernelAddr(words[2])
	return local, remote, ok
}

// kernelAddr reads an address as the kernel prints it: words of four bytes, in the order of the machine, in hexadecimal.
func kernelAddr(text string) (netip.AddrPort, bool) {
	ip, portText, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(ip)
	port, err2 := strconv.ParseUint(portText, 16, 16)
	if !ok || err != nil || err2 != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for at := 0; at < len(raw); at += 4 {
		binary.NativeEndian.PutUint32(raw[at:], binary.BigEndian.Uint32(raw[at:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), ok
}
