package fleet

import (
	"context"

	"mvm"
	"mvm/internal/store"
)

// CreateInstance puts a new instance on record, whose making is then under way: op.
func (f *Fleet) CreateInstance(tenant, pool, key string, op mvm.Op) (i mvm.Instance, err error) {
	if key != "" {
		if err := mvm.ValidateKey(key); err != nil {
			return i, err
		}
	}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		i, err = f.NewInstance(tx, tenant, pool, key, op)
		return err
	})
	if err != nil {
		f.quotaEvent(op.By, tenant, pool, err)
		return i, err
	}
	f.opt.Networks.Changed()
	return i, nil
}

// NewInstance records a new instance within the quota, with its address and user.
func (f *Fleet) NewInstance(tx *store.Tx, tenant, pool, key string, op mvm.Op) (mvm.Instance, error) {
	var i mvm.Instance
	t, err := tx.Tenant(tenant)
	if err != nil {
		return i, err
	}
	p, err := tx.Pool(tenant, pool)
	if err != nil {
		return i, err
	}
	if p.Destroying {
		return i, mvm.Errorf(mvm.KindState, "create instance in %s: the pool is being destroyed", p.Address())
	}
	if len(p.Builds) == 0 {
		return i, mvm.Errorf(mvm.KindState, "create instance in %s: the pool has no image", p.Address()).
			WithFix("run `mvm pool build %s`", p.Address())
	}
	if err := admitInstance(tx, t, p); err != nil {
		return i, err
	}
	id, err := f.NewID("i-", func(id string) (bool, error) {
		_, err := tx.Instance(id)
		if mvm.IsKind(err, mvm.KindNotFound) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		return i, err
	}
	i = mvm.Instance{ID: id, Tenant: tenant, Pool: pool, Key: key, Role: p.Spec.Role, State: mvm.StateCreated,
		Res: p.Spec.Resources, Image: p.Builds[0].Digest, BuildID: p.Builds[0].ID, Created: op.Started, Changed: op.Started, Op: &op}
	if i.Offset, err = tx.FreeOffset(tenant); err != nil {
		return i, err
	}
	ip, ok := mvm.SubnetAddr(t.Subnet, i.Offset)
	if !ok {
		return i, mvm.Errorf(mvm.KindQuota, "create instance in %s: subnet %s is full", p.Address(), t.Subnet)
	}
	i.IP, i.MAC = ip, mvm.MAC(t.NetID, i.Offset).String()
	if i.UID, err = tx.AllocUID(); err != nil {
		return i, err
	}
	if err := tx.PutInstance(i); err != nil {
		return i, err
	}
	_, err = tx.AppendEvent(mvm.Event{Time: op.Started, Action: mvm.InstanceCreated, Tenant: tenant, Pool: pool, Instance: i.ID, By: op.By, Why: op.Why, Request: op.Request})
	return i, err
}

// Instances are those below the address, and what is known of them.
func (f *Fleet) Instances(_ context.Context, at mvm.Address) (out []mvm.Instance, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		if at.Instance != "" || at.Key != "" {
			i, err := Resolve(tx, at)
			out = []mvm.Instance{i}
			return err
		}
		if at.Pool != "" {
			if _, err := tx.Pool(at.Tenant, at.Pool); err != nil {
				return err
			}
		} else if at.Tenant != "" {
			if _, err := tx.Tenant(at.Tenant); err != nil {
				return err
			}
		}
		out, err = tx.Instances(at.Tenant, at.Pool)
		return err
	})
	if err != nil {
		return nil, err
	}
	for n := range out {
		f.opt.Watch.Observe(&out[n])
	}
	return out, nil
}

// Instance is the one that the address names, and what is known of it.
func (f *Fleet) Instance(_ context.Context, addr mvm.Address) (i mvm.Instance, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		i, err = Resolve(tx, addr)
		return err
	})
	f.opt.Watch.Observe(&i)
	return i, err
}

// Resolve finds the one instance that an address names. A pool's or tenant's
// address names its instance when it has only one.
func Resolve(tx *store.Tx, addr mvm.Address) (mvm.Instance, error) {
	switch {
	case addr.Key != "":
		return tx.InstanceByKey(addr.Tenant, addr.Pool, addr.Key)
	case addr.Instance != "":
		i, err := tx.Instance(addr.Instance)
		if err == nil && (addr.Tenant != "" && addr.Tenant != i.Tenant || addr.Pool != "" && addr.Pool != i.Pool) {
			err = mvm.Errorf(mvm.KindNotFound, "instance %s does not exist", addr)
		}
		return i, err
	}
	if _, err := tx.Tenant(addr.Tenant); err != nil {
		return mvm.Instance{}, err
	}
	all, err := tx.Instances(addr.Tenant, addr.Pool)
	switch {
	case err != nil:
		return mvm.Instance{}, err
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0:
		return mvm.Instance{}, mvm.Errorf(mvm.KindNotFound, "%s has no instance", addr)
	}
	return mvm.Instance{}, mvm.Errorf(mvm.KindInvalid, "%s has %d instances", addr, len(all)).WithFix("name one; see `mvm ps %s`", addr)
}
