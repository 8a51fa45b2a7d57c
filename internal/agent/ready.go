package agent

import (
	"context"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/lifecycle"
	"mvm/internal/policy"
	"mvm/internal/ready"
)

// readied is the driver, as operations ask for it: it restores from what is ready.
type readied struct {
	driver.Driver
	k *ready.Keeper
}

var _ lifecycle.Driver = readied{}

// Start implements lifecycle.Driver.
func (r readied) Start(ctx context.Context, s driver.Spec) (driver.VMM, error) {
	r.k.Forget(s.ID)
	return r.Driver.Start(ctx, s)
}

// Restore implements lifecycle.Driver. What was ready is used once, whatever comes of it.
func (r readied) Restore(ctx context.Context, s driver.Spec, from driver.Snapshot) (driver.VMM, error) {
	from.Ready = r.k.Take(s.ID)
	if from.Ready != nil {
		defer func() { _ = from.Ready.Close() }() // it is memory
	}
	v, err := r.Driver.Restore(ctx, s, from)
	if err == nil {
		r.k.Restored(from.Ready)
	}
	return v, err
}

// snapshotOf is where the snapshot of an instance that sleeps is.
func (a *Agent) snapshotOf(i mvm.Instance) (dir string, snap driver.Snapshot, err error) {
	snap, err = a.folders.Snapshots(i).Of(*i.Snapshot)
	return a.folders.Dir(i.ID), snap, err
}

// memoryForGuests measures the host's memory, once what is ready has made room.
func (a *Agent) memoryForGuests() (policy.Memory, error) {
	m, err := a.opt.HostMemory()
	if err == nil && a.ready.Relieve(m) {
		return a.opt.HostMemory()
	}
	return m, err
}
