package agent_test

import (
	"testing"
	"time"

	"mvm"
)

// asPolicy operates on the instance in the policy's name.
func (h *host) asPolicy(id string, op mvm.OpKind) mvm.Instance {
	h.t.Helper()
	i, err := h.a.Operate(mvm.WithAsker(ctx(h.t), mvm.Asker{Kind: mvm.AskerPolicy}), mvm.Address{Instance: id}, mvm.OpRequest{Op: op}, nil)
	if err != nil {
		h.t.Fatalf("%s by policy: %v", op, err)
	}
	return i
}

// TestParked: what the policy puts to rest is parked, until it runs again or somebody
// else puts it to rest.
func TestParked(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	for n, s := range []struct {
		policy bool
		op     mvm.OpKind
		want   bool
	}{
		{true, mvm.OpWarm, true}, {false, mvm.OpResume, false}, // a request
		{true, mvm.OpWarm, true}, {true, mvm.OpSleep, true}, {false, mvm.OpWake, false},
		{true, mvm.OpSleep, true}, {false, mvm.OpStop, false}, {false, mvm.OpStart, false},
		{true, mvm.OpWarm, true}, {false, mvm.OpSleep, false}, {false, mvm.OpWake, false},
		{false, mvm.OpWarm, false}, {true, mvm.OpSleep, true},
	} {
		do := h.do
		if s.policy {
			do = h.asPolicy
		}
		if got := do(i.ID, s.op); got.Parked != s.want {
			t.Errorf("step %d, %s: parked %v, want %v", n, s.op, got.Parked, s.want)
		}
	}
}

// TestParkedAfterCrash: a policy's sleep that was committed is still the policy's when
// recovery finishes it, and what it had not finished before runs on.
func TestParkedAfterCrash(t *testing.T) {
	for _, c := range []struct {
		op    mvm.OpKind
		point string
		state mvm.State
		want  bool
	}{
		{mvm.OpSleep, "sleep.commit:after", mvm.StateSleeping, true},
		{mvm.OpSleep, "sleep.release:before", mvm.StateSleeping, true},
		{mvm.OpSleep, "sleep.commit:before", mvm.StateRunning, false},
		{mvm.OpWarm, "warm.pause:after", mvm.StateRunning, false},
	} {
		t.Run(c.point, func(t *testing.T) {
			h := newHost(t)
			h.start()
			i := h.instance()
			h.crashDuring(c.point, i.ID, mvm.Asker{Kind: mvm.AskerPolicy}, mvm.OpRequest{Op: c.op})
			got, err := h.a.Instance(ctx(t), mvm.Address{Instance: i.ID})
			if err != nil || got.State != c.state || got.Parked != c.want {
				t.Errorf("got %s, parked %v, %v; want %s, %v", got.State, got.Parked, err, c.state, c.want)
			}
		})
	}
}

// TestReconcileKeepsWhatAnyWakerWoke: a sleeper that something wakes for its user runs until
// the policy puts it to rest, whatever kind of waker that is. One that reconcile knows
// nothing of is no exception.
func TestReconcileKeepsWhatAnyWakerWoke(t *testing.T) {
	for _, by := range []string{"gateway:i-0a0b0c0d", "publish:127.0.0.1:8080", "timer:i-0a0b0c0d", "inbox:mail", "doorbell"} {
		t.Run(by, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *host) {
				if err := h.apply(deployment(desired(worker("workers"), 0, 0, 1))); err != nil {
					t.Fatal(err)
				}
				i := h.all("workers")[0]
				if _, err := h.a.Operate(mvm.WithAsker(ctx(t), mvm.ParseAsker(by)), i.Address(), mvm.OpRequest{Op: mvm.OpWake}, nil); err != nil {
					t.Fatal(err)
				}
				settled(5 * time.Minute) // ten rounds of reconcile
				if i = h.all("workers")[0]; i.State != mvm.StateRunning || i.Last.By.String() != by {
					t.Errorf("it is %s, last by %s; want it running, as %s woke it", i.State, i.Last.By, by)
				}
			})
		})
	}
}
