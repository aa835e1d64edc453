package eventloop_test

import (
	"fmt"
	"net"

	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// upper answers in capitals.
type upper struct{ conn *eventloop.Conn }

func (u *upper) Data(b []byte) {
	out := make([]byte, len(b))
	for i, c := range b {
		if out[i] = c; c >= 'a' && c <= 'z' {
			out[i] = c - 'a' + 'A'
		}
	}
	_, _ = u.conn.Write(out) // a real program keeps what was not taken, and writes it when Writable is called
}

func (u *upper) EOF()         { u.conn.Close() }
func (u *upper) HungUp()      {}
func (u *upper) Writable()    {}
func (u *upper) Failed(error) {}

// A server on one goroutine: all its connections belong to the loop.
func ExampleLoop() {
	loop, err := eventloop.New(eventloop.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan struct{})
	go func() { defer close(ended); loop.Run() }()

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	var stopAccept func()
	listening := make(chan error)
	loop.Post(func() {
		var err error
		stopAccept, err = loop.Listen(ln, func(in eventloop.Incoming) {
			h := &upper{}
			if h.conn, err = loop.Attach(in, h); err != nil {
				fmt.Println(err)
			}
		})
		listening <- err
	})
	if err := <-listening; err != nil {
		fmt.Println(err)
		return
	}

	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	_, _ = c.Write([]byte("ping"))
	b := make([]byte, 4)
	_, _ = c.Read(b)
	fmt.Println(string(b))
	_ = c.Close()

	loop.Post(func() { stopAccept() })
	loop.Stop()
	<-ended
	// Output: PING
}
