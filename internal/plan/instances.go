package plan

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"mvm"
	"mvm/internal/quota"
)

// filler plans the instances of all pools on a model.
type filler struct {
	*maker
	model *model
	// lacks says of a pool and state what keeps it from having all that it should.
	lacks map[string]string
	// renewed are the instances that are restarted, or are left as they are.
	renewed map[string]bool
	left    map[string]string // by id: why an instance that is behind is not restarted
	denied  map[string]string // by id: the same, where the quota is why
}

// instances plans until nothing changes: a pool may use what another gave up. Every
// pass but the last brings some pool nearer to its counts, so there are few; the
// bound is for safety.
func (m *maker) instances(specs []mvm.PoolSpec, opts Options) {
	f := &filler{maker: m, model: newModel(m.observed, m.quota()), renewed: map[string]bool{}, left: map[string]string{}, denied: map[string]string{}}
	if m.desired.Tenant.Pinned { // nothing of it is stopped by itself
		specs = slices.Clone(specs)
		for n := range specs {
			specs[n].Pinned = true
		}
	}
	for id, p := range m.pools {
		if m.goes(p, opts) {
			f.model.removePool(id)
		}
	}
	for range 3 * mvm.MaxDesired * (len(specs) + 1) {
		before := len(m.plan.Steps)
		f.lacks = map[string]string{}
		f.pass(specs)
		if len(m.plan.Steps) == before {
			f.renew(specs) // a smaller size may leave room for others
		}
		if len(m.plan.Steps) == before {
			break
		}
	}
	f.notes(specs)
}

func (f *filler) pass(specs []mvm.PoolSpec) {
	for _, spec := range specs {
		if spec.Critical {
			f.fillCritical(spec)
			continue
		}
		f.startCrashed(spec)
		f.fillRunning(spec)
		f.fillWarm(spec)
	}
	for _, spec := range slices.Backward(specs) {
		if !spec.Critical {
			f.fillSleeping(spec)
			f.trim(spec)
		}
	}
}

// state of a pool against what is desired: above 0 the pool has too few.
func (f *filler) deficit(spec mvm.PoolSpec) mvm.Counts {
	t := f.model.tally(spec)
	return mvm.Counts{
		Running:  spec.Desired.Running - t.spare.Running - t.held.Running,
		Warm:     spec.Desired.Warm - t.spare.Warm - t.held.Warm,
		Sleeping: spec.Desired.Sleeping - t.spare.Sleeping - t.held.Sleeping,
	}
}

// surplus counts only what may be changed, so that an instance that somebody started
// by hand costs no other its place.
func (f *filler) surplus(spec mvm.PoolSpec) mvm.Counts {
	spare := f.model.tally(spec).spare
	return mvm.Counts{
		Running:  spare.Running - spec.Desired.Running,
		Warm:     spare.Warm - spec.Desired.Warm,
		Sleeping: spare.Sleeping - spec.Desired.Sleeping,
	}
}

func (f *filler) has(spec mvm.PoolSpec, s mvm.State) string {
	t := f.model.tally(spec)
	return fmt.Sprintf("%d of %d %s", *field(&t.spare, s)+*field(&t.held, s), *field(&spec.Desired, s), s)
}

func (f *filler) operate(spec mvm.PoolSpec, i *instance, op mvm.OpKind, to mvm.State, reason string) {
	s := Step{Kind: Operate, Target: f.address(i.pool), Op: op, Reason: reason}
	s.Target.Instance = i.id
	if op == mvm.OpWarm || op == mvm.OpSleep {
		s.After, s.Limit = f.earliest(spec, i)
	}
	if !s.After.IsZero() { // it holds what it has until then
		i.holds, i.spare, i.held = quota.In(i.state), false, true
	}
	if op == mvm.OpStart || op == mvm.OpWake {
		i.res = spec.Resources
	}
	i.state, i.parked, i.since = to, false, time.Time{}
	f.add(s)
}

// earliest is when the minimum time of the instance in its state ends, zero when it
// has ended.
func (f *filler) earliest(spec mvm.PoolSpec, i *instance) (time.Time, string) {
	limit, secs := "min_running_seconds", spec.Policy.MinRunningSeconds
	if i.state == mvm.StateWarm {
		limit, secs = "min_warm_seconds", spec.Policy.MinWarmSeconds
	}
	end := i.since.Add(time.Duration(secs) * time.Second)
	if i.since.IsZero() || !i.state.HoldsMemory() || !end.After(f.observed.Now) {
		return time.Time{}, ""
	}
	return end, limit
}

// create makes an instance and brings it to the state, and says whether it may.
func (f *filler) create(spec mvm.PoolSpec, to mvm.State) bool {
	denied := f.model.deniedNew(spec.ID, spec.Resources)
	if denied == "" && to == mvm.StateWarm {
		denied = f.model.deniedWarm()
	}
	if denied != "" {
		f.deny(spec, to, denied)
		return false
	}
	f.add(Step{Kind: CreateInstance, Target: f.address(spec.ID), To: to, Reason: f.has(spec, to)})
	f.model.instances = append(f.model.instances, &instance{pool: spec.ID, state: to, res: spec.Resources, spare: true})
	return true
}

func (f *filler) deny(spec mvm.PoolSpec, s mvm.State, why string) {
	f.lacks[spec.ID+" "+string(s)] = why
}

// notes tell what stays short of what is desired, or beyond it.
func (f *filler) notes(specs []mvm.PoolSpec) {
	for _, id := range slices.Sorted(maps.Keys(f.left)) {
		f.note("%s", f.left[id])
	}
	for _, id := range slices.Sorted(maps.Keys(f.denied)) {
		f.short("%s", f.denied[id])
	}
	for _, spec := range specs {
		for _, s := range []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping} {
			if why := f.lacks[spec.ID+" "+string(s)]; why != "" && *field(ptr(f.deficit(spec)), s) > 0 {
				f.short("pool %s stays at %s: %s", f.address(spec.ID), f.has(spec, s), why)
			}
		}
		over := f.surplus(spec)
		if n := over.Running + over.Warm; n > 0 && (over.Running > 0 || over.Warm > 0) && (spec.Pinned || spec.Critical) {
			f.note("pool %s has more instances than desired, and keeps them: it is %s", f.address(spec.ID), protection(spec))
		}
	}
}

func protection(spec mvm.PoolSpec) string {
	if spec.Critical {
		return "critical"
	}
	return "pinned"
}
