package plan

import (
	"fmt"
	"slices"

	"mvm"
)

// filler plans the instances of all pools on a model.
type filler struct {
	*maker
	model *model
	// short says of a pool and state what keeps it from having all that it should.
	short map[string]string
}

// instances plans until nothing changes: a pool may use what another gave up. Every
// pass but the last brings some pool nearer to its counts, so there are few; the
// bound is for safety.
func (m *maker) instances(specs []mvm.PoolSpec, opts Options) {
	f := &filler{maker: m, model: newModel(m.observed, m.quota())}
	if named := m.named(); opts.Prune {
		for id := range m.pools {
			if !named[id] {
				f.model.removePool(id)
			}
		}
	}
	for range 3 * mvm.MaxDesired * (len(specs) + 1) {
		before := len(m.plan.Steps)
		f.short = map[string]string{}
		f.pass(specs)
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
	spare, held := f.model.counts(spec.ID, spec.Desired)
	return mvm.Counts{
		Running:  spec.Desired.Running - spare.Running - held.Running,
		Warm:     spec.Desired.Warm - spare.Warm - held.Warm,
		Sleeping: spec.Desired.Sleeping - spare.Sleeping - held.Sleeping,
	}
}

// surplus counts only what may be changed, so that an instance that somebody started
// by hand costs no other its place.
func (f *filler) surplus(spec mvm.PoolSpec) mvm.Counts {
	spare, _ := f.model.counts(spec.ID, spec.Desired)
	return mvm.Counts{
		Running:  spare.Running - spec.Desired.Running,
		Warm:     spare.Warm - spec.Desired.Warm,
		Sleeping: spare.Sleeping - spec.Desired.Sleeping,
	}
}

func (f *filler) has(spec mvm.PoolSpec, s mvm.State) string {
	spare, held := f.model.counts(spec.ID, spec.Desired)
	return fmt.Sprintf("%d of %d %s", *field(&spare, s)+*field(&held, s), *field(&spec.Desired, s), s)
}

func (f *filler) operate(i *instance, op mvm.OpKind, to mvm.State, reason string) {
	i.state = to
	target := f.address(i.pool)
	target.Instance = i.id
	f.add(Step{Kind: Operate, Target: target, Op: op, Reason: reason})
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
	f.short[spec.ID+" "+string(s)] = why
}

func (f *filler) fillRunning(spec mvm.PoolSpec) {
	for f.deficit(spec).Running > 0 {
		if !f.oneRunning(spec, f.has(spec, mvm.StateRunning)) {
			return
		}
	}
}

// oneRunning gets one more instance to run, in the cheapest way that the quota lets.
func (f *filler) oneRunning(spec mvm.PoolSpec, reason string) bool {
	for _, i := range f.model.spares(spec.ID, mvm.StateWarm) {
		if f.model.denied(i.res, true) == "" {
			f.operate(i, mvm.OpResume, mvm.StateRunning, reason)
			return true
		}
	}
	for _, way := range []struct {
		op     mvm.OpKind
		states []mvm.State
	}{
		{mvm.OpWake, []mvm.State{mvm.StateSleeping}},
		{mvm.OpStart, []mvm.State{mvm.StateStopped, mvm.StateReady, mvm.StateCreated}},
	} {
		for _, i := range f.model.spares(spec.ID, way.states...) {
			denied := f.model.denied(i.res, false)
			if denied == "" {
				f.operate(i, way.op, mvm.StateRunning, reason)
				return true
			}
			f.deny(spec, mvm.StateRunning, denied)
		}
	}
	return f.create(spec, mvm.StateRunning)
}

func (f *filler) fillWarm(spec mvm.PoolSpec) {
	for f.deficit(spec).Warm > 0 {
		reason := f.has(spec, mvm.StateWarm)
		if denied := f.model.deniedWarm(); denied != "" {
			f.deny(spec, mvm.StateWarm, denied)
			return
		}
		running := f.model.spares(spec.ID, mvm.StateRunning)
		switch {
		case f.surplus(spec).Running > 0 && len(running) > 0 && !spec.Pinned:
			f.operate(running[len(running)-1], mvm.OpWarm, mvm.StateWarm, reason)
		case !f.raise(spec, mvm.OpWarm, mvm.StateWarm, reason):
			return
		}
	}
}

// raise gets one more instance to warm or sleeping: one that does not run is brought
// up first, or a new one is made.
func (f *filler) raise(spec mvm.PoolSpec, op mvm.OpKind, to mvm.State, reason string) bool {
	if f.deficit(spec).Running > 0 {
		f.deny(spec, to, "running ones come first")
		return false
	}
	idle := f.model.spares(spec.ID, mvm.StateStopped, mvm.StateReady, mvm.StateCreated)
	if to == mvm.StateWarm && f.surplus(spec).Sleeping > 0 {
		idle = append(f.model.spares(spec.ID, mvm.StateSleeping), idle...)
	}
	if spec.Pinned {
		idle = nil
	}
	for _, i := range idle {
		denied := f.model.denied(i.res, false)
		if denied != "" {
			f.deny(spec, to, denied)
			continue
		}
		up := mvm.OpStart
		if i.state == mvm.StateSleeping {
			up = mvm.OpWake
		}
		f.operate(i, up, mvm.StateRunning, reason)
		f.operate(i, op, to, reason)
		return true
	}
	return f.create(spec, to)
}

// fillSleeping takes what is too much in memory, newest first, then makes the rest.
func (f *filler) fillSleeping(spec mvm.PoolSpec) {
	for f.deficit(spec).Sleeping > 0 {
		reason := f.has(spec, mvm.StateSleeping)
		if i := f.excess(spec); i != nil {
			f.operate(i, mvm.OpSleep, mvm.StateSleeping, reason)
		} else if !f.raise(spec, mvm.OpSleep, mvm.StateSleeping, reason) {
			return
		}
	}
}

// excess is the newest instance in memory that the pool need not have there.
func (f *filler) excess(spec mvm.PoolSpec) *instance {
	if spec.Pinned {
		return nil
	}
	over := f.surplus(spec)
	for _, c := range []struct {
		n     int
		state mvm.State
	}{{over.Running, mvm.StateRunning}, {over.Warm, mvm.StateWarm}} {
		if all := f.model.spares(spec.ID, c.state); c.n > 0 && len(all) > 0 {
			return all[len(all)-1]
		}
	}
	return nil
}

// trim puts to sleep what is too much in memory, newest first.
func (f *filler) trim(spec mvm.PoolSpec) {
	for i := f.excess(spec); i != nil; i = f.excess(spec) {
		f.operate(i, mvm.OpSleep, mvm.StateSleeping, "more than the desired "+f.wanted(spec, i.state))
	}
}

func (f *filler) wanted(spec mvm.PoolSpec, s mvm.State) string {
	return fmt.Sprintf("%d %s", *field(&spec.Desired, s), s)
}

// fillCritical makes what is missing and changes nothing that is there: an instance
// in whatever state stands for one that was desired.
func (f *filler) fillCritical(spec mvm.PoolSpec) {
	have := 0
	for _, i := range f.model.instances {
		if i.pool == spec.ID && (i.spare || i.held) {
			have++
		}
	}
	missing := spec.Desired.Running + spec.Desired.Warm + spec.Desired.Sleeping - have
	for _, to := range []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping} {
		for ; missing > 0 && *field(ptr(f.deficit(spec)), to) > 0; missing-- {
			if !f.create(spec, to) {
				return
			}
		}
	}
}

func ptr[T any](v T) *T { return &v }

// notes tell what stays short of what is desired, or beyond it.
func (f *filler) notes(specs []mvm.PoolSpec) {
	for _, spec := range specs {
		for _, s := range []mvm.State{mvm.StateRunning, mvm.StateWarm, mvm.StateSleeping} {
			if why := f.short[spec.ID+" "+string(s)]; why != "" && *field(ptr(f.deficit(spec)), s) > 0 {
				f.note("pool %s stays at %s: %s", f.address(spec.ID), f.has(spec, s), why)
			}
		}
		over := f.surplus(spec)
		if n := over.Running + over.Warm; n > 0 && (over.Running > 0 || over.Warm > 0) && (spec.Pinned || spec.Critical) {
			f.note("pool %s keeps more than is desired: it is %s", f.address(spec.ID), protection(spec))
		}
	}
}

func protection(spec mvm.PoolSpec) string {
	if spec.Critical {
		return "critical"
	}
	return "pinned"
}
