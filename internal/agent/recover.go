package agent

import (
	"context"
	"errors"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/repair"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// recover takes up the host after a start of the agent. In order: networks, published
// ports, VMMs that run, what nobody owns, operations that were cut off.
func (a *Agent) recover(ctx context.Context) error {
	instances, err := a.Instances(ctx, mvm.Address{})
	if err != nil {
		return err
	}
	if err := a.folders.MakeRoots(); err != nil {
		return err
	}
	foreign := a.takeBackAll(instances)
	a.networks.Changed()
	if err := a.networks.Apply(ctx); err != nil {
		return err
	}
	// Clients that connect from here on wait until all is taken up.
	if err := a.ingress.Publish(); err != nil {
		a.log.Error("ports are not published", "error", err)
	}
	defer close(a.recovered)
	if err := a.sweep(ctx, instances); err != nil {
		return err
	}
	a.live.Survey(ctx, instances)
	wait.Each(instances, recoverers, func(i mvm.Instance) {
		err := foreign[i.ID]
		if err == nil {
			err = a.opt.Seam("recover.take:before", i.ID)
		}
		if err == nil {
			err = a.recoverInstance(ctx, i)
		}
		if err != nil {
			a.notRecovered(i, err)
		}
	})
	a.live.Surveyed()
	if ctx.Err() != nil {
		return mvm.Errorf(mvm.KindCanceled, "recover instances: %w", context.Cause(ctx))
	}
	return nil
}

// recoverers bounds the instances that are taken up at the same time: a VMM that does not
// answer holds one of them up for seconds.
const recoverers = 16

// sweep removes what carries our names and belongs to no instance: VMMs, network
// devices, folders.
func (a *Agent) sweep(ctx context.Context, instances []mvm.Instance) error {
	owned := map[string]bool{}
	for _, i := range instances {
		owned[i.ID] = true
	}
	gone, err := a.opt.Driver.Sweep(ctx, a.folders.RunRoot(), func(id string) bool { return owned[id] })
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "sweep VMMs: %w", err)
	}
	links, err := a.opt.Network.Sweep(ctx)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "sweep networks: %w", err)
	}
	if len(gone)+len(links) > 0 {
		a.log.Warn("removed what nobody owned", "vmms", gone, "network", links)
	}
	return a.folders.Sweep(owned)
}

// takeBackAll takes back all instances' folders, and says of which something is in the
// way.
func (a *Agent) takeBackAll(instances []mvm.Instance) map[string]error {
	foreign := map[string]error{}
	for _, i := range instances {
		if err := a.folders.TakeBack(i); err != nil {
			foreign[i.ID] = err
		}
	}
	a.folders.TakeBackOthers(instances)
	return foreign
}

// notRecovered records that an instance could not be taken up: one that is broken
// keeps no other from being served. The next operation on it begins with a stop.
func (a *Agent) notRecovered(i mvm.Instance, err error) {
	a.log.Error("instance is not taken up", "instance", i.ID, "error", err)
	a.halfDone.Set(i.ID, true)
	problem := mvm.Errorf(mvm.KindOf(err), "recover after a restart of the agent: %w", err).Error()
	err = a.store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		now.Problem = display.Clip(problem)
		return tx.PutInstance(now)
	})
	if err != nil {
		a.log.Error("record problem", "instance", i.ID, "error", err)
	}
}

// recoverInstance re-adopts the instance's VMM, and finishes or undoes the
// operation that was cut off.
func (a *Agent) recoverInstance(ctx context.Context, i mvm.Instance) error {
	if err := errors.Join(a.unbring(i), a.sweepAside(i)); err != nil {
		return err
	}
	if err := a.sweepSnapshots(i); err != nil {
		return err
	}
	alive, paused, err := a.live.TakeUp(ctx, i)
	if err != nil {
		return err
	}
	f := foundOf(i)
	f.Alive, f.Paused = alive, paused
	return a.recoverAs(ctx, i, f)
}

// foundOf is what the record says to the table of package repair.
func foundOf(i mvm.Instance) repair.Found {
	f := repair.Found{State: i.State, Consumed: i.Snapshot != nil && i.Snapshot.Consumed}
	if i.Op != nil {
		f.Cut, f.ByPolicy = i.Op.Kind, i.Op.By.Kind == mvm.AskerPolicy
	}
	return f
}

// recoverAs does what the table says of the instance. What takes long, or asks the guest,
// the runner does.
func (a *Agent) recoverAs(ctx context.Context, i mvm.Instance, f repair.Found) error {
	v := repair.Decide(f)
	switch v.Do {
	case repair.Finish:
		return a.redo(i, f.Cut)
	case repair.Stop:
		return a.recoverLost(ctx, i, v.Then)
	case repair.Conform:
		if v.Then != "" {
			return a.redo(i, v.Then) // which begins with that
		}
		return a.conform(i)
	case repair.OpenGate:
		return a.redo(i, v.Then) // likewise: see finishWake
	case repair.ReleaseWhole:
		err := a.live.Release(ctx, i)
		if err == nil {
			err = a.clearOp(i.ID, func(i *mvm.Instance) { i.Snapshot.Consumed = false })
		}
		return errors.Join(err, a.redo(i, v.Then))
	case repair.TakeBack: // the files were moved back before the VMM was looked for
		return a.clearOp(i.ID, nil)
	case repair.Release:
		err := a.giveUp(ctx, i)
		if v.Then != "" {
			err = errors.Join(err, a.redo(i, v.Then))
		}
		return err
	}
	if i.State == mvm.StateRunning {
		a.deliver.Owe(i.ID) // a change may have been stored and not delivered
		if !i.Ready && i.Problem == "" {
			return a.redo(i, mvm.OpStart) // which waits until its services are ready
		}
	}
	return nil
}

// conform queues what makes an instance that has a VMM as its record says.
func (a *Agent) conform(i mvm.Instance) error {
	a.deliver.Owe(i.ID) // a change may have been stored and not delivered
	if i.Op == nil {
		i.Op = &mvm.Op{Kind: mvm.OpResume, By: byAgent(), Why: "its VMM was not as its record says", Started: time.Now()}
		if err := a.store.Update(func(tx *store.Tx) error { return tx.PutInstance(i) }); err != nil {
			return err
		}
	}
	return a.redo(i, opRepair)
}

// sweepAside removes what lies among the snapshots that were set aside and is none that
// the instance knows of.
func (a *Agent) sweepAside(i mvm.Instance) error {
	removed, err := a.folders.Snapshots(i).KeepAside(i)
	if len(removed) > 0 {
		a.log.Warn("remove what was set aside and is not on record", "instance", i.ID, "snapshots", removed)
	}
	return err
}

// sweepSnapshots removes what is among the instance's snapshots and not on its record.
func (a *Agent) sweepSnapshots(i mvm.Instance) error {
	own := ""
	if i.Snapshot != nil {
		own = i.Snapshot.ID
	}
	return a.folders.Snapshots(i).KeepOnly(own)
}

// giveUp ends what there is of a VMM, and then the intent of the record: until the VMM
// is gone it counts. Of a sleeper that nothing was done to there is neither, and nothing
// is written.
func (a *Agent) giveUp(ctx context.Context, i mvm.Instance) error {
	if err := a.live.Release(ctx, i); err != nil || i.Op == nil {
		return err
	}
	return a.clearOp(i.ID, nil)
}

// recoverLost: the record says that it holds memory, but its VMM is gone (the host
// was restarted, or it was killed). It starts again from its disks.
func (a *Agent) recoverLost(ctx context.Context, i mvm.Instance, then mvm.OpKind) error {
	if err := a.live.Release(ctx, i); err != nil {
		return err
	}
	return errors.Join(a.recordLost(i), a.redo(i, then))
}

// recordLost records the stop of an instance whose VMM ended while no agent ran. It ends
// a person's override, as every crash does.
func (a *Agent) recordLost(i mvm.Instance) error {
	const why = "its VMM was gone when the agent started"
	now := time.Now()
	t := mvm.Transition{Op: mvm.OpStop, From: i.State, To: mvm.StateStopped, By: byAgent(), Why: why, Reason: why, Started: now, Unwanted: true,
		SecretsGeneration: i.SecretsGeneration, Image: i.Image}
	if i.Last != nil {
		t.VMM = i.Last.VMM
	}
	return a.store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		i.Op, i.State, i.Changed, i.Last, i.Ready, i.Parked, i.ManualOverrideUntil = nil, t.To, now, &t, false, false, time.Time{}
		if err := tx.PutTransition(i.ID, t); err != nil {
			return err
		}
		if _, err := tx.AppendEvent(mvm.Event{Time: now, Action: mvm.InstanceStopped, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, By: byAgent(), Why: why}); err != nil {
			return err
		}
		return tx.PutInstance(i)
	})
}

// clearOp clears the intent of an instance, applies change where it is not nil, and
// records the events, in one transaction.
func (a *Agent) clearOp(id string, change func(*mvm.Instance), events ...mvm.Event) error {
	return a.store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		i.Op = nil
		if change != nil {
			change(&i)
		}
		for _, e := range events {
			e.Time = time.Now()
			if _, err := tx.AppendEvent(e); err != nil {
				return err
			}
		}
		return tx.PutInstance(i)
	})
}

// redo queues an operation in the agent's own name; it goes on after Open. One that rises
// finishes the rise that i's intent was, if any.
func (a *Agent) redo(i mvm.Instance, op mvm.OpKind) error {
	req := request{op: op, by: byAgent(), why: "taken up after a restart of the agent"}
	if i.Op != nil && i.Op.Kind.Rises() && op.Rises() {
		req.finishes = i.Op
	}
	_, err := a.enqueue(i.ID, req)
	return err
}
