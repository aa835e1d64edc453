//go:build unix

package handover_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redbouncer/redbouncer/proxy/handover"
)

func TestRecordsArriveWithTheirSockets(t *testing.T) {
	here, there := pair(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := handover.Socket(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	large := []byte(strings.Repeat("x", 1<<20)) // more than a socket holds
	sent := make(chan error, 1)
	go func() {
		err := here.Send(handover.ClientKind, &handover.Client{ID: 1, Name: large, User: []byte{0xff, 0}}, int(socket.Fd()))
		for id := int64(2); id < 100 && err == nil; id++ {
			if id%3 == 0 {
				err = here.Send(handover.ClientKind, &handover.Client{ID: id}, int(socket.Fd()))
			} else {
				err = here.Send(handover.LeftKind, &handover.Left{Client: id})
			}
		}
		here.Close()
		sent <- err
	}()
	for id := int64(1); id < 100; id++ {
		r, err := there.Receive()
		if err != nil {
			t.Fatalf("record %d: %v", id, err)
		}
		var c handover.Client
		want := 0
		if id == 1 || id%3 == 0 {
			want = 1
			if err := r.Read(&c); err != nil || c.ID != id {
				t.Fatalf("record %d is of client %d, %v", id, c.ID, err)
			}
		}
		if len(r.FDs) != want {
			t.Fatalf("record %d has %d sockets, want %d", id, len(r.FDs), want)
		}
		if id == 1 && (!bytes.Equal(c.Name, large) || string(c.User) != "\xff\x00") {
			t.Error("the bytes of a client are not what they were")
		}
		r.Close()
	}
	if _, err := there.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestWhoCannotTakeOverSaysWhy(t *testing.T) {
	here, there := pair(t)
	if err := there.Send(handover.FailedKind, &handover.Failed{Error: "no memory"}); err != nil {
		t.Fatal(err)
	}
	_, err := here.Expect(handover.ReadyKind, &handover.Ready{})
	var refused *handover.RefusedError
	if !errors.As(err, &refused) || refused.Why != "no memory" {
		t.Errorf("got %v", err)
	}
	here.SetDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := here.Expect(handover.ReadyKind, &handover.Ready{}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want that it takes too long", err)
	}
}

// A listener whose socket is handed over goes on as before: it must not block because somebody else has it too.
func TestASocketThatIsHandedOverDoesNotBlock(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	socket, err := handover.Socket(ln)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_ = socket.Fd()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want that nobody comes", err)
	}
}

// pair returns both ends of a line.
func pair(t *testing.T) (here, there *handover.Line) {
	t.Helper()
	here, f, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	if there, err = handover.Open(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	return here, there
}

func Example() {
	here, f, err := handover.Pair()
	if err != nil {
		panic(err)
	}
	there, err := handover.Open(f) // in another process, in earnest
	if err != nil {
		panic(err)
	}
	defer here.Close()
	defer there.Close()
	_ = there.Send(handover.ReadyKind, &handover.Ready{PID: 7})
	var ready handover.Ready
	if _, err := here.Expect(handover.ReadyKind, &ready); err != nil {
		panic(err)
	}
	fmt.Println("process", ready.PID, "is ready")
	// Output: process 7 is ready
}
