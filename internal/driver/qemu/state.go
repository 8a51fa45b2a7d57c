package qemu

import (
	"context"

	"mvm"
)

// QEMU's run states, as far as they matter here.
const (
	stateRunning   = "running"
	statePaused    = "paused"
	statePrelaunch = "prelaunch"      // started, its vCPUs never ran
	stateInmigrate = "inmigrate"      // a restore that is not done
	stateMigrating = "finish-migrate" // paused, within a snapshot
	statePostmigr  = "postmigrate"    // paused, after a snapshot
)

// runState asks QEMU for its state.
func (v *vmm) runState(ctx context.Context) (string, error) {
	var out struct{ Status string }
	err := v.do(ctx, "query-status", nil, &out)
	return out.Status, err
}

// Paused reports whether the vCPUs were paused. A guest that stands still for
// another reason, such as a disk that can't grow, was not: it has run.
func (v *vmm) Paused(ctx context.Context) (bool, error) {
	s, err := v.runState(ctx)
	switch s {
	case statePaused, statePrelaunch, stateInmigrate, stateMigrating, statePostmigr:
		return true, err
	}
	return false, err
}

// Pause stops the vCPUs and flushes the disks. It is idempotent. KindUnavailable
// when the guest stands still already for want of disk space.
func (v *vmm) Pause(ctx context.Context) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	if err := v.d.seam("pause.stop"); err != nil {
		return err
	}
	if err := v.do(ctx, "stop", nil, nil); err != nil {
		return err
	}
	if s, err := v.runState(ctx); err != nil || s != stateStalled {
		return err
	}
	v.stall()
	return v.stalledError("pause")
}

// Resume lets the vCPUs run, after a Pause, a Snapshot (which no longer fits then)
// or a Restore. It is idempotent. KindState when the guest has ended.
func (v *vmm) Resume(ctx context.Context) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	s, err := v.runState(ctx)
	if err != nil {
		return err
	}
	switch s {
	case stateRunning:
		v.setMemory(memoryWorthless)
		return nil
	case statePaused, statePostmigr:
	case stateStalled:
		if !v.room() {
			v.stall()
			return v.stalledError("resume")
		}
	default:
		return mvm.Errorf(mvm.KindState, "resume %s: its VMM is in state %q", v.spec.ID, s)
	}
	if err := v.d.seam("resume.cont"); err != nil {
		return err
	}
	return v.cont(ctx)
}

// cont starts the vCPUs.
func (v *vmm) cont(ctx context.Context) error {
	v.setMemory(memoryWorthless)
	return v.do(ctx, "cont", nil, nil)
}
