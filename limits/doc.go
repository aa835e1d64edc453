// Package limits decides who may have a connection: the [Gate] for clients at the door, with a [Rule] for those of an
// identity, and the [Budget] for connections to the upstream. And it keeps the book of who holds what: the [Ledger], which
// names the sources that seem to leak.
//
// It does no I/O and starts no goroutine, and is told the time. Its types may be used from several goroutines;
// none of their calls lies on the path of a command, but for the one load of [Ticket.Bounds].
package limits
