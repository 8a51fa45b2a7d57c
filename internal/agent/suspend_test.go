package agent_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mvm"
	"mvm/internal/driver/fake"
)

// suspending makes the host's guests have a service that can hold still.
func suspending(t *testing.T, b fake.Behavior) *host {
	t.Helper()
	h := newHost(t)
	b.Suspends = true
	h.host.Behave("", b)
	h.start()
	return h
}

// held reports whether the guest's service holds still now.
func (h *host) held(id string) bool {
	h.t.Helper()
	g, ok := h.host.Guest(id)
	if !ok {
		h.t.Fatalf("%s has no guest", id)
	}
	return g.Held
}

// TestServicesHoldStill: what the image can have hold still does while the machine
// stands still, and goes on before the first request is let in.
func TestServicesHoldStill(t *testing.T) {
	for name, c := range map[string]struct{ rest, on mvm.OpKind }{"sleep": {mvm.OpSleep, mvm.OpWake}, "warm": {mvm.OpWarm, mvm.OpResume}} {
		t.Run(name, func(t *testing.T) {
			h := suspending(t, fake.Behavior{})
			i := h.instance()
			atPause, atOpen := false, true
			h.onSeam(func(p string) error {
				switch p {
				case string(c.rest) + ".pause:before":
					atPause = h.held(i.ID)
				case string(c.on) + ".open:before":
					atOpen = h.held(i.ID)
				}
				return nil
			})
			if got := h.do(i.ID, c.rest); !got.Held || h.states(i.ID) != "main paused" {
				t.Errorf("at rest: held %v, %q", got.Held, h.states(i.ID))
			}
			if got := h.do(i.ID, c.on); got.Held {
				t.Error("awake: still held on record")
			}
			if !atPause || atOpen {
				t.Errorf("held at the pause %v, want true; when requests are let in %v, want false", atPause, atOpen)
			}
			h.awaitStates(i.ID, "main active")
		})
	}
}

// TestBusyMeansAwake: a workload that says that it is busy is not stopped, neither in
// memory nor on disk, and goes on; by force it is.
func TestBusyMeansAwake(t *testing.T) {
	h := suspending(t, fake.Behavior{SuspendBusy: "1 active embedded run"})
	i := h.instance()
	for n, op := range []mvm.OpKind{mvm.OpWarm, mvm.OpSleep} {
		if err := h.try(i.ID, op); !mvm.IsKind(err, mvm.KindPolicy) || !strings.Contains(err.Error(), "1 active embedded run") {
			t.Errorf("%s: %v, want refused by policy with the workload's reason", op, err)
		}
		if got := h.get(i.ID); got.State != mvm.StateRunning || got.Held || got.Op != nil || h.held(i.ID) {
			t.Errorf("after %s: %s, held %v on record and %v in the guest", op, got.State, got.Held, h.held(i.ID))
		}
		if got := count(h.actions("acme"), mvm.TransitionDeferred); got != n+1 {
			t.Errorf("%d deferred transitions in the audit log, want %d", got, n+1)
		}
	}
	if _, err := h.a.Operate(ctx(t), mvm.Address{Instance: i.ID}, mvm.OpRequest{Op: mvm.OpSleep, Force: true}, nil); err != nil {
		t.Errorf("forced sleep: %v", err)
	}
}

// TestPolicyLeavesTheBusy: what looks idle from outside and is busy by its own word stays
// awake at the policy's first try, without a wait, on record once; and rests when it
// is done.
func TestPolicyLeavesTheBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newIdleHost(t)
		h.host.host.Behave("", fake.Behavior{Suspends: true})
		h.start()
		h.tenant()
		i := h.pool("acme", idleWorker("workers"))
		h.behave(i.ID, fake.Behavior{Suspends: true, SuspendBusy: "an open terminal"})
		if got := h.want(5*time.Minute, i.ID, mvm.StateRunning); got.Held || got.Idle == nil || !strings.Contains(got.Idle.Awake+got.Idle.Reason, "an open terminal") {
			t.Errorf("held %v, idle %+v", got.Held, got.Idle)
		}
		if ev := h.eventsOf(i.ID, mvm.TransitionDeferred); len(ev) != 1 || !strings.Contains(ev[0].Detail, "an open terminal") {
			t.Errorf("events %+v, want one with the reason", ev)
		}
		h.behave(i.ID, fake.Behavior{Suspends: true})
		if got := h.want(10*time.Minute, i.ID, mvm.StateSleeping); !got.Held || !got.Parked {
			t.Errorf("asleep: held %v, parked %v", got.Held, got.Parked)
		}
		if got := h.do(i.ID, mvm.OpWake); got.Held {
			t.Error("awake and still held")
		}
	})
}

// TestLeaseIsRenewed: nothing is stopped in the last seconds of what was promised.
func TestLeaseIsRenewed(t *testing.T) {
	h := newHost(t)
	var asked atomic.Int32
	h.host.OnRequest(func(_, request string) {
		if request == "Suspend" {
			asked.Add(1)
		}
	})
	h.host.Behave("", fake.Behavior{Suspends: true, Lease: 10 * time.Second})
	h.start()
	i := h.instance()
	if err := h.try(i.ID, mvm.OpSleep); !mvm.IsKind(err, mvm.KindState) || !strings.Contains(err.Error(), "too short") || asked.Load() != 2 {
		t.Errorf("sleep with 10 s left: %v, asked %d times", err, asked.Load())
	}
	if h.held(i.ID) || h.get(i.ID).Held {
		t.Error("the sleep was called off and the service still holds still")
	}
	h.host.Behave("", fake.Behavior{Suspends: true, Lease: 2 * time.Minute})
	h.do(i.ID, mvm.OpSleep)
	if asked.Load() != 3 {
		t.Errorf("asked %d times, want once more when enough is left", asked.Load())
	}
}

// TestUntoldSecretsAreOnRecord: a workload that could not be told of new secrets is
// shown with the reason, and no longer once it was.
func TestUntoldSecretsAreOnRecord(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	set := func(v string) {
		t.Helper()
		if _, err := h.a.SetSecrets(ctx(t), "acme", map[string][]byte{"token": []byte(v)}); err != nil {
			t.Fatal(err)
		}
	}
	set("one")
	h.host.Behave("", fake.Behavior{Untold: "exited with code 3"})
	set("two")
	waitUntil(t, func() bool { return h.get(i.ID).Untold == "exited with code 3" })
	h.do(i.ID, mvm.OpSleep)
	set("three")
	h.host.Behave("", fake.Behavior{Untold: "exited with code 4"})
	if got := h.do(i.ID, mvm.OpWake); got.Untold != "exited with code 4" {
		t.Errorf("after the wake: %q", got.Untold)
	}
	h.do(i.ID, mvm.OpStop)
	if got := h.do(i.ID, mvm.OpStart); got.Untold != "" {
		t.Errorf("after a boot: %q", got.Untold)
	}
}
