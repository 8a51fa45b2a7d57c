package agent

import (
	"context"
	"net"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/session"
	"mvm/internal/sys"
)

// looked is what sessions ask of the agent.
type looked struct{ guests }

var _ session.Guests = looked{}

// Instance implements session.Guests.
func (l looked) Instance(ctx context.Context, at mvm.Address) (mvm.Instance, error) {
	return l.a.Instance(ctx, at)
}

// VMM implements session.Guests.
func (l looked) VMM(id string) session.VMM {
	if v := l.a.live.Of(id); v != nil {
		return v.Driver()
	}
	return nil
}

// Dial implements session.Guests.
func (l looked) Dial(ctx context.Context, id string) (net.Conn, error) {
	return l.a.live.Dial(ctx, id, guestproto.GuestPort)
}

// Stalled implements session.Guests.
func (l looked) Stalled(id string) string { return l.a.live.Stalled(id) }

// Status implements session.Guests.
func (l looked) Status(ctx context.Context, i mvm.Instance) (guestproto.Status, error) {
	return l.a.health.Status(ctx, i)
}

// Use implements session.Guests.
func (l looked) Use(id string) (done func()) { return l.a.ingress.Exec(id) }

// InFolder implements session.Guests.
func (l looked) InFolder(id, what string, fn func(*sys.Folder) error) error {
	return l.a.folders.In(id, what, fn)
}

// FlushLog implements session.Guests.
func (l looked) FlushLog(id string) { l.a.live.Of(id).FlushLog() }

// Exec implements api.Service.
func (a *Agent) Exec(ctx context.Context, addr mvm.Address, spec mvm.ExecSpec, io mvm.ExecIO) (int, error) {
	return a.session.Exec(ctx, addr, spec, io)
}

// Copy implements api.Service.
func (a *Agent) Copy(ctx context.Context, addr mvm.Address, spec mvm.CopySpec, io mvm.ExecIO) (int, error) {
	return a.session.Copy(ctx, addr, spec, io)
}

// Logs implements api.Service.
func (a *Agent) Logs(ctx context.Context, addr mvm.Address, spec mvm.LogsSpec, line func(mvm.LogLine) error) error {
	return a.session.Logs(ctx, addr, spec, line)
}
