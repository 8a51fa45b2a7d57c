package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"mvm"
	"mvm/internal/display"
	"mvm/internal/plan"
	"mvm/internal/snapshot"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// SetAsideLimits bound the snapshots that are kept though they could not be used.
type SetAsideLimits = snapshot.Limits

// boundEvery is the time between looks at what was set aside.
const boundEvery = time.Hour

// keepAside bounds what was set aside for as long as the agent runs.
func (a *Agent) keepAside() {
	a.boundAside()
	wait.Every(a.ctx, boundEvery, func() { a.boundAside() })
}

// leaveAside moves the instance's snapshot out of the way. leave changes the record, with
// the event, once why is known to it. It can run twice.
func (o *operation) leaveAside(why error) (leave func(*mvm.Instance), ev mvm.Event, err error) {
	aside := mvm.SetAside{Snapshot: *o.inst.Snapshot, Why: display.Clip(why.Error()), At: time.Now(), DataDiskMiB: o.inst.Res.DataDiskMiB}
	if err := o.a.folders.Snapshots(o.inst).SetAside(aside.Snapshot.ID); err != nil {
		return nil, ev, err
	}
	leave = func(i *mvm.Instance) { i.SetAside = append(slices.Clone(i.SetAside), aside) }
	until := aside.At.Add(o.a.opt.SetAside.Keep)
	return leave, o.event(mvm.SnapshotSetAside, fmt.Sprintf("%s, kept until %s", aside.Snapshot.ID, until.Format(time.RFC3339))), nil
}

// Snapshots implements api.Service.
func (a *Agent) Snapshots(ctx context.Context, filter mvm.Address) (out []mvm.AsideSnapshot, err error) {
	all, err := a.Instances(ctx, filter)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		for _, s := range i.SetAside {
			host, err := a.snapshotHost(ctx)
			if err != nil {
				return nil, err
			}
			out = append(out, mvm.AsideSnapshot{SetAside: s, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID,
				Until: s.At.Add(a.opt.SetAside.Keep), Misfit: host.AsideMisfit(s, i)})
		}
	}
	return out, nil
}

func findAside(i mvm.Instance, id string) (mvm.SetAside, error) {
	n := slices.IndexFunc(i.SetAside, func(s mvm.SetAside) bool { return s.Snapshot.ID == id })
	if n < 0 {
		return mvm.SetAside{}, mvm.Errorf(mvm.KindNotFound, "snapshot %s of %s does not exist", id, i.Address()).
			WithFix("see `mvm instance snapshots list %s`", i.ID)
	}
	return i.SetAside[n], nil
}

func dropAside(i *mvm.Instance, id string) {
	i.SetAside = slices.DeleteFunc(slices.Clone(i.SetAside), func(s mvm.SetAside) bool { return s.Snapshot.ID == id })
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
	return a.submit(ctx, i.ID, request{op: mvm.OpRestore, by: by, snapshot: id}, nil)
}

// bringBack has a stopped instance sleep with a snapshot that was set aside.
func (o *operation) bringBack(ctx context.Context) error {
	id := o.job.req.snapshot
	var aside mvm.SetAside
	err := o.run(ctx, mvm.OpRestore, []step{
		{name: "intent", do: func(ctx context.Context) (err error) {
			aside, err = o.intendBringBack(ctx, id)
			return err
		}, undo: o.forget},
		{name: "files", do: func(context.Context) error { return o.a.folders.Snapshots(o.inst).BringBack(id) },
			undo: func(context.Context) error { return o.a.folders.Snapshots(o.inst).SetAside(id) }, holds: true},
	})
	if err != nil {
		return err
	}
	o.reason = id
	ref := snapshot.Again(aside, o.inst)
	return o.complete(mvm.StateSleeping, mvm.SnapshotBroughtBack, func(i *mvm.Instance) {
		dropAside(i, id)
		i.Snapshot, i.Ready, i.Problem = &ref, true, ""
	})
}

// intendBringBack makes the intent durable where the snapshot fits the instance.
func (o *operation) intendBringBack(ctx context.Context, id string) (mvm.SetAside, error) {
	aside, err := findAside(o.inst, id)
	if err != nil {
		return aside, err
	}
	refuse := func(why, fix string) error {
		return mvm.Errorf(mvm.KindState, "bring back snapshot %s of %s: %s", id, o.inst.Address(), why).WithFix("%s", fix)
	}
	if st := o.inst.State; st != mvm.StateStopped {
		return aside, refuse("the instance is "+string(st), fmt.Sprintf("stop it first with `mvm instance stop %s`, which gives up what its memory holds now", o.inst.ID))
	}
	host, err := o.a.snapshotHost(ctx)
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
		_, err := findAside(i, id)
		return err
	})
	if err == nil {
		err = o.save(func(i *mvm.Instance) { i.Op.Snapshot = id })
	}
	return aside, err
}

// finishBringBack takes back a restore that was cut off.
func (o *operation) finishBringBack(context.Context) error {
	if err := o.a.unbring(o.inst); err != nil {
		return err
	}
	return o.save(func(i *mvm.Instance) { i.Op = nil })
}

// unbring moves what a restore that was cut off has moved back aside.
func (a *Agent) unbring(i mvm.Instance) error {
	if i.Op == nil || i.Op.Kind != mvm.OpRestore || i.Op.Snapshot == "" || i.Snapshot != nil {
		return nil
	}
	return a.folders.Snapshots(i).SetAside(i.Op.Snapshot)
}

// RemoveSnapshot implements api.Service.
func (a *Agent) RemoveSnapshot(ctx context.Context, addr mvm.Address, id string) error {
	i, err := a.Instance(ctx, addr)
	if err != nil {
		return err
	}
	return a.removeAside(i.ID, id, mvm.Event{By: mvm.AskerFrom(ctx), Request: mvm.RequestFrom(ctx)})
}

// removeAside forgets a snapshot that was set aside, with the event, and then removes its
// files. What is left of them after a crash the next agent removes.
func (a *Agent) removeAside(instance, id string, ev mvm.Event) error {
	var i mvm.Instance
	err := a.store.Update(func(tx *store.Tx) (err error) {
		if i, err = tx.Instance(instance); err != nil {
			return err
		}
		s, err := findAside(i, id)
		if err != nil {
			return err
		}
		if i.Op != nil && i.Op.Kind == mvm.OpRestore {
			return mvm.Errorf(mvm.KindState, "remove snapshot %s of %s: one is being brought back", id, i.Address())
		}
		dropAside(&i, id)
		ev.Time, ev.Action, ev.Tenant, ev.Pool, ev.Instance = time.Now(), mvm.SnapshotDeleted, i.Tenant, i.Pool, i.ID
		ev.Detail = fmt.Sprintf("%s, set aside %s: %s", id, s.At.Format(time.RFC3339), s.Why)
		if _, err := tx.AppendEvent(ev); err != nil {
			return err
		}
		return tx.PutInstance(i)
	})
	if err != nil {
		return err
	}
	return a.folders.Snapshots(i).RemoveAside(id)
}

// boundAside removes what was set aside beyond the limits, and returns the bytes that it
// freed.
func (a *Agent) boundAside() (freed int64) {
	var all []mvm.Instance
	err := a.store.View(func(tx *store.Tx) (err error) {
		all, err = tx.Instances("", "")
		return err
	})
	for _, e := range snapshot.Beyond(all, a.opt.SetAside, time.Now()) {
		e2 := a.removeAside(e.Instance, e.ID, mvm.Event{By: byAgent(), Why: e.Why})
		if e2 == nil {
			freed += e.Bytes
		}
		err = errors.Join(err, e2)
	}
	if err != nil && a.ctx.Err() == nil {
		a.log.Warn("bound what was set aside", "error", err)
	}
	return freed
}
