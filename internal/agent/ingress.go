package agent

import (
	"context"
	"net"

	"mvm"
	"mvm/internal/folders"
	"mvm/internal/guestproto"
	"mvm/internal/ingress"
	"mvm/internal/lifecycle"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// reached is what ingress asks of the agent.
type reached struct{ guests }

var (
	_ ingress.Instances = reached{}
	_ ingress.Queue     = reached{}
	_ ingress.Fleet     = reached{}
)

// Lives implements ingress.Instances.
func (r reached) Lives(id string) bool { return r.a.live.Of(id).Runs() }

// HalfDone implements ingress.Instances.
func (r reached) HalfDone(id string) bool { return r.a.lifecycle.IsHalfDone(id) }

// GaveUp implements ingress.Instances.
func (r reached) GaveUp(i mvm.Instance) *mvm.ServiceHealth { return r.a.health.GaveUp(i) }

// Stalled implements ingress.Instances.
func (r reached) Stalled(id string) string { return r.a.live.Stalled(id) }

// Reported implements ingress.Instances.
func (r reached) Reported(i mvm.Instance, st guestproto.Status) {
	r.a.health.Reported(i, st)
	r.a.toldTimer(i, st)
}

// ListenHost implements ingress.Instances.
func (r reached) ListenHost(id string) (ln net.Listener, err error) {
	err = sys.InFolder(r.a.folders.RunDir(id), func(d *sys.Folder) (err error) {
		ln, err = r.a.opt.ListenHost(d, folders.HostSocket)
		return err
	})
	return ln, err
}

// RemoveHostSocket implements ingress.Instances.
func (r reached) RemoveHostSocket(id string) error {
	return sys.IfThere(sys.InFolder(r.a.folders.RunDir(id), func(d *sys.Folder) error { return d.Remove(folders.HostSocket) }))
}

// listenUnix listens on a unix socket that the agent's user alone may connect to: the
// driver does, for the guest.
func listenUnix(runDir *sys.Folder, name string) (net.Listener, error) {
	ln, err := runDir.Listen(name)
	if err != nil {
		return nil, err // not a nil listener in the interface
	}
	return ln, nil
}

// Wake implements ingress.Queue.
func (r reached) Wake(ctx context.Context, id string, by mvm.Asker, why string) (mvm.Instance, error) {
	return r.a.lifecycle.Submit(ctx, id, lifecycle.Request{Op: mvm.OpWake, By: by, Why: why}, nil)
}

// Reclaim implements ingress.Queue.
func (r reached) Reclaim(ctx context.Context, id string, by mvm.Asker, why string) error {
	_, err := r.a.lifecycle.Submit(ctx, id, lifecycle.Request{Op: mvm.OpDestroy, By: by, Why: why, Unproven: true}, nil)
	return err
}

// CallOff implements ingress.Queue.
func (r reached) CallOff(id string) { r.a.lifecycle.CallOff(id) }

// ServesNobody implements ingress.Queue.
func (r reached) ServesNobody(err error) bool { return lifecycle.ServesNobody(err) }

// NewInstance implements ingress.Fleet.
func (r reached) NewInstance(tx *store.Tx, tenant, pool, key string, op mvm.Op) (mvm.Instance, error) {
	return r.a.fleet.NewInstance(tx, tenant, pool, key, op)
}

// Changed implements ingress.Fleet.
func (r reached) Changed() { r.a.networks.Changed() }

// fenced is ingress, as operations ask for it.
type fenced struct{ *ingress.Ingress }

var _ lifecycle.Ingress = fenced{}

// Fence implements lifecycle.Ingress.
func (f fenced) Fence(ctx context.Context, i mvm.Instance) lifecycle.Use {
	return useOf(f.Ingress.Fence(ctx, i))
}

// Use implements lifecycle.Ingress.
func (f fenced) Use(id string) lifecycle.Use { return useOf(f.Ingress.Use(id)) }

func useOf(u ingress.Use) lifecycle.Use {
	return lifecycle.Use{Active: u.Active, Open: u.Open, Last: u.Last, Execs: u.Execs, Published: u.Published}
}
