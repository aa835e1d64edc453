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
	seen  time.Time // when it was last looked whether it is the same
	fd    int       // the highest descriptor of those that were found last
}

// sameFor is for how long a process that has been looked at is taken to be the same: its number is not given out again
// that soon.
const sameFor = 50 * time.Millisecond

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
			var o *owner
			found := false
			if ok {
				o, found = r.found(inode, pid)
			}
			if !found && fd > fds[i] {
				break
			}
			if o != nil {
				o.fd = fd
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
			r.answer(l, nil)
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
			r.answer(l, nil)
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
	highest := -1
	for i := len(names) - 1; i >= 0 && misses > 0 && len(r.wanted) > 0; i-- {
		n, _ := unix.Readlinkat(dir, names[i], buf[:]) // fails if it has been closed meanwhile
		inode, ok := socketInode(buf[:max(n, 0)])
		var o *owner
		if ok {
			o, ok = r.found(inode, pid)
		}
		if !ok {
			misses--
			continue
		}
		fd, _ := strconv.Atoi(names[i])
		if highest = max(highest, fd); o != nil {
			o.fd = highest
		}
	}
	return true
}

// found answers those who want this socket, which a process has. It reports false when nobody does. The process is nil if
// it has ended.
func (r *Resolver) found(inode uint32, pid int) (*owner, bool) {
	l := r.wanted[inode]
	if l == nil {
		return nil, false
	}
	delete(r.wanted, inode)
	r.newcomers = max(r.newcomers-1, 0)
	r.hits++
	o := r.remember(pid)
	if o == nil {
		r.answer(l, nil)
	} else {
		r.answer(l, &o.Process)
	}
	return o, true
}

// remember puts a process first among those that were found, and returns nil if it has ended. A number that has been
// given to another process since is told by that one's start.
func (r *Resolver) remember(pid int) *owner {
	now := time.Now()
	i := slices.IndexFunc(r.recent, func(o *owner) bool { return o.PID == pid })
	var o *owner
	if i >= 0 {
		o = r.recent[i]
		if i == 0 && now.Sub(o.seen) < sameFor {
			return o
		}
		r.recent = slices.Delete(r.recent, i, i+1)
	}
	if o == nil || now.Sub(o.seen) >= sameFor {
		start, ok := startOf(pid)
		if !ok {
			return nil
		}
		if o == nil || o.start != start {
			p, seen := ByPID(pid)
			if !seen {
				return nil
			}
			o = &owner{Process: p, start: start}
		}
		o.seen = now
	}
	r.recent = slices.Insert(r.recent[:min(len(r.recent), maxRecent-1)], 0, o)
	return o
}

func (r *Resolver) forget(pid int) {
	r.recent = slices.DeleteFunc(r.recent, func(o *owner) bool { return o.PID == pid })
}
