// Package eventloop runs sockets on event loops: one goroutine owns its connections outright, so that what they
// share needs no lock.
//
// A [Loop] takes turns. In each turn it reads every connection that has something to read, then calls its Flush
// hook, then reads the connections that were attached as late (a proxy's upstreams: what the clients of this turn
// wrote goes out in one write, and the replies come in after it), then calls Flush again.
//
// Plain sockets on Linux are read and written by the loop itself, without blocking, through epoll. Everything
// else (TLS, another operating system) is a stream: two goroutines read and write a net.Conn and post what
// they have to the loop. A [Handler] cannot tell the difference.
//
// All methods of Loop, Conn and Timer belong to the loop's goroutine, but for Loop.Post and Loop.Stop.
package eventloop
