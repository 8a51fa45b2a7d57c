package lifecycle

import (
	"context"
	"errors"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/store"
	"mvm/internal/sys"
)

// wake brings a sleeping instance back from its snapshot, once more when that fails
// before the vCPUs ran. It boots from its disks, on record, only where the snapshot
// itself can't be used, or where its guest ran and is lost. After anything else it
// sleeps on with its snapshot.
func (o *operation) wake(ctx context.Context) error {
	if why := o.outdated(ctx); why != "" {
		return o.bootAnew(ctx, why)
	}
	var why error
	for range 2 {
		misfit, err := o.l.snapshotFits(ctx, o.inst)
		if err != nil {
			return o.sleepsOn(err)
		}
		if misfit != nil {
			return o.coldBoot(ctx, errors.Join(why, misfit))
		}
		o.bootWay, o.reason = "warm", ""
		if why = o.restore(ctx); why == nil {
			return o.afterWake(ctx)
		}
		// Where taking it back failed the VMM may be there still: that is repaired first.
		if ctx.Err() != nil || mvm.IsKind(why, mvm.KindQuota) || o.torn {
			return why
		}
		o.log.Warn("restore failed", "error", why)
		if _, lacks := sys.Fault(why); lacks && !o.inst.Snapshot.Consumed { // and does so still
			return o.sleepsOn(why)
		}
	}
	if driver.BadSnapshot(why) || o.inst.Snapshot.Consumed {
		return o.coldBoot(ctx, why)
	}
	return o.sleepsOn(why)
}

// coldBoot gives up the snapshot (it is set aside) and starts from the disks.
func (o *operation) coldBoot(ctx context.Context, why error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := o.l.opt.VMMs.Bootable(ctx, o.inst); err != nil {
		return errors.Join(err, why)
	}
	o.reason = "snapshot not used: " + display.Clip(why.Error())
	o.log.Warn("cold boot instead of restore", "why", why)
	leave := func(i *mvm.Instance) {}
	var ev mvm.Event
	var err error
	switch snap := o.inst.Snapshot; {
	case snap == nil:
		ev = o.event(mvm.SnapshotDeleted, "")
	case snap.Consumed:
		ev, err = o.event(mvm.SnapshotDeleted, snap.ID), o.l.opt.Folders.Snapshots(o.inst).Remove(snap.ID)
	default:
		leave, ev, err = o.leaveAside(why)
	}
	if err != nil { // what was moved so far is moved again
		return o.sleepsOn(err)
	}
	ev.By, ev.Why = byAgent(), "it can't be used: "+display.Clip(why.Error())
	err = o.update(func(tx *store.Tx, i *mvm.Instance) error {
		leave(i)
		i.State, i.Snapshot, i.Op = mvm.StateStopped, nil, nil
		_, err := tx.AppendEvent(ev)
		return err
	})
	if err != nil {
		return err
	}
	o.l.opt.Aside.Bound()
	return o.start(ctx, o.reason)
}

// restore loads the snapshot into a VMM and lets it run. Until the vCPUs run it
// can be called off without loss; from then on it only goes forward.
func (o *operation) restore(ctx context.Context) error {
	o.progress("restoring")
	return o.run(ctx, mvm.OpWake, []step{
		{name: "quota", do: o.admit, undo: o.forget},
		{name: "network", do: o.l.opt.Networks.Apply},
		{name: "restore", do: o.restoreVMM, undo: o.releaseVMM},
		{name: "consume", do: o.consume, undo: o.unconsume, holds: true, forward: true},
		{name: "resume", do: o.resumeRestored, undo: o.keepGuest, holds: true, forward: true},
		{name: "gate", do: o.wakeGate, forward: true},
		{name: "settle", do: o.settleGuest, forward: true},
		{name: "open", do: o.openAfterRestore, forward: true},
	})
}

func (o *operation) restoreVMM(ctx context.Context) error {
	files, err := o.l.opt.Folders.Snapshots(o.inst).Of(*o.inst.Snapshot)
	if err != nil {
		return err
	}
	return o.l.opt.VMMs.Launch(ctx, o.inst, false, func(s driver.Spec) (driver.VMM, error) {
		o.vmmName, o.snapBytes = o.inst.Snapshot.VMM, o.inst.Snapshot.Bytes
		return o.l.opt.Driver.Restore(ctx, s, files)
	})
}

// consume makes durable that memory and disks are about to go on from the snapshot,
// so that nothing restores it again.
func (o *operation) consume(context.Context) error {
	return o.save(func(i *mvm.Instance) {
		s := *i.Snapshot
		s.Consumed = true
		i.Snapshot = &s
	})
}

// unconsume takes consume back where no vCPU has run: then the snapshot is whole.
func (o *operation) unconsume(ctx context.Context) error {
	whole, err := o.neverRan(ctx)
	if err != nil || !whole {
		return err
	}
	return o.save(func(i *mvm.Instance) {
		if i.Snapshot != nil {
			s := *i.Snapshot
			s.Consumed = false
			i.Snapshot = &s
		}
	})
}

// neverRan reports that the instance has a VMM whose vCPUs have not run since it was
// restored. An error says that the host could not find out.
func (o *operation) neverRan(ctx context.Context) (bool, error) {
	alive, paused, err := o.vCPUs(ctx)
	return alive && paused, err
}

// vCPUs reports whether the instance has a VMM that answers, and whether its vCPUs stand
// still. An error says that the host could not find out.
func (o *operation) vCPUs(ctx context.Context) (alive, paused bool, err error) {
	v, err := o.vmm()
	if err != nil || o.lost() {
		return false, false, nil //nolint:nilerr // there is no VMM to ask
	}
	paused, err = v.Paused(ctx)
	if _, lacks := sys.Fault(err); lacks {
		return false, false, err
	}
	return err == nil, paused, nil
}

// resumeRestored lets the vCPUs run. An answer that was lost is no failure.
func (o *operation) resumeRestored(ctx context.Context) error {
	err := o.resumeVMM(ctx)
	if err == nil {
		return nil
	}
	if v, e := o.vmm(); e == nil {
		if paused, e := v.Paused(ctx); e == nil && !paused {
			o.log.Warn("vCPUs run, though resuming them failed", "error", err)
			return nil
		}
	}
	return err
}

// keepGuest keeps a guest whose vCPUs run from its snapshot, though a later step failed,
// where that was no fault of the guest: its memory is there, and only its gate is not
// open yet. See finishWake.
func (o *operation) keepGuest(ctx context.Context) error {
	if o.lost() || guestFault(o.failure) {
		return nil
	}
	if whole, err := o.neverRan(ctx); err != nil || whole {
		return err
	}
	return mvm.Errorf(mvm.KindUnavailable, "the guest runs, but takes no traffic until the next attempt")
}

// guestFault reports that a guest whose vCPUs run did not answer, or not as it should.
func guestFault(err error) bool {
	if _, lacks := sys.Fault(err); lacks {
		return false
	}
	return mvm.IsKind(err, mvm.KindUnavailable) || mvm.IsKind(err, mvm.KindTimeout)
}

func (o *operation) openAfterRestore(ctx context.Context) error {
	snap := o.inst.Snapshot
	if err := o.completeRunning(ctx, mvm.InstanceWoken); err != nil {
		return err
	}
	if snap == nil {
		return nil
	}
	if err := o.l.opt.Folders.Snapshots(o.inst).Spent(snap.ID); err != nil { // the next start of the agent sweeps it
		o.log.Warn("remove used snapshot", "error", err)
	}
	return nil
}

// afterWake has the integrations restored once traffic may come.
func (o *operation) afterWake(ctx context.Context) error {
	o.restoreIntegrations()
	if err := o.waitReady(ctx); err != nil || !o.job.req.By.Kind.Person() {
		return err
	}
	return o.servesNobody(ctx) // it was ready once, and may fail since
}

// wakeGate makes a guest whose vCPUs run again right and configured: by a greeting
// where that is enough, else by the whole gate, tried twice since the first answer
// can be lost when the guest is slow.
func (o *operation) wakeGate(ctx context.Context) error {
	if o.tryGreet(ctx) {
		return nil
	}
	var err error
	for range 2 {
		if err = o.tryWakeGate(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		o.log.Warn("resume gate failed", "error", err)
	}
	return err
}

// tryGreet reports whether a greeting did all that the gate is for.
func (o *operation) tryGreet(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Gate)
	defer cancel()
	done, err := o.greet(ctx)
	if err != nil {
		o.log.Warn("greet guest", "error", err)
	}
	return done && err == nil
}

func (o *operation) tryWakeGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, o.l.opt.Timeouts.Gate)
	defer cancel()
	return o.gate(ctx, "wake")
}

// snapshotFits says in misfit why the instance's snapshot can't be restored here and
// now; err, that it could not find out.
func (l *Lifecycle) snapshotFits(ctx context.Context, i mvm.Instance) (misfit, err error) {
	host, err := l.SnapshotHost(ctx)
	if err != nil {
		return nil, err
	}
	return l.opt.Folders.Snapshots(i).Misfit(host, i)
}
