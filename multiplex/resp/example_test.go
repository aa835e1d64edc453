package resp_test

import (
	"errors"
	"fmt"

	"github.com/redbouncer/redbouncer/multiplex/resp"
)

// A client's input comes in pieces. What Next has not taken is presented again, with more behind it.
func ExampleReader() {
	var r resp.Reader
	var buf []byte
	for _, piece := range []string{"*2\r\n$3\r\nGET\r\n$5\r\nco", "lor\r\nPI", "NG\r\n"} {
		buf = append(buf, piece...)
		for {
			n, err := r.Next(buf)
			if err != nil {
				fmt.Println(err)
				return
			}
			if n == 0 {
				break
			}
			fmt.Printf("%d arguments, sent on as %q\n", r.Len(), r.Bytes())
			buf = buf[n:]
		}
	}
	// Output:
	// 2 arguments, sent on as "*2\r\n$3\r\nGET\r\n$5\r\ncolor\r\n"
	// 1 arguments, sent on as "*1\r\n$4\r\nPING\r\n"
}

func ExampleProtocolError() {
	var r resp.Reader
	_, err := r.Next([]byte("*1\r\n+PING\r\n"))
	var protocolErr resp.ProtocolError
	if errors.As(err, &protocolErr) {
		fmt.Printf("-ERR %s\r\n", protocolErr)
	}
	// Output: -ERR Protocol error: expected '$', got '+'
}

// Next keeps nothing, so that a large reply can be forwarded as it comes.
func ExampleFramer() {
	var f resp.Framer
	for _, piece := range []string{"+OK\r\n$5\r\nhe", "llo\r\n>1\r\n+news\r\n"} {
		for b := []byte(piece); len(b) > 0; {
			n, done, err := f.Next(b)
			if err != nil {
				fmt.Println(err)
				return
			}
			fmt.Printf("%-14q complete: %-5t push: %t\n", b[:n], done, f.Top() == '>')
			b = b[n:]
		}
	}
	// Output:
	// "+OK\r\n"      complete: true  push: false
	// "$5\r\nhe"     complete: false push: false
	// "llo\r\n"      complete: true  push: false
	// ">1\r\n+news\r\n" complete: true  push: true
}

func ExampleFrameError() {
	var f resp.Framer
	_, _, err := f.Next([]byte("HTTP/1.1 400 Bad Request\r\n"))
	var frameErr *resp.FrameError
	fmt.Println(errors.As(err, &frameErr), err)
	// Output: true not a reply: unexpected byte 'H'
}
