package doctor

import (
	"cmp"
	"strconv"
	"strings"
)

// info is a reply to INFO, its sections put together.
type info map[string]string

func parseInfo(text string) info {
	in := info{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		if ok && !strings.HasPrefix(key, "#") {
			in[key] = value
		}
	}
	return in
}

// number returns a field that is one, and 0 if it is not there.
func (in info) number(key string) int {
	n, _ := strconv.Atoi(in[key])
	return n
}

// product is what it calls itself, and its version. Valkey also tells the version of Redis that it is compatible with.
func (in info) product() (name, version string) {
	if v := in["valkey_version"]; v != "" {
		return "Valkey", v
	}
	return "Redis", in["redis_version"]
}

// isProxy reports whether a redbouncer has answered. Its figures about clients are its own then.
func (in info) isProxy() bool { return in["redbouncer_version"] != "" }

// used is how many connections count against maxclients. Replicas and the cluster's links do, and connected_clients leaves
// them out.
func (in info) used() int {
	n := in.number("connected_clients")
	if !in.isProxy() {
		n += in.number("connected_slaves") + in.number("cluster_connections")
	}
	return n
}

// mode is standalone, cluster or sentinel.
func (in info) mode() string {
	return cmp.Or(in["redis_mode"], in["server_mode"], "standalone")
}

// role is master or slave, as Redis spells them.
func (in info) role() string { return cmp.Or(in["role"], "master") }
