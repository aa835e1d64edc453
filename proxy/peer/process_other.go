//go:build !linux && !darwin

package peer

// ByPID knows no process on this system.
func ByPID(int) (Process, bool) { return Process{}, false }
