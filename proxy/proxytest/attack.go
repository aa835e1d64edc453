package proxytest

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

const (
	// DurationVariable names the environment variable that sets how long a random attack lasts, as time.ParseDuration reads it.
	DurationVariable = "REDBOUNCER_TEST_DURATION"
	// SeedVariable names the one that repeats the choices of an earlier run, though not its timing.
	SeedVariable = "REDBOUNCER_TEST_SEED"
)

// Duration returns how long a random attack is to last: 5 s, unless DurationVariable says otherwise.
func Duration(t testing.TB) time.Duration {
	t.Helper()
	v := os.Getenv(DurationVariable)
	if v == "" {
		return 5 * time.Second
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("%s: %v", DurationVariable, err)
	}
	return d
}

// Seed returns the seed of a random attack, and tells it.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv(SeedVariable); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", SeedVariable, err)
		}
		seed = n
	}
	t.Logf("%s=%d", SeedVariable, seed)
	return seed
}
