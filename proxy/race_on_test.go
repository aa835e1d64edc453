//go:build race

package proxy_test

// underRace says that the race detector makes the proxy, which runs in the process of the test, several times slower.
const underRace = true
