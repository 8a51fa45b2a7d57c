// Package quota says what instances count against their tenant's quota, and which limit
// keeps a change from being made. It is pure, and the only place that counts: the agent
// admits by it, plan and policy foresee by it what the agent will admit.
package quota

import (
	"fmt"

	"mvm"
)

// Claim is what one instance holds of the quota, beside its disk.
type Claim struct {
	Memory  bool // VCPUs and memory
	Running bool
	Warm    bool
}

// In is what an instance in the state holds.
func In(s mvm.State) Claim {
	return Claim{Memory: s.HoldsMemory(), Running: s == mvm.StateRunning, Warm: s == mvm.StateWarm}
}

// Of is what the instance holds, with the operation under way: until it has ended, and may
// be called off, it counts as what it was and as what it becomes.
func Of(i mvm.Instance) Claim {
	c := In(i.State)
	switch {
	case i.Op == nil:
	case i.Op.Kind.Rises() || i.Op.Kind == mvm.OpRestart: // on its way up it counts as running
		c = c.With(In(mvm.StateRunning))
	case i.Op.Kind == mvm.OpSleep: // committed, and its VMM may be there yet
		c.Memory = true
	case i.Op.Kind == mvm.OpWarm && i.State == mvm.StateRunning:
		c.Warm = true
	}
	return c
}

// With is what holds either.
func (c Claim) With(o Claim) Claim {
	return Claim{c.Memory || o.Memory, c.Running || o.Running, c.Warm || o.Warm}
}

// Add counts an instance of the size that holds the claim.
func Add(u *mvm.Usage, res mvm.Resources, c Claim) {
	u.DiskMiB += res.DataDiskMiB
	if c.Memory {
		u.VCPUs += res.VCPUs
		u.MemMiB += res.MemMiB
	}
	if c.Running {
		u.Running++
	}
	if c.Warm {
		u.Warm++
	}
}

// Limit is a limit of a quota that a change would pass.
type Limit struct {
	Name  string // as in manifests: max_running
	Max   int
	Would int // what there would be
}

// String names the limit.
func (l Limit) String() string { return fmt.Sprintf("quota %s is %d", l.Name, l.Max) }

// Change returns the first limit that keeps usage from becoming is, nil where none does. A
// limit that is passed already keeps only what would take more of it.
func Change(q mvm.Quota, was, is mvm.Usage) *Limit {
	for _, c := range []struct {
		name         string
		max, was, is int
	}{
		{"max_running", q.MaxRunning, was.Running, is.Running},
		{"max_vcpus", q.MaxVCPUs, was.VCPUs, is.VCPUs},
		{"max_mem_mib", q.MaxMemMiB, was.MemMiB, is.MemMiB},
		{"max_warm", q.MaxWarm, was.Warm, is.Warm},
		{"max_pools", q.MaxPools, was.Pools, is.Pools},
	} {
		if c.is > c.max && c.is > c.was {
			return &Limit{c.name, c.max, c.is}
		}
	}
	if is.DiskMiB > was.DiskMiB {
		return disk(q, is.DiskMiB)
	}
	return nil
}

func disk(q mvm.Quota, mib int) *Limit {
	if gib := (mib + 1023) / 1024; gib > q.MaxDiskGiB {
		return &Limit{"max_disk_gib", q.MaxDiskGiB, gib}
	}
	return nil
}

// Run returns the limit that keeps one more instance of the size from running beside u.
func Run(q mvm.Quota, u mvm.Usage, res mvm.Resources) *Limit {
	is := u
	is.Running, is.VCPUs, is.MemMiB = u.Running+1, u.VCPUs+res.VCPUs, u.MemMiB+res.MemMiB
	return Change(q, u, is)
}

// Resume returns the limit that keeps one more instance, which holds its memory already,
// from running beside u.
func Resume(q mvm.Quota, u mvm.Usage) *Limit { return Run(q, u, mvm.Resources{}) }

// Warm returns the limit that keeps one more instance from being warm beside u.
func Warm(q mvm.Quota, u mvm.Usage) *Limit {
	is := u
	is.Warm++
	return Change(q, u, is)
}

// Pool returns the limit that keeps a tenant with so many pools from having one more.
func Pool(q mvm.Quota, have int) *Limit {
	return Change(q, mvm.Usage{Pools: have}, mvm.Usage{Pools: have + 1})
}

// New returns the limit that keeps one more instance of the size from being made beside u
// in a pool that has so many. It is not said whether that may run.
func New(q mvm.Quota, u mvm.Usage, inPool int, res mvm.Resources) *Limit {
	if inPool+1 > q.MaxInstancesPerPool {
		return &Limit{"max_instances_per_pool", q.MaxInstancesPerPool, inPool + 1}
	}
	return disk(q, u.DiskMiB+res.DataDiskMiB)
}
