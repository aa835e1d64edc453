package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// replyTimeout bounds one command, its connection included.
const replyTimeout = 5 * time.Second

// ask sends one command over a connection of its own and returns the reply.
func ask(ctx context.Context, addr string, args ...string) (string, error) {
	dialer := net.Dialer{Timeout: replyTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return talk(conn, args...)
}

// talk sends one command and reads its reply. It keeps nothing: the connection must have no other reply to
// come.
func talk(conn net.Conn, args ...string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return "", err
	}
	// The smallest reader: ten thousand of them leave less garbage in the process that measures.
	return readReply(bufio.NewReaderSize(conn, 16))
}

// readReply reads a status, an integer or a bulk string. An error reply becomes an error.
func readReply(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("reading a reply: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", fmt.Errorf("an empty line is no reply")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("the reply is an error: %s", rest)
	case '$':
		return readBulk(r, rest)
	default:
		return "", fmt.Errorf("reply %q is of a type that is not expected here", line)
	}
}

func readBulk(r *bufio.Reader, length string) (string, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n > 1<<20 {
		return "", fmt.Errorf("bulk length %q is not expected here", length)
	}
	if n < 0 {
		return "", fmt.Errorf("the reply is nil")
	}
	body := make([]byte, n+2)
	if _, err := io.ReadFull(r, body); err != nil {
		return "", fmt.Errorf("reading a bulk string: %w", err)
	}
	return string(body[:n]), nil
}
