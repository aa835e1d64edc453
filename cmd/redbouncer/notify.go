package main

import (
	"fmt"
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemd is told how the program stands, if it has started it with Type=notify or notify-reload: NOTIFY_SOCKET says where.
// Without that, nobody is told.

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told how the program stands", "state", state, "error", err)
	}
}

// notifyReloading says that the settings are being read again. READY=1 says that they have been.
func notifyReloading(log *slog.Logger) {
	now, err := monotonic()
	if err != nil {
		return
	}
	notify(log, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now))
}

// notifyReplaced says that another process is the program from now on.
func notifyReplaced(log *slog.Logger, pid int) {
	notify(log, fmt.Sprintf("MAINPID=%d\n%s", pid, daemon.SdNotifyReady))
}
