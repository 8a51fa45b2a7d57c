package fleet

import (
	"context"
	"errors"
	"slices"

	"mvm"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// UpdatePoolLater changes a pool that is as was says. Nobody waits for its guests: one that
// is mute holds up no other tenant's change.
func (f *Fleet) UpdatePoolLater(ctx context.Context, at mvm.Address, spec, was mvm.PoolSpec) error {
	defer f.admin.Lock(at.Tenant)()
	if _, err := f.updatePool(ctx, at.Tenant, at.Pool, mvm.PoolUpdate{Spec: &spec, If: &was}); err != nil {
		return err
	}
	return f.opt.Deliver.Later(at.Tenant)
}

// ReplaceSecrets makes vals the tenant's only secrets.
func (f *Fleet) ReplaceSecrets(ctx context.Context, tenant string, vals map[string][]byte) error {
	defer f.admin.Lock(tenant)()
	_, err := f.changeSecrets(ctx, tenant, func(map[string][]byte) (map[string][]byte, error) { return vals, nil })
	return err
}

// SecretsHash names the tenant's secrets by a keyed hash; "": it has none.
func (f *Fleet) SecretsHash(t mvm.Tenant, sealed []byte) (string, error) {
	vals, err := f.OpenSecrets(t, sealed)
	if err != nil || len(vals) == 0 {
		return "", err
	}
	return f.opt.Sealer.Hash(t.ID, vals)
}

// errOnlyTried ends a transaction that only tries something.
var errOnlyTried = errors.New("it was only tried")

// TryTenants returns, by tenant, why those of the specs that are not there could not be
// made once the tenants going are destroyed. It changes nothing.
func (f *Fleet) TryTenants(ctx context.Context, specs []mvm.TenantSpec, going []string) (map[string]error, error) {
	host, err := f.occupied(ctx)
	if err != nil {
		return nil, err
	}
	faults := map[string]error{}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		all, err := tx.Tenants()
		if err != nil {
			return err
		}
		for _, spec := range specs {
			if slices.ContainsFunc(all, func(t mvm.Tenant) bool { return t.ID == spec.ID }) {
				continue
			}
			t, err := tenantRecord(tx, spec, host, going...)
			if err == nil {
				err = checkOverlap(tx, t, going...)
			}
			if err == nil {
				err = tx.PutTenant(t)
			}
			if err != nil {
				faults[spec.ID] = err
			}
		}
		return errOnlyTried
	})
	if errors.Is(err, errOnlyTried) {
		err = nil
	}
	return faults, err
}

// StopAll shuts down every instance below the address, gateways before the others. One that
// can't be shut down is left to its destruction.
func (f *Fleet) StopAll(ctx context.Context, below mvm.Address, progress func(mvm.Progress)) error {
	all, err := f.Instances(ctx, below)
	if err != nil {
		return err
	}
	last := max(mvm.RoleGateway.Priority(), mvm.RoleBuilder.Priority(), mvm.RoleWorker.Priority(), mvm.RoleIMessage.Priority())
	for prio := 0; prio <= last && ctx.Err() == nil; prio++ {
		wait.Each(all, f.opt.Reconcile.Parallel(), func(i mvm.Instance) {
			if i.Role.Priority() != prio || !i.State.HoldsMemory() && i.State != mvm.StateSleeping {
				return
			}
			if err := f.opt.Queue.Stop(ctx, i.ID, "it is pruned", progress); err != nil && !mvm.IsKind(err, mvm.KindNotFound) && ctx.Err() == nil {
				f.opt.Log.Warn("stop before its destruction", "instance", i.ID, "error", err)
			}
		})
	}
	return context.Cause(ctx)
}
