package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/redbouncer/redbouncer/cmd/redbouncer/doctor"
)

// commands are the program's subcommands.
type commands struct {
	Serve      settings       `cmd:"" help:"Run the proxy until SIGTERM or SIGINT."`
	Check      settings       `cmd:"" help:"Check the settings that serve would use, print them, and exit."`
	Health     healthSettings `cmd:"" help:"Ask the proxy that runs with the same settings how it is; status 0 if well, else 1."`
	Doctor     doctorFlags    `cmd:"" help:"Say why a Redis is out of connections, and what to do."`
	Version    struct{}       `cmd:"" help:"Print the version."`
	Man        manPage        `cmd:"" help:"Print the manual page, for man."`
	Completion completion     `cmd:"" help:"Print what completes a command line in bash, zsh or fish."`
}

// invocation is one command line, understood.
type invocation struct {
	command string
	model   *kong.Application // all commands and their flags
	// Of serve, check and health:
	file  *fileResolver
	table []*kong.Flag // the rows of settings
	// Of serve and check:
	args     []string
	settings *settings
	from     *inheritance // what the program was started with
	stray    []string     // environment variables that look like settings and are none
	// Of one of these:
	health *healthSettings
	doctor *doctorFlags
}

// parse reads the command line, and for commands with settings the environment and the file. It reports everything
// that is wrong with them at once; what is wrong with those of health is for health to say. When args ask for help, it prints it, and the command is "help".
func parse(args []string, stdout io.Writer) (*invocation, error) {
	var cmds commands
	helped := false
	file := &fileResolver{}
	parser, err := kong.New(&cmds,
		kong.Name("redbouncer"),
		kong.Help(printHelp),
		kong.Writers(stdout, io.Discard),
		kong.Exit(func(int) { helped = true }),
		kong.ExplicitGroups(slices.Concat(groups, doctorGroups)),
		defaults(),
		// Of two that know a setting the later one wins, and the command line wins over both.
		kong.Resolvers(file, kong.ResolverFunc(fromEnvironment)),
		kong.Bind(file),
		kong.WithHyphenPrefixedParameters(true), // so that "--maxclients -1" is told what would do
	)
	if err != nil {
		panic("bug: the table of settings: " + err.Error())
	}
	if slices.Equal(args, []string{"--version"}) {
		args = []string{"version"}
	}
	ctx, err := parser.Parse(args)
	switch {
	case helped:
		return &invocation{command: "help"}, nil
	case len(args) == 0:
		return nil, usageError{errors.New("say what to do: serve, check, health, doctor or version; redbouncer --help tells more")}
	case err != nil && args[0] == "doctor":
		return nil, errors.Join(usageError{err}, statusError(doctor.ExitUnknown))
	case err != nil:
		return nil, usageError{err}
	}
	inv := &invocation{command: ctx.Command(), model: parser.Model, args: args, file: file}
	switch inv.command {
	case "serve":
		inv.settings = &cmds.Serve
	case "check":
		inv.settings = &cmds.Check
	case "health":
		inv.health = &cmds.Health
		inv.table = slices.DeleteFunc(slices.Clone(ctx.Selected().Flags), func(f *kong.Flag) bool { return !isSetting(f) })
		return inv, nil
	case "doctor", "doctor <url>":
		inv.command, inv.doctor = "doctor", &cmds.Doctor
		return inv, nil
	default:
		return inv, nil
	}
	inv.table = ctx.Selected().Flags
	inv.stray = strayEnvironment(inv.table)
	if err := inv.validate(file.problems); err != nil {
		return nil, err
	}
	return inv, nil
}

// validate returns a usageError with all the reasons why the settings cannot be used; problems are those of
// the file.
func (inv *invocation) validate(problems []error) error {
	for _, flag := range inv.table {
		if s := row(flag); s.problem() != nil {
			problems = append(problems, settingError{flag.Name, s.said(), s.origin(), s.problem().Error()})
		}
	}
	if len(problems) == 0 {
		// Only now: what does not parse is not in the Config, and the proxy would judge other values.
		for _, err := range []error{inv.settings.config().Validate(), inv.settings.adminConfig().Validate()} {
			if err != nil {
				problems = append(problems, inv.explain(err))
			}
		}
	}
	if len(problems) == 0 {
		return nil
	}
	return usageError{errors.Join(problems...)}
}

// run carries the command out.
func (inv *invocation) run(stdout, stderr io.Writer) error {
	switch inv.command {
	case "serve":
		return serve(inv, stderr)
	case "check":
		return check(inv, stdout, stderr)
	case "health":
		return health(inv, stdout)
	case "doctor":
		return examine(inv.doctor, stdout)
	case "version":
		_, err := fmt.Fprintln(stdout, programVersion())
		return err
	case "man":
		return writeManPage(stdout, inv.model)
	}
	if shell, ok := strings.CutPrefix(inv.command, "completion "); ok {
		return writeCompletion(stdout, inv.model, shell)
	}
	return nil
}
