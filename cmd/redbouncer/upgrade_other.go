//go:build !unix

package main

import "os"

// upgradeSignals are none: a program cannot replace itself on this system.
var upgradeSignals []os.Signal

func ignoreHangups() {}
