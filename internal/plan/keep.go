package plan

import (
	"cmp"
	"slices"

	"mvm"
)

// Keep returns the steps that lead a tenant that is there to what its own record and
// those of its pools ask for. Pools on their way out are left alone.
func Keep(o Observed) Plan {
	if o.Tenant == nil || o.Tenant.Destroying {
		return Plan{}
	}
	o.Pools = slices.DeleteFunc(slices.Clone(o.Pools), func(p mvm.Pool) bool { return p.Destroying })
	t := *o.Tenant
	d := mvm.Deployment{Tenant: mvm.TenantSpec{ID: t.ID, Quota: &t.Quota, Pinned: t.Pinned, HostServices: t.HostServices}}
	for _, p := range o.Pools {
		d.Pools = append(d.Pools, p.Spec)
	}
	p := keep(d, o)
	p.Alone = leftAlone(p, o, func(o Observed) (Plan, error) { return keep(d, o), nil })
	return p
}

func keep(d mvm.Deployment, o Observed) Plan {
	m := newMaker(d, o)
	specs := inRoleOrder(d.Pools)
	for _, spec := range specs {
		m.build(spec)
	}
	m.instances(specs, Options{})
	return m.plan
}

// inRoleOrder sorts pools by the priority of their roles, gateways first.
func inRoleOrder(pools []mvm.PoolSpec) []mvm.PoolSpec {
	specs := slices.Clone(pools)
	slices.SortStableFunc(specs, func(a, b mvm.PoolSpec) int {
		return cmp.Or(cmp.Compare(a.Role.Priority(), b.Role.Priority()), cmp.Compare(a.ID, b.ID))
	})
	return specs
}
