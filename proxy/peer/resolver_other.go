//go:build !linux

package peer

import (
	"net/netip"
	"sync"
)

// Resolver finds nobody on this system, which does not tell whose a TCP socket is.
type Resolver struct {
	stop chan struct{}
	once sync.Once
}

// NewResolver returns a Resolver, which Run starts.
func NewResolver() *Resolver { return &Resolver{stop: make(chan struct{})} }

// Run returns when Stop is called.
func (r *Resolver) Run() { <-r.stop }

// Stop ends Run. It may be called more than once.
func (r *Resolver) Stop() { r.once.Do(func() { close(r.stop) }) }

// Lookup reports false: there will be no answer.
func (r *Resolver) Lookup(_, _ netip.AddrPort, _ func(*Process)) bool { return false }
