package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// replyTimeout bounds one command, its connection included.
const replyTimeout = 5 * time.Second

// errNil is a reply that says that there is nothing.
var errNil = errors.New("the reply is nil")

// dial connects, and logs in if need be.
func (t target) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: replyTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", t.addr)
	if err != nil || t.password == "" {
		return conn, err
	}
	if _, err := talk(conn, t.login()...); err != nil {
		conn.Close()
		return nil, fmt.Errorf("AUTH: %w", err)
	}
	return conn, nil
}

// login is the command that logs in.
func (t target) login() []string {
	if t.user == "" {
		return []string{"AUTH", t.password}
	}
	return []string{"AUTH", t.user, t.password}
}

// ask sends one command over a connection of its own and returns the reply.
func (t target) ask(ctx context.Context, args ...string) (string, error) {
	conn, err := t.dial(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return talk(conn, args...)
}

func ask(ctx context.Context, addr string, args ...string) (string, error) {
	return target{addr: addr}.ask(ctx, args...)
}

// talk sends one command and reads its reply. It keeps nothing: the connection must have no other reply to
// come.
func talk(conn net.Conn, args ...string) (string, error) { return talkAtLength(conn, 1<<20, args...) }

// talkAtLength takes a reply of up to so many bytes.
func talkAtLength(conn net.Conn, most int, args ...string) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return "", err
	}
	if _, err := conn.Write(appendCommand(nil, args...)); err != nil {
		return "", err
	}
	// The smallest reader: ten thousand of them leave less garbage in the process that measures.
	return readReply(bufio.NewReaderSize(conn, 16), most)
}

// readReply reads a status, an integer or a bulk string. An error reply becomes an error.
func readReply(r *bufio.Reader, most int) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("reading a reply: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("an empty line is no reply")
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("the reply is an error: %s", rest)
	case '$':
		return readBulk(r, rest, most)
	default:
		return "", fmt.Errorf("reply %q is of a type that is not expected here", line)
	}
}

func readBulk(r *bufio.Reader, length string, most int) (string, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n > most {
		return "", fmt.Errorf("bulk length %q is not expected here", length)
	}
	if n < 0 {
		return "", errNil
	}
	body := make([]byte, n+2)
	if _, err := io.ReadFull(r, body); err != nil {
		return "", fmt.Errorf("reading a bulk string: %w", err)
	}
	return string(body[:n]), nil
}
