package main

import (
	"bufio"
	"fmt"

	"github.com/alecthomas/kong"
)

const helpProgram = `redbouncer lets many clients share a few connections to a Redis or Valkey.

Usage: redbouncer <command> [settings]

Commands:
`

const helpProgramEnd = `
Try it:      redbouncer serve --upstream embedded
Settings:    redbouncer serve --help
No connections left: redbouncer doctor redis://127.0.0.1:6379
`

const helpSettings = `
Usage: redbouncer %s [settings]

` + settingsInWords

// settingsInWords is how a setting is given, for --help and for the manual page.
const settingsInWords = `Every setting is a flag, an environment variable and a key of the configuration file: --pool-size 16,
REDBOUNCER_POOL_SIZE=16, pool-size: 16. A flag goes before the environment, the environment before the file.
A time is a number of seconds or a duration such as 500ms or 2m. A size is a number of bytes or has one of
Redis's units: 1k is 1000, 1kb is 1024, and so on with m and g. Separate several addresses with commas.
`

// printHelp is a kong.HelpPrinter that gives each setting one line, which kong's own does not for long names.
func printHelp(_ kong.HelpOptions, ctx *kong.Context) error {
	w := bufio.NewWriter(ctx.Stdout)
	command := ctx.Selected()
	if command == nil {
		fmt.Fprint(w, helpProgram)
		for _, c := range ctx.Model.Children {
			fmt.Fprintf(w, "  %-12s%s\n", c.Name, c.Help)
		}
		fmt.Fprint(w, helpProgramEnd)
		return w.Flush()
	}
	fmt.Fprintln(w, command.Help)
	if command.Detail != "" {
		fmt.Fprintf(w, "\n%s\n", command.Detail)
	}
	if len(command.Flags) > 0 && isSetting(command.Flags[len(command.Flags)-1]) {
		fmt.Fprintf(w, helpSettings, command.Name)
	}
	group := ""
	for _, flag := range command.Flags {
		if flag.Group.Title != group {
			group = flag.Group.Title
			fmt.Fprintf(w, "\n%s:\n", group)
		}
		fmt.Fprintf(w, "  %-34s %-14s  %s\n", "--"+flag.Name+" "+flag.PlaceHolder, flag.Default, flag.Help)
	}
	return w.Flush()
}
