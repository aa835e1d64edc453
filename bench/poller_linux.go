package main

import (
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poller says which of many connections can be read or written, and sleeps until one can.
type poller struct {
	fd     int
	events [512]unix.EpollEvent
	// coarse: the kernel knows no timeouts shorter than a millisecond.
	coarse bool
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{fd: fd}, err
}

func (p *poller) close() { _ = unix.Close(p.fd) }

// watch says what connection number i is waited for.
func (p *poller) watch(fd, i int, reading, writing, known bool) error {
	event := unix.EpollEvent{Fd: int32(i)}
	if reading {
		event.Events |= unix.EPOLLIN
	}
	if writing {
		event.Events |= unix.EPOLLOUT
	}
	op := unix.EPOLL_CTL_ADD
	if known {
		op = unix.EPOLL_CTL_MOD
	}
	return unix.EpollCtl(p.fd, op, fd, &event)
}

// wait sleeps until a connection is ready, for at most so long.
func (p *poller) wait(atMost time.Duration) ([]unix.EpollEvent, error) {
	n, err := p.sleep(max(atMost, 0))
	if errors.Is(err, unix.EINTR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return p.events[:n], nil
}

// sleep is epoll_pwait2, whose timeout is in nanoseconds: at 50,000 commands a second one is due every 20 us.
func (p *poller) sleep(atMost time.Duration) (int, error) {
	if !p.coarse {
		timeout := unix.NsecToTimespec(int64(atMost))
		n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events[0])),
			uintptr(len(p.events)), uintptr(unsafe.Pointer(&timeout)), 0, 0)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.ENOSYS {
			return 0, errno
		}
		p.coarse = true
	}
	return unix.EpollWait(p.fd, p.events[:], int(atMost.Milliseconds()))
}

// exactTimers makes the calling thread's timeouts exact. By default the kernel lets them run over by up to 50 us.
func exactTimers() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) }

// stayOn keeps the calling thread on one CPU.
func stayOn(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}
