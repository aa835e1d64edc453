//go:build unix

package handover

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRecord bounds a record, in bytes: a client's name may be as long as an argument of a command.
	maxRecord = 1 << 30
	// maxDescriptors bounds those that come with a record: no system takes more at once.
	maxDescriptors = 250
	// header is how long a record's head is: length of the body, kind, number of descriptors.
	header = 6
)

// Line is one end. Send may be called by several goroutines, Receive by one.
type Line struct {
	// Static after construction.
	conn *net.UnixConn

	// sending is held while a record is written.
	sending sync.Mutex

	// Owned by who receives.
	in  []byte // has come and is not a whole record yet
	fds []int  // have come, in the order of their records
}

// Pair returns one end of a line, and the other one as a file for another process. The caller closes both.
func Pair() (*Line, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	own, other := os.NewFile(uintptr(fds[0]), "handover"), os.NewFile(uintptr(fds[1]), "handover")
	line, err := Open(own)
	if err != nil {
		_ = other.Close()
		return nil, nil, err
	}
	return line, other, nil
}

// Open makes a line of the file that another process has got from Pair. The file is closed.
func Open(f *os.File) (*Line, error) {
	defer f.Close()
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	conn, ok := nc.(*net.UnixConn)
	if !ok {
		_ = nc.Close()
		return nil, fmt.Errorf("descriptor %d is no unix socket", f.Fd())
	}
	return &Line{conn: conn}, nil
}

// Send sends a record. Descriptors are duplicated on the way: they stay the caller's.
func (l *Line) Send(kind Kind, record any, fds ...int) error {
	body, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if len(body) > maxRecord || len(fds) > maxDescriptors {
		return fmt.Errorf("a record of %d bytes and %d descriptors is too large to be handed over", len(body), len(fds))
	}
	raw := make([]byte, header, header+len(body))
	binary.BigEndian.PutUint32(raw, uint32(len(body)))
	raw[4], raw[5] = byte(kind), byte(len(fds))
	raw = append(raw, body...)
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	n, _, err := l.conn.WriteMsgUnix(raw, rights, nil)
	if err == nil && n < len(raw) {
		_, err = l.conn.Write(raw[n:])
	}
	return err
}

// Record is one that has been received. Whoever receives it owns its descriptors.
type Record struct {
	Kind Kind
	Body []byte
	FDs  []int
}

// Read reads the body.
func (r *Record) Read(into any) error {
	if err := json.Unmarshal(r.Body, into); err != nil {
		return fmt.Errorf("a record of kind %d is not understood: %w", r.Kind, err)
	}
	return nil
}

// Close closes descriptors that nobody has taken.
func (r *Record) Close() {
	for _, fd := range r.FDs {
		_ = syscall.Close(fd)
	}
	r.FDs = nil
}

// Drop closes a descriptor that is handed over no more; -1 is none.
func Drop(fd int) {
	if fd >= 0 {
		_ = syscall.Close(fd)
	}
}

// Receive waits for a record. The error is io.EOF when the other end has hung up between two.
func (l *Line) Receive() (*Record, error) {
	for {
		if r, err := l.next(); r != nil || err != nil {
			return r, err
		}
		if err := l.read(); err != nil {
			if err == io.EOF && len(l.in) > 0 { //nolint:errorlint // it is read's own
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// next takes a record out of what has come; nil: there is no whole one.
func (l *Line) next() (*Record, error) {
	if len(l.in) < header {
		return nil, nil
	}
	size, fds := binary.BigEndian.Uint32(l.in), int(l.in[5])
	if size > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes is too large", size)
	}
	end := header + int(size)
	if len(l.in) < end {
		return nil, nil
	}
	if len(l.fds) < fds {
		return nil, fmt.Errorf("a record came with %d descriptors instead of %d: the limit on open files may be too low (ulimit -n)",
			len(l.fds), fds)
	}
	r := &Record{Kind: Kind(l.in[4]), Body: l.in[header:end:end], FDs: l.fds[:fds:fds]}
	l.in, l.fds = l.in[end:], l.fds[fds:]
	return r, nil
}

// read reads what comes next. A system may hand descriptors over with the first byte of their record or before, never later.
func (l *Line) read() error {
	buf := make([]byte, 64<<10)
	rights := make([]byte, syscall.CmsgSpace(maxDescriptors*4))
	n, m, _, _, err := l.conn.ReadMsgUnix(buf, rights)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:m])
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	for i := range messages {
		if fds, err := syscall.ParseUnixRights(&messages[i]); err == nil {
			l.fds = append(l.fds, fds...)
		}
	}
	if n == 0 {
		return io.EOF
	}
	l.in = append(l.in, buf[:n]...)
	return nil
}

// Expect waits for a record of a kind, and reads it. If the other end says Failed instead, that is the error.
func (l *Line) Expect(kind Kind, into any) (*Record, error) {
	r, err := l.Receive()
	if err != nil {
		return nil, err
	}
	if r.Kind == FailedKind {
		var failed Failed
		if err := r.Read(&failed); err != nil {
			return nil, err
		}
		return nil, &RefusedError{failed.Error}
	}
	if r.Kind != kind {
		r.Close()
		return nil, fmt.Errorf("a record of kind %d came instead of %d", r.Kind, kind)
	}
	if err := r.Read(into); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// SetDeadline bounds how long Send and Receive wait; the zero time: they wait for ever.
func (l *Line) SetDeadline(t time.Time) { _ = l.conn.SetDeadline(t) }

// Close hangs up. It may be called while others send or receive, and more than once.
func (l *Line) Close() { _ = l.conn.Close() }

// Socket returns a duplicate of a listener's socket. The caller closes it. (What the listener's own File returns is made to
// block by Fd, and the listener with it.)
func Socket(ln net.Listener) (*os.File, error) {
	sc, ok := ln.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("the listener at %s has no socket that can be handed over", ln.Addr())
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		fd     int
		failed error
	)
	if err := raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("fcntl", failed)
	}
	return os.NewFile(uintptr(fd), "listener"), nil
}

// Received returns the listener whose descriptor came with a record. It takes ownership of fd.
func Received(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer f.Close()
	return net.FileListener(f)
}
