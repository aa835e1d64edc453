package main

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// What a loop does with one connection.

// open begins to connect, which was due then. The rest happens when the socket is writable.
func (l *loop) open(i int, due time.Duration) {
	c := &l.conns[i]
	fd, err := unix.Socket(l.kind, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		l.fail(i, err)
		return
	}
	*c = rawConn{fd: fd, state: connecting, next: c.next, queue: c.queue[:0], opened: due}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Closed with a reset: ten thousand connections a second would otherwise use up the ports, which stay taken for a
	// minute. Every server is treated alike.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	if err := unix.Connect(fd, l.addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		l.fail(i, err)
		return
	}
	if l.cfg.renew {
		l.unanswered++
	}
	if err := l.poll.watch(fd, i, false, true, false); err != nil {
		l.fail(i, err)
	}
}

// writable goes on where the connection had to wait: it is connected, or there is room for what is unsent.
func (l *loop) writable(i int) {
	c := &l.conns[i]
	switch c.state {
	case closed:
		return
	case connecting:
		if code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			l.fail(i, errors.Join(err, unix.Errno(code)))
			return
		}
		c.state = greeting
		hello := &l.cfg.target.hello
		if l.cfg.renew { // the command itself is the greeting
			c.state = ready
			hello = l.nextBatch(c)
		}
		c.queue = append(c.queue, request{due: c.opened, batch: hello, replies: hello.replies})
		c.unsent = append(c.unsent, hello.bytes)
		c.blocked = true // as far as the poller knows
	}
	l.flush(i)
}

// flush writes what is unsent, as far as there is room.
func (l *loop) flush(i int) {
	c := &l.conns[i]
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent[0])
		if n > 0 {
			c.unsent[0] = c.unsent[0][n:]
		}
		switch {
		case errors.Is(err, unix.EAGAIN):
			if !c.blocked {
				c.blocked = true
				_ = l.poll.watch(c.fd, i, true, true, true)
			}
			return
		case err != nil:
			l.fail(i, fmt.Errorf("writing: %w", err))
			return
		}
		if len(c.unsent[0]) == 0 {
			c.unsent[0] = nil
			c.unsent = c.unsent[1:]
		}
	}
	c.unsent = nil
	if c.blocked {
		c.blocked = false
		_ = l.poll.watch(c.fd, i, true, false, true)
	}
}

// nextBatch is what the connection sends next.
func (l *loop) nextBatch(c *rawConn) *batch {
	b := &l.cfg.batches[c.next%len(l.cfg.batches)]
	c.next++
	return b
}

// sendNext sends the connection's next batch, which was due then.
func (l *loop) sendNext(i int, due time.Duration) { l.send(i, l.nextBatch(&l.conns[i]), due) }

func (l *loop) send(i int, b *batch, due time.Duration) {
	c := &l.conns[i]
	c.queue = append(c.queue, request{due: due, batch: b, replies: b.replies})
	l.unanswered++
	if len(c.unsent) > 0 {
		c.unsent = append(c.unsent, b.bytes)
		return
	}
	n, err := unix.Write(c.fd, b.bytes)
	switch {
	case n == len(b.bytes):
		return
	case err != nil && !errors.Is(err, unix.EAGAIN):
		l.fail(i, fmt.Errorf("writing: %w", err))
		return
	}
	c.unsent = append(c.unsent, b.bytes[max(n, 0):])
	l.flush(i)
}

// readable reads what has come. What is left stays for the next time round, so that nobody starves the others.
func (l *loop) readable(i int) {
	c := &l.conns[i]
	if c.state == closed {
		return
	}
	n, err := unix.Read(c.fd, l.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case err != nil:
		l.fail(i, fmt.Errorf("reading: %w", err))
		return
	case n == 0:
		l.fail(i, errors.New("the server has closed the connection"))
		return
	}
	l.now = time.Since(l.begin)
	replies := c.scan.feed(l.buffer[:n])
	if c.scan.failure != "" {
		l.fail(i, fmt.Errorf("the reply is an error: %s", c.scan.failure))
		return
	}
	l.answered(i, replies)
}

// answered gives the replies to the requests that they are for.
func (l *loop) answered(i, replies int) {
	c := &l.conns[i]
	for replies > 0 && l.failure == nil {
		if len(c.queue) == 0 {
			if l.onPush == nil {
				l.fail(i, errors.New("a reply that was not asked for"))
				return
			}
			for ; replies > 0; replies-- {
				l.onPush(i)
			}
			return
		}
		head := &c.queue[0]
		n := min(replies, head.replies)
		replies -= n
		if head.replies -= n; head.replies > 0 {
			return
		}
		r := *head
		// Moved down, not cut off: the few that wait keep their place in memory.
		c.queue = append(c.queue[:0], c.queue[1:]...)
		l.complete(i, r)
	}
}

// complete counts a request that is answered and, unless there is a fixed rate, sends the next.
func (l *loop) complete(i int, r request) {
	c := &l.conns[i]
	if c.state == greeting {
		c.state = ready
		l.unready--
		l.took.add(l.now-r.due, 1)
		return
	}
	l.unanswered--
	l.done += r.batch.commands
	l.took.add(l.now-r.due, r.batch.commands)
	switch {
	case l.cfg.renew:
		l.shut(i)
		if l.cfg.rate == 0 {
			l.open(i, l.now)
		}
	case l.cfg.whole && l.now >= l.end:
	case l.cfg.rate == 0 && len(l.cfg.batches) > 0:
		l.sendNext(i, l.now)
	}
}

// fail ends the run: a client that is refused or cut off is not measured as if it had been served.
func (l *loop) fail(i int, err error) {
	if l.failure == nil {
		l.failure = fmt.Errorf("connection %d: %w", i, err)
	}
	l.shut(i)
}

func (l *loop) shut(i int) {
	if c := &l.conns[i]; c.state != closed {
		_ = unix.Close(c.fd)
		c.state = closed
	}
}
