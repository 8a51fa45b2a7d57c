package host

import (
	"log/slog"

	"github.com/coreos/go-systemd/v22/daemon"
)

// tellReady tells systemd, where it started this process, that it serves from now on:
// who waits for the unit waits for that. See sd_notify(3).
func tellReady(log *slog.Logger) {
	if _, err := daemon.SdNotify(true, daemon.SdNotifyReady); err != nil {
		log.Warn("tell systemd that this serves", "error", err)
	}
}
