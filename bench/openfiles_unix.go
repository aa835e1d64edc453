//go:build unix

package main

import (
	"fmt"
	"syscall"
)

// raiseOpenFiles makes sure that this process, and the children it starts from now on, may have n open files.
//
// The Go runtime raises its own soft limit at the start, but hands the former one to its children. Setting it
// here stops that: twemproxy takes the limit that it is given and would refuse clients above it.
func raiseOpenFiles(n int) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	want := uint64(n)
	if limit.Max < want {
		return fmt.Errorf("%d open files are needed and the hard limit is %d (ulimit -Hn)", n, limit.Max)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raising the limit of open files to %d: %w", limit.Max, err)
	}
	return nil
}

// openFilesLimit is how many files a process may have open.
func openFilesLimit() (int, error) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Max, 1<<30)), err
}
