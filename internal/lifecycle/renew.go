package lifecycle

import (
	"context"
	"errors"
	"os"
	"strings"

	"mvm"
	"mvm/internal/plan"
	"mvm/internal/store"
)

// renew gives an instance that is about to boot what its pool says now: image, sizes
// and environment, within the quota.
func (o *operation) renew(context.Context) error {
	return o.l.store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(o.inst.ID)
		if err != nil {
			return err
		}
		p, err := tx.Pool(i.Tenant, i.Pool)
		if err != nil {
			return err
		}
		now := renewed(i, p)
		if now.Res == i.Res && now.Image == i.Image && now.BuildID == i.BuildID && now.EnvDigest == i.EnvDigest {
			return nil
		}
		if err := errors.Join(plan.CheckDisk(i, p.Spec), o.l.opt.Quota.AdmitDisk(tx, i, now)); err != nil {
			return err
		}
		o.inst, o.pool = now, p
		return tx.PutInstance(now)
	})
}

// renewed is the instance with what its pool says now.
func renewed(i mvm.Instance, p mvm.Pool) mvm.Instance {
	i.Res, i.EnvDigest = p.Spec.Resources, mvm.EnvDigest(p.Spec.Env)
	if len(p.Builds) > 0 {
		i.Image, i.BuildID = p.Builds[0].Digest, p.Builds[0].ID
	}
	return i
}

// admitRenewed refuses an instance that could not run with what its pool says now.
func (l *Lifecycle) admitRenewed(tx *store.Tx, i mvm.Instance, p mvm.Pool) error {
	now := renewed(i, p)
	return errors.Join(plan.CheckDisk(i, p.Spec), l.opt.Quota.AdmitRunning(tx, now), l.opt.Quota.AdmitDisk(tx, i, now))
}

// sizeDisk makes the data disk as large as the record says. Where there never was one, it makes
// an empty one; one that is lost is an error, since an empty one would hide the loss.
func (o *operation) sizeDisk(ctx context.Context) error {
	if o.inst.Res.DataDiskMiB == 0 {
		return nil
	}
	err := o.l.opt.Folders.GrowDataDisk(o.inst.ID, o.inst.Res.DataDiskMiB)
	switch {
	case errors.Is(err, os.ErrNotExist) && o.inst.DiskMade:
		return mvm.Errorf(mvm.KindState, "the data disk of %s is not there: %w", o.inst.Address(), err).
			WithFix("bring it back from a backup (`mvm node fsck` on the host says where), or destroy the instance with `mvm instance destroy %s`", o.inst.ID)
	case errors.Is(err, os.ErrNotExist): // its pool had none before
		err = o.makeDisks(ctx)
	case err != nil:
		return mvm.Errorf(mvm.KindInternal, "%w", err).WithFix("check the space left with `mvm node disk`")
	}
	if err != nil || o.inst.DiskMade {
		return err
	}
	return o.save(func(i *mvm.Instance) { i.DiskMade = true })
}

// outdated says why a sleeping instance boots instead of going on: its pool has
// another image, size or environment than its snapshot. Empty: it goes on.
func (o *operation) outdated(ctx context.Context) string {
	what := plan.Behind(o.inst, o.pool)
	if len(what) == 0 || o.pool.Spec.Critical {
		return ""
	}
	why := strings.Join(what, ", ")
	err := o.l.store.View(func(tx *store.Tx) error { return o.l.admitRenewed(tx, o.inst, o.pool) })
	if err == nil {
		err = o.l.opt.VMMs.Bootable(ctx, renewed(o.inst, o.pool))
	}
	if err != nil { // better as it was than not at all
		o.log.Warn("instance wakes as it was", "though", why, "error", err)
		return ""
	}
	return why
}

// bootAnew boots a sleeping instance with what its pool says now. Its data disk
// stays; what its memory held goes.
func (o *operation) bootAnew(ctx context.Context, why string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	o.reason = "snapshot given up: " + why
	err := o.update(func(tx *store.Tx, i *mvm.Instance) (err error) {
		if i.Snapshot != nil {
			ev := o.event(mvm.SnapshotDeleted, i.Snapshot.ID)
			ev.Why = why
			_, err = tx.AppendEvent(ev)
		}
		i.State, i.Snapshot, i.Op = mvm.StateStopped, nil, nil
		return err
	})
	if err != nil {
		return err
	}
	if err := o.discardMemory(ctx); err != nil {
		return err
	}
	return o.start(ctx, o.reason)
}
