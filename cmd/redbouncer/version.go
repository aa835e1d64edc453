package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set by the linker, with -X main.version=..., when a release or an image is built.
var version, commit string

// build is what this program was made from.
type build struct {
	number string // "v1.2.3", or what the Go toolchain knows, or "dev"
	commit string // empty when unknown; ends in "+dirty" when files had been changed
}

// programVersion tells the build from the linker's flag and from what the toolchain recorded.
func programVersion() build {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		info = &debug.BuildInfo{}
	}
	return versionOf(build{version, commit}, info)
}

func versionOf(b build, info *debug.BuildInfo) build {
	if b.number == "" {
		b.number = info.Main.Version
	}
	if b.number == "" || b.number == "(devel)" {
		b.number = "dev"
	}
	if b.commit != "" {
		return b
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true" && b.commit != "":
			b.commit += "+dirty" // the toolchain lists the revision first
		}
	}
	return b
}

func (b build) String() string {
	commit := b.commit
	if commit == "" {
		commit = "unknown"
	}
	return fmt.Sprintf("redbouncer %s, commit %s, %s %s/%s", b.number, commit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
