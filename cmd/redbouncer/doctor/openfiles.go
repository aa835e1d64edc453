package doctor

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// openFiles is what there is to know of the server's open-file limit. Redis wants maxclients and 32 descriptors more; a start
// that does not get them lowers maxclients, and tells its log only.
type openFiles struct {
	limit      int    // 0: not known
	hard       int    // up to where Redis can raise it by itself; 0: not known
	from       string // how we know
	lowered    bool   // maxclients is what the limit leaves
	configured int    // maxclients in the configuration file, if we can read it; else 0
}

// spare is how many descriptors Redis keeps for itself.
const spare = 32

func findOpenFiles(v *survey) openFiles {
	f := openFiles{}
	if v.maxclients <= 0 || v.now.isProxy() {
		return f
	}
	if pid := v.now.number("process_id"); pid > 0 && v.onThisHost() && isServer(pid) {
		f.limit, f.hard = limitsOf(pid)
		f.from = fmt.Sprintf("/proc/%d/limits", pid)
		f.configured = configuredMaxClients(v.now["config_file"])
	}
	switch {
	case f.limit > 0:
		f.lowered = v.maxclients+spare >= f.limit && (f.configured == 0 || f.configured > v.maxclients) && isUsualLimit(f.limit)
	case isUsualLimit(v.maxclients + spare):
		f = openFiles{limit: v.maxclients + spare, from: "inferred from maxclients", lowered: true}
	}
	return f
}

// isUsualLimit reports whether a number is one that open-file limits have. None of them and 32 less is a maxclients that
// somebody has chosen.
func isUsualLimit(n int) bool {
	switch n {
	case 10000, 20000, 50000, 64000, 100000, 200000, 500000, 1000000:
		return true
	}
	return n >= 256 && n&(n-1) == 0
}

// onThisHost reports whether the server has an address of this host.
func (v *survey) onThisHost() bool { return isLocal(v.server.options.Network, v.server.options.Addr) }

func isLocal(network, addr string) bool {
	if network == "unix" {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	found, err := net.LookupIP(host)
	if err != nil {
		return false
	}
	own, _ := net.InterfaceAddrs()
	for _, ip := range found {
		if ip.IsLoopback() {
			return true
		}
		for _, a := range own {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
				return true
			}
		}
	}
	return false
}

// isServer reports whether a process of this host is a Redis. The number may be that of a process in a container, and here
// another one's.
func isServer(pid int) bool {
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
	return err == nil && (strings.HasPrefix(string(name), "redis") || strings.HasPrefix(string(name), "valkey"))
}

// limitsOf reads the open-file limits of a process; 0 if they cannot be read.
func limitsOf(pid int) (soft, hard int) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Max open files")
		if words := strings.Fields(rest); ok && len(words) >= 2 {
			return number(words[0]), number(words[1])
		}
	}
	return 0, 0
}

// configuredMaxClients is what the file says last, or 0.
func configuredMaxClients(name string) (n int) {
	if name == "" {
		return 0
	}
	f, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) == 2 && strings.EqualFold(words[0], "maxclients") {
			n = number(words[1])
		}
	}
	return n
}
