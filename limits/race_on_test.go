//go:build race

package limits_test

// The race detector makes the simulation some fifteen times slower, and has little to find in it.
const hoursByDefault = 2
