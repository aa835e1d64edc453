package peer

import (
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRecent bounds the processes that are remembered.
	maxRecent = 64
	// maxGuessed bounds those of them whose newest descriptor is looked at for each lookup: two readlink, 3 us.
	maxGuessed = 16
	// nearMisses bounds how many descriptors of a process that are not wanted are looked at before all processes are.
	nearMisses = 256
)

// owner is a process that has been found.
type owner struct {
	Process
	start uint64
	fd    int // the descriptor that was found last
}

// guess looks where the next connection of a process is likely to be: at the descriptor that the last one had, if that
// has been closed, and else at those that follow.
func (r *Resolver) guess() {
	pids := make([]int, 0, maxGuessed)
	fds := make([]int, 0, maxGuessed)
	for _, o := range r.recent[:min(len(r.recent), maxGuessed)] {
		pids, fds = append(pids, o.PID), append(fds, o.fd)
	}
	for i, pid := range pids {
		for fd := fds[i]; r.newcomers > 0; fd++ {
			inode, ok := socketAt(pid, fd)
			if found := ok && r.found(inode, pid, fd); !found && fd > fds[i] {
				break
			}
		}
	}
}

// socketAt returns the inode of a process's descriptor, if that is a socket.
func socketAt(pid, fd int) (uint32, bool) {
	var buf [64]byte
	n, err := unix.Readlink(procPath(pid, "fd/"+strconv.Itoa(fd)), buf[:])
	if err != nil {
		return 0, false
	}
	return socketInode(buf[:n])
}

// socketInode reads what a descriptor's link says of a socket: "socket:[4711]".
func socketInode(link []byte) (uint32, bool) {
	const before = "socket:["
	if len(link) <= len(before) || string(link[:len(before)]) != before {
		return 0, false
	}
	n := uint32(0)
	for _, c := range link[len(before) : len(link)-1] {
		n = n*10 + uint32(c-'0')
	}
	return n, true
}

// searchRecent looks at the highest descriptors of the processes that were found before.
func (r *Resolver) searchRecent() {
	began := time.Now()
	for _, o := range slices.Clone(r.recent) {
		if len(r.wanted) == 0 {
			break
		}
		if !r.search(o.PID, nearMisses) {
			r.forget(o.PID)
		}
	}
	r.newcomers = 0
	r.near.ran(began)
}

// searchAll looks at all descriptors of all processes.
func (r *Resolver) searchAll() {
	r.dropEnded()
	if len(r.wanted) == 0 {
		return
	}
	began, before := time.Now(), r.hits
	r.scans++
	for _, pid := range processes() {
		if len(r.wanted) == 0 || r.isStopped() {
			break
		}
		r.search(pid, math.MaxInt)
		asking := time.Now()
		r.take() // who connects and hangs up at once is found only while its process is looked at
		began = began.Add(time.Since(asking))
	}
	r.dropEnded()
	missed := false
	for inode, l := range r.wanted {
		if l.scan <= r.scans {
			missed = true
			delete(r.wanted, inode)
			r.answer(l, Process{}, false)
		}
	}
	switch {
	case r.hits > before || !missed:
		r.full.least = scanRest
	default:
		r.full.least = min(2*r.full.least, idleRest)
	}
	r.full.ran(began)
}

// dropEnded answers those whose clients have hung up while they waited: for them nothing need be searched.
func (r *Resolver) dropEnded() {
	for inode, l := range r.wanted {
		if r.diag == nil {
			return
		}
		if now, err := r.diag.inode(l.ends); err == nil && now != inode {
			delete(r.wanted, inode)
			r.answer(l, Process{}, false)
		}
	}
}

// processes returns the numbers of all processes, the highest and so mostly newest first, and our own last: it has
// thousands of sockets, and is hardly ever its own client.
func processes() []int {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = d.Close() }()
	names, _ := d.Readdirnames(-1) // as many as there are
	pids := make([]int, 0, len(names))
	own := os.Getpid()
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && pid != own {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return append(pids, own)
}

// search looks for those that are wanted at a process's descriptors, from the highest down, until it has seen so many
// that are not. It reports whether they may be read.
func (r *Resolver) search(pid, misses int) bool {
	d, err := os.Open(procPath(pid, "fd"))
	if err != nil {
		return false
	}
	defer func() { _ = d.Close() }()
	names, _ := d.Readdirnames(-1) // in ascending order
	dir := int(d.Fd())
	var buf [64]byte
	for i := len(names) - 1; i >= 0 && misses > 0 && len(r.wanted) > 0; i-- {
		n, _ := unix.Readlinkat(dir, names[i], buf[:]) // fails if it has been closed meanwhile
		inode, ok := socketInode(buf[:max(n, 0)])
		if fd, _ := strconv.Atoi(names[i]); !ok || !r.found(inode, pid, fd) {
			misses--
		}
	}
	return true
}

// found answers those who want this socket, which a process has. It reports false when nobody does.
func (r *Resolver) found(inode uint32, pid, fd int) bool {
	l := r.wanted[inode]
	if l == nil {
		return false
	}
	delete(r.wanted, inode)
	r.newcomers = max(r.newcomers-1, 0)
	r.hits++
	o := r.remember(pid)
	if o == nil {
		r.answer(l, Process{}, false)
		return true
	}
	o.fd = fd
	r.answer(l, o.Process, true)
	return true
}

// remember puts a process first among those that were found, and returns nil if it has ended. A number that has been
// given to another process since is told by that one's start.
func (r *Resolver) remember(pid int) *owner {
	start, ok := startOf(pid)
	i := slices.IndexFunc(r.recent, func(o *owner) bool { return o.PID == pid })
	var o *owner
	if ok && i >= 0 && r.recent[i].start == start {
		o = r.recent[i]
	} else if p, seen := ByPID(pid); ok && seen {
		o = &owner{Process: p, start: start}
	}
	if i >= 0 {
		r.recent = slices.Delete(r.recent, i, i+1)
	}
	if o == nil {
		return nil
	}
	r.recent = slices.Insert(r.recent[:min(len(r.recent), maxRecent-1)], 0, o)
	return o
}

func (r *Resolver) forget(pid int) {
	r.recent = slices.DeleteFunc(r.recent, func(o *owner) bool { return o.PID == pid })
}
