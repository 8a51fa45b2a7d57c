package agent

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"mvm"
	"mvm/internal/declare"
	"mvm/internal/store"
	"mvm/internal/wait"
)

// records are the host's tenants and pools, as they are declared.
type records struct{ *Agent }

var _ declare.Records = records{}

// CreatePool implements declare.Records.
func (r records) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) error {
	_, err := r.createPool(ctx, tenant, spec)
	return err
}

// UpdatePoolLater implements declare.Records. Nobody waits for the pool's guests: one that
// is mute holds up no other tenant's change.
func (r records) UpdatePoolLater(ctx context.Context, at mvm.Address, spec, was mvm.PoolSpec) error {
	defer r.admin.Lock(at.Tenant)()
	if _, err := r.updatePool(ctx, at.Tenant, at.Pool, mvm.PoolUpdate{Spec: &spec, If: &was}); err != nil {
		return err
	}
	return r.deliver.Later(at.Tenant)
}

// ReplaceSecrets implements declare.Records.
func (r records) ReplaceSecrets(ctx context.Context, tenant string, vals map[string][]byte) error {
	defer r.admin.Lock(tenant)()
	_, err := r.changeSecrets(ctx, tenant, func(map[string][]byte) (map[string][]byte, error) { return vals, nil })
	return err
}

// Secrets implements declare.Records.
func (r records) Secrets(tenant string) (map[string][]byte, error) { return r.secretsOf(tenant) }

// SecretsHash implements declare.Records.
func (r records) SecretsHash(t mvm.Tenant, sealed []byte) (string, error) {
	vals, err := r.openSecrets(t, sealed)
	if err != nil || len(vals) == 0 {
		return "", err
	}
	return r.opt.Sealer.Hash(t.ID, vals)
}

// TakeOver implements declare.Records.
func (r records) TakeOver(ctx context.Context, below mvm.Address) error {
	return r.takeOver(ctx, below)
}

// errRollback ends a transaction that only tries something.
var errRollback = errors.New("it was only tried")

// TryTenants implements declare.Records.
func (r records) TryTenants(ctx context.Context, specs []mvm.TenantSpec, going []string) (map[string]error, error) {
	host, err := r.occupied(ctx)
	if err != nil {
		return nil, err
	}
	faults := map[string]error{}
	err = r.store.Update(func(tx *store.Tx) error {
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
		return errRollback
	})
	if errors.Is(err, errRollback) {
		err = nil
	}
	return faults, err
}

// StopAll implements declare.Records. An instance that can't be shut down is left to its
// destruction.
func (r records) StopAll(ctx context.Context, below mvm.Address, progress func(mvm.Progress)) error {
	all, err := r.Instances(ctx, below)
	if err != nil {
		return err
	}
	last := max(mvm.RoleGateway.Priority(), mvm.RoleBuilder.Priority(), mvm.RoleWorker.Priority(), mvm.RoleIMessage.Priority())
	for prio := 0; prio <= last && ctx.Err() == nil; prio++ {
		wait.Each(all, r.reconciler.Parallel(), func(i mvm.Instance) {
			if i.Role.Priority() != prio || !i.State.HoldsMemory() && i.State != mvm.StateSleeping {
				return
			}
			req := request{op: mvm.OpStop, by: mvm.AskerFrom(ctx), why: "it is pruned"}
			if _, err := r.submit(ctx, i.ID, req, progress); err != nil && !mvm.IsKind(err, mvm.KindNotFound) && ctx.Err() == nil {
				r.log.Warn("stop before its destruction", "instance", i.ID, "error", err)
			}
		})
	}
	return context.Cause(ctx)
}

// Apply implements api.Service.
func (a *Agent) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return a.declare.Apply(ctx, d, opts, progress)
}

// Reconcile implements api.Service.
func (a *Agent) Reconcile(ctx context.Context, req mvm.ReconcileRequest, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	return a.declare.Reconcile(ctx, req, progress)
}

// Desired implements api.Service.
func (a *Agent) Desired(context.Context) (json.RawMessage, error) { return a.declare.Desired() }
