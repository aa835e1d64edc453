// Package handover is the line between a program and the one that replaces it while both run: records in the order of
// sending, with the descriptors of sockets. It knows sockets and what a record says, not what a client is.
//
// The old program starts the new one with its end of a Pair, and then:
//
//	old                                 new
//	Offer, with the listeners    ──►
//	                             ◄──    Ready, or Failed: from here on it could serve
//	   (it accepts nobody any more; who comes waits in the kernel's queue)
//	Place, for each client       ──►
//	Begin                        ──►    (it accepts)
//	                             ◄──    Serving: from here on there is no way back
//	Caller, Client, Known,
//	Left, Upstream, in any order ──►
//	   (it has no clients any more, or its time is up: it hangs up)
package handover
