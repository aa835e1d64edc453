//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// upgradeSignals have the program replace itself.
var upgradeSignals = []os.Signal{syscall.SIGUSR2}

// ignoreHangups has SIGHUP not end a process that reads no settings any more.
func ignoreHangups() { signal.Ignore(syscall.SIGHUP) }
