package plan

import (
	"fmt"
	"strings"

	"mvm"
	"mvm/internal/quota"
)

// Behind names what the instance has of old, and gets from its pool when it boots
// next: image, sizes, environment.
func Behind(i mvm.Instance, p mvm.Pool) (what []string) {
	if len(p.Builds) > 0 && i.Image != p.Builds[0].Digest {
		what = append(what, "its image is not build "+p.Builds[0].ID)
	}
	for _, f := range []struct {
		name       string
		have, want int
	}{
		{"vcpus", i.Res.VCPUs, p.Spec.Resources.VCPUs}, {"mem_mib", i.Res.MemMiB, p.Spec.Resources.MemMiB},
		{"data_disk_mib", i.Res.DataDiskMiB, p.Spec.Resources.DataDiskMiB},
	} {
		if f.have != f.want {
			what = append(what, fmt.Sprintf("%s is %d, not %d", f.name, f.have, f.want))
		}
	}
	if i.EnvDigest != "" && i.EnvDigest != mvm.EnvDigest(p.Spec.Env) {
		what = append(what, "its env has changed")
	}
	return what
}

// renew restarts the instances in memory that are behind, also those that an operation
// has for now: they have to wait for its end. Those that are not in memory get what is new
// when they start or wake.
func (f *filler) renew(specs []mvm.PoolSpec) {
	for _, spec := range specs {
		p := f.pools[spec.ID]
		p.Spec = spec
		for _, i := range f.model.instances {
			if o, ok := f.there[i.id]; ok && i.pool == spec.ID && o.State.HoldsMemory() {
				what, awaits := f.behind(o, p)
				f.renewOne(spec, i, what, awaits)
			}
		}
	}
}

// behind is Behind, where an image that is about to be built counts as another. awaits:
// nothing else is behind, so that a restart before the build would be for nothing.
func (f *filler) behind(i mvm.Instance, p mvm.Pool) (what []string, awaits bool) {
	what = Behind(i, p)
	if f.builds[p.Spec.ID] && len(p.Builds) > 0 && i.Image == p.Builds[0].Digest {
		awaits = len(what) == 0
		what = append([]string{"its image is built anew"}, what...)
	}
	return what, awaits
}

func (f *filler) renewOne(spec mvm.PoolSpec, i *instance, what []string, awaits bool) {
	if len(what) == 0 || f.renewed[i.id] || f.overridden(f.there[i.id]) || !i.state.HoldsMemory() {
		return
	}
	f.renewed[i.id] = true
	delete(f.denied, i.id)
	why := strings.Join(what, ", ")
	target := f.address(spec.ID)
	target.Instance = i.id
	switch {
	case spec.Critical:
		f.left[i.id] = leave(target, why, "its pool is critical")
		return
	case f.desired.Tenant.Pinned:
		f.left[i.id] = leave(target, why, "its tenant is pinned")
		return
	}
	if denied := f.model.deniedSize(i, spec.Resources); denied != "" {
		f.renewed[i.id] = false
		f.denied[i.id] = leave(target, why, denied)
		return
	}
	s := Step{Kind: Restart, Target: target, Reason: why, To: i.state, Parked: i.parked, AfterOp: f.busy(f.there[i.id]), AwaitsBuild: awaits}
	s.After, s.Limit = f.earliest(spec, i)
	i.res = spec.Resources
	f.add(s)
}

func leave(target mvm.Address, why, because string) string {
	return fmt.Sprintf("%s is left as it is, though %s: %s", target, why, because)
}

// busy reports that the instance has an operation under way, of whoever.
func (f *filler) busy(i mvm.Instance) bool {
	_, underWay := f.observed.UnderWay[i.ID]
	return underWay || i.Op != nil
}

// overridden reports that the instance is its changer's for now.
func (f *filler) overridden(i mvm.Instance) bool {
	return i.ManualOverrideUntil.After(f.observed.Now)
}

// deniedSize says which limit keeps an instance in memory from having another size.
func (m *model) deniedSize(i *instance, res mvm.Resources) string {
	was, old := m.usage(), i.res
	i.res = res
	is := m.usage()
	i.res = old
	return limit(quota.Change(m.quota, was, is))
}

// deniedRise says which limit keeps the instance from being booted or woken with the
// size that its pool has now.
func (m *model) deniedRise(i *instance, res mvm.Resources) string {
	if denied := m.denied(res, false); denied != "" {
		return denied
	}
	return m.deniedSize(i, res)
}

// checkDisks refuses a data disk that would have to become smaller.
func (m *maker) checkDisks() error {
	for _, spec := range m.desired.Pools {
		for _, i := range m.observed.Instances {
			if i.Pool == spec.ID {
				if err := CheckDisk(i, spec); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// CheckDisk returns KindState where the instance's data disk is larger than its pool
// would have it: a data disk never shrinks.
func CheckDisk(i mvm.Instance, spec mvm.PoolSpec) error {
	if i.Res.DataDiskMiB <= spec.Resources.DataDiskMiB {
		return nil
	}
	return mvm.Errorf(mvm.KindState, "pool %s/%s: data_disk_mib %d is less than the %d MiB of %s, and a data disk cannot shrink",
		i.Tenant, i.Pool, spec.Resources.DataDiskMiB, i.Res.DataDiskMiB, i.ID).
		WithFix("keep the size, or create another pool; `mvm instance destroy` deletes a disk with its data")
}
