package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/redbouncer/redbouncer/proxy"
	"github.com/redbouncer/redbouncer/proxy/admin"
)

// The file is read again on SIGHUP, on PROXY RELOAD, and when it has changed. Flags and environment go before it, as at the
// start. It is taken as a whole or, if anything in it cannot be used, not at all. What cannot be changed while the program
// runs stays, and is told of by name.
//
// What an operator has set while the program runs (CONFIG SET, PROXY SET) stays until the file says something else of that
// very setting, or rule of limit, than when it was read last. So somebody's new log-level does not undo what somebody else has
// set at night to keep Redis alive; a file that is watched may be read again at any time.

// reloader has the settings in force, and reads them again. It is an admin.Settings.
type reloader struct {
	// Static after construction, and start.
	log     *slog.Logger
	level   *slog.LevelVar
	path    string // of the file, absolute; empty: there is none
	hangups chan os.Signal
	proxy   *proxy.Server
	admin   *admin.Server
	ctx     context.Context // ends with stop
	cancel  context.CancelFunc
	running sync.WaitGroup

	// mu guards the following field. It is held while settings are read and put in force.
	mu  sync.Mutex
	inv *invocation // what the program has been told last, with what cannot be changed as it was at the start
}

// reloadTimeout bounds how long the loops are waited for. They keep to new settings all the same, when they are less busy.
const reloadTimeout = 4 * time.Second

// newReloader returns a reloader that keeps SIGHUP in mind from now on, so that it does not end the process, and reads
// nothing before start. It is to be stopped.
func newReloader(inv *invocation, log *slog.Logger, level *slog.LevelVar) *reloader {
	r := &reloader{log: log, level: level, hangups: make(chan os.Signal, 1), inv: inv}
	if inv.file.path != "" {
		var err error
		if r.path, err = filepath.Abs(inv.file.path); err != nil {
			r.path = inv.file.path
		}
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	signal.Notify(r.hangups, syscall.SIGHUP)
	return r
}

// start has settings put in force in a proxy and its console.
func (r *reloader) start(server *proxy.Server, operators *admin.Server) {
	r.proxy, r.admin = server, operators
	r.running.Go(r.onHangup)
	if r.path != "" && bool(r.inv.settings.WatchConfig.is) {
		r.running.Go(r.watch)
	}
}

// stop ends it, and waits.
func (r *reloader) stop() {
	r.cancel()
	r.running.Wait()
	signal.Stop(r.hangups)
}

// onHangup ends with stop.
func (r *reloader) onHangup() {
	for {
		select {
		case <-r.hangups:
			_, _ = r.reload(r.ctx, "SIGHUP") // the log has been told
		case <-r.ctx.Done():
			return
		}
	}
}

// Settings implements admin.Settings.
func (r *reloader) Settings() []proxy.SettingReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.inv.reports()
	for i := range out {
		out[i].Reloads = r.reloads(out[i].Name)
	}
	return out
}

// reloads reports whether a setting can be changed while the program runs.
func (r *reloader) reloads(name string) bool {
	switch name {
	case "admin-users", "stats-users", "log-level":
		return true
	}
	return r.inForce()[name].Reloads
}

// inForce are the proxy's settings by name.
func (r *reloader) inForce() map[string]proxy.SettingReport {
	all := map[string]proxy.SettingReport{}
	for _, s := range r.proxy.Settings() {
		all[s.Name] = s
	}
	return all
}

// Reload implements admin.Settings.
func (r *reloader) Reload(ctx context.Context) ([]admin.SettingChange, error) {
	return r.reload(ctx, "PROXY RELOAD")
}

// reload reads the settings and puts them in force. The log is told what has come of it, and who wanted it.
func (r *reloader) reload(ctx context.Context, by string) ([]admin.SettingChange, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	notifyReloading(r.log)
	defer notify(r.log, daemon.SdNotifyReady)
	changes, err := r.readAgain(ctx)
	if err != nil {
		r.log.Error("the settings cannot be read again, and stay as they are", "by", by, "error", err)
		return nil, err
	}
	var changed, kept []string
	for _, c := range changes {
		if c.changed() {
			changed = append(changed, c.Name+"="+c.Now)
		} else {
			kept = append(kept, c.Name+" ("+c.Outcome+")")
		}
	}
	r.log.Info("settings read again", "by", by, "config", r.path, "changed", orNone(changed), "kept", orNone(kept))
	out := make([]admin.SettingChange, len(changes))
	for i, c := range changes {
		out[i] = c.SettingChange
	}
	return out, nil
}

func orNone(words []string) string {
	if len(words) == 0 {
		return noNames
	}
	return strings.Join(words, ", ")
}

var errNoFile = errors.New("no configuration file is in use: start the program with --config, or set " +
	"REDBOUNCER_CONFIG; environment and flags cannot change")

// readAgain reads the settings and puts them in force. Mu is held.
func (r *reloader) readAgain(ctx context.Context) ([]change, error) {
	if r.path == "" {
		return nil, errNoFile
	}
	next, err := parse(r.inv.args, io.Discard)
	if err != nil {
		return nil, onOneLine(err)
	}
	kept := r.keepFixed(next)
	if err := next.validate(nil); err != nil { // what is kept may not go with what is new
		return nil, onOneLine(err)
	}
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	before := r.inForce()
	if err := r.admin.Acceptable(next.settings.adminConfig()); err != nil {
		return nil, onOneLine(next.explain(err))
	}
	if err := r.proxy.Reload(ctx, next.settings.config()); err != nil {
		return nil, onOneLine(next.explain(err))
	}
	if err := r.admin.Reload(next.settings.adminConfig()); err != nil {
		panic("bug: an acceptable configuration of the console is not: " + err.Error())
	}
	r.level.Set(slog.Level(next.settings.LogLevel.is))
	changes := r.compare(next, kept, before)
	r.inv = next
	return changes, nil
}

// onOneLine is an error with all that is wrong on a line, no secrets in it.
func onOneLine(err error) error { return errors.New(strings.Join(report(err), "; ")) }

// unread reports whether the file holds something else than when it was read last. One that cannot be read does.
func (r *reloader) unread() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	text, err := os.ReadFile(r.path)
	return err != nil || !bytes.Equal(text, r.inv.file.text)
}
