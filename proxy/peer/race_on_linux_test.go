//go:build linux && race

package peer

// underRace says that the race detector makes the search several times slower.
const underRace = true
