package sim_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/store"
)

// restTime is how long the host may take to come to rest once nothing goes wrong.
const restTime = time.Hour

// How long after a look whether all is at rest comes the next: a look costs more than what
// goes on meanwhile, so that they are twice as far apart each time.
const (
	lookAfter = 15 * time.Second
	lookEvery = 4 * time.Minute
)

// calm ends the faults and has everything come to rest; then all must be as it
// should be.
func (w *world) calm() {
	w.note("calm")
	was := w.faults
	w.faults, w.lacks = faults{}, nil
	for _, id := range slices.Sorted(maps.Keys(w.model.behaved)) {
		w.host.Behave(id, fake.Behavior{})
	}
	clear(w.model.behaved)
	w.comeToRest("the faults ended")
	w.note("calm is over")
	w.faults = was
}

// comeToRest lets everybody go on until nobody has anything to do and all is whole.
func (w *world) comeToRest(since string) {
	began, why := time.Now(), ""
	look, pause := began, lookAfter
	for w.failed() == "" {
		w.settle()
		w.checkSpin()
		pts := w.s.points()
		if now := time.Now(); len(pts) == 0 && !now.Before(look) {
			if why = w.notAtRest(); why == "" {
				return
			}
			look, pause = now.Add(pause), min(2*pause, lookEvery)
		}
		switch {
		case time.Since(began) > restTime:
			w.fail("%s after %s: %s", restTime, since, why)
		case len(pts) > 0:
			w.letGo(pts[w.rng.IntN(len(pts))])
		default:
			w.pass(time.Minute)
		}
	}
}

// notAtRest says what is not as it should be at rest, the first of all that could be: each
// costs more than those before.
func (w *world) notAtRest() (why string) {
	for _, problem := range []func() string{w.unrest, w.restProblem, w.missing, w.heldProblem} {
		if why = problem(); why != "" {
			break
		}
	}
	return why
}

// unrest says who still has something to do.
func (w *world) unrest() string {
	l := w.life
	if l.dead.Load() || !l.is(&l.opened) || l.ending {
		return "no agent runs"
	}
	for _, c := range w.cmds {
		return c.name + " is not done"
	}
	for _, id := range slices.Sorted(maps.Keys(w.model.instances)) {
		if n, op := l.a.Queued(id); n > 0 {
			return id + " has " + string(op) + " under way"
		}
	}
	for _, t := range w.model.tenants {
		if t.Destroying {
			return "tenant " + t.ID + " is being destroyed"
		}
	}
	for addr, p := range w.model.pools {
		if p.Destroying {
			return "pool " + addr + " is being destroyed"
		}
	}
	return ""
}

// missing says what of the desired state is not reached: what the tenants' records ask
// for is what is there, as far as their quotas and the pools' protection allow.
func (w *world) missing() (why string) {
	l := w.life
	w.s.alone(func() {
		for _, id := range slices.Sorted(maps.Keys(w.model.tenants)) {
			d := mvm.Deployment{Tenant: mvm.TenantSpec{ID: id, Pinned: w.model.tenants[id].Pinned}}
			for _, addr := range slices.Sorted(maps.Keys(w.model.pools)) {
				if p := w.model.pools[addr]; p.Tenant == id && w.inUse(p) {
					d.Pools = append(d.Pools, p.Spec)
				}
			}
			d.Pools = slices.DeleteFunc(d.Pools, func(s mvm.PoolSpec) bool { return !leadHome(s, d.Pools) })
			steps, err := l.a.Apply(context.Background(), d, mvm.ApplyOptions{Dry: true}, nil)
			switch {
			case mvm.IsKind(err, mvm.KindLeftAlone): // nothing else is left to do
			case mvm.IsKind(err, mvm.KindQuota): // it was lowered below the pools that there are
			case err != nil:
				w.fail("plan %s without faults: %v", id, err)
			case len(steps) > 0:
				why = fmt.Sprintf("tenant %s: there is still to do: %+v", id, steps)
			}
		}
	})
	return why
}

// inUse reports that the pool has instances, or should: the image of another is built
// when it is needed.
func (w *world) inUse(p mvm.Pool) bool {
	for _, s := range w.model.instances {
		if s.now.Tenant == p.Tenant && s.now.Pool == p.Spec.ID {
			return true
		}
	}
	return p.Spec.Desired != mvm.Counts{}
}

// restProblem says what of a host at rest is not whole: something has no owner, is
// under way, or a guest does not have what it should. "" when all is well.
func (w *world) restProblem() string {
	s := w.read(w.life.st, w.model.lastSeq)
	vmms := map[string]fake.VMM{}
	for _, v := range w.host.VMMs() {
		vmms[v.ID] = v
	}
	owned, taps, socks := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, t := range s.tenants {
		taps[mvm.BridgeName(t.NetID)] = true
	}
	for _, i := range s.instances {
		owned[i.ID] = true
		v, has := vmms[i.ID]
		if p := w.restOf(i, v, has); p != "" {
			return p
		}
		if has {
			taps[mvm.TAPName(w.model.tenants[i.Tenant].NetID, i.Offset)] = true
			socks[filepath.Join(w.run, "i", i.ID, "v.sock_53")] = true
		}
	}
	for id := range vmms {
		if !owned[id] {
			return "the VMM of " + id + " has no owner"
		}
	}
	got := w.socks.paths()
	for path := range socks {
		if !got[path] {
			return "nobody listens on " + path
		}
	}
	problem := cmp.Or(nothingElse("network device", w.net.Links(), taps),
		nothingElse("socket", slices.Sorted(maps.Keys(got)), socks),
		nothingElse("folder", entries(filepath.Join(w.dir, "instances")), owned),
		nothingElse("folder", entries(filepath.Join(w.run, "i")), owned))
	if problem != "" {
		return problem
	}
	w.s.alone(func() {
		if err := w.life.st.View(func(tx *store.Tx) error { return tx.Check() }); err != nil {
			problem = "the store does not fit together: " + err.Error()
		}
	})
	return problem
}

// restOf says what is wrong with an instance at rest.
func (w *world) restOf(i mvm.Instance, v fake.VMM, has bool) string {
	want := map[mvm.State]fake.State{mvm.StateRunning: fake.Running, mvm.StateWarm: fake.Paused}[i.State]
	g, _ := w.host.Guest(i.ID)
	t := w.model.tenants[i.Tenant]
	snaps := entries(filepath.Join(w.dir, "instances", i.ID, "snapshots"))
	switch {
	case i.Op != nil:
		return fmt.Sprintf("instance %s is %s with %s under way in its record (%s)", i.ID, i.State, i.Op.Kind, i.Problem)
	case has && v.State != want || !has && want != "":
		return fmt.Sprintf("instance %s is %s, and its VMM %q", i.ID, i.State, v.State)
	case has && !v.TAP:
		return fmt.Sprintf("the VMM of instance %s has no TAP", i.ID)
	case i.State == mvm.StateRunning && (g.Generation != t.SecretsGeneration || i.SecretsGeneration != g.Generation):
		return fmt.Sprintf("instance %s has secrets generation %d in its guest, %d in its record, and the tenant %d",
			i.ID, g.Generation, i.SecretsGeneration, t.SecretsGeneration)
	case w.staysDown(i, t):
		return fmt.Sprintf("instance %s of user %s is stopped since its VMM ended by itself", i.ID, i.Key)
	case w.oversleeps(i, t):
		return fmt.Sprintf("instance %s is %s, and its next wake was at %s", i.ID, i.State, i.NextWake.Format(time.TimeOnly))
	case i.State != mvm.StateSleeping && len(snaps) > 0 || len(snaps) > 1:
		return fmt.Sprintf("instance %s is %s and has snapshots %v", i.ID, i.State, snaps)
	}
	return ""
}

// staysDown reports that a user's instance is stopped because its VMM ended, though
// nothing keeps it from coming back.
func (w *world) staysDown(i mvm.Instance, t mvm.Tenant) bool {
	p := w.model.pools[i.Tenant+"/"+i.Pool].Spec
	if i.Key == "" || i.Unproven || i.State != mvm.StateStopped || p.Critical || p.Resources.DataDiskMiB != i.Res.DataDiskMiB ||
		i.ManualOverrideUntil.After(time.Now()) || i.Last == nil || !i.Last.Unwanted {
		return false
	}
	return w.fits(i, t, p.Resources)
}

// fits reports that one more instance of the tenant may run, of the size.
func (w *world) fits(i mvm.Instance, t mvm.Tenant, r mvm.Resources) bool {
	running, vcpus, mem := 1, r.VCPUs, r.MemMiB
	for _, s := range w.model.instances {
		if o := s.now; o.Tenant == i.Tenant && o.State.HoldsMemory() {
			running, vcpus, mem = running+1, vcpus+o.Res.VCPUs, mem+o.Res.MemMiB
		}
	}
	return running <= t.Quota.MaxRunning && vcpus <= t.Quota.MaxVCPUs && mem <= t.Quota.MaxMemMiB
}

func nothingElse(what string, have []string, want map[string]bool) string {
	for _, h := range have {
		if !want[h] {
			return what + " " + h + " has no owner"
		}
	}
	return ""
}

func entries(dir string) (names []string) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), "fake-tmp-") {
			names = append(names, e.Name())
		}
	}
	return names
}
