//go:build !unix

package handover

import (
	"errors"
	"net"
	"os"
	"time"
)

// errSystem says that sockets cannot be handed over.
var errSystem = errors.New("sockets cannot be handed over to another process on this system")

// Line does not exist on this system.
type Line struct{}

// Record does not exist on this system.
type Record struct {
	Kind Kind
	Body []byte
	FDs  []int
}

// Pair is not possible on this system.
func Pair() (*Line, *os.File, error) { return nil, nil, errSystem }

// Open is not possible on this system.
func Open(*os.File) (*Line, error) { return nil, errSystem }

// Send is not possible on this system.
func (*Line) Send(Kind, any, ...int) error { return errSystem }

// Receive is not possible on this system.
func (*Line) Receive() (*Record, error) { return nil, errSystem }

// Expect is not possible on this system.
func (*Line) Expect(Kind, any) (*Record, error) { return nil, errSystem }

// Read is not possible on this system.
func (*Record) Read(any) error { return errSystem }

// Close does nothing.
func (*Record) Close() {}

// Drop does nothing.
func Drop(int) {}

// Socket is not possible on this system.
func Socket(net.Listener) (*os.File, error) { return nil, errSystem }

// Received is not possible on this system.
func Received(int) (net.Listener, error) { return nil, errSystem }

// SetDeadline does nothing.
func (*Line) SetDeadline(time.Time) {}

// Close does nothing.
func (*Line) Close() {}
