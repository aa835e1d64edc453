package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/pires/go-proxyproto"
)

// Bounds on what a client may send before it has said who it is. That of the first version is the protocol's own; the
// second could be 64 KB long, of which an address takes 52 bytes and a balancer's certificate some 2 KB.
const (
	maxHeaderV1 = 107
	maxHeaderV2 = 4096
)

// prefixV2 is how much of a header of the second version there is before its length is known.
const prefixV2 = 16

// ErrNoHeader says that a client has sent something else than a PROXY protocol header.
var ErrNoHeader = errors.New("no PROXY protocol header: this listener is for a balancer that sends one, " +
	"a client of Redis has to use another")

// Header is what a PROXY protocol header says.
type Header struct {
	// Local is true where the header names no TCP client: the balancer itself connects, to see whether we are well,
	// or it does not know, or its client came by a unix socket. The socket's own addresses hold then.
	Local       bool
	Source      netip.AddrPort // the client; an IPv4-mapped address is given as IPv4
	Destination netip.AddrPort // where it has connected to
}

// ReadHeader reads the PROXY protocol header, of either version, at the start of what a client has sent so far. It
// returns the header's length; 0 without an error: more is needed, and the caller asks again with all there is by
// then. Whatever cannot become a header is an error with the first byte that says so.
func ReadHeader(b []byte) (Header, int, error) {
	switch {
	case len(b) == 0:
		return Header{}, 0, nil
	case startsLike(b, proxyproto.SIGV2):
		return readV2(b)
	case startsLike(b, []byte("PROXY ")):
		return readV1(b)
	}
	return Header{}, 0, ErrNoHeader
}

// startsLike reports whether b begins with the signature, or may still come to.
func startsLike(b, signature []byte) bool {
	n := min(len(b), len(signature))
	return bytes.Equal(b[:n], signature[:n])
}

func readV1(b []byte) (Header, int, error) {
	line := b[:min(len(b), maxHeaderV1)]
	end := bytes.IndexByte(line, '\n')
	switch {
	case end < 0 && len(line) < maxHeaderV1:
		return Header{}, 0, nil
	case end < 0:
		return Header{}, 0, fmt.Errorf("PROXY protocol header: the line does not end within %d bytes", maxHeaderV1)
	}
	return parse(line[:end+1])
}

func readV2(b []byte) (Header, int, error) {
	if len(b) > 12 && b[12]>>4 != 2 {
		return Header{}, 0, fmt.Errorf("PROXY protocol header: version %d is not known", b[12]>>4)
	}
	if len(b) < prefixV2 {
		return Header{}, 0, nil
	}
	n := prefixV2 + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case n > maxHeaderV2:
		return Header{}, 0, fmt.Errorf("PROXY protocol header: %d bytes, at most %d are taken", n, maxHeaderV2)
	case len(b) < n:
		return Header{}, 0, nil
	case b[12]&0xf == byte(proxyproto.PROXY)&0xf && b[13] == byte(proxyproto.UNSPEC):
		// The protocol leaves it to the receiver, and the library would refuse it. The balancer does not know its
		// client's address: that is no reason to turn the client away.
		return Header{Local: true}, n, nil
	}
	return parse(b[:n])
}

// parse takes a whole header to pieces. A value that it does not know, such as the TLVs, is skipped.
func parse(b []byte) (Header, int, error) {
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(b), len(b)))
	if err != nil {
		return Header{}, 0, fmt.Errorf("PROXY protocol header: %w", err)
	}
	if h.Command.IsLocal() || h.TransportProtocol.IsUnix() {
		return Header{Local: true}, len(b), nil
	}
	src, dst, ok := h.TCPAddrs()
	if !ok {
		return Header{}, 0, errors.New("PROXY protocol header: the client's connection is not TCP")
	}
	return Header{Source: unmap(src.AddrPort()), Destination: unmap(dst.AddrPort())}, len(b), nil
}

// unmap gives an address the form in which equal ones are equal.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
