package fleet

import (
	"context"
	"errors"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/tenantkey"
)

// Sleepers have what is sealed of instances.
type Sleepers interface {
	// Rewrap has it opened by the tenant's key of now alone.
	Rewrap(i mvm.Instance) error
}

// Key is the key with which the tenant's snapshots are sealed. A tenant of an older version
// gets its own now.
func (f *Fleet) Key(tenant string) (key *tenantkey.Key, err error) {
	var sealed, former []byte
	err = f.opt.Store.View(func(tx *store.Tx) error {
		sealed, former = tx.TenantKey(tenant)
		return nil
	})
	if err == nil && sealed == nil {
		err = f.opt.Store.Update(func(tx *store.Tx) error {
			if sealed, former = tx.TenantKey(tenant); sealed == nil {
				sealed, err = f.newKey(tx, tenant, nil)
			}
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	if key, err = f.opt.Sealer.OpenTenantKey(tenant, sealed); err != nil || former == nil {
		return key, err
	}
	before, err := f.opt.Sealer.OpenTenantKey(tenant, former)
	if err != nil {
		return nil, err
	}
	return key.Over(before), nil
}

// newKey makes a key for a tenant that is on record.
func (f *Fleet) newKey(tx *store.Tx, tenant string, former []byte) ([]byte, error) {
	_, sealed, err := f.opt.Sealer.NewTenantKey(tenant)
	if err != nil {
		return nil, err
	}
	return sealed, tx.PutTenantKey(tenant, sealed, former)
}

// RotateKey gives the tenant another key, with which all that is sealed is wrapped anew. What
// fails of that, or is cut off, is done later.
func (f *Fleet) RotateKey(ctx context.Context, tenant string) error {
	defer f.admin.Lock(tenant)()
	if err := f.finishRotation(tenant); err != nil { // of the one before
		return err
	}
	err := f.opt.Store.Update(func(tx *store.Tx) error {
		if _, err := tx.Tenant(tenant); err != nil {
			return err
		}
		sealed, _ := tx.TenantKey(tenant)
		if _, err := f.newKey(tx, tenant, sealed); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.TenantKeyRotated, Tenant: tenant})
	})
	if err != nil {
		return err
	}
	return f.finishRotation(tenant)
}

// finishRotation wraps anew what the former key opens, and then forgets that key.
func (f *Fleet) finishRotation(tenant string) error {
	var instances []mvm.Instance
	var former []byte
	err := f.opt.Store.View(func(tx *store.Tx) (err error) {
		_, former = tx.TenantKey(tenant)
		instances, err = tx.Instances(tenant, "")
		return err
	})
	if err != nil || former == nil {
		return err
	}
	for _, i := range instances {
		err = errors.Join(err, f.opt.Sleepers.Rewrap(i))
	}
	if err != nil {
		return mvm.Explain("wrap what is sealed of tenant "+tenant+" with its new key, which is tried again", err)
	}
	return f.opt.Store.Update(func(tx *store.Tx) error {
		sealed, _ := tx.TenantKey(tenant)
		if sealed == nil {
			return nil // the tenant is gone
		}
		return tx.PutTenantKey(tenant, sealed, nil)
	})
}

// finishRotations goes on with rotations of keys that failed or were cut off.
func (f *Fleet) finishRotations(ctx context.Context) {
	var tenants []mvm.Tenant
	err := f.opt.Store.View(func(tx *store.Tx) error {
		all, err := tx.Tenants()
		for _, t := range all {
			if _, former := tx.TenantKey(t.ID); former != nil {
				tenants = append(tenants, t)
			}
		}
		return err
	})
	for _, t := range tenants {
		if ctx.Err() != nil {
			return
		}
		unlock := f.admin.Lock(t.ID)
		err = errors.Join(err, f.finishRotation(t.ID))
		unlock()
	}
	if err != nil && ctx.Err() == nil {
		f.opt.Log.Error("finish the rotation of keys", "error", err)
	}
}
