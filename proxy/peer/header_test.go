package peer_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"github.com/redbouncer/redbouncer/proxy/peer"
)

// A balancer says whom it speaks for.

// v2 writes a header of the second version: command, family, and what follows.
func v2(command, family byte, rest string) string {
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(len(rest) >> 8), byte(len(rest))}) + rest
}

const (
	ends4 = "\x0a\x01\x02\x03\x0a\x00\x00\x01\xdc\x04\x18\xeb" // 10.1.2.3:56324 to 10.0.0.1:6379
	noop  = "\x04\x00\x03\x00\x00\x00"                         // a TLV that says nothing
)

var (
	client4 = netip.MustParseAddrPort("10.1.2.3:56324")
	server4 = netip.MustParseAddrPort("10.0.0.1:6379")
	client6 = netip.MustParseAddrPort("[2001:db8::1]:56324")
	server6 = netip.MustParseAddrPort("[2001:db8::2]:6379")
	mapped  = strings.Repeat("\x00", 10) + "\xff\xff"
	ends6   = string(client6.Addr().AsSlice()) + string(server6.Addr().AsSlice()) + ends4[8:]
	unixEnd = "/run/app.sock" + strings.Repeat("\x00", 108-len("/run/app.sock"))
)

var headers = []struct {
	name, bytes string
	want        peer.Header
}{
	{"v1 TCP4", "PROXY TCP4 10.1.2.3 10.0.0.1 56324 6379\r\n", peer.Header{Source: client4, Destination: server4}},
	{"v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 56324 6379\r\n", peer.Header{Source: client6, Destination: server6}},
	{"v1 mapped", "PROXY TCP6 ::ffff:10.1.2.3 ::ffff:10.0.0.1 56324 6379\r\n", peer.Header{Source: client4, Destination: server4}},
	{"v1 UNKNOWN", "PROXY UNKNOWN\r\n", peer.Header{Local: true}},
	{"v1 UNKNOWN with addresses", "PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", peer.Header{Local: true}},
	{"v1 of 107 bytes", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", peer.Header{Local: true}},
	{"v2 TCP4", v2(0x21, 0x11, ends4), peer.Header{Source: client4, Destination: server4}},
	{"v2 TCP6", v2(0x21, 0x21, ends6), peer.Header{Source: client6, Destination: server6}},
	{"v2 mapped", v2(0x21, 0x21, mapped+ends4[:4]+mapped+ends4[4:]), peer.Header{Source: client4, Destination: server4}},
	{"v2 with TLVs", v2(0x21, 0x11, ends4+noop+noop), peer.Header{Source: client4, Destination: server4}},
	{"v2 of 4096 bytes", v2(0x21, 0x11, ends4+"\x04\x0f\xe1"+strings.Repeat("x", 4065)), peer.Header{Source: client4, Destination: server4}},
	{"v2 LOCAL", v2(0x20, 0x00, ""), peer.Header{Local: true}},
	{"v2 LOCAL with an address", v2(0x20, 0x11, ends4), peer.Header{Local: true}},
	{"v2 LOCAL with TLVs", v2(0x20, 0x00, noop), peer.Header{Local: true}},
	{"v2 without an address", v2(0x21, 0x00, noop), peer.Header{Local: true}},
	{"v2 from a unix socket", v2(0x21, 0x31, unixEnd+unixEnd), peer.Header{Local: true}},
}

func TestAHeaderMayComeInPiecesAndTheCommandsBehindItAreLeft(t *testing.T) {
	for _, tt := range headers {
		t.Run(tt.name, func(t *testing.T) {
			all := tt.bytes + "PING\r\n"
			for i := range len(all) {
				h, n, err := peer.ReadHeader([]byte(all[:i]))
				switch {
				case err != nil:
					t.Fatalf("after %d bytes: %v", i, err)
				case i < len(tt.bytes) && n != 0:
					t.Fatalf("after %d of %d bytes it has a header of %d", i, len(tt.bytes), n)
				case i >= len(tt.bytes) && (n != len(tt.bytes) || h != tt.want):
					t.Fatalf("after %d bytes: %+v of %d bytes, want %+v of %d", i, h, n, tt.want, len(tt.bytes))
				}
			}
		})
	}
}

func TestWhatIsNoHeaderIsToldWithTheFirstByteThatShowsIt(t *testing.T) {
	for _, tt := range []struct {
		name, bytes string
		bad         int // the byte that shows it
		text        string
	}{
		{"a command", "*1\r\n$4\r\nPING\r\n", 1, "no PROXY protocol header"},
		{"an inline command", "PING\r\n", 2, "no PROXY protocol header"},
		{"an empty line", "\r\nPING\r\n", 3, "no PROXY protocol header"},
		{"TLS", "\x16\x03\x01", 1, "no PROXY protocol header"},
		{"no space", "PROXYTCP4 ", 6, "no PROXY protocol header"},
		{"an unknown family", "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", 32, "address family"},
		{"a bad address", "PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n", 34, "invalid address"},
		{"a bad port", "PROXY TCP4 1.2.3.4 1.2.3.4 1 70000\r\n", 36, "invalid port"},
		{"a bare line feed", "PROXY UNKNOWN\n", 14, "must end with"},
		{"a line that does not end", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", 107, "within 107 bytes"},
		{"a third version", v2(0x31, 0x11, ends4), 13, "version 3 is not known"},
		{"a header that is too long", v2(0x21, 0x11, strings.Repeat("x", 4081)), 16, "4097 bytes, at most 4096"},
		{"an unknown command", v2(0x22, 0x11, ends4), 28, "command"},
		{"an address that is cut off", v2(0x21, 0x21, ends4), 28, "invalid length"},
		{"UDP", v2(0x21, 0x12, ends4), 28, "not TCP"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.bad {
				if _, n, err := peer.ReadHeader([]byte(tt.bytes[:i])); n != 0 || err != nil {
					t.Fatalf("after %d bytes: %d, %v", i, n, err)
				}
			}
			_, n, err := peer.ReadHeader([]byte(tt.bytes[:tt.bad]))
			if n != 0 || err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("after %d bytes: %d, %v; want an error with %q", tt.bad, n, err, tt.text)
			}
		})
	}
}

func FuzzReadHeader(f *testing.F) {
	for _, h := range headers {
		f.Add([]byte(h.bytes))
		f.Add([]byte(h.bytes + "PING\r\n"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := peer.ReadHeader(b)
		switch {
		case n < 0 || n > len(b) || n > 4096:
			t.Fatalf("%d of %d bytes", n, len(b))
		case err != nil && n != 0:
			t.Fatalf("%d bytes and %v", n, err)
		case err == nil && n == 0 && len(b) >= 4096:
			t.Fatal("it wants even more")
		case n > 0 && !h.Local && !(h.Source.IsValid() && h.Destination.IsValid()):
			t.Fatalf("no addresses: %+v", h)
		}
		for i := range b {
			early, m, e := peer.ReadHeader(b[:i])
			if e != nil && (err == nil || e.Error() != err.Error()) || m != 0 && (m != n || early != h) {
				t.Fatalf("after %d bytes: %+v %d %v; after all %d: %+v %d %v", i, early, m, e, len(b), h, n, err)
			}
		}
	})
}

func TestItReadsWhatTheLibraryWrites(t *testing.T) {
	for version := byte(1); version <= 2; version++ {
		b, err := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(client4),
			net.TCPAddrFromAddrPort(server4)).Format()
		if err != nil {
			t.Fatal(err)
		}
		h, n, err := peer.ReadHeader(append(bytes.Clone(b), "GET k\r\n"...))
		if err != nil || n != len(b) || h.Source != client4 {
			t.Errorf("version %d: %+v, %d, %v", version, h, n, err)
		}
	}
}

func TestAPlainClientIsToldByATypedError(t *testing.T) {
	if _, _, err := peer.ReadHeader([]byte("*")); !errors.Is(err, peer.ErrNoHeader) {
		t.Error(err)
	}
}
