// Package proxytest holds what the tests of a proxy need: a real Redis that the test starts and ends, a
// connection that shows replies as the bytes they are, conversations written down as text, and a proxy that
// runs for as long as the test does.
//
// The tests that use it can be told more by environment variables:
//
//	REDBOUNCER_TEST_SERVER     the server program to test against, a redis-server or valkey-server
//	REDBOUNCER_TEST_DURATION   how long the tests of isolation, of two tenants and of limits attack, 5s by default
//	REDBOUNCER_TEST_SEED       the seed of such a test, or of the one of subscribers, to repeat
//	REDBOUNCER_TEST_FLOOD=1    1 GB of garbage and 10,000 half-open clients instead of 64 MB and 2,000
//
// Nothing here fakes a server. A multiplexer is right when its clients cannot tell it from Redis, so the thing
// to compare with is Redis.
package proxytest
