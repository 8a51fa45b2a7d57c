package plan

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mvm"
	"mvm/internal/delta"
	"mvm/internal/limits"
	"mvm/internal/quota"
)

// Make returns the steps that lead from what is there to what is desired, none when
// it is so already. KindState: something would have to change that never can (a
// net_id, a subnet, a role). KindQuota: the pools are more than the tenant may
// have. What the quota does not let be filled is told in the notes.
func Make(d mvm.Deployment, o Observed, opts Options) (Plan, error) {
	if err := d.Validate(); err != nil {
		return Plan{}, err
	}
	if opts.Force {
		o = o.TakenOver()
	}
	p, err := makePlan(d, o, opts)
	if err == nil {
		p.Alone = leftAlone(p, o, func(o Observed) (Plan, error) { return makePlan(d, o, opts) })
	}
	return p, err
}

func makePlan(d mvm.Deployment, o Observed, opts Options) (Plan, error) {
	m := newMaker(d, o)
	if err := errors.Join(m.check(opts), m.checkDisks(), m.checkLimits()); err != nil {
		return Plan{}, err
	}
	m.tenant()
	m.secrets()
	m.prune(opts)
	m.movePorts(opts)
	specs := inRoleOrder(d.Pools)
	for _, spec := range specs {
		m.pool(spec)
	}
	m.instances(specs, opts)
	return m.plan, nil
}

type maker struct {
	desired  mvm.Deployment
	observed Observed
	pools    map[string]mvm.Pool     // observed, by id
	there    map[string]mvm.Instance // observed, by id
	builds   map[string]bool         // pools whose image a step builds
	plan     Plan
}

func newMaker(d mvm.Deployment, o Observed) *maker {
	m := &maker{desired: d, observed: o, pools: map[string]mvm.Pool{}, there: map[string]mvm.Instance{}, builds: map[string]bool{}}
	for _, p := range o.Pools {
		m.pools[p.Spec.ID] = p
	}
	for _, i := range o.Instances {
		m.there[i.ID] = i
	}
	return m
}

func (m *maker) add(s Step) { m.plan.Steps = append(m.plan.Steps, s) }

func (m *maker) note(format string, args ...any) {
	m.plan.Notes = append(m.plan.Notes, fmt.Sprintf(format, args...))
}

// short notes what the quota does not let be.
func (m *maker) short(format string, args ...any) {
	m.note(format, args...)
	m.plan.Short = append(m.plan.Short, fmt.Sprintf(format, args...))
}

func (m *maker) address(pool string) mvm.Address {
	return mvm.Address{Tenant: m.desired.Tenant.ID, Pool: pool}
}

// quota is the one that holds once the tenant's step is done.
func (m *maker) quota() mvm.Quota {
	switch {
	case m.desired.Tenant.Quota != nil:
		return *m.desired.Tenant.Quota
	case m.observed.Tenant != nil:
		return m.observed.Tenant.Quota
	}
	return mvm.DefaultQuota()
}

// ceilings are those that hold once the tenant's step is done.
func (m *maker) ceilings() (c mvm.Limits) {
	switch {
	case m.desired.Tenant.Ceilings != nil:
		c = *m.desired.Tenant.Ceilings
	case m.observed.Tenant != nil:
		c = m.observed.Tenant.Ceilings
	}
	return c
}

// checkLimits refuses ceilings that can't be, and limits of pools above them.
func (m *maker) checkLimits() error {
	if err := limits.CheckCeilings(m.desired.Tenant.ID, m.ceilings()); err != nil {
		return err
	}
	for _, spec := range m.desired.Pools {
		var was *mvm.PoolSpec
		if p, ok := m.pools[spec.ID]; ok {
			was = &p.Spec
		}
		if err := limits.CheckAsked(m.desired.Tenant.ID, spec, was, m.ceilings()); err != nil {
			return err
		}
	}
	return nil
}

// check finds what no step can bring about, before there is any.
func (m *maker) check(opts Options) error {
	want, have := m.desired.Tenant, m.observed.Tenant
	if have != nil && want.NetID != nil && *want.NetID != have.NetID {
		return mvm.Errorf(mvm.KindState, "tenant %s has net_id %d, and it can't be changed to %d", want.ID, have.NetID, *want.NetID)
	}
	if have != nil && want.Subnet.IsValid() && want.Subnet != have.Subnet {
		return mvm.Errorf(mvm.KindState, "tenant %s has subnet %s, and it can't be changed to %s", want.ID, have.Subnet, want.Subnet)
	}
	count := len(m.desired.Pools)
	named := m.named()
	for _, p := range m.observed.Pools {
		if !named[p.Spec.ID] && !m.goes(p, opts) {
			count++
		}
	}
	if l := quota.Pool(m.quota(), count-1); l != nil {
		return mvm.Errorf(mvm.KindQuota, "tenant %s would have %d pools, and its quota %s is %d", want.ID, l.Would, l.Name, l.Max)
	}
	for _, spec := range m.desired.Pools {
		p, ok := m.pools[spec.ID]
		if ok && p.Spec.Role != spec.Role {
			return mvm.Errorf(mvm.KindState, "pool %s has role %s, and it can't be changed to %s", m.address(spec.ID), p.Spec.Role, spec.Role).
				WithFix("give the new pool another id, or destroy this one first")
		}
		if m.observed.Takes == nil || ok && p.Spec.Flake == spec.Flake {
			continue
		}
		if err := m.observed.Takes(spec.Flake); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "pool %s: %w", m.address(spec.ID), err)
		}
	}
	return nil
}

func (m *maker) named() map[string]bool {
	named := map[string]bool{}
	for _, p := range m.desired.Pools {
		named[p.ID] = true
	}
	return named
}

func (m *maker) tenant() {
	want, have := m.desired.Tenant, m.observed.Tenant
	if have == nil {
		m.add(Step{Kind: CreateTenant, Target: m.address(""), Reason: "it is not there", Tenant: &want})
		return
	}
	var up mvm.TenantUpdate
	var changed []string
	if want.Quota != nil && *want.Quota != have.Quota {
		up.Quota, changed = want.Quota, append(changed, "quota")
	}
	if want.Ceilings != nil && *want.Ceilings != have.Ceilings {
		up.Ceilings, changed = want.Ceilings, append(changed, "ceilings")
	}
	if want.Pinned != have.Pinned {
		up.Pinned, changed = &want.Pinned, append(changed, "pinned")
	}
	if !slices.Equal(want.HostServices, have.HostServices) {
		ports := append([]int{}, want.HostServices...)
		up.HostServices, changed = &ports, append(changed, "host_services")
	}
	if up = up.From(*have); len(changed) > 0 {
		m.add(Step{Kind: UpdateTenant, Target: m.address(""), Reason: "changed: " + strings.Join(changed, ", "), Update: &up})
	}
}

func (m *maker) secrets() {
	want := m.desired.Secrets
	if want == nil {
		return
	}
	if changed := secretChanges(m.observed.Secrets, want); len(changed) > 0 {
		m.add(Step{Kind: SetSecrets, Target: m.address(""), Reason: strings.Join(changed, ", "), Secrets: want})
	}
}

// secretChanges says what becomes of each secret that does not stay as it is.
func secretChanges(have, want map[string][]byte) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		switch old, ok := have[name]; {
		case !ok:
			out = append(out, "add "+name)
		case !bytes.Equal(old, want[name]):
			out = append(out, "replace "+name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			out = append(out, "remove "+name)
		}
	}
	return out
}

// pool plans the pool itself and its image.
func (m *maker) pool(spec mvm.PoolSpec) {
	have, ok := m.pools[spec.ID]
	target := m.address(spec.ID)
	switch {
	case !ok:
		m.add(Step{Kind: CreatePool, Target: target, Reason: "it is not there", Pool: &spec})
	default:
		if changed := delta.Names(have.Spec, spec); len(changed) > 0 {
			m.add(Step{Kind: UpdatePool, Target: target, Reason: "changed: " + strings.Join(changed, ", "), Pool: &spec, Was: &have.Spec})
		}
	}
	m.build(spec)
}

// build plans the pool's image.
func (m *maker) build(spec mvm.PoolSpec) {
	have := m.pools[spec.ID]
	reason := ""
	switch {
	case len(have.Builds) == 0:
		reason = "it has no image yet: " + spec.Flake
	case have.Builds[0].Flake != spec.Flake:
		reason = "its image is " + have.Builds[0].Flake + ", not " + spec.Flake
	case !have.Builds[0].Of(spec):
		reason = fmt.Sprintf("its image is for role %s and profile %s, not %s and %s", have.Builds[0].Role, have.Builds[0].Profile, spec.Role, spec.Profile)
	default:
		return
	}
	m.builds[spec.ID] = true
	m.add(Step{Kind: BuildPool, Target: m.address(spec.ID), Reason: reason})
}
