package proxy

import (
	"strconv"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/proxy/peer"
)

// In a sidecar all clients come from 127.0.0.1: who they are is told by the process behind the socket. On a unix socket the
// kernel tells it at once; for TCP it is looked up meanwhile, and known a moment after the client has been let in.

// identifyProcess writes a process into what is known of a client.
func identifyProcess(ids *limits.Identities, p *peer.Process) {
	ids[limits.ByPID] = strconv.Itoa(p.PID)
	ids[limits.ByProcess] = p.Executable
	ids[limits.ByContainer] = p.Container
}

// knownProcess is a process that has been looked up lately.
type knownProcess struct {
	*peer.Process
	at time.Time
}

// processFresh is for how long a process is not looked up again. A process's id is not given out again that soon.
const processFresh = 2 * time.Second

// processOf returns the process with an id, or nil if that is 0. It runs on the first worker's loop.
func (s *Server) processOf(pid int) *peer.Process {
	if pid == 0 {
		return nil
	}
	now := s.workers[0].loop.Now()
	if k := s.processes[pid]; k != nil && now.Sub(k.at) < processFresh {
		return k.Process
	}
	p, ok := peer.ByPID(pid)
	if !ok {
		p = peer.Process{PID: pid} // in another namespace, or gone already
	}
	s.processes[pid] = &knownProcess{&p, now}
	return &p
}

// forgetProcesses drops those that have not been looked up lately.
func (s *Server) forgetProcesses() {
	now := s.workers[0].loop.Now()
	for pid, k := range s.processes {
		if now.Sub(k.at) >= processFresh {
			delete(s.processes, pid)
		}
	}
}

// findProcess has the process of a client looked up, if it is on this host.
func (s *session) findProcess(c *caller) {
	s.w.srv.resolver.Lookup(c.local, c.peer, func(p *peer.Process) {
		if p != nil {
			s.w.loop.Post(func() { s.found(p) })
		}
	})
}

// found notes the client's process.
func (s *session) found(p *peer.Process) {
	if s.state >= leaving {
		return
	}
	s.process = p
	s.know(func(ids *limits.Identities) { identifyProcess(ids, p) })
}

// commandLine is the command line of the client's process, as far as that is known.
func (s *session) commandLine() string {
	if s.process == nil {
		return ""
	}
	return s.process.Command
}
