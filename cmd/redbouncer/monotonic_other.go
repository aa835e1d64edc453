//go:build !linux

package main

import "errors"

// monotonic is for systemd, which is not on this system.
func monotonic() (int64, error) { return 0, errors.ErrUnsupported }
