package peer

import (
	"fmt"
	"net/netip"
	"strings"
)

// Trusted are the addresses whose word is taken on whom they speak for. The zero Prefix among them stands for unix
// sockets. The zero value trusts nobody.
type Trusted []netip.Prefix

// unixWord is what stands for unix sockets in a setting.
const unixWord = "unix"

// ParseTrusted reads networks ("10.0.0.0/8"), addresses ("192.168.1.5"), and "unix" for unix sockets.
func ParseTrusted(words []string) (Trusted, error) {
	var t Trusted
	for _, w := range words {
		p, err := parseTrusted(strings.TrimSpace(w))
		if err != nil {
			return nil, err
		}
		t = append(t, p)
	}
	return t, nil
}

func parseTrusted(word string) (netip.Prefix, error) {
	if word == unixWord {
		return netip.Prefix{}, nil
	}
	if addr, err := netip.ParseAddr(word); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(word)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is no address such as 192.168.1.5, no network such as 10.0.0.0/8 and not %q",
			word, unixWord)
	}
	const mapped = 128 - 32 // the bits of ::ffff:0:0/96, in front of an IPv4 address
	if p.Addr().Is4In6() {
		if p.Bits() < mapped {
			return netip.Prefix{}, fmt.Errorf("%q: a network of IPv4-mapped addresses has at least /%d", word, mapped)
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), nil
}

// Contains reports whether an address is among them, be it written as IPv4 or IPv4-mapped. The zero Addr is that of a
// client on a unix socket.
func (t Trusted) Contains(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, p := range t {
		if p.Contains(addr) || !p.IsValid() && !addr.IsValid() {
			return true
		}
	}
	return false
}

// String writes them as ParseTrusted reads them, separated by spaces.
func (t Trusted) String() string {
	words := make([]string, len(t))
	for i, p := range t {
		switch {
		case !p.IsValid():
			words[i] = unixWord
		case p.IsSingleIP():
			words[i] = p.Addr().String()
		default:
			words[i] = p.String()
		}
	}
	return strings.Join(words, " ")
}
