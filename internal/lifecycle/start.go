package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/folders"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

// bootPoll is the pause between tries to reach a guest that boots.
const bootPoll = 50 * time.Millisecond

// makeReady makes what an instance has on disk: created -> ready.
func (o *operation) makeReady(ctx context.Context) error {
	if o.inst.State != mvm.StateCreated {
		return nil
	}
	err := o.run(ctx, mvm.OpCreate, []step{
		{name: "network", do: o.l.opt.Networks.Apply},
		{name: "disks", do: o.makeDisks},
	})
	if err != nil {
		return err
	}
	return o.save(func(i *mvm.Instance) {
		i.State, i.Op, i.Changed, i.DiskMade = mvm.StateReady, nil, o.l.opt.Now(), i.Res.DataDiskMiB > 0
	})
}

// makeDisks makes the instance's folder and data disk, durable, unless they are there
// whole.
func (o *operation) makeDisks(ctx context.Context) error {
	return mvm.Explain("make folder of "+o.inst.ID, sys.InFolder(o.l.opt.Folders.Root(), func(root *sys.Folder) error {
		d, err := root.MakeSub(o.inst.ID)
		if err != nil {
			return err
		}
		defer d.Close()
		err = snapshot.Room(d)
		if o.inst.Res.DataDiskMiB > 0 {
			err = errors.Join(err, folders.MakeDataDisk(ctx, d, o.inst.Res.DataDiskMiB, o.l.opt.MakeDisk))
		}
		return errors.Join(err, d.Sync(), root.Sync())
	}))
}

// start boots the instance from its disks. why is recorded.
func (o *operation) start(ctx context.Context, why string) error {
	o.bootWay, o.snapBytes = "cold", 0
	if o.reason == "" {
		o.reason = why
	}
	err := o.run(ctx, mvm.OpStart, []step{
		{name: "renew", do: o.renew},
		{name: "quota", do: o.admit, undo: o.forget},
		{name: "network", do: o.l.opt.Networks.Apply},
		{name: "disk", do: o.sizeDisk},
		{name: "generation", do: o.nextDiskGeneration, undo: o.sameDiskGeneration},
		{name: "vmm", do: o.startVMM, undo: o.releaseVMM},
		{name: "gate", do: o.bootGate},
		{name: "open", do: func(ctx context.Context) error { return o.completeRunning(ctx, mvm.InstanceStarted) }},
	})
	if err != nil {
		return err
	}
	if err := o.waitReady(ctx); err != nil {
		return err
	}
	o.restoreIntegrations() // the guest has begun with it: this waits for it
	return nil
}

// completeRunning records that the instance runs and lets traffic in. Configuration and
// secrets that changed since the gate read them are given to it now: whoever changed
// them saw an instance that did not run yet.
func (o *operation) completeRunning(ctx context.Context, act mvm.Action) error {
	gen, suspends := o.inst.SecretsGeneration, o.inst.Suspends
	err := o.complete(mvm.StateRunning, act, func(i *mvm.Instance) {
		i.SecretsGeneration, i.Suspends = gen, suspends
		o.noteSettled(i)
		if o.bootWay == "cold" {
			i.Ready = false
		}
		i.Snapshot = nil
	})
	if err != nil {
		return err
	}
	o.followLogs()
	o.l.gatewayUp(o.inst)
	if o.inst.Role == mvm.RoleGateway && o.bootWay == "warm" {
		id := o.inst.ID
		o.l.opt.Ingress.Doubt(id)
	}
	cfg, err := o.l.opt.Deliver.Config(o.inst, "update")
	if err == nil && !bytes.Equal(cfg.Digest, o.digest) {
		err = o.l.opt.Deliver.Push(ctx, o.inst)
	}
	if err != nil {
		o.log.Warn("deliver what changed during the gate", "error", err)
	}
	return nil
}

// admit makes the intent durable within the quota.
func (o *operation) admit(context.Context) error {
	err := o.intend(o.kind, func(tx *store.Tx, i mvm.Instance) error { return o.l.opt.Quota.AdmitRunning(tx, i) })
	if mvm.IsKind(err, mvm.KindQuota) {
		o.l.opt.Journal.Record(o.event(mvm.QuotaExceeded, err.Error()))
	}
	return err
}

// nextDiskGeneration counts that the disks are about to change, so that no older
// snapshot fits them.
//
// It also is the number of the boot, by which gateways tell connections to this one from
// those to boots before it: what is left of these is over.
func (o *operation) nextDiskGeneration(context.Context) error {
	former := o.inst
	if err := o.save(func(i *mvm.Instance) { i.DiskGeneration++ }); err != nil || former.DiskGeneration == 0 {
		return err
	}
	o.l.opt.Ingress.GoneSoon(former)
	return nil
}

// sameDiskGeneration has snapshots that were set aside fit the disks as before, where
// there was no VMM for want of something: the disks are as they were.
func (o *operation) sameDiskGeneration(context.Context) error {
	if _, lacks := sys.Fault(o.failure); !lacks || o.booted || len(o.inst.SetAside) == 0 {
		return nil
	}
	return o.save(func(i *mvm.Instance) {
		i.SetAside = slices.Clone(i.SetAside)
		for n, s := range i.SetAside {
			if s.Snapshot.DiskGeneration == i.DiskGeneration-1 {
				i.SetAside[n].Snapshot.DiskGeneration = i.DiskGeneration
			}
		}
	})
}

func (o *operation) startVMM(ctx context.Context) error {
	o.progress("starting")
	err := o.l.opt.Folders.Snapshots(o.inst).DropMemory()
	if err != nil {
		return err
	}
	err = o.l.opt.VMMs.Launch(ctx, o.inst, true, func(s driver.Spec) (driver.VMM, error) { return o.l.opt.Driver.Start(ctx, s) })
	if err == nil {
		o.booted = true
		o.startedVMM(ctx)
	}
	return err
}

func (o *operation) releaseVMM(ctx context.Context) error { return o.l.opt.VMMs.Release(ctx, o.inst) }

// bootGate waits until the guest agent of a booting guest answers, and configures it.
func (o *operation) bootGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Boot)
	defer cancel()
	v := o.l.opt.VMMs.Of(o.inst.ID)
	for {
		err := o.tryBootGate(ctx)
		if err == nil {
			return nil
		}
		switch wait.For(ctx, v.Driver().Done(), bootPoll) {
		case wait.Gone:
			return mvm.Errorf(mvm.KindUnavailable, "boot guest: %s%s", howEnded(v.Driver().Exit()), display.QuoteLog(o.l.opt.Logs.LastConsole(o.inst.ID))).
				WithFix("see `mvm logs --console %s`", o.inst.ID)
		case wait.Canceled:
			return mvm.Errorf(mvm.KindTimeout, "boot guest: it did not answer within %s: %w", o.l.opt.Timeouts.Boot, err).
				WithFix("see `mvm logs --console %s`", o.inst.ID)
		}
	}
}

func (o *operation) tryBootGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Gate)
	defer cancel()
	return o.gate(ctx, "boot")
}

// logsDelay is how long a guest that wakes is left to its own work before its log is
// followed.
const logsDelay = time.Second

// followLogs has the log of a guest that was let in followed: at once where it has booted,
// and later where it woke, for then there are requests to be answered first.
func (o *operation) followLogs() {
	delay := logsDelay
	if o.bootWay == "cold" {
		delay = 0
	}
	o.l.opt.VMMs.Follow(o.inst.ID, delay)
}
