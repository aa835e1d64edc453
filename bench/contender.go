package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

// Names of contenders that goals refer to.
const (
	direct     = "direct"
	redbouncer = "redbouncer"
	withLimits = "redbouncer+limits" // with a rule of each kind
	twemproxy  = "twemproxy"
	haproxy    = "haproxy"
)

// ability is something that not every contender can do.
type ability string

const (
	transactions ability = "transactions"
	blocking     ability = "blocking commands"
	pubsub       ability = "pub/sub"
)

// proxyPackage is what is built when --proxy names no program.
const proxyPackage = "github.com/redbouncer/redbouncer/cmd/redbouncer"

// contender is a way from the client to Redis.
type contender struct {
	name string
	// program is what to look for. Zero: no peer.
	program program
	// ours: it is the proxy under test, set up otherwise. It takes part if it is named.
	ours bool
	// versionFlag makes the program print its version. Empty: do not ask.
	versionFlag string
	// config is the text of its configuration file, at place.config. Nil: it has none.
	config func(place) string
	// args is its command line. Nil: there is no process, clients talk to Redis.
	args func(place) []string

	// lacks is what it cannot do.
	lacks []ability
	// perClient: it has an upstream connection for each client, which is a second open file.
	perClient bool
	// usesRecv: it calls recv and send, which /proc does not count, and not read and write.
	usesRecv bool

	// watch is called with each line that it prints. Nil: nobody watches.
	watch func(line string)
	// binary is the path of the program. Filled in by enlist.
	binary string
}

// place is where a contender runs.
type place struct {
	listen string // host:port, for clients
	redis  string // host:port, of the Redis behind it
	config string // path of its configuration file
	// extraPort is a second free port of 127.0.0.1, for those that insist on serving statistics.
	extraPort int
	// maxClients is how many clients it must admit.
	maxClients int
}

// contenders are measured in this order. A peer is one more row.
var contenders = []contender{
	{name: direct},
	{name: redbouncer, args: redbouncerArgs},
	{name: withLimits, ours: true, args: limitsArgs},
	{
		name: twemproxy, program: program{"nutcracker", "nutcracker"}, versionFlag: "-V",
		config: twemproxyConfig, args: twemproxyArgs, lacks: []ability{transactions, blocking, pubsub},
	},
	{
		name: haproxy, program: program{"haproxy", "haproxy"}, versionFlag: "-v",
		config: haproxyConfig, args: haproxyArgs, perClient: true, usesRecv: true,
	},
}

func (c contender) peer() bool { return c.program != program{} }

// named reports whether --peers decides on its taking part.
func (c contender) named() bool { return c.peer() || c.ours }

func redbouncerArgs(at place) []string {
	return []string{
		"serve",
		"--listen", at.listen,
		"--upstream", "redis://" + at.redis,
		"--log-level", "warn",
		"--admin-listen", "none",
		"--http-listen", "none",
		"--maxclients", strconv.Itoa(at.maxClients),
	}
}

// limitsArgs have a rule of each kind, none of which refuses anybody: what counting costs.
func limitsArgs(at place) []string {
	args := redbouncerArgs(at)
	for _, rule := range []string{
		"addr each maxclients 100000 new-connections-per-second 1000000 max-idle 1h max-in-flight 8000",
		"addr 127.0.0.0/8 maxclients 100000",
		"listener each maxclients 100000",
		"user each maxclients 100000 max-pins 1000",
		"name bench:* maxclients 100000",
		"lib each maxclients 100000",
		"process each maxclients 100000 client-output-buffer-limit 1gb client-query-buffer-limit 1gb",
		"container each maxclients 100000",
		"total new-connections-per-second 1000000 overflow queue",
	} {
		args = append(args, "--limit", rule)
	}
	return args
}

// twemproxyConfig is one pool with one server over one connection: what twemproxy does best, and the nearest
// thing to a shared lane. The mbuf size stays at its default.
func twemproxyConfig(at place) string {
	return fmt.Sprintf(`bench:
  listen: %s
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  auto_eject_hosts: false
  server_connections: 1
  servers:
   - %s:1
`, at.listen, at.redis)
}

func twemproxyArgs(at place) []string {
	return []string{
		"--conf-file=" + at.config,
		"--stats-addr=127.0.0.1",
		"--stats-port=" + strconv.Itoa(at.extraPort),
		"--pid-file=" + at.config + ".pid",
		"--output=" + at.config + ".log",
		"--verbose=0",
	}
}

// haproxyConfig forwards bytes: what any TCP proxy costs, with an upstream connection a client. One thread, as the
// others have.
func haproxyConfig(at place) string {
	return fmt.Sprintf(`global
  maxconn %d
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
listen bench
  bind %s
  server redis %s
`, at.maxConnections(), at.listen, at.redis)
}

// maxConnections is as many clients as the files allow, of which each takes two: haproxy refuses to start with more.
func (at place) maxConnections() int {
	if most, err := openFilesLimit(); err == nil {
		return max(min(at.maxClients, (most-spareFiles)/2), 1)
	}
	return at.maxClients
}

func haproxyArgs(at place) []string { return []string{"-db", "-q", "-f", at.config} }

// contenderNamed returns the row of contenders with that name.
func contenderNamed(name string) (contender, bool) {
	for _, c := range contenders {
		if c.name == name {
			return c, true
		}
	}
	return contender{}, false
}

// peerNames returns the names of the contenders that are neither Redis nor the proxy under test.
func peerNames() []string {
	var names []string
	for _, c := range contenders {
		if c.named() {
			names = append(names, c.name)
		}
	}
	return names
}

// enlist returns the contenders that take part, with their binaries. A peer that is not installed is left out
// and the report says so; without the proxy under test there is nothing to do.
func (s *session) enlist(ctx context.Context) ([]contender, error) {
	var enlisted []contender
	ours := ""
	for _, c := range contenders {
		var err error
		switch {
		case c.name == direct:
		case c.named() && !slices.Contains(s.peers, c.name):
			continue
		case c.name == redbouncer || c.ours:
			if ours == "" {
				if ours, err = s.proxyBinary(ctx); err != nil {
					return nil, err
				}
			}
			c.binary = ours
		default:
			if c.binary, err = c.program.find(); err != nil {
				s.report.Skipped = append(s.report.Skipped, fmt.Sprintf("%s: skipped: %v", c.name, err))
				continue
			}
		}
		enlisted = append(enlisted, c)
	}
	return enlisted, nil
}

// proxyBinary returns the proxy under test, building it unless --proxy names one.
func (s *session) proxyBinary(ctx context.Context) (string, error) {
	if s.proxy != "" {
		path, err := exec.LookPath(s.proxy)
		if err != nil {
			return "", fmt.Errorf("--proxy: %w", err)
		}
		return filepath.Abs(path)
	}
	s.progress.say("building redbouncer")
	binary := filepath.Join(s.dir, "redbouncer")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, proxyPackage).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building %s (--proxy PATH takes one that is built already): %w\n%s", proxyPackage, err, out)
	}
	return binary, nil
}
