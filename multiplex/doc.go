// Package multiplex is the upstream side of the proxy: it puts the requests of many clients on few connections.
//
// Each loop has a [Pool]. A [Context] is what must be equal for clients to share a connection: user, database,
// protocol version. A [Link] is one connection:
//
//		            budget         handshake
//		(requested) ──────► dialing ──────► serving ──► draining ──► retiring ──► (given back)
//		                       │ ▲             │ the connection broke                ▲
//		                       └─┘ backoff     └─────────────────────────────────────┘
//
//	  - As a lane it serves every client of its context. A lane is in order, so a reply needs no tag: the n-th reply
//	    belongs to the n-th request.
//	  - As a pin it is lent to one client, for as long as the client's state lives on it.
//
// Beside them there is one connection for all loops, [Control], for what must not wait behind data.
//
// The package knows no commands but those of its own handshake.
package multiplex
