package live

import (
	"context"
	"net"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/guestlog"
	"mvm/internal/guestproto"
	"mvm/internal/sys"
)

const (
	// logsDelay is how long a guest that was taken up is left to its own work before its log
	// is followed.
	logsDelay = time.Second
	// lastWords bounds how long what a guest said before its VMM ended is waited for. It is
	// on the host by then.
	lastWords = time.Second
)

// collectLogs makes what keeps the log of the guest.
func (v *VMMs) collectLogs(i mvm.Instance, vmm driver.VMM) *guestlog.Collector {
	if !v.opt.KeepLogs {
		return nil
	}
	return guestlog.Start(guestlog.Options{Boot: i.DiskGeneration,
		Dial: func(ctx context.Context) (net.Conn, error) { return vmm.Dial(ctx, guestproto.GuestPort) },
		In:   func(fn func(*sys.Folder) error) error { return v.opt.Folders.In(i.ID, "keep log", fn) },
		Log:  v.opt.Log.With("tenant", i.Tenant, "pool", i.Pool, "instance", i.ID)})
}

// Follow has the log of a guest that answers followed after the delay.
func (l *VMM) Follow(delay time.Duration) {
	if l != nil {
		l.logs.Follow(delay)
	}
}

// FlushLog has what the guest logged so far written to its folder.
func (l *VMM) FlushLog() {
	if l != nil {
		l.logs.Flush()
	}
}
