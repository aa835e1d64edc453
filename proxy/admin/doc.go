// Package admin is the operator's side of the proxy: the console (the command PROXY, on a listener of its own and on
// the port of the data), a page that shows it in a browser, and metrics and probes.
//
// The console has three doors. Through all of them, the same verbs do the same:
//
//	admin-listen ──► listener ──────────┐
//	listen, PROXY ──► proxy ────────────┼──► Console ──► Proxy, Limits, Ledger
//	http-listen, /api/ ──► access, api ─┘
//
// Nothing here is on the way of a command that is not PROXY, and no client of these listeners counts in any limit.
package admin
