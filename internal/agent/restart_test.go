package agent_test

import (
	"testing"

	"mvm"
)

// A restart of what is awake takes nothing from an instance that fell asleep before its
// turn came, and does not leave it alone for the policy either.
func TestRestartOfWhatIsAwake(t *testing.T) {
	h := newHost(t)
	h.start()
	i := h.instance()
	i = h.do(i.ID, mvm.OpSleep)
	snap, until := i.Snapshot, h.get(i.ID).ManualOverrideUntil
	got, err := h.a.Operate(ctx(t), i.Address(), mvm.OpRequest{Op: mvm.OpRestart, Awake: true}, nil)
	if err != nil || got.State != mvm.StateSleeping || got.Snapshot == nil || got.Snapshot.ID != snap.ID || !got.ManualOverrideUntil.Equal(until) {
		t.Errorf("got %s with snapshot %v, %v", got.State, got.Snapshot, err)
	}
	h.do(i.ID, mvm.OpWake)
	got, err = h.a.Operate(ctx(t), i.Address(), mvm.OpRequest{Op: mvm.OpRestart, Awake: true}, nil)
	if err != nil || got.State != mvm.StateRunning || got.DiskGeneration == i.DiskGeneration {
		t.Errorf("got %s of boot %d, %v; want it booted", got.State, got.DiskGeneration, err)
	}
}
