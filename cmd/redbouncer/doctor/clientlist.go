package doctor

import (
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redbouncer/redbouncer/limits"
)

// client is a line of CLIENT LIST. What a version does not tell is zero.
type client struct {
	id   int64
	addr string // ip:port, or the path of the unix socket and :0
	host string // the address without the port; of a unix socket "unix"
	name string
	user string // before Redis 6 there were none
	lib  string // name, or name/version

	age, idle time.Duration // whole seconds
	flags     string        // letters, as Redis documents them
	last      string        // the last command; "" is none yet
	channels  int           // subscriptions of all kinds
	queued    int           // commands in MULTI; -1: it is not in one
	watching  int           // keys
	commands  uint64        // all that it has sent; 0 with a version that does not count them
}

// parseClients reads a reply to CLIENT LIST, of any version: fields are found by their names, whatever their order, and
// those that are not known are passed over. Lines without an id are, too.
func parseClients(text string) []client {
	var all []client
	for line := range strings.Lines(text) {
		if c, ok := parseClient(strings.TrimRight(line, "\r\n")); ok {
			all = append(all, c)
		}
	}
	return all
}

func parseClient(line string) (client, bool) {
	c := client{queued: -1}
	fields := clientFields(line)
	lib, libVersion := "", ""
	for _, f := range fields {
		switch f.key {
		case "id":
			c.id, _ = strconv.ParseInt(f.value, 10, 64)
		case "addr":
			c.addr = f.value
		case "name":
			c.name = f.value
		case "user":
			c.user = f.value
		case "lib-name":
			lib = f.value
		case "lib-ver":
			libVersion = f.value
		case "age":
			c.age = inSeconds(f.value)
		case "idle":
			c.idle = inSeconds(f.value)
		case "flags":
			c.flags = f.value
		case "cmd":
			if f.value != "NULL" {
				c.last = f.value
			}
		case "sub", "psub", "ssub":
			c.channels += number(f.value)
		case "multi":
			c.queued = number(f.value)
		case "watch":
			c.watching = number(f.value)
		case "tot-cmds":
			c.commands, _ = strconv.ParseUint(f.value, 10, 64)
		}
	}
	if c.lib = lib; lib != "" && libVersion != "" {
		c.lib += "/" + libVersion
	}
	c.host = hostOf(c.addr, c.flags)
	return c, c.id != 0
}

type clientField struct{ key, value string }

// clientFields splits a line at its spaces. A piece that has no key belongs to the value before: paths have spaces.
func clientFields(line string) (fields []clientField) {
	for piece := range strings.SplitSeq(line, " ") {
		key, value, ok := strings.Cut(piece, "=")
		if !ok {
			if n := len(fields); n > 0 && piece != "" {
				fields[n-1].value += " " + piece
			}
			continue
		}
		fields = append(fields, clientField{key, value})
	}
	return fields
}

func hostOf(addr, flags string) string {
	if strings.Contains(flags, "U") || strings.HasPrefix(addr, "/") {
		return "unix"
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

func inSeconds(text string) time.Duration { return time.Duration(number(text)) * time.Second }

// isPeer reports whether it is no client but a replica, the primary, or a MONITOR.
func (c *client) isPeer() bool { return strings.ContainsAny(c.flags, "SMO") }

func (c *client) isSubscribed() bool { return c.channels > 0 || strings.Contains(c.flags, "P") }
func (c *client) isBlocked() bool    { return strings.Contains(c.flags, "b") }

func (c *client) inTransaction() bool {
	return strings.ContainsAny(c.flags, "xd") || c.queued >= 0 || c.watching > 0
}

func (c *client) neverSpoke() bool { return c.last == "" && c.commands == 0 }

// isIdle reports whether it has done nothing for longer than that, and nothing is expected of it.
func (c *client) isIdle(longer time.Duration) bool {
	return c.idle > longer && !c.isPeer() && !c.isSubscribed() && !c.isBlocked() && !c.inTransaction()
}

// identities are those that Redis knows of.
func (c *client) identities() limits.Identities {
	var ids limits.Identities
	ids[limits.ByAddr], ids[limits.ByUser], ids[limits.ByName], ids[limits.ByLib] = c.host, c.user, c.name, c.lib
	return ids
}
