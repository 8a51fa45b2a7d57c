package lifecycle

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/driver"
	"mvm/internal/guestproto"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/sys"
	"mvm/internal/wait"
)

// drainPoll is the pause between looks at the requests that are under way.
const drainPoll = 50 * time.Millisecond

// sleep takes a running or warm instance to sleep. The drain happens while the
// vCPUs run. A wake that arrives before commit cancels the sleep; the instance
// goes on as if nothing was.
func (o *operation) sleep(ctx context.Context) error {
	o.l.opt.VMMs.Follow(o.inst.ID, 0)
	id, err := o.l.opt.IDs.NewID("s-", func(id string) (bool, error) { return o.inst.HasSnapshot(id), nil })
	if err != nil {
		return err
	}
	snap := &mvm.SnapshotRef{ID: id}
	err = o.run(ctx, mvm.OpSleep, []step{
		{name: "intent", do: func(context.Context) error { return o.intend(mvm.OpSleep, o.stillIdle) }, undo: o.conform},
		{name: "resume", do: o.resumeForDrain},
		{name: "fence", do: o.fence},
		{name: "checkpoint", do: o.checkpoint},
		{name: "suspend", do: o.suspend},
		{name: "prepare", do: o.sleepPrep},
		{name: "clock", do: o.rightClock},
		{name: "renew", do: o.renewLease},
		{name: "pause", do: o.pauseVMM},
		{name: "snapshot", do: func(ctx context.Context) error { return o.snapshot(ctx, snap) },
			undo: func(context.Context) error { return o.l.opt.Folders.Snapshots(o.inst).Remove(snap.ID) }},
		{name: "commit", do: func(context.Context) error { return o.commitSleep(snap) }, undo: o.uncommitSleep, holds: true},
	})
	if err != nil {
		return err
	}
	return o.finishSleep(ctx)
}

// finishSleep gives up the VMM of an instance whose sleep is committed. It only
// goes forward: recovery calls it again when it was cut off.
func (o *operation) finishSleep(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if err := o.run(ctx, mvm.OpSleep, []step{{name: "release", do: o.releaseVMM}}); err != nil {
		return err
	}
	files := o.l.opt.Folders.Snapshots(o.inst)
	if err := files.Settled(*o.inst.Snapshot); err != nil { // the next sleep does it again
		o.log.Warn("remove what the snapshot before had", "error", err)
	}
	n, err := files.Bytes(o.inst.Snapshot.ID)
	if err != nil {
		return err
	}
	o.reason = o.job.req.Why
	o.vmmName, o.snapBytes = o.inst.Snapshot.VMM, n
	return o.complete(mvm.StateSleeping, mvm.InstanceSlept, func(i *mvm.Instance) {
		s := *i.Snapshot
		s.Bytes = n
		i.Snapshot = &s
	})
}

// conform makes an instance that has a VMM as its record says: it runs, configured and with
// the right clock, or is warm. It undoes a sleep or a pause. Where that can't be had the intent
// stays in the record, with the reason: see repair.go.
func (o *operation) conform(ctx context.Context) error {
	if o.l.opt.VMMs.Of(o.inst.ID) == nil {
		return o.forget(ctx)
	}
	var err error
	if o.inst.State == mvm.StateWarm {
		err = o.pauseVMM(ctx)
	} else {
		if err = o.resumeVMM(ctx); err == nil {
			err = o.wakeGate(ctx)
		}
		if err == nil {
			err = o.settleGuest(ctx)
		}
		o.restoreIntegrations()
	}
	if err != nil {
		return errors.Join(err, o.save(func(i *mvm.Instance) { i.Problem = display.Clip(err.Error()) }))
	}
	gen := o.inst.SecretsGeneration // as the gate gave it
	return o.save(func(i *mvm.Instance) {
		if i.State != mvm.StateWarm {
			o.noteSettled(i)
			i.SecretsGeneration = max(i.SecretsGeneration, gen) // a change may have been delivered since
		}
		i.Op, i.Problem = nil, ""
	})
}

// resumeForDrain lets a warm instance run, since a paused guest can't drain. It still
// is warm to everybody else: it takes no traffic, and holds what it held.
func (o *operation) resumeForDrain(ctx context.Context) error {
	if o.inst.State != mvm.StateWarm {
		return nil
	}
	if err := o.resumeVMM(ctx); err != nil {
		return err
	}
	return o.wakeGate(ctx)
}

// fence keeps new requests away from the instance and waits for those under way,
// at most the pool's drain timeout.
func (o *operation) fence(ctx context.Context) error {
	if o.byPolicy() {
		return o.fenceIdle(ctx)
	}
	deadline := time.Now().Add(o.drainTimeout())
	for {
		active := o.l.opt.Ingress.Fence(ctx, o.inst).Active
		if active == 0 || o.job.req.Force {
			return nil
		}
		if time.Now().After(deadline) {
			o.l.opt.Journal.Record(o.event(mvm.DrainTimedOut, "requests are still under way at the gateway"))
			return nil
		}
		if wait.For(ctx, nil, drainPoll) == wait.Canceled {
			return context.Cause(ctx)
		}
	}
}

func (o *operation) drainTimeout() time.Duration {
	return time.Duration(o.pool.Spec.Policy.DrainTimeoutSeconds) * time.Second
}

// sleepPrep asks the guest to drain and sync. Its timing out is recorded and the
// sleep goes on, but for the policy's.
func (o *operation) sleepPrep(ctx context.Context) error {
	secs := o.pool.Spec.Policy.DrainTimeoutSeconds
	if o.job.req.Force {
		secs = 0
	}
	o.nextWake = o.l.opt.Schedule.Rests(o.inst.ID, o.inst.NextWake) // where the guest does not answer
	ctx2, cancel := context.WithTimeout(ctx, o.drainTimeout()+o.l.opt.Timeouts.Call)
	defer cancel()
	resp, err := o.l.opt.Guests.Ask(ctx2, o.inst.ID, guestproto.Request{SleepPrep: &guestproto.SleepPrep{DrainTimeoutSecs: secs}})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		o.silent = true
		return o.notDrained(display.Clip(err.Error()))
	case resp.SleepPrepAck == nil:
		return o.notDrained("unexpected answer from the guest")
	case !resp.SleepPrepAck.Success:
		o.nextWake = o.l.opt.Schedule.Rests(o.inst.ID, resp.SleepPrepAck.NextWake)
		return o.notDrained(detail(resp.SleepPrepAck.Detail))
	}
	return o.restsWith(resp.SleepPrepAck.NextWake)
}

func (o *operation) vmm() (driver.VMM, error) {
	if v := o.l.opt.VMMs.Of(o.inst.ID); v != nil {
		return v.Driver(), nil
	}
	return nil, mvm.Errorf(mvm.KindState, "%s has no VMM", o.inst.ID)
}

func (o *operation) pauseVMM(ctx context.Context) error {
	v, err := o.vmm()
	if err != nil {
		return err
	}
	err = v.Pause(ctx)
	o.pausedAt = o.l.opt.Now()
	if c, ok := v.(driver.Clocked); ok {
		o.pausedAt = o.pausedAt.Add(-time.Since(c.Stopped()))
	}
	return err
}

func (o *operation) resumeVMM(ctx context.Context) error {
	v, err := o.vmm()
	if err != nil {
		return err
	}
	err = v.Resume(ctx)
	o.resumedAt = o.l.opt.Now()
	if c, ok := v.(driver.Clocked); ok {
		o.resumedAt = o.resumedAt.Add(-time.Since(c.Resumed()))
	}
	return err
}

// snapshot writes memory and device state, sealed if the driver does that, and describes them
// in ref.
func (o *operation) snapshot(ctx context.Context, ref *mvm.SnapshotRef) error {
	v, err := o.vmm()
	if err != nil {
		return err
	}
	info, err := o.l.opt.Driver.Info(ctx)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "probe driver: %w", err)
	}
	ref.Sealed = info.Features.Sealed
	err = o.l.opt.Folders.Snapshots(o.inst).Write(*ref, func(files driver.Snapshot) error { return v.Snapshot(ctx, files) })
	if err != nil {
		return err
	}
	if o.clockSure {
		ref.PausedAt = o.pausedAt.Round(0)
	}
	return o.l.describeSnapshot(ctx, o.inst, ref)
}

// describeSnapshot fills in what the snapshot belongs to and what it holds on disk.
func (l *Lifecycle) describeSnapshot(ctx context.Context, i mvm.Instance, ref *mvm.SnapshotRef) error {
	boot, err := sys.HostBootID()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read boot id: %w", err)
	}
	host, err := l.SnapshotHost(ctx)
	if err != nil {
		return err
	}
	host.Describe(ref, i, l.opt.Now(), boot)
	ref.Bytes, err = l.opt.Folders.Snapshots(i).Bytes(ref.ID)
	return err
}

// SnapshotHost is what of this host snapshots belong to.
func (l *Lifecycle) SnapshotHost(ctx context.Context) (snapshot.Host, error) {
	info, err := l.opt.Driver.Info(ctx)
	if err != nil {
		return snapshot.Host{}, mvm.Errorf(mvm.KindOf(err), "probe driver: %w", err)
	}
	return snapshot.HostOf(info), nil
}

// commitSleep is the point of no return: from here on the instance sleeps.
func (o *operation) commitSleep(ref *mvm.SnapshotRef) error {
	return o.save(func(i *mvm.Instance) {
		i.State, i.Snapshot, i.Changed, i.NextWake = mvm.StateSleeping, ref, o.l.opt.Now(), o.nextWake
		o.parked, i.Parked = i.Parked, o.job.req.By.Kind == mvm.AskerPolicy
		if i.Op != nil {
			i.Op.Step = "release"
		}
	})
}

// uncommitSleep takes the commit back, also one whose failure came after it was durable.
func (o *operation) uncommitSleep(context.Context) error {
	return o.save(func(i *mvm.Instance) {
		if i.State == mvm.StateSleeping {
			i.State, i.Snapshot, i.Parked = o.from, nil, o.parked
		}
	})
}

func (o *operation) admitWarm(tx *store.Tx, i mvm.Instance) error {
	if err := o.stillIdle(tx, i); err != nil {
		return err
	}
	return o.l.opt.Quota.AdmitWarm(tx, i)
}

// warm pauses the vCPUs: running -> warm.
func (o *operation) warm(ctx context.Context) error {
	o.l.opt.VMMs.Follow(o.inst.ID, 0)
	err := o.run(ctx, mvm.OpWarm, []step{
		{name: "intent", do: func(context.Context) error { return o.intend(mvm.OpWarm, o.admitWarm) }, undo: o.conform},
		{name: "fence", do: o.fence},
		{name: "suspend", do: o.suspend},
		{name: "prepare", do: o.sleepPrep},
		{name: "renew", do: o.renewLease},
		{name: "pause", do: o.pauseVMM},
	})
	if err != nil {
		if mvm.IsKind(err, mvm.KindQuota) {
			o.l.opt.Journal.Record(o.event(mvm.QuotaExceeded, err.Error()))
		}
		return err
	}
	o.reason = o.job.req.Why
	return o.complete(mvm.StateWarm, mvm.InstanceWarmed, func(i *mvm.Instance) { i.NextWake = o.nextWake })
}

// resume lets a warm instance run: warm -> running.
func (o *operation) resume(ctx context.Context) error {
	o.bootWay, o.reason = "warm", "it was paused in memory"
	err := o.run(ctx, mvm.OpResume, []step{
		{name: "quota", do: o.admit, undo: o.forget},
		{name: "resume", do: o.resumeVMM, undo: o.pauseVMM},
		{name: "gate", do: o.wakeGate},
		{name: "settle", do: o.settleGuest},
		{name: "open", do: func(ctx context.Context) error { return o.completeRunning(ctx, mvm.InstanceResumed) }},
	})
	if err != nil {
		return err
	}
	o.restoreIntegrations()
	return o.waitReady(ctx)
}
