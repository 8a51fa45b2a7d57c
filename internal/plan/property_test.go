package plan_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mvm"
	"mvm/internal/plan"
)

var poolIDs = []string{"gateways", "builders", "workers", "others"}

var roles = map[string]mvm.Role{"gateways": mvm.RoleGateway, "builders": mvm.RoleBuilder, "workers": mvm.RoleWorker, "others": mvm.RoleIMessage}

func drawSpec(t *rapid.T, id string) mvm.PoolSpec {
	n := func(what string) int { return rapid.IntRange(0, 4).Draw(t, id+" "+what) }
	s := poolSpec(id, roles[id], n("running"), n("warm"), n("sleeping"))
	s.Resources = mvm.Resources{VCPUs: rapid.IntRange(1, 3).Draw(t, "vcpus"), MemMiB: 128 * rapid.IntRange(1, 4).Draw(t, "mem"), DataDiskMiB: 1024 * n("disk")}
	s.Pinned = rapid.IntRange(0, 4).Draw(t, "pinned") == 0
	s.Critical = rapid.IntRange(0, 4).Draw(t, "critical") == 0
	s.Flake = rapid.SampledFrom([]string{"builtin:a", "builtin:b"}).Draw(t, "flake")
	return s
}

func drawQuota(t *rapid.T) mvm.Quota {
	n := func(low, high int) int { return rapid.IntRange(low, high).Draw(t, "quota") }
	return mvm.Quota{MaxVCPUs: n(1, 20), MaxMemMiB: n(128, 6000), MaxRunning: n(1, 10), MaxWarm: n(0, 5), MaxPools: 4,
		MaxInstancesPerPool: n(1, 10), MaxDiskGiB: n(1, 30)}
}

func drawDeployment(t *rapid.T) mvm.Deployment {
	d := deployment()
	for _, id := range poolIDs {
		if rapid.Bool().Draw(t, "has "+id) {
			d.Pools = append(d.Pools, drawSpec(t, id))
		}
	}
	if rapid.Bool().Draw(t, "quota") {
		q := drawQuota(t)
		d.Tenant.Quota = &q
	}
	if rapid.Bool().Draw(t, "secrets") {
		d.Secrets = map[string][]byte{"k": []byte(rapid.SampledFrom([]string{"1", "2"}).Draw(t, "secret"))}
	}
	d.Tenant.Pinned = rapid.Bool().Draw(t, "tenant pinned")
	return d
}

func drawWorld(t *rapid.T) *world {
	w := newWorld()
	if rapid.IntRange(0, 5).Draw(t, "new") == 0 {
		return w
	}
	w.tenant = &mvm.Tenant{ID: "acme", Quota: drawQuota(t)}
	for _, id := range poolIDs {
		if !rapid.Bool().Draw(t, "there is "+id) {
			continue
		}
		spec := drawSpec(t, id)
		w.pools[id] = &mvm.Pool{Tenant: "acme", Spec: spec, Builds: []mvm.Build{{Flake: spec.Flake, Digest: "sha256:" + spec.Flake}}}
		for range rapid.IntRange(0, 8).Draw(t, "instances") {
			w.drawInstance(t, spec)
		}
	}
	return w
}

func (w *world) drawInstance(t *rapid.T, spec mvm.PoolSpec) {
	n := len(w.instances) + 1
	i := &mvm.Instance{ID: fmt.Sprintf("i-%08x", n), Tenant: "acme", Pool: spec.ID, Res: spec.Resources, Image: "sha256:" + spec.Flake,
		Created: now.Add(-time.Duration(rapid.IntRange(0, 5).Draw(t, "age")) * time.Hour),
		State: rapid.SampledFrom([]mvm.State{mvm.StateCreated, mvm.StateReady, mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping,
			mvm.StateStopped}).Draw(t, "state")}
	i.Parked = (i.State == mvm.StateWarm || i.State == mvm.StateSleeping) && rapid.Bool().Draw(t, "parked")
	switch rapid.IntRange(0, 9).Draw(t, "kind of instance") {
	case 0:
		i.Key = fmt.Sprintf("user-%d", n)
		if rapid.Bool().Draw(t, "crashed") {
			i.State, i.Parked, i.Last = mvm.StateStopped, false, crash(mvm.ParseAsker("agent"))
		}
	case 1:
		i.ManualOverrideUntil = now.Add(time.Minute)
	case 2: // an operation that has all but ended
		i.Op = &mvm.Op{Kind: map[mvm.State]mvm.OpKind{mvm.StateRunning: mvm.OpStart, mvm.StateWarm: mvm.OpWarm,
			mvm.StateSleeping: mvm.OpSleep, mvm.StateStopped: mvm.OpStop, mvm.StateReady: mvm.OpCreate, mvm.StateCreated: mvm.OpCreate}[i.State]}
	}
	w.instances[i.ID] = i
}

// keepDisks has most deployments ask for disks that are no smaller than those there.
func (w *world) keepDisks(t *rapid.T, d mvm.Deployment) {
	if rapid.IntRange(0, 9).Draw(t, "shrinks") == 0 {
		return
	}
	for n := range d.Pools {
		if p := w.pools[d.Pools[n].ID]; p != nil {
			disk := &d.Pools[n].Resources.DataDiskMiB
			*disk = max(*disk, p.Spec.Resources.DataDiskMiB)
		}
	}
}

// The promises of Make on any tenant and deployment: its steps can be taken in
// their order without passing a quota, they leave alone what must be, and after
// them there is nothing to do.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, d := drawWorld(t), drawDeployment(t)
		w.keepDisks(t, d)
		opts := plan.Options{Prune: rapid.Bool().Draw(t, "prune")}
		before := w.observed()
		p, err := plan.Make(d, before, opts)
		if err != nil {
			if !mvm.IsKind(err, mvm.KindQuota) && !mvm.IsKind(err, mvm.KindState) {
				t.Fatalf("plan: %v", err)
			}
			return
		}
		checkOrder(t, p)
		checkLeftAlone(t, p, before, d)
		for n, s := range p.Steps {
			if err := w.apply(s); err != nil {
				t.Fatalf("step %d of %v: %v", n, p.Display(), err)
			}
		}
		again, err := plan.Make(d, w.observed(), opts)
		if err != nil || len(again.Steps) != 0 {
			t.Fatalf("after %v\nstill to do: %v %v", p.Display(), again.Display(), err)
		}
	})
}

// A plan that is cut off after any step is finished by the next one.
func TestPlanIsTakenUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, d := drawWorld(t), drawDeployment(t)
		w.keepDisks(t, d)
		p, err := plan.Make(d, w.observed(), plan.Options{})
		if err != nil || len(p.Steps) == 0 {
			return
		}
		for _, s := range p.Steps[:rapid.IntRange(0, len(p.Steps)-1).Draw(t, "cut")] {
			if err := w.apply(s); err != nil {
				t.Fatalf("%v", err)
			}
		}
		w.run(t, d, plan.Options{})
		if again, err := plan.Make(d, w.observed(), plan.Options{}); err != nil || len(again.Steps) != 0 {
			t.Fatalf("after %+v\nof %v %v, still to do: %v %v", w.instances, p.Display(), p.Notes, again.Display(), err)
		}
	})
}

// TestEnoughAreThere: no instance is made in a pool that has as many as are desired,
// whatever they are on their way to.
func TestEnoughAreThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := func(what string) int { return rapid.IntRange(0, 3).Draw(t, what) }
		d := deployment(poolSpec("p", mvm.RoleWorker, n("running"), n("warm"), n("sleeping")))
		w := newWorld()
		w.run(t, deployment(poolSpec("p", mvm.RoleWorker, 0, 0, 0)), plan.Options{})
		want := d.Pools[0].Desired
		for range want.Running + want.Warm + want.Sleeping + n("more") {
			w.drawInstance(t, d.Pools[0])
		}
		for _, i := range w.instances {
			if i.Key, i.Parked = "", false; rapid.IntRange(0, 2).Draw(t, "op") > 0 {
				continue
			}
			if i.Op = drawOp(t, i.State); i.Op == nil && i.State != mvm.StateCreated {
				i.Last = &mvm.Transition{Op: mvm.OpWake, By: mvm.ParseAsker("publish:8080")}
			}
		}
		p, err := plan.Make(d, w.observed(), plan.Options{})
		if err != nil {
			t.Fatalf("plan: %v", err)
		}
		for _, s := range p.Steps {
			if s.Kind == plan.CreateInstance {
				t.Fatalf("%v of %+v, which has enough: %v", p.Display(), want, w.observed().Instances)
			}
		}
	})
}

// drawOp is an operation that an instance in the state may be in, or none.
func drawOp(t *rapid.T, s mvm.State) *mvm.Op {
	var may []mvm.OpKind
	for op, way := range ways {
		if slices.Contains(way.from, s) {
			may = append(may, op)
		}
	}
	if s.HoldsMemory() {
		may = append(may, mvm.OpStop)
	}
	if len(may) == 0 {
		return nil
	}
	slices.Sort(may)
	return &mvm.Op{Kind: rapid.SampledFrom(may).Draw(t, "op kind"), By: mvm.ParseAsker("agent")}
}

var order = map[plan.Kind]int{plan.CreateTenant: 0, plan.UpdateTenant: 0, plan.SetSecrets: 1, plan.DestroyPool: 2,
	plan.CreatePool: 3, plan.UpdatePool: 3, plan.BuildPool: 3, plan.Operate: 4, plan.CreateInstance: 4, plan.Restart: 4}

func checkOrder(t *rapid.T, p plan.Plan) {
	last, role := 0, 0
	for _, s := range p.Steps {
		if order[s.Kind] < last {
			t.Fatalf("%v: %s comes late", p.Display(), s.Kind)
		}
		last = order[s.Kind]
		if last == 3 {
			if r := roles[s.Target.Pool].Priority(); r < role {
				t.Fatalf("%v: %s comes late", p.Display(), s.Target)
			} else {
				role = r
			}
		}
	}
}

func checkLeftAlone(t *rapid.T, p plan.Plan, before plan.Observed, d mvm.Deployment) {
	specs := map[string]mvm.PoolSpec{}
	for _, s := range d.Pools {
		specs[s.ID] = s
	}
	there := map[string]mvm.Instance{}
	for _, i := range before.Instances {
		there[i.ID] = i
	}
	for _, s := range p.Steps {
		i, spec := there[s.Target.Instance], specs[s.Target.Pool]
		if s.Kind == plan.Restart && (i.Op != nil && !s.AfterOp || i.ManualOverrideUntil.After(now) || spec.Critical || d.Tenant.Pinned) {
			t.Fatalf("%v touches %+v", s, i)
		}
		if s.Kind != plan.Operate {
			continue
		}
		started := false
		for _, o := range p.Steps {
			started = started || o.Kind == plan.Operate && o.Target == s.Target && o.Op == mvm.OpStart
		}
		switch {
		case i.ID == "":
			t.Fatalf("%v names an instance that is not there", s)
		case spec.ID == "":
			t.Fatalf("%v: the pool is not in the deployment", s)
		case i.Key != "" && !(s.Op == mvm.OpStart && i.Last != nil && i.Last.Unwanted):
			t.Fatalf("%v touches a user's %+v, which did not crash", s, i)
		case i.Op != nil, i.ManualOverrideUntil.After(now), spec.Critical:
			t.Fatalf("%v touches %+v", s, i)
		case (spec.Pinned || d.Tenant.Pinned) && (s.Op == mvm.OpWarm || s.Op == mvm.OpSleep) && !started:
			t.Fatalf("%v: the pool is pinned", s)
		case i.Parked && (s.Op == mvm.OpWake || s.Op == mvm.OpResume):
			t.Fatalf("%v: it was parked because it was idle", s)
		case s.Op == mvm.OpStop || s.Op == mvm.OpDestroy:
			t.Fatalf("%v: nothing is stopped or destroyed", s)
		}
	}
}
