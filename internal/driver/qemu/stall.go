package qemu

import (
	"context"
	"path/filepath"
	"time"

	"mvm"
	"mvm/internal/sys"
)

// stateStalled is QEMU's for a guest that it has stopped because a write to a disk
// failed. Data disks take space as they fill, so that is what a full disk of the
// host looks like. No write is lost: QEMU repeats it when the guest goes on.
const stateStalled = "io-error"

const (
	// stallPause is the time between two looks for space, stallLook bounds one.
	stallPause = 2 * time.Second
	stallLook  = 5 * time.Second
	// roomToGoOn is the free space with which it is worth a try.
	roomToGoOn = 4 << 20
)

// stall has it looked after that the guest goes on when there is space.
func (v *vmm) stall() {
	select {
	case v.stalled <- struct{}{}:
	default: // it is already
	}
}

// Stalled says why the guest stands still; "" while it does not.
func (v *vmm) Stalled() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.still {
		return ""
	}
	return "the host's disk is full: the VM stands still until there is room"
}

func (v *vmm) setStill(still bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.still = still
}

// endStalls lets stalled guests go on until the VMM ends or is let go.
func (v *vmm) endStalls() {
	for {
		select {
		case <-v.stalled:
		case <-v.done:
			return
		case <-v.letGo:
			return
		}
		v.d.log.Warn("a guest stands still: a disk of the host is full", "instance", v.spec.ID, "disk", v.diskDir())
		for v.standsStill() {
			select {
			case <-time.After(stallPause):
			case <-v.done:
				return
			case <-v.letGo:
				return
			}
		}
	}
}

// standsStill lets a stalled guest go on when there is space, and reports whether
// it has to be looked at again.
func (v *vmm) standsStill() bool {
	ctx, cancel := context.WithTimeout(context.Background(), stallLook)
	defer cancel()
	v.cmd.Lock()
	defer v.cmd.Unlock()
	s, err := v.runState(ctx)
	if err == nil && s != stateStalled {
		v.setStill(false)
		return false
	}
	if err != nil || !v.room() {
		return true
	}
	if err := v.cont(ctx); err != nil {
		return true
	}
	v.d.log.Info("a guest that stood still goes on", "instance", v.spec.ID)
	return false // it says so when it stalls again
}

// diskDir is where the disks are that can run out of space.
func (v *vmm) diskDir() string {
	for _, d := range v.spec.Disks {
		if !d.ReadOnly {
			return filepath.Dir(d.Path)
		}
	}
	return v.spec.Dir
}

func (v *vmm) room() bool {
	free, err := sys.FreeBytes(v.diskDir())
	return err != nil || free >= roomToGoOn
}

// stalledError says what keeps the guest from the verb.
func (v *vmm) stalledError(verb string) error {
	return mvm.Errorf(mvm.KindUnavailable, "%s %s: the guest is stopped: a write to its disk failed, no space left in %s",
		verb, v.spec.ID, v.diskDir()).WithFix("free space there; the guest then continues by itself")
}
