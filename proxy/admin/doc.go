// Package admin is the operator's side of the proxy: the console (the command PROXY, on a listener of its own and on
// the port of the data) and HTTP for metrics and probes.
//
// The console has two doors. Through both, the same verbs do the same:
//
//	admin-listen ──► listener ──┐
//	                            ├──► Console.Execute ──► Proxy, Limits, Ledger
//	listen, PROXY ──► proxy ────┘
//
// Nothing here is on the way of a command that is not PROXY, and no client of these listeners counts in any limit.
package admin
