package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/redbouncer/redbouncer/cmd/redbouncer/doctor"
)

// doctorFlags are what doctor is told. They are no settings: a file and the environment have nothing to say of them, but for
// REDBOUNCER_UPSTREAM where there is no URL.
type doctorFlags struct {
	URL string `arg:"" optional:"" help:"redis://, rediss:// or unix:// URL of a Redis, a Valkey or a redbouncer."`

	For       seconds `name:"for" placeholder:"TIME" default:"0" group:"look" help:"How long to look, and to knock if it is full. 0 is 10s."`
	Idle      seconds `name:"idle" placeholder:"TIME" default:"300s" group:"look" help:"Count clients as idle after so long."`
	Threshold int     `name:"threshold" placeholder:"PERCENT" default:"80" group:"look" help:"Warn when so much of maxclients is used."`
	JSON      bool    `name:"json" group:"look" help:"Write JSON, for programs."`

	Watch   seconds `name:"watch" placeholder:"TIME" default:"0" group:"watch" help:"Go on, look so often, and tell what changes."`
	Exec    string  `name:"exec" placeholder:"COMMAND" group:"watch" help:"Run this by sh for each event, which it reads as JSON."`
	Webhook string  `name:"webhook" placeholder:"URL" group:"watch" help:"Post each event there, as JSON."`

	KillIdle seconds `name:"kill-idle" placeholder:"TIME" default:"0" group:"kill" help:"Say who has been idle for longer and could be closed."`
	Yes      bool    `name:"yes" group:"kill" help:"Close them."`

	Size       string `name:"size" placeholder:"WHAT" group:"size" help:"Work out pools: pods=30,workers=8,threads=4[,connections=1][,surge=25]"`
	MaxClients int    `name:"maxclients" placeholder:"N" group:"size" help:"For so many clients, and not the server's own."`

	CACert     string `name:"tls-ca-cert-file" placeholder:"FILE" group:"doctor-tls" help:"Authorities that sign the server's certificate; PEM."`
	Cert       string `name:"tls-cert-file" placeholder:"FILE" group:"doctor-tls" help:"The certificate that it is shown; PEM."`
	Key        string `name:"tls-key-file" placeholder:"FILE" group:"doctor-tls" help:"Its private key; PEM."`
	ServerName string `name:"tls-server-name" placeholder:"NAME" group:"doctor-tls" help:"Whom its certificate has to be for, if not the host."`
}

// doctorGroups are the headings of doctor's flags, in the order of --help.
var doctorGroups = []kong.Group{
	{Key: "look", Title: "Looking"},
	{Key: "watch", Title: "Watching"},
	{Key: "kill", Title: "Closing idle clients"},
	{Key: "size", Title: "Pool sizes"},
	{Key: "doctor-tls", Title: "TLS, for rediss://"},
}

// Help implements kong.HelpProvider.
func (doctorFlags) Help() string {
	return `Usage: redbouncer doctor [flags] URL

It asks INFO, CLIENT LIST and CONFIG GET, and changes nothing without --yes. Without a URL it takes that of
REDBOUNCER_UPSTREAM, where a password is not in the process list. Exit status: 0 healthy, 1 warning,
2 critical (also a server that refuses with "max number of clients reached"), 3 it could not look.`
}

// statusError is an exit status of doctor, beside what is to be said, if anything is.
type statusError int

func (statusError) Error() string { return "" }

// config is what the flags mean.
func (f *doctorFlags) config(stdout io.Writer) doctor.Config {
	url := f.URL
	if url == "" && (f.Size == "" || f.MaxClients == 0) {
		url = os.Getenv(environmentName("upstream"))
	}
	return doctor.Config{
		URL: url, Shown: maskURL(url), TLS: doctor.TLSFiles{CACert: f.CACert, Cert: f.Cert, Key: f.Key, ServerName: f.ServerName},
		For: time.Duration(f.For), Idle: time.Duration(f.Idle), Threshold: f.Threshold, JSON: f.JSON,
		Watch: time.Duration(f.Watch), Exec: f.Exec, Webhook: f.Webhook, KillIdle: time.Duration(f.KillIdle), Yes: f.Yes,
		Size: f.Size, MaxClients: f.MaxClients, Colour: isTerminal(stdout) && os.Getenv("NO_COLOR") == "",
	}
}

// isTerminal reports whether a person reads along.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// examine runs doctor until it is done, or SIGINT or SIGTERM. Its exit statuses are its own: that it could not look is 3, also
// when the command line is at fault.
func examine(f *doctorFlags, stdout io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	status, err := doctor.Run(ctx, f.config(stdout), stdout)
	switch {
	case err != nil:
		return errors.Join(err, statusError(status))
	case status != doctor.ExitHealthy:
		return statusError(status)
	}
	return nil
}
