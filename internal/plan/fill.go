package plan

import (
	"fmt"

	"mvm"
)

// startCrashed starts users' instances again whose VMMs ended. They count whether they run
// or not, so no missing count asks for it.
func (f *filler) startCrashed(spec mvm.PoolSpec) {
	for _, i := range f.model.instances {
		if i.pool != spec.ID || !i.crashed {
			continue
		}
		if denied := f.model.deniedRise(i, spec.Resources); denied != "" {
			target := f.address(spec.ID)
			target.Instance = i.id
			f.left[i.id] = fmt.Sprintf("%s stays stopped after its VMM exited: %s", target, denied)
			continue
		}
		delete(f.left, i.id)
		i.crashed = false
		f.operate(spec, i, mvm.OpStart, mvm.StateRunning, "its VMM exited unexpectedly")
	}
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
	for _, i := range f.model.spares(spec, mvm.StateWarm) {
		if f.model.denied(i.res, true) == "" {
			f.operate(spec, i, mvm.OpResume, mvm.StateRunning, reason)
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
		for _, i := range f.model.spares(spec, way.states...) {
			denied := f.model.deniedRise(i, spec.Resources)
			if denied == "" {
				f.operate(spec, i, way.op, mvm.StateRunning, reason)
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
		running := f.model.spares(spec, mvm.StateRunning)
		switch {
		case f.surplus(spec).Running > 0 && len(running) > 0 && !spec.Pinned:
			f.operate(spec, running[len(running)-1], mvm.OpWarm, mvm.StateWarm, reason)
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
	idle := f.model.spares(spec, mvm.StateStopped, mvm.StateReady, mvm.StateCreated)
	if to == mvm.StateWarm && f.surplus(spec).Sleeping > 0 {
		idle = append(f.model.spares(spec, mvm.StateSleeping), idle...)
	}
	if spec.Pinned {
		idle = nil
	}
	for _, i := range idle {
		denied := f.model.deniedRise(i, spec.Resources)
		if denied != "" {
			f.deny(spec, to, denied)
			continue
		}
		up := mvm.OpStart
		if i.state == mvm.StateSleeping {
			up = mvm.OpWake
		}
		f.operate(spec, i, up, mvm.StateRunning, reason)
		f.operate(spec, i, op, to, reason)
		return true
	}
	return f.create(spec, to)
}

// fillSleeping takes what is too much in memory, newest first, then makes the rest.
func (f *filler) fillSleeping(spec mvm.PoolSpec) {
	for f.deficit(spec).Sleeping > 0 {
		reason := f.has(spec, mvm.StateSleeping)
		if i := f.excess(spec); i != nil {
			f.operate(spec, i, mvm.OpSleep, mvm.StateSleeping, reason)
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
		if all := f.model.spares(spec, c.state); c.n > 0 && len(all) > 0 {
			return all[len(all)-1]
		}
	}
	return nil
}

// trim puts to sleep what is too much in memory, newest first.
func (f *filler) trim(spec mvm.PoolSpec) {
	for i := f.excess(spec); i != nil; i = f.excess(spec) {
		f.operate(spec, i, mvm.OpSleep, mvm.StateSleeping, "more than the desired "+f.wanted(spec, i.state))
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
