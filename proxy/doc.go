// Package proxy is the client side of redbouncer: it accepts clients, reads their commands, and decides what each
// command means for a connection that is shared.
//
// The life of a command: the loop reads it ([session.Data]), the protocol reader finds its end, dispatch looks it
// up in the command table and gives it the treatment that the table has for it. A command that leaves no state on
// a connection goes on the lane of the session's context; what has state is kept here or gets a connection of
// its own. The reply comes back through [session.Reply].
package proxy
