package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/redis/go-redis/v9"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// gcPercent is how much the heap may grow, in percent of what is in use, before garbage is collected. A command leaves none
// behind, so that the collector has little to do, and idle clients cost less memory: of 10,000, 1.1 KB each instead of 1.9 KB
// with Go's 100. The environment's GOGC goes before it.
const gcPercent = 20

// serve runs the proxy until a signal stops it. The proxy logs what it does.
func serve(inv *invocation, stderr io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	var level slog.LevelVar
	level.Set(slog.Level(inv.settings.LogLevel.is))
	log := inv.settings.logger(stderr, &level)
	for _, name := range inv.stray {
		log.Warn("the environment has a variable that is not a setting", "variable", name)
	}
	redis.SetLogger(libraryLog{log})
	ctx, stop := stopOnSignal(log)
	defer stop.close()
	reloads := newReloader(inv, log, &level)
	defer reloads.stop()
	upgrades := newUpgrader(log)
	defer upgrades.stop()

	cfg := inv.settings.config()
	cfg.Log = log
	if inv.settings.Upstream.is.embedded() {
		server, upstream, err := startEmbedded(log)
		if err != nil {
			return err
		}
		defer server.Close()
		cfg.Upstream = upstream
	}
	adminCfg := inv.settings.adminConfig()
	adminCfg.Log = log
	if err := inv.from.share(&cfg, &adminCfg); err != nil {
		return err
	}
	operators, err := admin.New(adminCfg)
	if err != nil {
		// The settings make sense, but this machine does not grant them now.
		return inv.explain(err)
	}
	defer operators.Stop() // after the proxy has drained, so that operators can see it
	cfg.Console, cfg.Operates = operators.Client, operators.Operates
	cfg.Serving = func() { notify(log, daemon.SdNotifyReady) }
	server, err := proxy.New(cfg)
	if err != nil {
		return inv.explain(err)
	}
	if err := inv.from.succeed(server); err != nil {
		return err
	}
	reloads.start(server, operators)
	operators.Attach(admin.Backends{Proxy: server, Limits: server, Ledger: server.Ledger(), Settings: reloads, Upgrader: upgrades})
	operators.Start()
	upgrades.start(server, operators, reloads, inv.settings.Upstream.is.embedded())
	return server.Run(ctx)
}

// libraryLog is what go-redis says of its connections to sentinels. What matters of it is logged by whoever has them.
type libraryLog struct{ log *slog.Logger }

// Printf implements go-redis's logger.
func (l libraryLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, fmt.Sprintf(format, v...))
}

// stopper turns the first SIGTERM or SIGINT into the end of a context, and the second into the end of the
// process.
type stopper struct {
	// Static after construction.
	log     *slog.Logger
	signals chan os.Signal
	cancel  context.CancelFunc
	exit    func(int)
	done    chan struct{} // closed by wait
}

// stopOnSignal returns a context that the first signal ends. The caller closes the stopper.
func stopOnSignal(log *slog.Logger) (context.Context, *stopper) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &stopper{log, make(chan os.Signal, 2), cancel, os.Exit, make(chan struct{})}
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT)
	go s.wait()
	return ctx, s
}

// wait ends when the stopper is closed, or with the process.
func (s *stopper) wait() {
	defer close(s.done)
	first, ok := <-s.signals
	if !ok {
		return
	}
	notify(s.log, daemon.SdNotifyStopping)
	s.log.Info("told to stop; a second signal ends the process at once", "signal", first.String())
	s.cancel()
	if second, ok := <-s.signals; ok {
		s.log.Warn("ending without an answer to what is in flight", "signal", second.String())
		s.exit(exitFailed)
	}
}

// close gives signals their usual meaning again, and waits for wait.
func (s *stopper) close() {
	signal.Stop(s.signals)
	close(s.signals) // signal.Stop has made sure that nobody sends
	s.cancel()
	<-s.done
}
