package peer_test

import (
	"fmt"
	"net/netip"
	"os"

	"github.com/redbouncer/redbouncer/proxy/peer"
)

// A balancer that is trusted says for whom it connects.
func ExampleReadHeader() {
	trusted, err := peer.ParseTrusted([]string{"10.0.0.0/8", "unix"})
	if err != nil {
		fmt.Println(err)
		return
	}
	if !trusted.Contains(netip.MustParseAddr("10.0.0.7")) {
		return
	}
	received := []byte("PROXY TCP4 192.0.2.1 10.0.0.1 56324 6379\r\nPI")
	h, n, err := peer.ReadHeader(received)
	switch {
	case err != nil:
		fmt.Println(err) // and close
	case n == 0: // wait for more, with what there is
	default:
		fmt.Printf("%s sends %q\n", h.Source, received[n:])
	}
	// Output: 192.0.2.1:56324 sends "PI"
}

// Whoever is at the other end of a connection on this host is found away from the event loop, which is told by a post.
func ExampleResolver() {
	r := peer.NewResolver()
	go r.Run()
	defer r.Stop()
	local, remote := netip.MustParseAddrPort("10.0.0.1:6379"), netip.MustParseAddrPort("10.0.0.9:56324")
	if !r.Lookup(local, remote, func(p *peer.Process) { fmt.Println(p) }) {
		fmt.Println("is on another host")
	}
	// Output: is on another host
}

func ExampleByPID() {
	if p, ok := peer.ByPID(os.Getpid()); ok {
		fmt.Println(p.PID == os.Getpid()) // p.Command is "peer.test"
	}
}
