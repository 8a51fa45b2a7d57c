package quota_test

import (
	"testing"

	"mvm"
	"mvm/internal/quota"
)

// TestOf: what an instance holds in each state, with each operation under way.
func TestOf(t *testing.T) {
	const none mvm.OpKind = ""
	memory, running, warm := quota.Claim{Memory: true}, quota.Claim{Memory: true, Running: true}, quota.Claim{Memory: true, Warm: true}
	both := quota.Claim{Memory: true, Running: true, Warm: true}
	up := []mvm.OpKind{mvm.OpStart, mvm.OpWake, mvm.OpResume, mvm.OpRestart}
	rest := []mvm.State{mvm.StateCreated, mvm.StateReady, mvm.StateSleeping, mvm.StateStopped, mvm.StateDestroyed}
	want := map[mvm.State]map[mvm.OpKind]quota.Claim{
		mvm.StateRunning: {none: running, mvm.OpCreate: running, mvm.OpSleep: running, mvm.OpStop: running, mvm.OpDestroy: running, mvm.OpRestore: running, mvm.OpWarm: both},
		mvm.StateWarm:    {none: warm, mvm.OpCreate: warm, mvm.OpSleep: warm, mvm.OpStop: warm, mvm.OpDestroy: warm, mvm.OpRestore: warm, mvm.OpWarm: warm},
	}
	for _, s := range rest {
		want[s] = map[mvm.OpKind]quota.Claim{none: {}, mvm.OpCreate: {}, mvm.OpStop: {}, mvm.OpDestroy: {}, mvm.OpRestore: {}, mvm.OpWarm: {}, mvm.OpSleep: memory}
	}
	for s := range want {
		for _, op := range up {
			want[s][op] = running
		}
	}
	for _, op := range up {
		want[mvm.StateWarm][op] = both
	}
	for s, ops := range want {
		if len(ops) != 11 {
			t.Fatalf("%s: %d operations, want all 11", s, len(ops))
		}
		for op, claim := range ops {
			i := mvm.Instance{State: s}
			if op != none {
				i.Op = &mvm.Op{Kind: op}
			}
			if got := quota.Of(i); got != claim {
				t.Errorf("%s with %q under way: %+v, want %+v", s, op, got, claim)
			}
		}
	}
}

func TestAdd(t *testing.T) {
	res := mvm.Resources{VCPUs: 2, MemMiB: 512, DataDiskMiB: 1024}
	for _, c := range []struct {
		claim quota.Claim
		want  mvm.Usage
	}{
		{quota.Claim{}, mvm.Usage{DiskMiB: 1024}},
		{quota.In(mvm.StateRunning), mvm.Usage{DiskMiB: 1024, VCPUs: 2, MemMiB: 512, Running: 1}},
		{quota.In(mvm.StateWarm), mvm.Usage{DiskMiB: 1024, VCPUs: 2, MemMiB: 512, Warm: 1}},
		{quota.In(mvm.StateSleeping), mvm.Usage{DiskMiB: 1024}},
		{quota.In(mvm.StateRunning).With(quota.In(mvm.StateWarm)), mvm.Usage{DiskMiB: 1024, VCPUs: 2, MemMiB: 512, Running: 1, Warm: 1}},
	} {
		var got mvm.Usage
		quota.Add(&got, res, c.claim)
		if got != c.want {
			t.Errorf("%+v: %+v, want %+v", c.claim, got, c.want)
		}
	}
}

// TestLimits: the last that fits is admitted, and one more is refused by the limit's name.
func TestLimits(t *testing.T) {
	q := mvm.Quota{MaxVCPUs: 8, MaxMemMiB: 4096, MaxRunning: 4, MaxWarm: 2, MaxPools: 3, MaxInstancesPerPool: 5, MaxDiskGiB: 10}
	res := mvm.Resources{VCPUs: 2, MemMiB: 1024, DataDiskMiB: 2048}
	full := mvm.Usage{VCPUs: 8, MemMiB: 4096, Running: 4, Warm: 2, Pools: 3, DiskMiB: 10240}
	beyond := mvm.Usage{VCPUs: 9, MemMiB: 5000, Running: 6, Warm: 3, Pools: 4, DiskMiB: 20480}
	for name, c := range map[string]struct {
		got  *quota.Limit
		want quota.Limit // zero: none
	}{
		"run: the last":             {quota.Run(q, mvm.Usage{VCPUs: 6, MemMiB: 3072, Running: 3}, res), quota.Limit{}},
		"run: too many":             {quota.Run(q, mvm.Usage{Running: 4}, res), quota.Limit{Name: "max_running", Max: 4, Would: 5}},
		"run: too many vcpus":       {quota.Run(q, mvm.Usage{VCPUs: 7}, res), quota.Limit{Name: "max_vcpus", Max: 8, Would: 9}},
		"run: too much memory":      {quota.Run(q, mvm.Usage{MemMiB: 3073}, res), quota.Limit{Name: "max_mem_mib", Max: 4096, Would: 4097}},
		"run: disk does not matter": {quota.Run(q, mvm.Usage{DiskMiB: 99999}, res), quota.Limit{}},
		"resume: memory is held":    {quota.Resume(q, mvm.Usage{VCPUs: 9, MemMiB: 9999, Running: 3}), quota.Limit{}},
		"resume: too many":          {quota.Resume(q, full), quota.Limit{Name: "max_running", Max: 4, Would: 5}},
		"warm: the last":            {quota.Warm(q, mvm.Usage{Warm: 1}), quota.Limit{}},
		"warm: too many":            {quota.Warm(q, full), quota.Limit{Name: "max_warm", Max: 2, Would: 3}},
		"pool: the last":            {quota.Pool(q, 2), quota.Limit{}},
		"pool: too many":            {quota.Pool(q, 3), quota.Limit{Name: "max_pools", Max: 3, Would: 4}},
		"new: the last":             {quota.New(q, mvm.Usage{DiskMiB: 8192}, 4, res), quota.Limit{}},
		"new: too many in the pool": {quota.New(q, mvm.Usage{}, 5, res), quota.Limit{Name: "max_instances_per_pool", Max: 5, Would: 6}},
		"new: too much disk":        {quota.New(q, mvm.Usage{DiskMiB: 8193}, 0, res), quota.Limit{Name: "max_disk_gib", Max: 10, Would: 11}},
		"new: it does not run yet":  {quota.New(q, mvm.Usage{Running: 9, VCPUs: 99}, 0, res), quota.Limit{}},
		"change: none":              {quota.Change(q, full, full), quota.Limit{}},
		"change: none, beyond":      {quota.Change(q, beyond, beyond), quota.Limit{}},
		"change: less, yet beyond":  {quota.Change(q, beyond, full), quota.Limit{}},
		"change: more disk":         {quota.Change(q, full, mvm.Usage{DiskMiB: 10241}), quota.Limit{Name: "max_disk_gib", Max: 10, Would: 11}},
		"change: more than beyond":  {quota.Change(q, full, beyond), quota.Limit{Name: "max_running", Max: 4, Would: 6}},
	} {
		var got quota.Limit
		if c.got != nil {
			got = *c.got
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if got, want := quota.Pool(q, 3).String(), "quota max_pools is 3"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
