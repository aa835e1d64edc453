// Package peer tells who is behind a connection: the process on this host that holds its other end, and the client
// that a balancer in front says it speaks for.
//
// A process is found in two steps. The kernel says which socket is at the other end of a TCP connection (sock_diag,
// one exact question, no privileges), and /proc says which process has that socket among its descriptors; Resolver
// does both, away from the event loops. At the other end of a unix socket the kernel names the process itself.
//
// What has to hold for a process to be found:
//
//   - It runs on this host and in this network namespace. That is so for the containers of one Kubernetes pod; it is
//     not for a container that comes in over a bridge, whose address has to do.
//   - Its entry in /proc can be seen: the same process namespace, or the host's. In Kubernetes that takes
//     shareProcessNamespace: true in the pod, in Docker --pid.
//   - Its descriptors may be read: it belongs to the same user as the proxy, or the proxy has CAP_SYS_PTRACE.
//   - It has not closed the connection yet. One that lives for a millisecond is found most of the time, but not
//     always, and the first of a process hardly ever.
//
// Where a process has handed its connection down to children, any of them may be named. Whoever is not found has no
// process: nothing is made up. Only Linux has all of this. On macOS a process is known on unix sockets alone, elsewhere
// never.
//
// The package imports nothing of the project.
package peer
