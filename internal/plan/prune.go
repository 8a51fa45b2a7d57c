package plan

import (
	"cmp"
	"fmt"
	"slices"

	"mvm"
)

// prune plans the end of the pools that the deployment does not name, workers before
// their gateways. Those that nothing may stop by itself stay, and are told of.
func (m *maker) prune(opts Options) {
	if !opts.Prune {
		return
	}
	named := m.named()
	pools := slices.Clone(m.observed.Pools)
	slices.SortFunc(pools, func(a, b mvm.Pool) int {
		return cmp.Or(cmp.Compare(b.Spec.Role.Priority(), a.Spec.Role.Priority()), cmp.Compare(a.Spec.ID, b.Spec.ID))
	})
	for _, p := range pools {
		if named[p.Spec.ID] {
			continue
		}
		if why := m.spared(p); why != "" {
			m.note("pool %s is not in the deployment, and stays: %s", m.address(p.Spec.ID), why)
			continue
		}
		m.add(Step{Kind: DestroyPool, Target: m.address(p.Spec.ID), Reason: "the deployment does not name it"})
	}
}

// goes reports that the pool is destroyed, because it is not named.
func (m *maker) goes(p mvm.Pool, opts Options) bool {
	return opts.Prune && !m.named()[p.Spec.ID] && m.spared(p) == ""
}

// spared is why the pool stays though it is not named; empty: it does not.
func (m *maker) spared(p mvm.Pool) string {
	if m.desired.Tenant.Pinned {
		return fmt.Sprintf("tenant %s is pinned", m.desired.Tenant.ID)
	}
	return Spared(p, m.observed)
}

// Spared is why the pool and its instances are not destroyed by themselves, as when
// their tenant is not named; empty: they may be.
func Spared(p mvm.Pool, o Observed) string {
	if p.Spec.Pinned || p.Spec.Critical {
		return "it is " + protection(p.Spec)
	}
	for _, i := range o.Instances {
		if i.Pool == p.Spec.ID && i.ManualOverrideUntil.After(o.Now) {
			return fmt.Sprintf("its instance %s was changed by hand in the last minutes", i.ID)
		}
	}
	return ""
}
