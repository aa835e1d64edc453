package peer

import "strings"

// What tells a container. Its runtime puts it into a control group that has its id in its name; the forms, of which
// any may stand below others:
//
//	docker/<id>                            Docker, cgroup v1 or driver cgroupfs
//	docker-<id>.scope                      Docker, driver systemd
//	kubepods/burstable/pod<uid>/<id>       Kubernetes, cgroupfs
//	cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope    Kubernetes, systemd, by runtime
//	kubepods-...slice:cri-containerd:<id>  containerd, systemd's names with cgroupfs
//	libpod-<id>.scope, libpod-<id>         Podman
//
// A process that shares our control group namespace's root, so one in our own container, shows "/" instead. There
// the files help that a runtime mounts into a container from a directory with its id.

const (
	idLength = 64 // of a container's id, in hexadecimal digits
	idShown  = 12 // as docker ps and crictl ps show it
)

// container returns the short id of the container in which a process runs, out of its /proc/PID/cgroup and
// /proc/PID/mountinfo. There may be none.
func container(cgroup, mountinfo string) string {
	for line := range strings.Lines(cgroup) {
		// hierarchy:controllers:path, and the path may have colons of its own
		if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(parts) == 3 {
			if id := groupID(parts[2]); id != "" {
				return id
			}
		}
	}
	for line := range strings.Lines(mountinfo) {
		if id := mountID(strings.Fields(line)); id != "" {
			return id
		}
	}
	return ""
}

// groupID returns the id in a control group's path. The innermost counts.
func groupID(path string) string {
	for path != "" {
		i := strings.LastIndexByte(path, '/')
		name := strings.TrimSuffix(path[i+1:], ".scope")
		path = path[:max(i, 0)]
		if strings.Contains(name, "-conmon-") { // Podman's and CRI-O's watcher of a container, outside of it
			return ""
		}
		if id := shortID(name[strings.LastIndexAny(name, "-:")+1:]); id != "" {
			return id
		}
	}
	return ""
}

// mountID returns the id in a line of mountinfo, whose fourth field is the directory or file that is mounted and the
// fifth where.
func mountID(fields []string) string {
	if len(fields) < 5 {
		return ""
	}
	switch fields[4] {
	case "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv":
	default:
		return ""
	}
	for _, dir := range []string{"/overlay-containers/", "/containers/"} { // Podman's and Docker's
		if _, rest, ok := strings.Cut(fields[3], dir); ok {
			id, _, _ := strings.Cut(rest, "/")
			return shortID(id)
		}
	}
	return ""
}

func shortID(s string) string {
	if len(s) != idLength || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	return s[:idShown]
}
