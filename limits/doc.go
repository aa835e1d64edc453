// Package limits decides who may have a connection: the [Gate] for clients at the door, the [Budget] for
// connections to the upstream.
//
// It does no I/O and starts no goroutine, and is told the time. Its types may be used from several goroutines;
// none of their calls lies on the path of a command.
package limits
