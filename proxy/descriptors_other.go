//go:build !unix

package proxy

// fitDescriptors does nothing: this system has no limit on open files to speak of.
func fitDescriptors(*Config) error { return nil }

// roomFor accepts any number where the limit on open files is not known.
func roomFor(_ *Config, maxclients, _ int) (fits int, ok bool) { return maxclients, true }

// neededBy is not known here.
func neededBy(*Config, int, int) int { return 0 }
