package policy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"mvm"
	"mvm/internal/policy"
)

// now is when the tests decide.
var now = at(10_000)

// idle is an instance of a pool of the role, idle for so many seconds and in its state
// for an hour.
func idle(id string, role mvm.Role, state mvm.State, seconds float64) policy.Subject {
	pol := mvm.DefaultRuntimePolicy()
	pol.WarmAfterSeconds, pol.SleepAfterSeconds = 300, 900
	return policy.Subject{
		Instance: mvm.Instance{ID: id, Tenant: "acme", Pool: string(role), Role: role, State: state, Ready: true, Changed: now.Add(-time.Hour)},
		Spec:     mvm.PoolSpec{ID: string(role), Role: role, Policy: pol},
		MaxWarm:  4, IdleSince: now.Add(-time.Duration(seconds * float64(time.Second))), RSS: 100 << 20,
	}
}

func worker(seconds float64) policy.Subject {
	return idle("i-1", mvm.RoleWorker, mvm.StateRunning, seconds)
}

func TestOneInstance(t *testing.T) {
	warm := func(seconds float64) policy.Subject {
		return idle("i-1", mvm.RoleWorker, mvm.StateWarm, seconds)
	}
	with := func(s policy.Subject, change func(*policy.Subject)) policy.Subject { change(&s); return s }
	for _, c := range []struct {
		name   string
		s      policy.Subject
		do     policy.Verdict
		guard  string
		reason string
		next   time.Time
	}{
		{"not idle for long", worker(100), policy.Stay, "", "idle for 1m40s, of 5m0s", now.Add(200 * time.Second)},
		{"goes warm", worker(300), policy.Warm, "", "idle for 5m0s, more than 5m0s", time.Time{}},
		{"sleeps where it was not warm", worker(900), policy.Sleep, "", "more than 15m0s", time.Time{}},
		{"sleeps from warm", warm(900), policy.Sleep, "", "more than 15m0s", time.Time{}},
		{"stays warm", warm(899), policy.Stay, "", "idle for 14m59s, of 15m0s", now.Add(time.Second)},
		{"busy", with(worker(900), func(s *policy.Subject) { s.Awake = "worker-busy is set" }), policy.Stay, "", "worker-busy is set", time.Time{}},
		{"never warm", with(worker(899), func(s *policy.Subject) { s.Spec.Policy.WarmAfterSeconds = 0 }), policy.Stay, "", "of 15m0s", now.Add(time.Second)},
		{"never warm, straight to sleep", with(worker(900), func(s *policy.Subject) { s.Spec.Policy.WarmAfterSeconds = 0 }), policy.Sleep, "", "", time.Time{}},
		{"warm no sooner than sleep", with(worker(899), func(s *policy.Subject) { s.Spec.Policy.WarmAfterSeconds = 900 }), policy.Stay, "", "", now.Add(time.Second)},
		{"never asleep", with(worker(1e6), func(s *policy.Subject) { s.Spec.Policy.SleepAfterSeconds = 0 }), policy.Warm, "", "", time.Time{}},
		{"never asleep, once warm", with(warm(1e6), func(s *policy.Subject) { s.Spec.Policy.SleepAfterSeconds = 0 }), policy.Stay, "never", "", time.Time{}},
		{"never", with(worker(1e6), func(s *policy.Subject) { s.Spec.Policy.SleepAfterSeconds, s.Spec.Policy.WarmAfterSeconds = 0, 0 }),
			policy.Stay, "never", "its pool lets it be", time.Time{}},
		{"min running", with(worker(300), func(s *policy.Subject) { s.Instance.Changed = now.Add(-50 * time.Second) }), policy.Defer, "min_running_seconds",
			"min_running_seconds keeps it running for 10s more", now.Add(10 * time.Second)},
		{"min running is over", with(worker(300), func(s *policy.Subject) { s.Instance.Changed = now.Add(-60 * time.Second) }), policy.Warm, "", "", time.Time{}},
		{"min warm", with(warm(900), func(s *policy.Subject) { s.Instance.Changed = now.Add(-29 * time.Second) }), policy.Defer, "min_warm_seconds", "keeps it warm", now.Add(time.Second)},
		{"tenant pinned", with(worker(900), func(s *policy.Subject) { s.TenantPinned = true }), policy.Stay, "tenant_pinned", "tenant is pinned", time.Time{}},
		{"pool pinned", with(worker(900), func(s *policy.Subject) { s.Spec.Pinned = true }), policy.Stay, "pinned", "pool is pinned", time.Time{}},
		{"critical", with(worker(900), func(s *policy.Subject) { s.Spec.Critical = true }), policy.Stay, "critical", "critical", time.Time{}},
		{"by hand", with(worker(900), func(s *policy.Subject) { s.Instance.ManualOverrideUntil = now.Add(time.Minute) }), policy.Stay, "manual_override", "1m0s more", now.Add(time.Minute)},
		{"by hand, long ago", with(worker(900), func(s *policy.Subject) { s.Instance.ManualOverrideUntil = now }), policy.Sleep, "", "", time.Time{}},
		{"an operation", with(worker(900), func(s *policy.Subject) { s.Instance.Op = &mvm.Op{Kind: mvm.OpWake} }), policy.Stay, "operation", "wake", time.Time{}},
		{"not ready", with(worker(900), func(s *policy.Subject) { s.Instance.Ready = false }), policy.Stay, "not_ready", "ready", time.Time{}},
		{"stopped", with(worker(900), func(s *policy.Subject) { s.Instance.State = mvm.StateStopped }), policy.Stay, "state", "stopped", time.Time{}},
		{"failed before", with(worker(900), func(s *policy.Subject) { s.Backoff, s.Failed = now.Add(30*time.Second), "disk full" }), policy.Stay, "backoff", "disk full", now.Add(30 * time.Second)},
		{"failed long before", with(worker(900), func(s *policy.Subject) { s.Backoff, s.Failed = now, "disk full" }), policy.Sleep, "", "", time.Time{}},
		{"a user's own", with(worker(900), func(s *policy.Subject) { s.Instance.Key = "ann" }), policy.Sleep, "", "", time.Time{}},
		{"no warm place", with(worker(300), func(s *policy.Subject) { s.MaxWarm = 0 }), policy.Stay, "max_warm", "max_warm is 0", now.Add(600 * time.Second)},
		{"no warm place, so it sleeps", with(worker(900), func(s *policy.Subject) { s.MaxWarm = 0 }), policy.Sleep, "", "", time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := policy.Evaluate([]policy.Subject{c.s}, policy.Pressure{}, now)[0]
			if got.Do != c.do || got.Guard != c.guard || !strings.Contains(got.Reason, c.reason) || !got.Next.Equal(c.next) {
				t.Errorf("got %+v\nwant %s, guard %q, reason with %q, next %s", got, c.do, c.guard, c.reason, c.next)
			}
		})
	}
}

// actions are the decisions that change something, in their order.
func actions(ds []policy.Decision) []string {
	out := []string{}
	for _, d := range ds {
		if d.Do == policy.Warm || d.Do == policy.Sleep {
			out = append(out, string(d.Do)+" "+d.ID)
		}
	}
	return out
}

func wantActions(t *testing.T, subjects []policy.Subject, p policy.Pressure, want ...string) {
	t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), actions(policy.Evaluate(subjects, p, now))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestGatewaysKeepTheirMinimum(t *testing.T) {
	pool := []policy.Subject{idle("i-1", mvm.RoleGateway, mvm.StateRunning, 400), idle("i-2", mvm.RoleGateway, mvm.StateRunning, 500),
		idle("i-3", mvm.RoleGateway, mvm.StateRunning, 10)}
	running := func(n int) []policy.Subject {
		for i := range pool {
			pool[i].Spec.Desired.Running = n
		}
		return pool
	}
	wantActions(t, running(1), policy.Pressure{}, "warm i-2", "warm i-1")
	wantActions(t, running(2), policy.Pressure{}, "warm i-2")
	wantActions(t, running(3), policy.Pressure{})
	wantActions(t, running(9), policy.Pressure{Bytes: 1 << 40, Why: "x"})
	pool[2].Instance.Op = &mvm.Op{Kind: mvm.OpStop} // on its way out: it runs no more
	wantActions(t, running(2), policy.Pressure{})
	pool[2].Instance.Op = nil
	pool[2].Instance.State = mvm.StateWarm
	pool[2].IdleSince = now.Add(-time.Hour)
	wantActions(t, running(2), policy.Pressure{}, "sleep i-3") // a warm one is none of them
}

func TestRolesRestInReverseOrder(t *testing.T) {
	g, b := idle("i-1", mvm.RoleGateway, mvm.StateRunning, 2000), idle("i-2", mvm.RoleBuilder, mvm.StateRunning, 1500)
	w, m := idle("i-3", mvm.RoleWorker, mvm.StateRunning, 1000), idle("i-4", mvm.RoleIMessage, mvm.StateRunning, 950)
	all := func() []policy.Subject { return []policy.Subject{g, b, w, m} }
	wantActions(t, all(), policy.Pressure{}, "sleep i-4")
	m.Instance.Op = &mvm.Op{Kind: mvm.OpSleep, By: mvm.Asker{Kind: mvm.AskerPolicy}}
	wantActions(t, all(), policy.Pressure{}) // as long as that one is on its way
	m.Instance.Op, m.Awake = nil, "cpu 90%"
	wantActions(t, all(), policy.Pressure{}, "sleep i-3") // one in use holds up no other
	w.Instance.Tenant = "other"
	wantActions(t, all(), policy.Pressure{}, "sleep i-3", "sleep i-2") // nor does another tenant's
}

// What changes something comes first, whatever is colder and stays as it is.
func TestWhatChangesSomethingComesFirst(t *testing.T) {
	busy, cold := idle("i-1", mvm.RoleWorker, mvm.StateRunning, 5000), idle("i-2", mvm.RoleWorker, mvm.StateRunning, 1000)
	busy.Awake = "cpu 90%"
	got := policy.Evaluate([]policy.Subject{busy, cold}, policy.Pressure{}, now)
	if len(got) != 2 || got[0].Do != policy.Sleep || got[1].Do != policy.Stay {
		t.Errorf("got %+v, want the one that sleeps, then the one that stays", got)
	}
}

func TestWarmPlacesGoToTheColdest(t *testing.T) {
	var all []policy.Subject
	for n, id := range []string{"i-1", "i-2", "i-3", "i-4"} {
		s := idle(id, mvm.RoleWorker, mvm.StateRunning, 300+float64(n))
		s.MaxWarm = 3
		all = append(all, s)
	}
	all[0].Instance.State = mvm.StateWarm
	wantActions(t, all, policy.Pressure{}, "warm i-4", "warm i-3")
}

func TestMemoryPressure(t *testing.T) {
	cold := idle("i-1", mvm.RoleWorker, mvm.StateRunning, 200)
	cool := idle("i-2", mvm.RoleWorker, mvm.StateWarm, 100)
	young := idle("i-3", mvm.RoleWorker, mvm.StateRunning, 250)
	young.Instance.Changed = now.Add(-10 * time.Second)
	busy := idle("i-4", mvm.RoleWorker, mvm.StateRunning, 1e6)
	busy.Awake = "worker-busy is set"
	gateway := idle("i-5", mvm.RoleGateway, mvm.StateRunning, 250)
	all := func() []policy.Subject { return []policy.Subject{busy, gateway, cool, cold, young} }
	need := func(mib int64) policy.Pressure { return policy.Pressure{Bytes: mib << 20, Why: "memory pressure"} }

	wantActions(t, all(), need(0))
	wantActions(t, all(), need(1), "sleep i-5") // the coldest of those past their minimum
	wantActions(t, all(), need(101), "sleep i-1", "sleep i-5")
	wantActions(t, all(), need(201), "sleep i-1", "sleep i-2", "sleep i-5")
	wantActions(t, all(), need(1e6), "sleep i-3", "sleep i-1", "sleep i-2", "sleep i-5") // and the others when that is not enough
	gateway.Spec.Desired.Running = 1
	wantActions(t, all(), need(1), "sleep i-1") // a gateway's minimum holds
	cool.Spec.Pinned = true
	wantActions(t, all(), need(101), "sleep i-3", "sleep i-1")
	cold.Spec.Policy.SleepAfterSeconds = 0
	wantActions(t, all(), need(1), "sleep i-3") // never is never
	young.Instance.Op = &mvm.Op{Kind: mvm.OpSleep}
	cool.Spec.Pinned = false
	wantActions(t, all(), need(100)) // what is on its way counts
	wantActions(t, all(), need(101), "sleep i-2")
	cool.IdleSince = now.Add(-time.Hour)
	wantActions(t, all(), need(101), "sleep i-2") // and what sleeps anyway

	for _, d := range policy.Evaluate([]policy.Subject{idle("i-1", mvm.RoleWorker, mvm.StateRunning, 20)}, need(1), now) {
		if d.Reason != "memory pressure; idle for 20s" {
			t.Errorf("reason %q", d.Reason)
		}
	}
}

func TestPressure(t *testing.T) {
	l := policy.MemoryLimits{FreePercent: 5, StalledPercent: 10}
	for _, c := range []struct {
		name string
		l    policy.MemoryLimits
		m    policy.Memory
		want int64 // MiB
		why  string
	}{
		{"enough", l, policy.Memory{TotalMiB: 1000, AvailableMiB: 50, Stalled: 10}, 0, ""},
		{"too little", l, policy.Memory{TotalMiB: 1000, AvailableMiB: 40, Stalled: -1}, 10, "40 MiB available, less than 5% of 1000 MiB"},
		{"stalled", l, policy.Memory{TotalMiB: 1000, AvailableMiB: 500, Stalled: 10.6}, 50, "tasks waited for memory in 11% of the last 10s"},
		{"kernel does not say", l, policy.Memory{TotalMiB: 1000, AvailableMiB: 500, Stalled: -1}, 0, ""},
		{"not looked at", policy.MemoryLimits{}, policy.Memory{TotalMiB: 1000, Stalled: 100}, 0, ""},
	} {
		got := c.l.Pressure(c.m)
		if got.Bytes != c.want<<20 || !strings.Contains(got.Why, c.why) {
			t.Errorf("%s: got %+v, want %d MiB, %q", c.name, got, c.want, c.why)
		}
	}
}
