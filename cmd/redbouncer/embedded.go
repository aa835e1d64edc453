package main

import (
	"fmt"
	"log/slog"
	"strings"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"

	"github.com/redbouncer/redbouncer/multiplex"
)

// startEmbedded starts a Redis in this process, on a port of its own choice, and says what it is worth. The
// caller closes it.
func startEmbedded(log *slog.Logger) (*miniredis.Miniredis, *multiplex.Upstream, error) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true) // keys expire by the clock, not by a test's order
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, nil, fmt.Errorf("embedded upstream: %w", err)
	}
	m.Server().SetPreHook(refuseDocs)
	upstream, err := multiplex.ParseUpstream("redis://" + m.Addr())
	if err != nil {
		m.Close()
		return nil, nil, fmt.Errorf("embedded upstream: %w", err)
	}
	log.Warn("the upstream is embedded: an imitation of Redis in the memory of this process, for trying out only, "+
		"not for production; all data is gone when it ends", "upstream", m.Addr())
	return m, upstream, nil
}

// refuseDocs answers COMMAND DOCS as a Redis that does not know it. The imitation takes it for COMMAND, and redis-cli, which asks
// for it as it starts, aborts when it is given that.
func refuseDocs(c *server.Peer, command string, args ...string) bool {
	if command != "COMMAND" || len(args) == 0 || !strings.EqualFold(args[0], "DOCS") {
		return false
	}
	c.WriteError("ERR unknown subcommand 'DOCS'. Try COMMAND HELP.")
	return true
}
