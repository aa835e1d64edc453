package peer_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/redbouncer/redbouncer/proxy/peer"
)

// Whose word is taken.

func TestTrustedAreNetworksAddressesAndUnixSockets(t *testing.T) {
	trusted, err := peer.ParseTrusted([]string{"10.1.2.3/8", " 192.168.1.5", "::ffff:172.16.0.0/108", "fd00::/8", "::1", "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := trusted.String(), "10.0.0.0/8 192.168.1.5 172.16.0.0/12 fd00::/8 ::1 unix"; got != want {
		t.Errorf("they are %s, want %s", got, want)
	}
	for _, a := range []string{"10.255.0.1", "::ffff:10.0.0.1", "192.168.1.5", "172.31.0.1", "fd00::7", "::1"} {
		if !trusted.Contains(netip.MustParseAddr(a)) {
			t.Errorf("%s is not trusted", a)
		}
	}
	for _, a := range []string{"11.0.0.1", "192.168.1.6", "::ffff:192.168.1.6", "172.32.0.1", "fe80::1", "::2"} {
		if trusted.Contains(netip.MustParseAddr(a)) {
			t.Errorf("%s is trusted", a)
		}
	}
	if !trusted.Contains(netip.Addr{}) {
		t.Error("unix sockets are not trusted")
	}
}

func TestUnixSocketsAreTrustedOnlyWhereThatIsSaid(t *testing.T) {
	everybody, err := peer.ParseTrusted([]string{"0.0.0.0/0", "::/0"})
	if err != nil {
		t.Fatal(err)
	}
	if everybody.Contains(netip.Addr{}) {
		t.Error("they are, along with every address")
	}
	if !everybody.Contains(netip.MustParseAddr("fe80::1%eth0")) {
		t.Error("an address with a zone is not")
	}
	if (peer.Trusted)(nil).Contains(netip.MustParseAddr("127.0.0.1")) {
		t.Error("nobody has been named, and somebody is trusted")
	}
}

func TestWhatIsNoAddressIsRefusedByName(t *testing.T) {
	for _, w := range []string{"", "balancer", "10.0.0.0/33", "10.0.0", "fe80::1%eth0", "::ffff:10.0.0.0/8", "unix:"} {
		if _, err := peer.ParseTrusted([]string{"::1", w}); err == nil || !strings.Contains(err.Error(), `"`+w+`"`) {
			t.Errorf("%q: %v", w, err)
		}
	}
}
