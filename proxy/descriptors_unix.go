//go:build unix

package proxy

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/redbouncer/redbouncer/limits"
)

// spareDescriptors are needed besides those of clients and upstream connections: listeners, epoll, the log, and
// connections that wait at the door or are being told a last word, and those of the operator's own listeners (package
// admin). So many may wait for the rules' sake.
func spareDescriptors(cfg *Config, waiting int) int {
	const operators = 2*64 + 8
	return 32 + operators + len(cfg.Listen) + greetingsOf(cfg) + cfg.Loops*(maxRefusals+maxLingering+5+prefacesOf(cfg)) + waiting
}

// greetingsOf is how many connections may be in their TLS handshake.
func greetingsOf(cfg *Config) int {
	if !cfg.listensTLS() {
		return 0
	}
	return maxHandshakes
}

// prefacesOf is how many connections of a loop may wait for their PROXY protocol header.
func prefacesOf(cfg *Config) int {
	if len(cfg.AcceptProxy) == 0 {
		return 0
	}
	return maxPrefaces
}

// roomFor raises the soft limit on open files to what so many clients need, and so many that wait, with a configuration. If
// it cannot, it returns how many clients there would be room for.
func roomFor(cfg *Config, maxclients, waiting int) (fits int, ok bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return maxclients, true // as at the start: it is not known, and accepting will tell
	}
	spare := spareDescriptors(cfg, waiting) + cfg.PoolSize
	need := uint64(maxclients + spare)
	if limit.Cur >= need {
		return maxclients, true
	}
	raised := limit
	raised.Cur = min(need, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err == nil {
		limit = raised
	}
	if limit.Cur >= need {
		return maxclients, true
	}
	return max(int(limit.Cur)-spare, 0), false
}

// maxGrown bounds the table of descriptors that is made at the start, which takes 8 bytes of the kernel's memory for each.
const maxGrown = 1 << 16

// neededBy is how many descriptors a configuration needs, with so many clients, and so many that wait.
func neededBy(cfg *Config, maxclients, waiting int) int {
	return spareDescriptors(cfg, waiting) + cfg.PoolSize + maxclients
}

// growDescriptors has the kernel make its table of our descriptors as large as it will have to be. It would double it each
// time that it is full, and have whoever opened the descriptor too many wait for 5 to 20 ms, as we have several threads
// (Linux: expand_fdtable waits for a grace period of RCU): that would be a loop, with all of its clients. Here it is a
// goroutine that ends when it is done.
func growDescriptors(n int) {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, min(n, maxGrown)-1)
	if err == nil { // otherwise it grows as it goes
		_ = unix.Close(fd)
	}
}

// fitDescriptors raises the soft limit on open files to what maxclients needs. Where the hard limit does not allow
// for it, maxclients is lowered, as Redis does; where nothing would be left, that is an error.
func fitDescriptors(cfg *Config) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		cfg.Log.Warn("the limit on open files is not known", "error", err)
		return nil
	}
	spare := spareDescriptors(cfg, limits.MostWaiting(cfg.Limits)) + cfg.PoolSize
	need := uint64(cfg.MaxClients + spare)
	if limit.Cur < need {
		raised := limit
		raised.Cur = min(need, limit.Max)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err == nil {
			limit = raised
		}
	}
	if limit.Cur >= need {
		go growDescriptors(int(need))
		return nil
	}
	go growDescriptors(int(limit.Cur))
	fits := int(limit.Cur) - spare
	if fits < 1 {
		return &ConfigError{"maxclients", fmt.Sprint(cfg.MaxClients), fmt.Sprintf(
			"the process may open %d files, and needs %d besides those for clients; raise its limit (ulimit -n)",
			limit.Cur, spare)}
	}
	cfg.Log.Warn("maxclients lowered: the process may not open as many files", "asked", cfg.MaxClients, "maxclients", fits,
		"open_files", limit.Cur, "needed", need, "advice", "raise the hard limit on open files (ulimit -Hn, LimitNOFILE)")
	cfg.MaxClients = fits
	return nil
}
