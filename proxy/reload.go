package proxy

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
	"github.com/redbouncer/redbouncer/multiplex/eventloop"
)

// Reload puts another configuration in force while the server runs. Nobody is disconnected by it but those who exceed a new
// limit of what a client may leave unread or have waiting. What cannot be changed stays as it is: Listen, Upstream, Loops,
// Console, Log, LogInterval and Version. An error is a *ConfigError, and nothing has been changed.
//
// MaxClients, Timeout, TCPKeepAlive, MaxMemoryClients and each rule of Limits are changed if they differ from what the server
// has been told last, by New or Reload. So what an operator has set since stays until the configuration says otherwise.
//
// It returns when all loops keep to the new configuration, or ctx is done, and then they do as soon as they can.
func (s *Server) Reload(ctx context.Context, next Config) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	was := s.current.Load()
	next = s.keepFixed(next.withDefaults())
	set, unset := changedRules(was.Limits, next.Limits)
	if err := s.acceptable(was, &next, set, unset); err != nil {
		return err
	}
	commands, err := next.commands()
	if err != nil {
		return err
	}
	s.current.Store(&next)
	s.changeParameters(was, &next)
	if len(set)+len(unset) > 0 {
		s.gate.SetRules(set, unset, time.Now())
	}
	s.ledger.SetRules(next.Suspects)
	s.protected.Store(next.protects())
	s.guesses.SetMost(next.AuthDelay)
	s.sharePool()
	s.control.SetTimeout(max(next.UpstreamTimeout, connectTime))
	s.changeBacklog(was.TCPBacklog, next.TCPBacklog)
	if !slices.Equal(was.AllowDangerous, next.AllowDangerous) || !slices.Equal(was.DenyCommands, next.DenyCommands) {
		s.learner.rebase(commands)
	}
	_ = s.visit(ctx, func(w *worker) { w.reconfigure(&next) }) // those that are busy do it when they are done
	return nil
}

// keepFixed returns a configuration with what cannot be changed as it is.
func (s *Server) keepFixed(next Config) Config {
	c := &s.cfg
	next.Listen, next.Upstream, next.Loops, next.Console = c.Listen, c.Upstream, c.Loops, c.Console
	next.Inherited, next.Serving, next.Operates = c.Inherited, c.Serving, c.Operates
	next.TLS, next.UpstreamTLS = c.TLS, c.UpstreamTLS // the files are read again when they change
	next.Log, next.LogInterval, next.Version, next.streams = c.Log, c.LogInterval, c.Version, c.streams
	return next
}

// acceptable returns why a configuration cannot be had now, as a *ConfigError.
func (s *Server) acceptable(was, next *Config, set, unset []limits.Rule) error {
	if err := next.Validate(); err != nil {
		return err
	}
	if least := limits.LeastSize(len(s.workers)); next.PoolSize < least {
		return &ConfigError{"pool-size", fmt.Sprint(next.PoolSize), fmt.Sprintf("want at least %d while there are %d loops, "+
			"whose number only changes at a start", least, len(s.workers))}
	}
	most, waiting := s.gate.Stats().Max, s.gate.MostWaiting()
	then, mostThen := s.gate.MostWaitingWithout(unset, set...), most
	if next.MaxClients != was.MaxClients {
		mostThen = next.MaxClients
	}
	if neededBy(next, mostThen, then) <= neededBy(was, most, waiting) {
		return nil // also where it is more than there can be: it was at the start
	}
	fits, ok := roomFor(next, mostThen, then)
	if ok {
		return nil
	}
	wrong := &ConfigError{"maxclients", fmt.Sprint(mostThen), fmt.Sprintf("the process may not open as many files: want %d at most, "+
		"or a higher limit on open files (ulimit -n)", max(fits, 1))}
	if then > waiting && mostThen <= most {
		wrong.Setting, wrong.Value = "limit", ruleTexts(set)
		wrong.Want = "the process may not open as many files as clients could wait then: want a smaller queue-size, a lower " +
			"maxclients, or a higher limit on open files (ulimit -n)"
	}
	return wrong
}

// changeParameters changes those parameters that an operator may have changed too, where the configuration's has changed.
func (s *Server) changeParameters(was, next *Config) {
	s.settling.Lock()
	defer s.settling.Unlock()
	if was.MaxClients != next.MaxClients {
		s.gate.SetMax(next.MaxClients, time.Now())
		delete(s.runtime, "maxclients")
	}
	if was.Timeout != next.Timeout {
		s.timeout.Store(int64(next.Timeout))
		delete(s.runtime, "timeout")
	}
	if was.TCPKeepAlive != next.TCPKeepAlive {
		s.setKeepAlive(next.TCPKeepAlive)
		delete(s.runtime, "tcp-keepalive")
	}
	if was.MaxMemoryClients != next.MaxMemoryClients {
		s.maxMemory.Store(next.MaxMemoryClients)
		s.easeIfNeeded()
		delete(s.runtime, "maxmemory-clients")
	}
}

// Adopt says that the configuration has been made to say what operators have set. Nothing changes but where a value comes from:
// what an operator sets meanwhile is not undone.
func (s *Server) Adopt(next Config) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	next = next.withDefaults()
	told := *s.current.Load()
	told.MaxClients, told.Timeout, told.TCPKeepAlive = next.MaxClients, next.Timeout, next.TCPKeepAlive
	told.MaxMemoryClients, told.Limits = next.MaxMemoryClients, next.Limits
	s.settling.Lock()
	defer s.settling.Unlock()
	s.current.Store(&told)
	for name, n := range map[string]int64{
		"maxclients": int64(told.MaxClients), "timeout": wholeSeconds(int64(told.Timeout)),
		"tcp-keepalive": wholeSeconds(int64(told.TCPKeepAlive)), "maxmemory-clients": told.MaxMemoryClients,
	} {
		if ourParameter([]byte(name)).get(s) == n {
			delete(s.runtime, name)
		}
	}
}

// setAtRunTime sets a parameter for an operator. It may be called from a loop.
func (s *Server) setAtRunTime(p *parameter, n int64) {
	s.settling.Lock()
	defer s.settling.Unlock()
	p.set(s, n)
	s.runtime[p.name] = true
}

// setSince reports whether an operator has set a parameter since the configuration has.
func (s *Server) setSince(name string) bool {
	s.settling.Lock()
	defer s.settling.Unlock()
	return s.runtime[name]
}

// changeBacklog changes the length of the listeners' queues.
func (s *Server) changeBacklog(was, next int) {
	if was == next {
		return
	}
	s.listening.Lock() // who opens them anew has read the length with it
	defer s.listening.Unlock()
	for _, ln := range s.listeners {
		if err := eventloop.SetBacklog(ln, next); err != nil {
			s.cfg.Log.Warn("tcp-backlog cannot be changed", "listen", ln.Addr().String(), "error", err)
		}
	}
}

// changedRules returns what has to be set, and what unset, to get from the rules of one configuration to those of another.
func changedRules(was, next []limits.Rule) (set, unset []limits.Rule) {
	before := map[string]string{}
	for i := range was {
		before[was[i].Head()] = was[i].InForce()
	}
	for i := range next {
		head := next[i].Head()
		if before[head] != next[i].InForce() {
			set = append(set, next[i])
		}
		delete(before, head)
	}
	for i := range was {
		if _, ok := before[was[i].Head()]; ok {
			unset = append(unset, was[i])
		}
	}
	return set, unset
}

// rulesChanged reports whether the limits in force are others than the configuration's: an operator has set or unset some.
func (s *Server) rulesChanged() bool {
	told := s.current.Load().Limits
	texts := make([]string, len(told))
	for i := range told {
		texts[i] = told[i].InForce()
	}
	slices.Sort(texts)
	now := s.rulesInForce()
	slices.Sort(now)
	return !slices.Equal(texts, now)
}

func ruleTexts(rules []limits.Rule) string {
	texts := make([]string, len(rules))
	for i := range rules {
		texts[i] = rules[i].String()
	}
	return strings.Join(texts, ";")
}
