package lifecycle

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/guestproto"
	"mvm/internal/store"
)

// stop ends a running, warm or sleeping instance. It only goes forward: when it is
// cut off, the next stop, or recovery, finishes it. A sleeping instance loses what
// its memory held; its disks were synced before it slept.
func (o *operation) stop(ctx context.Context) error {
	problem, asker, died := o.vmmProblem(), o.stopAsker(), o.inst.State.HoldsMemory() && o.lost()
	o.l.opt.VMMs.Follow(o.inst.ID, 0)
	err := o.run(ctx, mvm.OpStop, []step{
		{name: "intent", do: o.intendStop},
		{name: "fence", do: o.fenceForStop},
		{name: "shutdown", do: o.shutdownGuest},
		{name: "release", do: o.endMemory},
		{name: "discard", do: o.discardMemory},
	})
	if err != nil {
		return err
	}
	o.reason, o.unwanted = o.job.req.Why, o.again || !asker.Kind.Person() && (died || asker.Kind == mvm.AskerReconcile)
	return o.complete(mvm.StateStopped, mvm.InstanceStopped, func(i *mvm.Instance) {
		i.Snapshot, i.Ready, i.Problem = nil, false, problem
		if o.again {
			i.Op = &mvm.Op{Kind: mvm.OpStart, By: o.job.req.By, Why: o.job.req.Why, Started: time.Now(), Request: o.job.req.id}
		}
		if o.died = died; died && !asker.Kind.Person() {
			i.ManualOverrideUntil = time.Time{} // what a person did to it is over
		}
	})
}

// intendStop makes the intent of a stop durable. That of a restart's says so, and is
// refused where the instance might not start again: a sleeper's memory would be lost.
func (o *operation) intendStop(context.Context) error {
	if !o.again {
		return o.intend(mvm.OpStop, nil)
	}
	return o.intend(mvm.OpRestart, func(tx *store.Tx, i mvm.Instance) error {
		if i.Op != nil && i.Op.Kind == mvm.OpRestart { // it was begun, and there is no way back
			return nil
		}
		return o.l.admitRenewed(tx, i, o.pool)
	})
}

// restart stops the instance and starts it. The end of the stop and the intent of the
// start are one transaction, so that a crash of the agent leaves no instance stopped.
func (o *operation) restart(ctx context.Context) error {
	if o.job.req.Awake && !o.inst.State.HoldsMemory() {
		return nil
	}
	if o.inst.State.HoldsMemory() || o.inst.State == mvm.StateSleeping {
		if o.inst.Op == nil || o.inst.Op.Kind != mvm.OpRestart {
			if err := o.l.opt.VMMs.Bootable(ctx, renewed(o.inst, o.pool)); err != nil {
				return mvm.Errorf(mvm.KindOf(err), "restart %s: it did not start again: %w", o.inst.ID, err)
			}
		}
		o.kind, o.again = mvm.OpStop, true
		if err := o.stop(ctx); err != nil {
			return err
		}
		o.report(nil)
		o.from, o.began, o.stages, o.reason = o.inst.State, time.Now(), nil, ""
	}
	o.kind = mvm.OpStart
	err := o.toRunning(ctx)
	if err != nil && o.inst.State == mvm.StateStopped && o.inst.Op != nil {
		err = errors.Join(err, o.forget(ctx))
	}
	return err
}

// stopAsker is who wants the instance stopped: of a stop that was cut off, who asked first.
func (o *operation) stopAsker() mvm.Asker {
	return firstAsker(o.inst.Op, mvm.OpStop, o.job.req.By)
}

// wantStopped notes that a person wants an instance stopped that had crashed, or that
// something else had stopped: it does not come back by itself then.
func (o *operation) wantStopped() error {
	if l := o.inst.Last; o.inst.State != mvm.StateStopped || l == nil || !l.Unwanted || !o.job.req.By.Kind.Person() {
		return nil
	}
	return o.save(func(i *mvm.Instance) {
		last := *i.Last
		last.Unwanted = false
		i.Last = &last
	})
}

// afterCrash ends the override of a person whose operation failed because the VMM had
// ended: the instance comes back as others do.
func (o *operation) afterCrash(err error) error {
	if err == nil || !o.died || o.kind == mvm.OpStop {
		return err
	}
	return errors.Join(err, o.save(func(i *mvm.Instance) { i.ManualOverrideUntil = time.Time{} }))
}

// vmmProblem says how the VMM ended when nobody asked for it.
func (o *operation) vmmProblem() string {
	v := o.l.opt.VMMs.Of(o.inst.ID)
	if v == nil {
		return ""
	}
	select {
	case <-v.Driver().Done():
		return howEnded(v.Driver().Exit())
	default:
	}
	return ""
}

// fenceForStop keeps new requests away. Reconcile, which nobody waits for, lets those
// under way end first.
func (o *operation) fenceForStop(ctx context.Context) error {
	if o.job.req.By.Kind == mvm.AskerReconcile && o.inst.State == mvm.StateRunning {
		return o.fence(ctx)
	}
	return o.fenceOnce(ctx)
}

func (o *operation) fenceOnce(ctx context.Context) error {
	o.l.opt.Ingress.Fence(ctx, o.inst)
	return nil
}

// shutdownGuest asks the guest to power off and waits, at most the pool's grace. A
// guest that does not is killed by the step after it.
func (o *operation) shutdownGuest(ctx context.Context) error {
	v := o.l.opt.VMMs.Of(o.inst.ID)
	if v == nil || o.job.req.Force {
		return nil
	}
	select {
	case <-v.Driver().Done():
		return nil
	default:
	}
	v.Expect()
	if o.inst.State == mvm.StateWarm {
		if err := v.Driver().Resume(ctx); err != nil {
			o.log.Warn("resume for shutdown", "error", err)
			return nil
		}
	}
	o.progress("shutting down")
	grace := time.Duration(o.pool.Spec.Policy.GracefulShutdownSeconds) * time.Second
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	req := guestproto.Request{Shutdown: &guestproto.Shutdown{GraceSecs: max(1, int(grace.Seconds())/2)}}
	if _, err := o.l.opt.Guests.Ask(ctx, o.inst.ID, req); err != nil {
		o.log.Info("guest does not answer a shutdown", "error", err)
		if err := v.Driver().Powerdown(ctx); err != nil {
			o.log.Info("power button", "error", err)
		}
	}
	select {
	case <-v.Driver().Done():
	case <-ctx.Done():
		o.log.Warn("guest did not power off in time", "grace", grace)
	}
	return nil
}

// endMemory ends the VMM, and with its memory every connection to it.
func (o *operation) endMemory(ctx context.Context) error {
	if err := o.releaseVMM(ctx); err != nil {
		return err
	}
	o.l.opt.Ingress.Gone(ctx, o.inst)
	return nil
}

// discardMemory removes the memory file and every snapshot.
func (o *operation) discardMemory(context.Context) error {
	return o.l.opt.Folders.Snapshots(o.inst).Discard()
}

// destroy removes the instance with everything it has. It only goes forward.
func (o *operation) destroy(ctx context.Context) error {
	err := o.run(ctx, mvm.OpDestroy, []step{
		{name: "intent", do: func(context.Context) error { return o.intend(mvm.OpDestroy, o.stillUnproven) }},
		{name: "fence", do: o.fenceOnce},
		{name: "release", do: o.endMemory},
		{name: "files", do: func(context.Context) error { return o.l.opt.Folders.Remove(o.inst.ID) }},
		{name: "record", do: o.removeRecord},
		{name: "network", do: o.l.opt.Networks.Apply},
	})
	if err != nil {
		return err
	}
	o.inst.State, o.inst.Op = mvm.StateDestroyed, nil
	return nil
}

func (o *operation) removeRecord(context.Context) error {
	ev := o.event(mvm.InstanceDestroyed, "")
	err := o.l.store.Update(func(tx *store.Tx) error {
		if err := tx.DeleteInstance(o.inst.ID); err != nil {
			return err
		}
		_, err := tx.AppendEvent(ev)
		return err
	})
	o.l.opt.Networks.Changed()
	o.l.opt.Ingress.Forget(o.inst.ID)
	o.l.opt.Health.Forget(o.inst.ID)
	return err
}
