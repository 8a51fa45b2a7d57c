package agent

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
	// logsDelay is how long a guest that wakes is left to its own work before its log is
	// followed.
	logsDelay = time.Second
	// lastWords bounds how long what a guest said before its VMM ended is waited for. It is
	// on the host by then.
	lastWords = time.Second
)

var errSilentGuest = mvm.Errorf(mvm.KindUnavailable, "its guest does not answer")

// heard calls once when something is read from the connection.
type heard struct {
	net.Conn
	once func()
}

// Read reads.
func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if n > 0 && h.once != nil {
		h.once()
		h.once = nil
	}
	return n, err
}

// collectLogs makes what keeps the log of the guest.
func (a *Agent) collectLogs(i mvm.Instance, vmm driver.VMM) *guestlog.Collector {
	if !a.opt.KeepLogs {
		return nil
	}
	return guestlog.Start(guestlog.Options{Boot: i.DiskGeneration,
		Dial: func(ctx context.Context) (net.Conn, error) { return vmm.Dial(ctx, guestproto.GuestPort) },
		In:   func(fn func(*sys.Folder) error) error { return a.inInstance(i.ID, "keep log", fn) },
		Log:  a.log.With("tenant", i.Tenant, "pool", i.Pool, "instance", i.ID)})
}

// followLogs has the log of a guest that answers followed after the delay.
func (l *live) followLogs(delay time.Duration) {
	if l != nil {
		l.logs.Follow(delay)
	}
}

// followLogs has the log of a guest that was let in followed: at once where it has booted,
// and later where it woke, for then there are requests to be answered first.
func (o *operation) followLogs() {
	delay := logsDelay
	if o.bootWay == "cold" {
		delay = 0
	}
	o.a.liveOf(o.inst.ID).followLogs(delay)
}

// keptLogs shows what the host keeps of the guest's log.
func (a *Agent) keptLogs(i mvm.Instance, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	if l := a.liveOf(i.ID); l != nil {
		l.logs.Flush()
	}
	q := guestlog.Query{Previous: spec.Previous, Service: spec.Service, Since: spec.Since, Tail: spec.Tail}
	if i.State.HoldsMemory() || i.State == mvm.StateSleeping {
		q.Boot = i.DiskGeneration // else a boot that came to nothing may have been after the last lines
	}
	err := a.inInstance(i.ID, "read logs", func(d *sys.Folder) error {
		return guestlog.Read(d, q, func(l guestlog.Line) error {
			return line(mvm.LogLine{Time: l.Time, Service: l.Service, Stream: l.Stream, Text: l.Text})
		})
	})
	return sys.IfThere(err)
}

// checkLogs refuses what does not go together.
func checkLogs(spec mvm.LogsSpec) error {
	switch {
	case spec.Console && (spec.Previous || !spec.Since.IsZero()):
		return mvm.Errorf(mvm.KindInvalid, "logs of the console: its lines have no time and no boot").WithFix("leave out since and previous")
	case spec.Previous && spec.Follow:
		return mvm.Errorf(mvm.KindInvalid, "follow the logs of the previous boot: it is over, and no line comes").WithFix("leave out follow")
	}
	return nil
}

// logsDetail is what is recorded of a look at logs.
func logsDetail(spec mvm.LogsSpec) string {
	if spec.Previous && spec.Service == "" {
		return "previous"
	}
	if spec.Previous {
		return spec.Service + ", previous"
	}
	return spec.Service
}
