package agent_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
	"mvm/internal/guestproto"
	"mvm/internal/policy"
)

// Left alone an instance goes warm and then to sleep by itself, says so, and is woken
// by the next request.
func TestLeftAlone(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		if got := h.want(9*time.Second, i.ID, mvm.StateRunning); got.Idle == nil || got.Idle.Awake != "" || got.Idle.Since.IsZero() {
			t.Errorf("before its time: %+v", got.Idle)
		}
		warm := h.want(2*time.Second, i.ID, mvm.StateWarm)
		if !warm.Parked || warm.Last.By.Kind != mvm.AskerPolicy {
			t.Errorf("warm, parked %v, by %s", warm.Parked, warm.Last.By)
		}
		h.want(7*time.Second, i.ID, mvm.StateWarm)
		asleep := h.want(4*time.Second, i.ID, mvm.StateSleeping)
		if !asleep.Parked || asleep.Last.By.Kind != mvm.AskerPolicy || !strings.Contains(asleep.Last.Reason, "idle for 20") || asleep.Idle != nil {
			t.Errorf("asleep, parked %v, %+v, idle %+v", asleep.Parked, asleep.Last, asleep.Idle)
		}
		if ev := h.eventsOf(i.ID, mvm.InstanceWarmed); len(ev) != 1 || ev[0].By.Kind != mvm.AskerPolicy || !strings.Contains(ev[0].Why, "idle for 10") {
			t.Errorf("events %+v", ev)
		}
		h.want(time.Hour, i.ID, mvm.StateSleeping)
		if got := h.do(i.ID, mvm.OpWake); got.Parked || got.State != mvm.StateRunning {
			t.Errorf("woken: %+v", got)
		}
		h.want(9*time.Second, i.ID, mvm.StateRunning)
		h.want(12*time.Second, i.ID, mvm.StateSleeping)
	})
}

// A request while it is warm lets it run again, and its idleness begins anew.
func TestWarmIsResumed(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.want(11*time.Second, i.ID, mvm.StateWarm)
		h.do(i.ID, mvm.OpWake)
		h.want(9*time.Second, i.ID, mvm.StateRunning)
		h.want(2*time.Second, i.ID, mvm.StateWarm)
	})
}

// Each signal keeps an instance awake by itself, by name, and no longer than it lasts.
func TestAwakeBecause(t *testing.T) {
	for _, c := range []struct {
		name, because string
		busy          fake.Behavior
	}{
		{"cpu", "cpu 50% over the last", fake.Behavior{CPUPercent: 50}},
		{"bytes", "bytes a minute over the last", fake.Behavior{BytesPerMinute: 1 << 20}},
		{"guest", "its guest says that it is busy", fake.Behavior{Busy: true}},
		{"guest, with a reason", "worker-busy is set", fake.Behavior{Busy: true, BusyReason: "worker-busy is set"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				h.behave(i.ID, c.busy)
				time.Sleep(5 * time.Second)
				h.wantAwake(i.ID, c.because)
				h.behave(i.ID, fake.Behavior{})
				h.want(25*time.Second, i.ID, mvm.StateSleeping)
			})
		})
	}
	t.Run("exec", func(t *testing.T) {
		idling(t, func(h *idleHost, i mvm.Instance) {
			done := h.execFor(i.ID, "70")
			time.Sleep(5 * time.Second)
			h.wantAwake(i.ID, "1 command runs for `mvm exec`")
			if err := <-done; err != nil {
				t.Errorf("the command: %v", err)
			}
			h.want(25*time.Second, i.ID, mvm.StateSleeping)
		})
	})
}

// A connection through a gateway keeps its worker awake, until it ends, the gateway
// does, or it is quiet for as long as the pool says.
func TestConnectionsKeepAwake(t *testing.T) {
	open := func(id string) guestproto.Activity {
		return guestproto.Activity{InstanceID: id, Open: 1, LastActive: time.Now()}
	}
	for name, end := range map[string]func(h *idleHost, gw, w mvm.Instance){
		"it ends":          func(h *idleHost, gw, w mvm.Instance) { h.report(gw.ID, guestproto.Activity{InstanceID: w.ID}) },
		"its gateway ends": func(h *idleHost, gw, _ mvm.Instance) { h.do(gw.ID, mvm.OpStop) },
		"it may be quiet": func(h *idleHost, _, w mvm.Instance) {
			spec := idleWorker("workers")
			spec.Policy.QuietConnectionSeconds = 3
			if _, err := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec}); err != nil {
				h.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, w mvm.Instance) {
				gw := h.pool("acme", idleGateway(1))
				h.report(gw.ID, open(w.ID))
				h.wantAwake(w.ID, "1 connection is open through gateway "+gw.ID)
				end(h, gw, w)
				h.want(25*time.Second, w.ID, mvm.StateSleeping)
			})
		})
	}
}

// A request that came and went begins the time anew.
func TestActivityBeginsAnew(t *testing.T) {
	idling(t, func(h *idleHost, w mvm.Instance) {
		gw := h.pool("acme", idleGateway(1))
		for range 10 {
			h.want(8*time.Second, w.ID, mvm.StateRunning)
			h.report(gw.ID, guestproto.Activity{InstanceID: w.ID, LastActive: time.Now()})
		}
		h.want(11*time.Second, w.ID, mvm.StateWarm)
	})
}

// A guest that does not answer counts as busy for a bounded time, and then its silence
// is no reason to keep it. It holds up no other.
func TestMuteGuest(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		quota := mvm.DefaultQuota()
		quota.MaxRunning, quota.MaxVCPUs, quota.MaxWarm = 16, 16, 16
		if _, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Quota: &quota}); err != nil {
			t.Fatal(err)
		}
		for range 12 { // more than are asked at once
			h.behave(h.more("workers").ID, fake.Behavior{Silent: true, Only: []string{"WorkerStatus"}})
		}
		mute := h.more("workers")
		h.behave(mute.ID, fake.Behavior{Silent: true, Only: []string{"WorkerStatus", "SleepPrep"}})
		h.want(25*time.Second, i.ID, mvm.StateSleeping)
		if got := h.want(5*time.Second, mute.ID, mvm.StateRunning); !strings.Contains(got.Idle.Awake, "has not answered for") {
			t.Errorf("a mute guest: %+v", got.Idle)
		}
		h.want(3*time.Minute, mute.ID, mvm.StateSleeping)
	})
}

// What people and pools say holds, whatever is idle.
func TestGuards(t *testing.T) {
	for name, c := range map[string]struct {
		because string
		set     func(h *idleHost, s *mvm.PoolSpec) error
	}{
		"pinned pool":   {"its pool is pinned", func(_ *idleHost, s *mvm.PoolSpec) error { s.Pinned = true; return nil }},
		"critical pool": {"its pool is critical", func(_ *idleHost, s *mvm.PoolSpec) error { s.Critical = true; return nil }},
		"never": {"its pool lets it be", func(_ *idleHost, s *mvm.PoolSpec) error {
			s.Policy.WarmAfterSeconds, s.Policy.SleepAfterSeconds = 0, 0
			return nil
		}},
		"pinned tenant": {"its tenant is pinned", func(h *idleHost, _ *mvm.PoolSpec) error {
			yes := true
			_, err := h.a.UpdateTenant(ctx(h.t), "acme", mvm.TenantUpdate{Pinned: &yes})
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			idling(t, func(h *idleHost, i mvm.Instance) {
				spec := idleWorker("workers")
				err := c.set(h, &spec)
				_, err2 := h.a.UpdatePool(ctx(h.t), "acme", "workers", mvm.PoolUpdate{Spec: &spec})
				if err := errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				h.wantAwake(i.ID, c.because)
			})
		})
	}
	t.Run("by hand", func(t *testing.T) {
		idling(t, func(h *idleHost, i mvm.Instance) {
			byHand := mvm.WithAsker(ctx(h.t), mvm.ParseAsker("cli:ann"))
			if _, err := h.a.Operate(byHand, mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpStart}, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
			h.wantAwake(i.ID, "somebody changed it by hand")
			h.want(10*time.Minute, i.ID, mvm.StateSleeping)
		})
	})
}

// A minimum time puts a transition off, and that is on record once.
func TestMinimumDefers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		h.start()
		h.tenant()
		spec := idleWorker("workers")
		spec.Policy.MinRunningSeconds, spec.Policy.MinWarmSeconds = 60, 100
		i := h.pool("acme", spec)
		got := h.want(55*time.Second, i.ID, mvm.StateRunning)
		if !strings.Contains(got.Idle.Awake, "min_running_seconds keeps it running") || got.Idle.Decision != "defer" {
			t.Errorf("idle %+v", got.Idle)
		}
		if ev := h.eventsOf(i.ID, mvm.TransitionDeferred); len(ev) != 1 || ev[0].By.Kind != mvm.AskerPolicy || ev[0].Detail != "min_running_seconds" {
			t.Errorf("deferred: %+v, want it once", ev)
		}
		h.want(7*time.Second, i.ID, mvm.StateSleeping) // it is idle for longer than 20 s
		h.do(i.ID, mvm.OpWake)
		h.do(i.ID, mvm.OpWarm)
		h.want(95*time.Second, i.ID, mvm.StateWarm)
		h.want(7*time.Second, i.ID, mvm.StateSleeping)
		if ev := h.eventsOf(i.ID, mvm.TransitionDeferred); len(ev) != 2 || ev[1].Detail != "min_warm_seconds" {
			t.Errorf("deferred: %+v, want it once more", ev)
		}
	})
}

func TestGatewayMinimum(t *testing.T) {
	idling(t, func(h *idleHost, w mvm.Instance) {
		first := h.pool("acme", idleGateway(1))
		time.Sleep(2 * time.Second)
		second := h.more("gateways")
		h.want(25*time.Second, w.ID, mvm.StateSleeping)
		h.want(25*time.Second, first.ID, mvm.StateSleeping) // the colder of the two
		if got := h.want(time.Hour, second.ID, mvm.StateRunning); got.Idle.Awake != "its pool keeps 1 gateway running" {
			t.Errorf("idle %+v", got.Idle)
		}
	})
}

// With too little memory idle instances sleep before their time, the coldest first, as
// many as it takes, and never one that is in use.
func TestMemoryPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		var short atomic.Bool
		h.memory = func() (policy.Memory, error) {
			m := policy.Memory{TotalMiB: 1000, AvailableMiB: 1000, Stalled: -1}
			if short.Load() { // a guest of 128 MiB holds 32
				m.AvailableMiB = 50 + 32*(5-len(h.host.host.VMMs()))
			}
			return m, nil
		}
		h.limits = policy.MemoryLimits{FreePercent: 10}
		h.start()
		h.tenant()
		spec := idleWorker("workers")
		spec.Policy.WarmAfterSeconds, spec.Policy.SleepAfterSeconds = 0, 3600
		busy := h.pool("acme", spec)
		h.behave(busy.ID, fake.Behavior{Busy: true})
		var all []mvm.Instance
		for range 4 {
			time.Sleep(10 * time.Second)
			all = append(all, h.more("workers"))
		}
		h.want(5*time.Minute, all[0].ID, mvm.StateRunning)
		short.Store(true) // two free what is missing
		h.want(20*time.Second, all[0].ID, mvm.StateSleeping)
		h.want(time.Second, all[1].ID, mvm.StateSleeping)
		for _, i := range []mvm.Instance{all[2], all[3], busy} {
			h.want(time.Minute, i.ID, mvm.StateRunning)
		}
		if got := h.get(all[0].ID); !strings.Contains(got.Last.Reason, "memory pressure: 50 MiB available, less than 10% of 1000 MiB") {
			t.Errorf("reason %q", got.Last.Reason)
		}
	})
}

// An agent that starts anew goes on from what is on record.
func TestIdleAfterRestart(t *testing.T) {
	idling(t, func(h *idleHost, i mvm.Instance) {
		h.want(11*time.Second, i.ID, mvm.StateWarm)
		h.stop()
		h.start()
		h.want(time.Second, i.ID, mvm.StateWarm)
		h.want(25*time.Second, i.ID, mvm.StateSleeping)
		h.do(i.ID, mvm.OpWake)
		h.after(8*time.Second, i.ID)
		h.stop()
		h.start()
		h.want(8*time.Second, i.ID, mvm.StateRunning) // who used it before is not known
		h.want(20*time.Second, i.ID, mvm.StateSleeping)
	})
}
