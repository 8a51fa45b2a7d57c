package lifecycle

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/plan"
	"mvm/internal/snapshot"
	"mvm/internal/store"
)

// leaveAside moves the instance's snapshot out of the way. leave changes the record, with
// the event, once why is known to it. It can run twice.
func (o *operation) leaveAside(why error) (leave func(*mvm.Instance), ev mvm.Event, err error) {
	aside := mvm.SetAside{Snapshot: *o.inst.Snapshot, Why: display.Clip(why.Error()), At: time.Now(), DataDiskMiB: o.inst.Res.DataDiskMiB}
	if err := o.l.opt.Folders.Snapshots(o.inst).SetAside(aside.Snapshot.ID); err != nil {
		return nil, ev, err
	}
	leave = func(i *mvm.Instance) { i.SetAside = append(slices.Clone(i.SetAside), aside) }
	until := aside.At.Add(o.l.opt.KeepAside)
	return leave, o.event(mvm.SnapshotSetAside, fmt.Sprintf("%s, kept until %s", aside.Snapshot.ID, until.Format(time.RFC3339))), nil
}

// bringBack has a stopped instance sleep with a snapshot that was set aside.
func (o *operation) bringBack(ctx context.Context) error {
	id := o.job.req.Snapshot
	var aside mvm.SetAside
	err := o.run(ctx, mvm.OpRestore, []step{
		{name: "intent", do: func(ctx context.Context) (err error) {
			aside, err = o.intendBringBack(ctx, id)
			return err
		}, undo: o.forget},
		{name: "files", do: func(context.Context) error { return o.l.opt.Folders.Snapshots(o.inst).BringBack(id) },
			undo: func(context.Context) error { return o.l.opt.Folders.Snapshots(o.inst).SetAside(id) }, holds: true},
	})
	if err != nil {
		return err
	}
	o.reason = id
	ref := snapshot.Again(aside, o.inst)
	return o.complete(mvm.StateSleeping, mvm.SnapshotBroughtBack, func(i *mvm.Instance) {
		snapshot.DropAside(i, id)
		i.Snapshot, i.Ready, i.Problem = &ref, true, ""
	})
}

// intendBringBack makes the intent durable where the snapshot fits the instance.
func (o *operation) intendBringBack(ctx context.Context, id string) (mvm.SetAside, error) {
	aside, err := snapshot.FindAside(o.inst, id)
	if err != nil {
		return aside, err
	}
	refuse := func(why, fix string) error {
		return mvm.Errorf(mvm.KindState, "bring back snapshot %s of %s: %s", id, o.inst.Address(), why).WithFix("%s", fix)
	}
	if st := o.inst.State; st != mvm.StateStopped {
		return aside, refuse("the instance is "+string(st), fmt.Sprintf("stop it first with `mvm instance stop %s`, which gives up what its memory holds now", o.inst.ID))
	}
	host, err := o.l.SnapshotHost(ctx)
	if err != nil {
		return aside, err
	}
	if misfit := host.AsideMisfit(aside, o.inst); misfit != "" {
		return aside, refuse(misfit, fmt.Sprintf("remove it with `mvm instance snapshots rm %s %s`", o.inst.ID, id))
	}
	if what := plan.Behind(o.inst, o.pool); len(what) > 0 && !o.pool.Spec.Critical {
		return aside, refuse("its pool has changed since, and a wake would boot it anew", "see `mvm why "+o.inst.ID+"`")
	}
	err = o.intend(mvm.OpRestore, func(_ *store.Tx, i mvm.Instance) error {
		_, err := snapshot.FindAside(i, id)
		return err
	})
	if err == nil {
		err = o.save(func(i *mvm.Instance) { i.Op.Snapshot = id })
	}
	return aside, err
}

// finishBringBack takes back a restore that was cut off.
func (o *operation) finishBringBack(context.Context) error {
	if err := o.l.opt.Folders.Snapshots(o.inst).Unbring(o.inst); err != nil {
		return err
	}
	return o.save(func(i *mvm.Instance) { i.Op = nil })
}
