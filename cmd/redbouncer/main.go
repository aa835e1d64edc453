// Redbouncer is a proxy that stands between the clients of a Redis or Valkey and the server: it admits as many
// clients as it has been told to and serves them over a few upstream connections.
//
// A setting has one name, spelled maxclients in a YAML file, --maxclients on the command line and
// REDBOUNCER_MAXCLIENTS in the environment. settings.go is the table of all of them.
//
// The exit status is 0 after a clean stop, 1 when something failed while it ran, and 2 when the command line
// or a setting cannot be used. Those of doctor are for monitoring: 0 healthy, 1 warning, 2 critical, 3 when it could not look.
package main

import (
	"fmt"
	"io"
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// run is the program without its process: it parses args, carries out the command, and returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	from := inherit()
	inv, err := parse(args, stdout)
	if err == nil {
		inv.from = from
		err = inv.run(stdout, stderr)
	}
	if err != nil {
		for _, line := range report(err) {
			if line != "" {
				fmt.Fprintln(stderr, "redbouncer:", line)
			}
		}
		from.decline(err)
	}
	return exitStatus(err)
}
