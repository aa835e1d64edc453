//go:build linux && !race

package peer

const underRace = false
