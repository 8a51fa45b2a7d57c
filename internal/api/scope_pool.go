package api

import (
	"context"
	"slices"

	"mvm"
	"mvm/internal/limits"
)

// Pools implements Service.
func (s *scope) Pools(ctx context.Context, tenant string) ([]mvm.Pool, error) {
	if tenant == "" {
		tenant = s.caller.Tenant
	}
	if err := s.own(tenant); err != nil {
		return nil, err
	}
	return s.svc.Pools(ctx, tenant)
}

// Pool implements Service.
func (s *scope) Pool(ctx context.Context, tenant, pool string) (mvm.Pool, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Pool{}, err
	}
	return s.svc.Pool(ctx, tenant, pool)
}

// CreatePool implements Service.
func (s *scope) CreatePool(ctx context.Context, tenant string, spec mvm.PoolSpec) (mvm.Pool, error) {
	err := s.own(tenant)
	if err == nil {
		err = s.offHostOf(ctx, tenant, spec, mvm.PoolSpec{})
	}
	if err != nil {
		return mvm.Pool{}, err
	}
	return s.svc.CreatePool(ctx, tenant, spec)
}

// UpdatePool implements Service.
func (s *scope) UpdatePool(ctx context.Context, tenant, pool string, up mvm.PoolUpdate) (mvm.Pool, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Pool{}, err
	}
	if up.Spec != nil {
		have, err := s.svc.Pool(ctx, tenant, pool)
		if err == nil {
			err = up.Check(have)
		}
		if err == nil {
			err = s.offHostOf(ctx, tenant, *up.Spec, have.Spec)
		}
		if err != nil {
			return mvm.Pool{}, err
		}
		up.If = &have.Spec // an operator may change it meanwhile
	}
	return s.svc.UpdatePool(ctx, tenant, pool, up)
}

// RollbackPool implements Service.
func (s *scope) RollbackPool(ctx context.Context, tenant, pool, build string) (mvm.Build, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Build{}, err
	}
	return s.svc.RollbackPool(ctx, tenant, pool, build)
}

// GCPool implements Service.
func (s *scope) GCPool(ctx context.Context, tenant, pool string) ([]mvm.Build, error) {
	if err := s.own(tenant); err != nil {
		return nil, err
	}
	return s.svc.GCPool(ctx, tenant, pool)
}

// DestroyPool implements Service.
func (s *scope) DestroyPool(ctx context.Context, tenant, pool string, progress func(mvm.Progress)) error {
	if err := s.own(tenant); err != nil {
		return err
	}
	return s.svc.DestroyPool(ctx, tenant, pool, progress)
}

// CreateInstance implements Service.
func (s *scope) CreateInstance(ctx context.Context, tenant, pool, key string) (mvm.Instance, error) {
	if err := s.own(tenant); err != nil {
		return mvm.Instance{}, err
	}
	return s.svc.CreateInstance(ctx, tenant, pool, key)
}

// Apply implements Service: a tenant's client may deploy its tenant, once an operator
// has made it, and leaves alone what operators decide.
func (s *scope) Apply(ctx context.Context, d mvm.Deployment, opts mvm.ApplyOptions, progress func(mvm.Progress)) ([]mvm.PlanStep, error) {
	if err := s.own(d.Tenant.ID); err != nil {
		return nil, err
	}
	// What is there is checked where it is changed: an operator may change it until then.
	opts.Check = func(have *mvm.Tenant, pools []mvm.Pool) error {
		if have == nil {
			return s.operatorsOnly("create a tenant")
		}
		if err := s.sameTenant(d.Tenant, *have); err != nil {
			return err
		}
		return s.offHostAll(d, *have, pools)
	}
	return s.svc.Apply(mvm.WithRecord(ctx), d, opts, progress)
}

func (s *scope) sameTenant(want mvm.TenantSpec, have mvm.Tenant) error {
	switch {
	case want.Quota != nil && *want.Quota != have.Quota:
		return s.operatorsOnly("change the quota")
	case want.Ceilings != nil && *want.Ceilings != have.Ceilings:
		return s.operatorsOnly("change the ceilings")
	case want.NetID != nil && *want.NetID != have.NetID, want.Subnet.IsValid() && want.Subnet != have.Subnet:
		return s.operatorsOnly("change the network")
	case want.Pinned != have.Pinned:
		return s.operatorsOnly("pin or unpin the tenant")
	case !slices.Equal(want.HostServices, have.HostServices):
		return s.operatorsOnly("change which services of the host are reached")
	}
	return nil
}

func (s *scope) offHostAll(d mvm.Deployment, t mvm.Tenant, pools []mvm.Pool) error {
	for _, spec := range d.Pools {
		var have mvm.PoolSpec
		if n := slices.IndexFunc(pools, func(p mvm.Pool) bool { return p.Spec.ID == spec.ID }); n >= 0 {
			have = pools[n].Spec
		}
		if err := s.offHost(spec, have, t.Ceilings); err != nil {
			return err
		}
	}
	return nil
}

// offHostOf is offHost for a pool of the tenant.
func (s *scope) offHostOf(ctx context.Context, tenant string, want, have mvm.PoolSpec) error {
	t, _, err := s.svc.Tenant(ctx, tenant)
	if err != nil {
		return err
	}
	return s.offHost(want, have, t.Ceilings)
}

// offHost refuses what would reach beyond the tenant into the host: its addresses,
// its files, and its memory, which a pool that nothing puts to rest keeps. What an
// operator has set may stay.
func (s *scope) offHost(want, have mvm.PoolSpec, ceilings mvm.Limits) error {
	if !slices.Equal(want.Publish, have.Publish) {
		return s.operatorsOnly("publish ports of pool " + want.ID + " on the host")
	}
	if !slices.Equal(want.Egress, have.Egress) {
		return s.operatorsOnly("change the egress of pool " + want.ID)
	}
	if !limits.Settable(have.Limits, want.Limits, ceilings) {
		return s.operatorsOnly("change limits of pool " + want.ID + " that have no ceiling")
	}
	if want.Pinned != have.Pinned {
		return s.operatorsOnly("pin or unpin pool " + want.ID)
	}
	if want.Critical != have.Critical {
		return s.operatorsOnly("change whether pool " + want.ID + " is critical")
	}
	if want.Flake != have.Flake && s.readsHost(want.Flake) {
		return s.operatorsOnly("use an image that may be made of the host's files in pool " + want.ID)
	}
	return nil
}
