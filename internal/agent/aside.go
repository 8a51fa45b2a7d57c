package agent

import (
	"context"

	"mvm"
	"mvm/internal/aside"
	"mvm/internal/lifecycle"
	"mvm/internal/snapshot"
)

// SetAsideLimits bound the snapshots that are kept though they could not be used.
type SetAsideLimits = snapshot.Limits

// asideOf is what the keeper of snapshots that were set aside asks of the agent.
type asideOf struct{ a *Agent }

var _ aside.Host = asideOf{}

// SnapshotHost implements aside.Host.
func (o asideOf) SnapshotHost(ctx context.Context) (snapshot.Host, error) {
	return o.a.lifecycle.SnapshotHost(ctx)
}

// Snapshots implements api.Service.
func (a *Agent) Snapshots(ctx context.Context, filter mvm.Address) ([]mvm.AsideSnapshot, error) {
	all, err := a.Instances(ctx, filter)
	if err != nil {
		return nil, err
	}
	return a.aside.List(ctx, all)
}

// RestoreSnapshot implements api.Service.
func (a *Agent) RestoreSnapshot(ctx context.Context, addr mvm.Address, id string) (mvm.Instance, error) {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return i, err
	}
	by := mvm.AskerFrom(ctx)
	if by.Kind.Person() {
		if err := a.fleet.Override(i.ID); err != nil {
			return i, err
		}
	}
	return a.lifecycle.Submit(ctx, i.ID, lifecycle.Request{Op: mvm.OpRestore, By: by, Snapshot: id}, nil)
}

// RemoveSnapshot implements api.Service.
func (a *Agent) RemoveSnapshot(ctx context.Context, addr mvm.Address, id string) error {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return err
	}
	return a.aside.Remove(ctx, i.ID, id)
}
