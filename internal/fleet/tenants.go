package fleet

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"mvm"
	"mvm/internal/delta"
	"mvm/internal/limits"
	"mvm/internal/network"
	"mvm/internal/secrets"
	"mvm/internal/store"
)

// CreateTenant puts a new tenant on record and makes its network.
func (f *Fleet) CreateTenant(ctx context.Context, spec mvm.TenantSpec) (mvm.Tenant, error) {
	if err := validTenant(spec); err != nil {
		return mvm.Tenant{}, err
	}
	defer f.admin.Lock(spec.ID)()
	return f.createTenant(ctx, spec)
}

func validTenant(spec mvm.TenantSpec) error {
	err := spec.Validate()
	if err == nil && spec.Ceilings != nil {
		err = limits.CheckCeilings(spec.ID, *spec.Ceilings)
	}
	return err
}

func (f *Fleet) createTenant(ctx context.Context, spec mvm.TenantSpec) (t mvm.Tenant, err error) {
	host, err := f.occupied(ctx)
	if err != nil {
		return t, err
	}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		if _, err := tx.Tenant(spec.ID); err == nil {
			return mvm.Errorf(mvm.KindExists, "tenant %s already exists", spec.ID)
		} else if !mvm.IsKind(err, mvm.KindNotFound) {
			return err
		}
		if t, err = tenantOf(tx, spec, host); err != nil {
			return err
		}
		if err := tx.PutTenant(t); err != nil {
			return err
		}
		if _, err := f.newKey(tx, t.ID, nil); err != nil {
			return err
		}
		if err := tx.PutMeta(told(toldDNS, t), "1"); err != nil { // it begins like that
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.TenantCreated, Tenant: t.ID})
	})
	if err != nil {
		return t, err
	}
	f.opt.Networks.Changed()
	return t, f.opt.Networks.Apply(ctx)
}

// occupied is what the host itself has of addresses and routes.
func (f *Fleet) occupied(ctx context.Context) ([]network.Range, error) {
	host, err := f.opt.Networks.Occupied(ctx)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "look at the host's networks: %w", err)
	}
	return host, nil
}

// tenantOf makes the record of a new tenant, whose subnet is its own.
func tenantOf(tx *store.Tx, spec mvm.TenantSpec, host []network.Range) (mvm.Tenant, error) {
	t, err := tenantRecord(tx, spec, host)
	if err != nil {
		return t, err
	}
	return t, checkOverlap(tx, t)
}

// tenantRecord makes the record of a new tenant: its network id and subnet, which takes
// nothing from what the host has. Those that nobody named are chosen so.
func tenantRecord(tx *store.Tx, spec mvm.TenantSpec, host []network.Range, going ...string) (mvm.Tenant, error) {
	t := mvm.Tenant{ID: spec.ID, Quota: mvm.DefaultQuota(), Pinned: spec.Pinned, HostServices: spec.HostServices, Closed: true,
		Subnet: spec.Subnet, Created: time.Now()}
	if spec.Quota != nil {
		t.Quota = *spec.Quota
	}
	if spec.Ceilings != nil {
		t.Ceilings = *spec.Ceilings
	}
	var fits func(int) error
	if !t.Subnet.IsValid() {
		fits = func(netID int) error {
			next := t
			next.Subnet = mvm.DefaultSubnet(netID)
			if err := checkHost(next.Subnet, host); err != nil {
				return err
			}
			return checkOverlap(tx, next, going...)
		}
	}
	var err error
	if spec.NetID != nil {
		t.NetID, err = *spec.NetID, tx.ReserveNetID(spec.ID, *spec.NetID, time.Now())
	} else {
		t.NetID, err = tx.NextNetID(spec.ID, time.Now(), fits)
	}
	if err != nil {
		return t, err
	}
	if !t.Subnet.IsValid() {
		t.Subnet = mvm.DefaultSubnet(t.NetID)
	}
	return t, checkHost(t.Subnet, host)
}

// checkHost refuses a subnet that takes something from the host.
func checkHost(subnet netip.Prefix, host []network.Range) error {
	if r, found := network.Overlapping(host, subnet); found {
		return mvm.Errorf(mvm.KindState, "subnet %s overlaps %s of this host", subnet, r.What).
			WithFix("choose another net_id or subnet")
	}
	return nil
}

// checkOverlap refuses a subnet that another tenant has, but for those about to go.
func checkOverlap(tx *store.Tx, t mvm.Tenant, going ...string) error {
	all, err := tx.Tenants()
	if err != nil {
		return err
	}
	for _, o := range all {
		if o.ID != t.ID && !slices.Contains(going, o.ID) && o.Subnet.Overlaps(t.Subnet) {
			return mvm.Errorf(mvm.KindExists, "subnet %s overlaps %s of tenant %s", t.Subnet, o.Subnet, o.ID).
				WithFix("choose another net_id or subnet")
		}
	}
	return nil
}

// UpdateTenant changes a tenant.
func (f *Fleet) UpdateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (t mvm.Tenant, err error) {
	defer f.admin.Lock(id)()
	return f.updateTenant(ctx, id, up)
}

func (f *Fleet) updateTenant(ctx context.Context, id string, up mvm.TenantUpdate) (t mvm.Tenant, err error) {
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		if t, err = tx.Tenant(id); err != nil {
			return err
		}
		if err := up.Check(t); err != nil {
			return err
		}
		was := t
		if up.Quota != nil {
			t.Quota = *up.Quota
		}
		if up.Ceilings != nil {
			t.Ceilings = *up.Ceilings
		}
		if up.Pinned != nil {
			t.Pinned = *up.Pinned
		}
		if up.HostServices != nil {
			t.HostServices = *up.HostServices
		}
		if up.Closed != nil {
			t.Closed = *up.Closed
		}
		spec := mvm.TenantSpec{ID: id, Quota: &t.Quota, HostServices: t.HostServices}
		if err := errors.Join(spec.Validate(), limits.CheckCeilings(id, t.Ceilings)); err != nil {
			return err
		}
		changed := delta.Text(was, t)
		if err := tx.PutTenant(t); err != nil || changed == "" {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.TenantUpdated, Tenant: id, Detail: changed})
	})
	if err != nil {
		return t, err
	}
	f.opt.Reconcile.Changed(id, "")
	f.opt.Networks.Changed()
	if up.Ceilings != nil {
		f.opt.Limits.Changed(ctx, mvm.Address{Tenant: id})
	}
	err = f.opt.Networks.Apply(ctx)
	if up.Closed != nil { // its guests ask another name server
		err = errors.Join(err, f.opt.Deliver.Later(id))
	}
	return t, err
}

// Tenants are all of the host.
func (f *Fleet) Tenants(context.Context) (out []mvm.Tenant, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		out, err = tx.Tenants()
		return err
	})
	return out, err
}

// Tenant is the one of that name, and what it uses of its quota.
func (f *Fleet) Tenant(_ context.Context, id string) (t mvm.Tenant, u mvm.Usage, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		if t, err = tx.Tenant(id); err != nil {
			return err
		}
		u, err = usageOf(tx, id, "")
		return err
	})
	return t, u, err
}

// DestroyTenant destroys the tenant and all that it has.
func (f *Fleet) DestroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error {
	defer f.admin.Lock(id)()
	return f.destroyTenant(ctx, id, progress)
}

func (f *Fleet) destroyTenant(ctx context.Context, id string, progress func(mvm.Progress)) error {
	var pools []mvm.Pool
	err := f.opt.Store.Update(func(tx *store.Tx) error {
		t, err := tx.Tenant(id)
		if err != nil {
			return err
		}
		t.Destroying = true
		if err := tx.PutTenant(t); err != nil {
			return err
		}
		pools, err = tx.Pools(id)
		return err
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(pools, func(p, q mvm.Pool) int { // gateways, which have instances made, first
		return cmp.Compare(p.Spec.Role.Priority(), q.Spec.Role.Priority())
	})
	for _, p := range pools {
		if err := f.destroyPool(ctx, id, p.Spec.ID, progress); err != nil {
			return err
		}
	}
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		if err := tx.DeleteSecrets(id); err != nil {
			return err
		}
		if err := tx.DeleteTenant(id); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.TenantDestroyed, Tenant: id})
	})
	if err != nil {
		return err
	}
	if err := f.opt.Builds.Drop(ctx, mvm.Address{Tenant: id}); err != nil {
		return err
	}
	f.opt.Networks.Changed()
	if err := f.opt.Networks.Apply(ctx); err != nil {
		return err
	}
	_, err = f.opt.Networks.Sweep(ctx)
	return err
}

// SetSecrets changes some of the secrets of a tenant and returns their new generation.
func (f *Fleet) SetSecrets(ctx context.Context, tenant string, changes map[string][]byte) (int, error) {
	defer f.admin.Lock(tenant)()
	return f.changeSecrets(ctx, tenant, func(now map[string][]byte) (map[string][]byte, error) { return secrets.Merge(now, changes) })
}

// RotateSecrets begins a new generation with the same values.
func (f *Fleet) RotateSecrets(ctx context.Context, tenant string) (int, error) {
	defer f.admin.Lock(tenant)()
	return f.changeSecrets(ctx, tenant, func(now map[string][]byte) (map[string][]byte, error) { return now, nil })
}

// changeSecrets stores a new generation and gives it to the guests that run. One
// that can't be reached gets it in its next gate.
func (f *Fleet) changeSecrets(ctx context.Context, tenant string, change func(map[string][]byte) (map[string][]byte, error)) (gen int, err error) {
	err = f.opt.Store.Update(func(tx *store.Tx) error {
		t, err := tx.Tenant(tenant)
		if err != nil {
			return err
		}
		now, err := f.OpenSecrets(t, tx.Secrets(tenant))
		if err != nil {
			return err
		}
		vals, err := change(now)
		if err != nil {
			return err
		}
		if err := mvm.ValidateSecrets(vals); err != nil {
			return err
		}
		t.SecretsGeneration++
		gen = t.SecretsGeneration
		t.SecretNames = slices.Sorted(maps.Keys(vals))
		t.Secrets = secretInfo(t.Secrets, now, vals, gen)
		sealed, err := f.opt.Sealer.Seal(tenant, gen, vals)
		if err != nil {
			return err
		}
		if err := errors.Join(tx.PutSecrets(tenant, sealed), tx.PutTenant(t)); err != nil {
			return err
		}
		return f.opt.Journal.Append(ctx, tx, mvm.Event{Action: mvm.SecretsRotated, Tenant: tenant})
	})
	if err != nil {
		return 0, err
	}
	return gen, f.opt.Deliver.Tenant(ctx, tenant)
}

// Secrets opens the tenant's secrets.
func (f *Fleet) Secrets(tenant string) (vals map[string][]byte, err error) {
	err = f.opt.Store.View(func(tx *store.Tx) error {
		t, err := tx.Tenant(tenant)
		if err != nil {
			return err
		}
		vals, err = f.OpenSecrets(t, tx.Secrets(tenant))
		return err
	})
	return vals, err
}

// OpenSecrets opens the sealed secrets of a tenant.
func (f *Fleet) OpenSecrets(t mvm.Tenant, sealed []byte) (map[string][]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	vals, err := f.opt.Sealer.Open(t.ID, t.SecretsGeneration, sealed)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "open secrets of tenant %s: %w", t.ID, err).
			WithFix("check that this is the key file that the data directory was created with")
	}
	return vals, nil
}
