package policy_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"mvm"
	"mvm/internal/policy"
)

// drawPools makes the pools of two tenants; all subjects of a pool have the same spec.
func drawPools(t *rapid.T) []policy.Subject {
	var out []policy.Subject
	for _, tenant := range []string{"acme", "beta"} {
		pinned := rapid.IntRange(0, 6).Draw(t, "tenant pinned") == 0
		warm := rapid.IntRange(0, 4).Draw(t, "max warm")
		for _, role := range []mvm.Role{mvm.RoleGateway, mvm.RoleBuilder, mvm.RoleWorker, mvm.RoleIMessage} {
			out = append(out, policy.Subject{TenantPinned: pinned, MaxWarm: warm, Instance: mvm.Instance{Tenant: tenant, Pool: string(role), Role: role},
				Spec: mvm.PoolSpec{ID: string(role), Role: role, Desired: mvm.Counts{Running: rapid.IntRange(0, 3).Draw(t, "desired")},
					Pinned: rapid.IntRange(0, 6).Draw(t, "pinned") == 0, Critical: rapid.IntRange(0, 6).Draw(t, "critical") == 0,
					Policy: mvm.RuntimePolicy{MinRunningSeconds: 60, MinWarmSeconds: 30,
						WarmAfterSeconds:  rapid.SampledFrom([]int{0, 10, 300}).Draw(t, "warm after"),
						SleepAfterSeconds: rapid.SampledFrom([]int{0, 20, 900}).Draw(t, "sleep after")}}})
		}
	}
	return out
}

func drawSubjects(t *rapid.T) []policy.Subject {
	ago := func(what string, most int) time.Time {
		return now.Add(-time.Duration(rapid.IntRange(0, most).Draw(t, what)) * time.Second)
	}
	pools := drawPools(t)
	var out []policy.Subject
	for n := range rapid.IntRange(0, 14).Draw(t, "instances") {
		s := rapid.SampledFrom(pools).Draw(t, "pool")
		s.Instance.ID = fmt.Sprintf("i-%08x", n)
		s.Instance.State = rapid.SampledFrom([]mvm.State{mvm.StateRunning, mvm.StateRunning, mvm.StateWarm}).Draw(t, "state")
		s.Instance.Ready = rapid.IntRange(0, 9).Draw(t, "ready") > 0
		s.Instance.Changed = ago("changed", 120)
		s.IdleSince = ago("idle", 1200)
		s.RSS = int64(rapid.IntRange(1, 100).Draw(t, "rss"))
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			s.Awake = "cpu 99%"
		case 1:
			s.Instance.ManualOverrideUntil = now.Add(time.Minute)
		case 2:
			s.Instance.Op = &mvm.Op{Kind: rapid.SampledFrom([]mvm.OpKind{mvm.OpSleep, mvm.OpWarm, mvm.OpResume}).Draw(t, "op"), By: mvm.Asker{Kind: mvm.AskerPolicy}}
		case 3:
			s.Backoff = now.Add(time.Minute)
		}
		out = append(out, s)
	}
	return out
}

// barred reports whether nothing may be done to the instance, whatever the memory.
func barred(s policy.Subject) bool {
	i := s.Instance
	return s.TenantPinned || s.Spec.Pinned || s.Spec.Critical || i.Op != nil || !i.Ready || s.Awake != "" ||
		i.ManualOverrideUntil.After(now) || s.Backoff.After(now)
}

func young(s policy.Subject) bool {
	least := 60 * time.Second
	if s.Instance.State == mvm.StateWarm {
		least = 30 * time.Second
	}
	return now.Sub(s.Instance.Changed) < least
}

// The promises of Evaluate on any host.
func TestEvaluateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		subjects := drawSubjects(t)
		p := policy.Pressure{Why: "memory pressure", Bytes: int64(rapid.SampledFrom([]int{0, 0, 50, 1000}).Draw(t, "need"))}
		ds := policy.Evaluate(subjects, p, now)
		by := map[string]policy.Decision{}
		for _, d := range ds {
			by[d.ID] = d
		}
		if len(by) != len(subjects) {
			t.Fatalf("%d decisions on %d instances", len(by), len(subjects))
		}
		for _, s := range subjects {
			checkOne(t, s, by[s.Instance.ID], p)
		}
		checkLimits(t, subjects, by)
		if p.Bytes > 0 {
			checkRelief(t, subjects, by, p)
		}
		slices.Reverse(subjects)
		if diff := cmp.Diff(ds, policy.Evaluate(subjects, p, now)); diff != "" {
			t.Fatalf("the order of the subjects matters:\n%s", diff)
		}
	})
}

func checkOne(t *rapid.T, s policy.Subject, d policy.Decision, p policy.Pressure) {
	pol, idle := s.Spec.Policy, now.Sub(s.IdleSince)
	acts := d.Do == policy.Warm || d.Do == policy.Sleep
	due := pol.SleepAfterSeconds > 0 && idle >= time.Duration(pol.SleepAfterSeconds)*time.Second ||
		s.Instance.State == mvm.StateRunning && pol.WarmAfterSeconds > 0 && idle >= time.Duration(pol.WarmAfterSeconds)*time.Second
	switch {
	case d.Reason == "":
		t.Fatalf("%+v has no reason", d)
	case acts && barred(s):
		t.Fatalf("%+v though nothing may be done to %+v", d, s)
	case acts && p.Bytes == 0 && (!due || young(s)):
		t.Fatalf("%+v before the time of %+v", d, s)
	case d.Do == policy.Sleep && pol.SleepAfterSeconds == 0, d.Do == policy.Warm && pol.WarmAfterSeconds == 0:
		t.Fatalf("%+v though its pool says never", d)
	case d.Do == policy.Warm && s.Instance.State == mvm.StateWarm:
		t.Fatalf("%+v is warm already", d)
	case !acts && due && !young(s) && !barred(s) && d.Guard == "":
		t.Fatalf("%+v: it is due, and nothing is said to keep it", d)
	case d.Do == policy.Defer && (!young(s) || !due):
		t.Fatalf("%+v is deferred without cause", d)
	}
}

// checkLimits: no gateway pool is brought below its minimum, and no tenant has more
// warm ones than its quota.
func checkLimits(t *rapid.T, subjects []policy.Subject, by map[string]policy.Decision) {
	before, after, warm := map[string]int{}, map[string]int{}, map[string]int{}
	most, newly, desired := map[string]int{}, map[string]bool{}, map[string]int{}
	for _, s := range subjects {
		i, d := s.Instance, by[s.Instance.ID]
		most[i.Tenant] = s.MaxWarm
		going := i.Op != nil && (i.Op.Kind == mvm.OpSleep || i.Op.Kind == mvm.OpWarm)
		if d.Do == policy.Warm || i.State == mvm.StateWarm && d.Do != policy.Sleep || i.Op != nil && i.Op.Kind == mvm.OpWarm {
			warm[i.Tenant]++
			newly[i.Tenant] = newly[i.Tenant] || d.Do == policy.Warm
		}
		if i.Role == mvm.RoleGateway && i.State == mvm.StateRunning && !going {
			desired[i.Tenant] = s.Spec.Desired.Running
			before[i.Tenant]++
			if d.Do != policy.Warm && d.Do != policy.Sleep {
				after[i.Tenant]++
			}
		}
	}
	for tenant, n := range before {
		if after[tenant] < min(n, desired[tenant]) {
			t.Fatalf("%s: %d of %d gateways go on, and %d must", tenant, after[tenant], n, desired[tenant])
		}
	}
	for tenant, n := range warm {
		if newly[tenant] && n > most[tenant] {
			t.Fatalf("%s: %d warm, of at most %d", tenant, n, most[tenant])
		}
	}
}

// checkRelief: those before their minimum go only when the others are not enough.
func checkRelief(t *rapid.T, subjects []policy.Subject, by map[string]policy.Decision, p policy.Pressure) {
	early, freed := false, int64(0)
	for _, s := range subjects {
		if by[s.Instance.ID].Do == policy.Sleep || s.Instance.Op != nil && s.Instance.Op.Kind == mvm.OpSleep {
			freed += s.RSS
			early = early || young(s) && s.Instance.Op == nil
		}
	}
	for _, s := range subjects {
		d := by[s.Instance.ID]
		left := !barred(s) && s.Spec.Policy.SleepAfterSeconds > 0 && d.Do != policy.Sleep && d.Guard != "gateway_minimum" && d.Guard != "role_order"
		if left && freed < p.Bytes {
			t.Fatalf("%d of %d freed, and %+v goes on: %+v", freed, p.Bytes, s, d)
		}
		if left && early && !young(s) {
			t.Fatalf("%+v goes on, and one before its minimum sleeps", s)
		}
	}
}
