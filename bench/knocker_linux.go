package main

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// knocker opens connections at a fixed rate, which are to be refused: each writes a command, reads until the end, and
// hangs up. It is a loop of its own, as the clients that are measured beside it are: what they wait for is not its doing.
type knocker struct {
	*loop
	free []int // connections that are closed
	text [][]byte

	knocks, told, notTold, leftOut int64
}

func newKnocker(s *session, t target) (*knocker, error) {
	l, err := newLoop(loopConfig{target: t, clients: stormAtOnce, cpu: s.loadCPU(), buffer: 4 << 10})
	if err != nil {
		return nil, err
	}
	k := &knocker{loop: l, text: make([][]byte, stormAtOnce)}
	for i := range stormAtOnce {
		k.free = append(k.free, i)
	}
	return k, nil
}

// run knocks for so long, and waits until everybody has been told.
func (k *knocker) run(ctx context.Context, d time.Duration) error {
	defer k.close()
	return k.onThread(func() error {
		const every = time.Second / stormKnocks
		k.now = time.Since(k.begin)
		start := k.now
		due := time.Duration(0) // after start
		for ctx.Err() == nil && (due < d || len(k.free) < stormAtOnce) && k.now-start < d+stormPatience {
			for ; due < min(d, k.now-start); due += every {
				k.knock()
			}
			wait := start + due - k.now
			if due >= d {
				wait = stormPatience
			}
			events, err := k.poll.wait(min(wait, 100*time.Millisecond))
			if err != nil {
				return err
			}
			for _, e := range events {
				k.ready(int(e.Fd))
			}
			k.now = time.Since(k.begin)
		}
		k.notTold += int64(stormAtOnce - len(k.free))
		return ctx.Err()
	})
}

// knock begins to connect.
func (k *knocker) knock() {
	if len(k.free) == 0 {
		k.leftOut++
		return
	}
	k.knocks++
	i := k.free[len(k.free)-1]
	fd, err := unix.Socket(k.kind, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		k.notTold++
		return
	}
	if err := unix.Connect(fd, k.addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		k.notTold++
		return
	}
	if err := k.poll.watch(fd, i, false, true, false); err != nil {
		_ = unix.Close(fd)
		k.notTold++
		return
	}
	k.free = k.free[:len(k.free)-1]
	k.conns[i].fd, k.conns[i].state, k.text[i] = fd, connecting, k.text[i][:0]
}

// ready writes the command when the connection is open, and reads what comes.
func (k *knocker) ready(i int) {
	c := &k.conns[i]
	if c.state == connecting {
		c.state = ready
		_ = k.poll.watch(c.fd, i, true, false, true)
		_, _ = unix.Write(c.fd, []byte(stormCommand)) // fails if it has been refused already
		return
	}
	n, err := unix.Read(c.fd, k.buffer)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return
	case err == nil && n > 0:
		k.text[i] = append(k.text[i], k.buffer[:n]...)
		return
	}
	if string(k.text[i]) == stormRefusal {
		k.told++
	} else {
		k.notTold++
	}
	k.shut(i)
	k.free = append(k.free, i)
}
