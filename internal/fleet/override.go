package fleet

import (
	"context"
	"time"

	"mvm"
	"mvm/internal/store"
)

// manualOverride is how long reconcile leaves an instance alone after a person
// acted on it (formats.md section 2).
const manualOverride = 10 * time.Minute

// Override keeps automatic changes away from the instance for a while.
func (f *Fleet) Override(id string) error {
	return f.opt.Store.Update(func(tx *store.Tx) error {
		i, err := tx.Instance(id)
		if err != nil {
			return err
		}
		i.ManualOverrideUntil = time.Now().Add(manualOverride)
		return tx.PutInstance(i)
	})
}

// TakeOver ends the overrides of all instances below the address.
func (f *Fleet) TakeOver(ctx context.Context, below mvm.Address) error {
	taken := false
	err := f.opt.Store.Update(func(tx *store.Tx) (err error) {
		taken, err = f.endOverrides(tx, ctx, below)
		return err
	})
	if taken {
		f.opt.Reconcile.Changed(below.Tenant, below.Pool)
	}
	return err
}

// endOverrides ends those of all instances below the address, and records that.
func (f *Fleet) endOverrides(tx *store.Tx, ctx context.Context, below mvm.Address) (taken bool, err error) {
	all, err := tx.Instances(below.Tenant, below.Pool)
	for _, i := range all {
		if err != nil {
			break
		}
		if !i.ManualOverrideUntil.After(time.Now()) {
			continue
		}
		until := i.ManualOverrideUntil.UTC().Format(time.RFC3339)
		taken, i.ManualOverrideUntil = true, time.Time{}
		if err = tx.PutInstance(i); err == nil {
			err = f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.OverrideEnded, Tenant: i.Tenant, Pool: i.Pool, Instance: i.ID, Detail: "it held until " + until})
		}
	}
	return taken, err
}
