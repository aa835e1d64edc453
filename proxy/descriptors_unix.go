//go:build unix

package proxy

import (
	"fmt"
	"syscall"

	"github.com/redbouncer/redbouncer/limits"
)

// spareDescriptors are needed besides those of clients and upstream connections: listeners, epoll, the log, and
// connections that wait at the door or are being told a last word, and those of the operator's own listeners (package
// admin). So many may wait for the rules' sake.
func spareDescriptors(cfg *Config, waiting int) int {
	const operators = 2*64 + 8
	return 32 + operators + len(cfg.Listen) + cfg.Loops*(maxRefusals+maxLingering+4+prefacesOf(cfg)) + waiting
}

// prefacesOf is how many connections of a loop may wait for their PROXY protocol header.
func prefacesOf(cfg *Config) int {
	if len(cfg.AcceptProxy) == 0 {
		return 0
	}
	return maxPrefaces
}

// roomFor raises the soft limit on open files to what so many clients need, and so many that wait. If it cannot, it returns
// how many clients there would be room for.
func (s *Server) roomFor(maxclients, waiting int) (fits int, ok bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return maxclients, true // as at the start: it is not known, and accepting will tell
	}
	spare := spareDescriptors(&s.cfg, waiting) + s.cfg.PoolSize
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
		return nil
	}
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
