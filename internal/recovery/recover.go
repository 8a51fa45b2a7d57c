// Package recovery takes up a host after a start of the agent: VMMs that outlived the agent
// before it, operations that were cut off, and what nobody owns. What to do with an instance is
// a line of the table in package repair; what takes long, or asks the guest, is queued.
package recovery

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/folders"
	"mvm/internal/repair"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// Store has the records.
type Store interface {
	View(fn func(*store.Tx) error) error
	Update(fn func(*store.Tx) error) error
}

// VMMs are those of the host.
type VMMs interface {
	// Survey looks once for all instances, until Surveyed, so that not each is looked for.
	Survey(ctx context.Context, instances []mvm.Instance)
	Surveyed()
	// TakeUp takes up one that outlived the agent, and Release ends it.
	TakeUp(ctx context.Context, i mvm.Instance) (alive, paused bool, err error)
	Release(ctx context.Context, i mvm.Instance) error
	// Sweep ends those that nobody owns.
	Sweep(ctx context.Context, owned func(id string) bool) ([]string, error)
}

// Networks are those of the host.
type Networks interface {
	// Changed says that instances came or went, and Apply makes the kernel agree.
	Changed()
	Apply(ctx context.Context) error
	// Sweep removes what no tenant owns.
	Sweep(ctx context.Context) ([]string, error)
}

// Ports are the published ones.
type Ports interface {
	// Publish makes the host's listeners agree with the pools.
	Publish() error
}

// Deliver gives a guest its configuration later.
type Deliver interface{ Owe(id string) }

// Queue takes operations on instances, in the agent's own name. None is waited for.
type Queue interface {
	// Redo queues the operation. One that rises finishes the rise that i's intent was, if any.
	Redo(i mvm.Instance, op mvm.OpKind) error
	// Repair queues what makes an instance that has a VMM as its record says.
	Repair(i mvm.Instance) error
	// HalfDone says that the instance is left half done: it is tried again.
	HalfDone(id string)
}

// Schedule wakes instances for their timers, which it is told of here.
type Schedule interface{ Changed(i mvm.Instance) }

// Options are what a recovery is made of. All of them are required.
type Options struct {
	Store    Store
	VMMs     VMMs
	Networks Networks
	Ports    Ports
	Deliver  Deliver
	Queue    Queue
	Schedule Schedule
	Folders  folders.Folders
	Log      *slog.Logger
	// Seam is called with "recover.take:before" before each instance is taken up.
	Seam func(point, instance string) error
	// Recovered is closed once all instances are taken up.
	Recovered chan struct{}
}

// Recovery takes up a host, once.
type Recovery struct{ opt Options }

// New makes a recovery.
func New(opt Options) *Recovery { return &Recovery{opt} }

// byAgent is who asks for what recovery does.
func byAgent() mvm.Asker { return mvm.Asker{Kind: mvm.AskerAgent} }

// Recover takes up the host after a start of the agent. In order: networks, published
// ports, VMMs that run, what nobody owns, operations that were cut off.
func (r *Recovery) Recover(ctx context.Context) error {
	var instances []mvm.Instance
	err := r.opt.Store.View(func(tx *store.Tx) (err error) {
		instances, err = tx.Instances("", "")
		return err
	})
	if err != nil {
		return err
	}
	if err := r.opt.Folders.MakeRoots(); err != nil {
		return err
	}
	foreign := r.takeBackAll(instances)
	r.opt.Networks.Changed()
	if err := r.opt.Networks.Apply(ctx); err != nil {
		return err
	}
	// Clients that connect from here on wait until all is taken up.
	if err := r.opt.Ports.Publish(); err != nil {
		r.opt.Log.Error("ports are not published", "error", err)
	}
	defer close(r.opt.Recovered)
	if err := r.sweep(ctx, instances); err != nil {
		return err
	}
	r.opt.VMMs.Survey(ctx, instances)
	wait.Each(instances, recoverers, func(i mvm.Instance) {
		err := foreign[i.ID]
		if err == nil {
			err = r.opt.Seam("recover.take:before", i.ID)
		}
		if err == nil {
			err = r.recoverInstance(ctx, i)
		}
		if err != nil {
			r.notRecovered(i, err)
		}
	})
	r.opt.VMMs.Surveyed()
	for _, i := range instances {
		r.opt.Schedule.Changed(i)
	}
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
func (r *Recovery) sweep(ctx context.Context, instances []mvm.Instance) error {
	owned := map[string]bool{}
	for _, i := range instances {
		owned[i.ID] = true
	}
	gone, err := r.opt.VMMs.Sweep(ctx, func(id string) bool { return owned[id] })
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "sweep VMMs: %w", err)
	}
	links, err := r.opt.Networks.Sweep(ctx)
	if err != nil {
		return mvm.Errorf(mvm.KindOf(err), "sweep networks: %w", err)
	}
	if len(gone)+len(links) > 0 {
		r.opt.Log.Warn("removed what nobody owned", "vmms", gone, "network", links)
	}
	return r.opt.Folders.Sweep(owned)
}

// takeBackAll takes back all instances' folders, and says of which something is in the
// way.
func (r *Recovery) takeBackAll(instances []mvm.Instance) map[string]error {
	foreign := map[string]error{}
	for _, i := range instances {
		if err := r.opt.Folders.TakeBack(i); err != nil {
			foreign[i.ID] = err
		}
	}
	r.opt.Folders.TakeBackOthers(instances)
	return foreign
}

// notRecovered records that an instance could not be taken up: one that is broken
// keeps no other from being served. The next operation on it begins with a stop.
func (r *Recovery) notRecovered(i mvm.Instance, err error) {
	r.opt.Log.Error("instance is not taken up", "instance", i.ID, "error", err)
	r.opt.Queue.HalfDone(i.ID)
	problem := mvm.Errorf(mvm.KindOf(err), "recover after a restart of the agent: %w", err).Error()
	err = r.opt.Store.Update(func(tx *store.Tx) error {
		now, err := tx.Instance(i.ID)
		if err != nil {
			return err
		}
		now.Problem = display.Clip(problem)
		return tx.PutInstance(now)
	})
	if err != nil {
		r.opt.Log.Error("record problem", "instance", i.ID, "error", err)
	}
}

// recoverInstance re-adopts the instance's VMM, and finishes or undoes the
// operation that was cut off.
func (r *Recovery) recoverInstance(ctx context.Context, i mvm.Instance) error {
	if err := errors.Join(r.opt.Folders.Snapshots(i).Unbring(i), r.sweepAside(i)); err != nil {
		return err
	}
	if err := r.opt.Folders.Snapshots(i).KeepOwn(i); err != nil {
		return err
	}
	alive, paused, err := r.opt.VMMs.TakeUp(ctx, i)
	if err != nil {
		return err
	}
	f := repair.FoundOf(i)
	f.Alive, f.Paused = alive, paused
	return r.recoverAs(ctx, i, f)
}

// recoverAs does what the table says of the instance. What takes long, or asks the guest,
// the runner does.
func (r *Recovery) recoverAs(ctx context.Context, i mvm.Instance, f repair.Found) error {
	v := repair.Decide(f)
	switch v.Do {
	case repair.Finish:
		return r.opt.Queue.Redo(i, f.Cut)
	case repair.Stop:
		return r.recoverLost(ctx, i, v.Then)
	case repair.Conform:
		if v.Then != "" {
			return r.opt.Queue.Redo(i, v.Then) // which begins with that
		}
		return r.conform(i)
	case repair.OpenGate:
		return r.opt.Queue.Redo(i, v.Then) // likewise: see finishWake
	case repair.ReleaseWhole:
		err := r.opt.VMMs.Release(ctx, i)
		if err == nil {
			err = r.clearOp(i.ID, func(i *mvm.Instance) { i.Snapshot.Consumed = false })
		}
		return errors.Join(err, r.opt.Queue.Redo(i, v.Then))
	case repair.TakeBack: // the files were moved back before the VMM was looked for
		return r.clearOp(i.ID, nil)
	case repair.Release:
		err := r.giveUp(ctx, i)
		if v.Then != "" {
			err = errors.Join(err, r.opt.Queue.Redo(i, v.Then))
		}
		return err
	}
	if i.State == mvm.StateRunning {
		r.opt.Deliver.Owe(i.ID) // a change may have been stored and not delivered
		if !i.Ready && i.Problem == "" {
			return r.opt.Queue.Redo(i, mvm.OpStart) // which waits until its services are ready
		}
	}
	return nil
}

// conform queues what makes an instance that has a VMM as its record says.
func (r *Recovery) conform(i mvm.Instance) error {
	r.opt.Deliver.Owe(i.ID) // a change may have been stored and not delivered
	if i.Op == nil {
		i.Op = &mvm.Op{Kind: mvm.OpResume, By: byAgent(), Why: "its VMM was not as its record says", Started: time.Now()}
		if err := r.opt.Store.Update(func(tx *store.Tx) error { return tx.PutInstance(i) }); err != nil {
			return err
		}
	}
	return r.opt.Queue.Repair(i)
}

// sweepAside removes what lies among the snapshots that were set aside and is none that
// the instance knows of.
func (r *Recovery) sweepAside(i mvm.Instance) error {
	removed, err := r.opt.Folders.Snapshots(i).KeepAside(i)
	if len(removed) > 0 {
		r.opt.Log.Warn("remove what was set aside and is not on record", "instance", i.ID, "snapshots", removed)
	}
	return err
}

// giveUp ends what there is of a VMM, and then the intent of the record: until the VMM
// is gone it counts. Of a sleeper that nothing was done to there is neither, and nothing
// is written.
func (r *Recovery) giveUp(ctx context.Context, i mvm.Instance) error {
	if err := r.opt.VMMs.Release(ctx, i); err != nil || i.Op == nil {
		return err
	}
	return r.clearOp(i.ID, nil)
}

// recoverLost: the record says that it holds memory, but its VMM is gone (the host
// was restarted, or it was killed). It starts again from its disks.
func (r *Recovery) recoverLost(ctx context.Context, i mvm.Instance, then mvm.OpKind) error {
	if err := r.opt.VMMs.Release(ctx, i); err != nil {
		return err
	}
	return errors.Join(r.recordLost(i), r.opt.Queue.Redo(i, then))
}

// recordLost records the stop of an instance whose VMM ended while no agent ran. It ends
// a person's override, as every crash does.
func (r *Recovery) recordLost(i mvm.Instance) error {
	const why = "its VMM was gone when the agent started"
	now := time.Now()
	t := mvm.Transition{Op: mvm.OpStop, From: i.State, To: mvm.StateStopped, By: byAgent(), Why: why, Reason: why, Started: now, Unwanted: true,
		SecretsGeneration: i.SecretsGeneration, Image: i.Image}
	if i.Last != nil {
		t.VMM = i.Last.VMM
	}
	return r.opt.Store.Update(func(tx *store.Tx) error {
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

// clearOp clears the intent of an instance and applies change, where it is not nil, in one
// transaction.
func (r *Recovery) clearOp(id string, change func(*mvm.Instance)) error {
	return r.opt.Store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		i.Op = nil
		if change != nil {
			change(&i)
		}
		return tx.PutInstance(i)
	})
}
