package plan_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"mvm"
	"mvm/internal/plan"
)

var now = time.Date(2026, 2, 11, 10, 0, 0, 0, time.UTC)

// world is a tenant that steps can be applied to. It refuses what an agent would.
type world struct {
	tenant    *mvm.Tenant
	secrets   map[string][]byte
	pools     map[string]*mvm.Pool
	instances map[string]*mvm.Instance
	made      int
	underWay  map[string]plan.Way
}

func newWorld() *world {
	return &world{pools: map[string]*mvm.Pool{}, instances: map[string]*mvm.Instance{}}
}

func (w *world) observed() plan.Observed {
	o := plan.Observed{Tenant: w.tenant, Now: now, UnderWay: w.underWay, Secrets: w.secrets}
	for _, id := range slices.Sorted(maps.Keys(w.pools)) {
		o.Pools = append(o.Pools, *w.pools[id])
	}
	for _, id := range slices.Sorted(maps.Keys(w.instances)) {
		o.Instances = append(o.Instances, *w.instances[id])
	}
	return o
}

func (w *world) usage() (u mvm.Usage) {
	u.Pools = len(w.pools)
	for _, i := range w.instances {
		u.DiskMiB += i.Res.DataDiskMiB
		if i.State.HoldsMemory() {
			u.VCPUs, u.MemMiB = u.VCPUs+i.Res.VCPUs, u.MemMiB+i.Res.MemMiB
		}
		switch i.State {
		case mvm.StateRunning:
			u.Running++
		case mvm.StateWarm:
			u.Warm++
		}
	}
	return u
}

// over says which quota is passed that before was not.
func (w *world) over(before mvm.Usage) error {
	q, u := w.tenant.Quota, w.usage()
	for _, c := range []struct {
		name           string
		was, is, limit int
	}{
		{"max_running", before.Running, u.Running, q.MaxRunning}, {"max_warm", before.Warm, u.Warm, q.MaxWarm},
		{"max_vcpus", before.VCPUs, u.VCPUs, q.MaxVCPUs}, {"max_mem_mib", before.MemMiB, u.MemMiB, q.MaxMemMiB},
		{"max_disk_gib", before.DiskMiB, u.DiskMiB, q.MaxDiskGiB * 1024}, {"max_pools", before.Pools, u.Pools, q.MaxPools},
	} {
		if c.is > c.limit && c.is > c.was {
			return fmt.Errorf("%s: %d is more than %d", c.name, c.is, c.limit)
		}
	}
	return nil
}

func (w *world) apply(s plan.Step) error {
	if w.tenant == nil && s.Kind != plan.CreateTenant {
		return fmt.Errorf("%s before the tenant is there", s.Kind)
	}
	switch s.Kind {
	case plan.CreateTenant:
		w.tenant = &mvm.Tenant{ID: s.Tenant.ID, Quota: mvm.DefaultQuota(), Pinned: s.Tenant.Pinned, HostServices: s.Tenant.HostServices}
		if s.Tenant.Quota != nil {
			w.tenant.Quota = *s.Tenant.Quota
		}
	case plan.UpdateTenant:
		w.update(*s.Update)
	case plan.SetSecrets:
		w.secrets = s.Secrets
	case plan.CreatePool, plan.UpdatePool:
		return w.putPool(s)
	case plan.BuildPool:
		p := w.pools[s.Target.Pool]
		p.Builds = slices.Insert(p.Builds, 0, mvm.Build{Flake: p.Spec.Flake, Digest: "sha256:" + p.Spec.Flake})
	case plan.DestroyPool:
		delete(w.pools, s.Target.Pool)
		maps.DeleteFunc(w.instances, func(_ string, i *mvm.Instance) bool { return i.Pool == s.Target.Pool })
	case plan.Operate:
		return w.operate(s.Target.Instance, s.Op)
	case plan.CreateInstance:
		return w.create(s)
	case plan.Restart:
		before := w.usage()
		i := w.instances[s.Target.Instance]
		if i == nil || !i.State.HoldsMemory() || i.State != s.To {
			return fmt.Errorf("restart of %+v to %s", i, s.To)
		}
		w.boot(i)
		return w.over(before)
	default:
		return fmt.Errorf("kind %q is unknown", s.Kind)
	}
	return nil
}

func (w *world) update(up mvm.TenantUpdate) {
	if up.Quota != nil {
		w.tenant.Quota = *up.Quota
	}
	if up.Pinned != nil {
		w.tenant.Pinned = *up.Pinned
	}
	if up.HostServices != nil {
		w.tenant.HostServices = *up.HostServices
	}
}

func (w *world) putPool(s plan.Step) error {
	p, ok := w.pools[s.Target.Pool]
	if ok == (s.Kind == plan.CreatePool) {
		return fmt.Errorf("%s of %s: there %v", s.Kind, s.Target, ok)
	}
	if !ok {
		before := w.usage()
		p = &mvm.Pool{Tenant: w.tenant.ID}
		w.pools[s.Target.Pool] = p
		if err := w.over(before); err != nil {
			return err
		}
	}
	p.Spec = *s.Pool
	return nil
}

var ways = map[mvm.OpKind]struct {
	from []mvm.State
	to   mvm.State
}{
	mvm.OpStart:  {[]mvm.State{mvm.StateCreated, mvm.StateReady, mvm.StateStopped}, mvm.StateRunning},
	mvm.OpResume: {[]mvm.State{mvm.StateWarm}, mvm.StateRunning},
	mvm.OpWake:   {[]mvm.State{mvm.StateSleeping}, mvm.StateRunning},
	mvm.OpWarm:   {[]mvm.State{mvm.StateRunning}, mvm.StateWarm},
	mvm.OpSleep:  {[]mvm.State{mvm.StateRunning, mvm.StateWarm}, mvm.StateSleeping},
}

func (w *world) operate(id string, op mvm.OpKind) error {
	i, way := w.instances[id], ways[op]
	if i == nil || !slices.Contains(way.from, i.State) {
		return fmt.Errorf("%s of %q: %+v", op, id, i)
	}
	before := w.usage()
	if op == mvm.OpStart || op == mvm.OpWake {
		w.boot(i)
	}
	i.State, i.Parked = way.to, false
	return w.over(before)
}

// boot gives the instance what its pool says now.
func (w *world) boot(i *mvm.Instance) {
	p := w.pools[i.Pool]
	i.Res, i.EnvDigest = p.Spec.Resources, mvm.EnvDigest(p.Spec.Env)
	if len(p.Builds) > 0 {
		i.Image = p.Builds[0].Digest
	}
}

func (w *world) create(s plan.Step) error {
	p := w.pools[s.Target.Pool]
	if p == nil || len(p.Builds) == 0 {
		return fmt.Errorf("create in %s: no pool or no image", s.Target)
	}
	before := w.usage()
	w.made++
	id := fmt.Sprintf("i-%08x", 0xf0000000+w.made)
	w.instances[id] = &mvm.Instance{ID: id, Tenant: w.tenant.ID, Pool: p.Spec.ID, Role: p.Spec.Role, State: mvm.StateReady,
		Res: p.Spec.Resources, Image: p.Builds[0].Digest, Created: now.Add(time.Duration(w.made) * time.Second)}
	n := 0
	for _, i := range w.instances {
		if i.Pool == p.Spec.ID {
			n++
		}
	}
	if n > w.tenant.Quota.MaxInstancesPerPool {
		return fmt.Errorf("max_instances_per_pool: %d", n)
	}
	if err := w.over(before); err != nil {
		return err
	}
	if err := w.operate(id, mvm.OpStart); err != nil || s.To == mvm.StateRunning {
		return err
	}
	return w.operate(id, map[mvm.State]mvm.OpKind{mvm.StateWarm: mvm.OpWarm, mvm.StateSleeping: mvm.OpSleep}[s.To])
}

type fatal interface {
	Helper()
	Fatalf(format string, args ...any)
}

// run plans, applies and returns the plan.
func (w *world) run(t fatal, d mvm.Deployment, opts plan.Options) plan.Plan {
	t.Helper()
	p, err := plan.Make(d, w.observed(), opts)
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	for n, s := range p.Steps {
		if err := w.apply(s); err != nil {
			t.Fatalf("step %d of %v: %v", n, p.Display(), err)
		}
	}
	return p
}

// lines is the plan as "action target", for comparing.
func lines(p plan.Plan) []string {
	out := []string{}
	for _, s := range p.Display() {
		out = append(out, s.Action+" "+s.Target)
	}
	return out
}

func poolSpec(id string, role mvm.Role, running, warm, sleeping int) mvm.PoolSpec {
	return mvm.PoolSpec{ID: id, Role: role, Profile: "minimal", Flake: "builtin:minimal", Resources: mvm.DefaultResources(),
		Policy: mvm.DefaultRuntimePolicy(), Desired: mvm.Counts{Running: running, Warm: warm, Sleeping: sleeping}}
}

// with puts instances of the states into a pool, oldest first, with ids i-00000001….
func (w *world) with(t testing.TB, pool string, states ...mvm.State) {
	t.Helper()
	for _, s := range states {
		n := len(w.instances) + 1
		id := fmt.Sprintf("i-%08x", n)
		w.instances[id] = &mvm.Instance{ID: id, Tenant: w.tenant.ID, Pool: pool, State: s, Res: w.pools[pool].Spec.Resources, Image: w.pools[pool].Builds[0].Digest,
			Created: now.Add(time.Duration(n-1000) * time.Hour)}
	}
}
