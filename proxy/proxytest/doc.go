// Package proxytest holds what the tests of a proxy need: a real Redis that the test starts and ends, a
// connection that shows replies as the bytes they are, conversations written down as text, and a proxy that
// runs for as long as the test does.
//
// Nothing here fakes a server. A multiplexer is right when its clients cannot tell it from Redis, so the thing
// to compare with is Redis.
package proxytest
