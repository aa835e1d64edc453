package eventloop

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// streamBuffer bounds what a stream holds that its net.Conn has not taken yet, in bytes.
	streamBuffer = 256 << 10
	// smallRead is what a stream waits with for what comes, in bytes: most streams are idle. As long as that fills it, it
	// reads with one of largeReads.
	smallRead = 1 << 10
	// keptOut is how much a stream that has nothing to write keeps for when it has, in bytes.
	keptOut = 32 << 10
	// streamLinger bounds the time that a closed stream has to deliver what was written to it.
	streamLinger = 5 * time.Second
)

// largeReads are buffers for streams on which much comes, of the size of what one read of a socket brings.
var largeReads = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// stream lets a net.Conn take part in a loop. It has two goroutines:
//
//   - readStream reads, hands each piece to the loop and waits until the loop is done with it. It ends when
//     the net.Conn is closed or fails, or the loop has stopped.
//   - writeStream writes what the loop has put into out. It ends, and closes the net.Conn, after close.
type stream struct {
	// Static after construction.
	c    *Conn
	nc   net.Conn
	done chan struct{} // the loop is done with what was read; holds one

	// What was read: readStream's until it is posted, then the loop's until done.
	piece []byte
	err   error

	// Owned by the loop.
	held      bool    // reading was paused with the piece not delivered
	detaching *detach // who wants the socket; nil: nobody

	// mu guards the following fields.
	mu      sync.Mutex
	changed sync.Cond
	out     []byte
	hungry  bool // the loop waits for room
	paused  bool
	fin     bool // the write side is to be shut once out is written
	writing bool // writeStream has taken what is not in out any more
	closing bool
	failed  error
}

// detach is who wants a stream's socket, once nothing of it has been read that has not been delivered.
type detach struct {
	still func() bool
	take  func(fd int)
}

func (l *Loop) attachStream(nc net.Conn, h Handler, late bool) *Conn {
	c := &Conn{loop: l, h: h, fd: -1, late: late}
	c.stream = &stream{c: c, nc: nc, done: make(chan struct{}, 1)}
	c.stream.changed.L = &c.stream.mu
	go c.stream.readStream()
	go c.stream.writeStream()
	return c
}

func (s *stream) readStream() {
	small := make([]byte, smallRead)
	buf, large := small, (*[]byte)(nil)
	defer func() { giveBack(large) }()
	for {
		s.mu.Lock()
		for s.paused && !s.closing {
			s.changed.Wait()
		}
		s.mu.Unlock()
		n, err := s.nc.Read(buf)
		s.piece, s.err = buf[:n], err
		if !s.c.loop.Post(s.deliver) {
			return
		}
		<-s.done
		switch {
		case s.err != nil:
			return
		case large == nil && n == len(small):
			large = largeReads.Get().(*[]byte)
			buf = *large
		case large != nil && n < len(small):
			giveBack(large)
			buf, large = small, nil
		}
	}
}

func giveBack(large *[]byte) {
	if large != nil {
		largeReads.Put(large)
	}
}

// deliver hands what was read to the handler, on the loop. Reading may have been paused after the read began, or
// by the handler: what is left then waits until reading is resumed.
func (s *stream) deliver() {
	c := s.c
	if !c.closed && errors.Is(s.err, os.ErrDeadlineExceeded) {
		s.interrupted()
		return
	}
	for len(s.piece) > 0 && !c.closed && !c.paused {
		b := s.piece
		if c.into != nil {
			b = (*c.into)[:copy(*c.into, b)]
		}
		s.piece = s.piece[len(b):]
		c.h.Data(b)
	}
	end := errors.Is(s.err, io.EOF)
	switch {
	case c.closed:
	case s.err != nil && !end:
		c.fail(s.err)
	case c.paused && (end || len(s.piece) > 0):
		s.held = true
		if end {
			c.h.HungUp()
		}
		return
	case end:
		c.eof = true
		c.h.EOF()
	}
	s.done <- struct{}{}
}

// detachable reports whether the stream is that of a plain socket, and being read.
func (s *stream) detachable() bool {
	return !s.c.paused && !s.held && s.detaching == nil && plain(s.nc) == s.nc
}

// detach has readStream look up from its read, which loses nothing: see interrupted.
func (s *stream) detach(still func() bool, take func(fd int)) {
	s.detaching = &detach{still, take}
	_ = s.nc.SetReadDeadline(time.Now()) // on an error, the read ends anyway
}

// interrupted gives the socket away, or has readStream go on. It runs on the loop.
func (s *stream) interrupted() {
	d := s.detaching
	s.detaching = nil
	if d != nil && d.still() {
		if fd, ok := s.giveAway(); ok {
			s.c.closed, s.c.into = true, nil
			s.done <- struct{}{} // the error ends readStream
			d.take(fd)
			return
		}
	}
	_ = s.nc.SetReadDeadline(time.Time{})
	s.err = nil
	s.done <- struct{}{}
}

// giveAway returns a duplicate of the socket's descriptor and has writeStream close its own, if all has been written.
func (s *stream) giveAway() (fd int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) > 0 || s.writing || s.fin || s.failed != nil {
		return -1, false
	}
	_ = s.nc.SetReadDeadline(time.Time{})
	if fd, ok = duplicate(s.nc); ok {
		s.closing = true
		s.changed.Broadcast()
	}
	return fd, ok
}

func (s *stream) writeStream() {
	defer s.nc.Close()
	var spare []byte
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if len(s.out) == 0 && cap(s.out)+cap(spare) > keptOut {
			s.out, spare = nil, nil
		}
		for len(s.out) == 0 && !s.fin && !s.closing {
			s.changed.Wait()
		}
		if len(s.out) == 0 {
			if s.closing {
				return
			}
			s.fin = false
			if cw, ok := s.nc.(interface{ CloseWrite() error }); ok {
				_ = cw.CloseWrite() // a peer that is gone needs no goodbye
			}
			continue
		}
		b := s.out
		s.out, s.writing = spare[:0], true
		s.mu.Unlock()
		_, err := s.nc.Write(b)
		s.mu.Lock()
		s.writing = false
		spare = b
		if err != nil {
			s.out, s.failed = nil, err
			if s.closing {
				return
			}
			s.c.loop.Post(func() { s.c.fail(err) })
			for !s.closing {
				s.changed.Wait()
			}
			return
		}
		if s.hungry {
			s.hungry = false
			s.c.loop.Post(func() {
				if !s.c.closed {
					s.c.h.Writable()
				}
			})
		}
	}
}

func (s *stream) write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return 0, s.failed
	}
	n := min(len(b), max(streamBuffer-len(s.out), 0))
	s.out = append(s.out, b[:n]...)
	s.hungry = s.hungry || n < len(b)
	s.changed.Broadcast()
	return n, nil
}

func (s *stream) setPaused(paused bool) {
	s.mu.Lock()
	s.paused = paused
	s.changed.Broadcast()
	s.mu.Unlock()
	if s.held && !paused && s.c.loop.Post(s.deliver) {
		s.held = false
	}
}

func (s *stream) closeWrite() {
	s.mu.Lock()
	s.fin = true
	s.changed.Broadcast()
	s.mu.Unlock()
}

// close lets writeStream finish, in bounded time, and close the net.Conn.
func (s *stream) close() {
	s.mu.Lock()
	s.closing = true
	pending := len(s.out) > 0
	s.changed.Broadcast()
	s.mu.Unlock()
	deadline := time.Now()
	if pending {
		deadline = deadline.Add(streamLinger)
	}
	_ = s.nc.SetWriteDeadline(time.Now().Add(streamLinger))
	_ = s.nc.SetReadDeadline(deadline)
	if s.held {
		s.held = false
		s.done <- struct{}{}
	}
}

// listenStreams accepts in a goroutine of its own, which ends when the listener is closed.
func (l *Loop) listenStreams(ln net.Listener, accept func(Incoming)) (stop func()) {
	go l.acceptStreams(ln, accept)
	return func() { _ = ln.Close() }
}

func (l *Loop) acceptStreams(ln net.Listener, accept func(Incoming)) {
	for {
		nc, err := ln.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause) // out of descriptors, most likely; some will be closed
			continue
		}
		if !l.Post(func() { accept(Accepted(nc)) }) {
			_ = nc.Close()
			return
		}
	}
}

// acceptPause is how long a listener rests when the system has no descriptors left.
const acceptPause = 50 * time.Millisecond

func setKeepAlive(tcp *net.TCPConn, idle time.Duration) {
	_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: idle > 0, Idle: idle, Interval: idle / 3, Count: 3})
}
