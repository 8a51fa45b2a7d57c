package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/atrest"
)

type capability struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// capabilities of an incoming migration: its states are told as events. A state that an
// older version saved leaves shared memory out by a capability, which has to be on then.
func capabilities(ignoreShared bool) map[string][]capability {
	return map[string][]capability{"capabilities": {{ignoresShared, ignoreShared}, {"events", true}}}
}

// ignoresShared is in a state that was saved with the capability.
const ignoresShared = "x-ignore-shared"

// fdName is what the state file is called between SendFile and the migration.
const fdName = "state"

// migrate has QEMU read a state from f and waits for its end. QEMU dies of one that fails.
func (v *vmm) migrate(ctx context.Context, f *os.File, ignoreShared bool) error {
	const command = "migrate-incoming"
	states := make(chan string, 32)
	v.mu.Lock()
	v.migration = states
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.migration = nil
		v.mu.Unlock()
	}()
	if err := v.do(ctx, "migrate-set-capabilities", capabilities(ignoreShared), nil); err != nil {
		return err
	}
	q, err := v.client(ctx)
	if err != nil {
		return err
	}
	if err := q.SendFile(ctx, fdName, f); err != nil {
		return err
	}
	if err := q.Do(ctx, command, map[string]any{"uri": "fd:" + fdName}, nil); err != nil {
		return err
	}
	for {
		select {
		case s := <-states:
			if s == "completed" {
				return nil
			}
			if s == "failed" || s == "cancelled" {
				return mvm.Errorf(mvm.KindInternal, "%s: %w", command, v.migrationError(ctx, s))
			}
		case <-q.Done():
			return mvm.Errorf(mvm.KindUnavailable, "%s: %w", command, errGone)
		case <-ctx.Done():
			_ = v.do(context.WithoutCancel(ctx), "migrate_cancel", nil, nil)
			return mvm.Errorf(mvm.KindTimeout, "%s: %w", command, context.Cause(ctx))
		}
	}
}

func (v *vmm) migrationError(ctx context.Context, state string) error {
	var out struct {
		Desc string `json:"error-desc"`
	}
	if err := v.do(ctx, "query-migrate", nil, &out); err != nil || out.Desc == "" {
		return fmt.Errorf("%w: it %s", errMigration, state)
	}
	return fmt.Errorf("%w: %s", errMigration, out.Desc)
}

// errMigration says that QEMU could not read a device state.
var errMigration = errors.New("the device state can't be read")

// Snapshot writes the device state and the memory of the paused VMM, sealed; see driver.VMM.
// The device state comes first: saving it may still change the guest's memory.
func (v *vmm) Snapshot(ctx context.Context, snap driver.Snapshot) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	s, err := v.runState(ctx)
	if err != nil {
		return err
	}
	if s != statePaused {
		return mvm.Errorf(mvm.KindState, "snapshot %s: its VMM is in state %q, not paused", v.spec.ID, s)
	}
	if err := v.d.seam("snapshot.create"); err != nil {
		return err
	}
	if err := v.d.seam("snapshot.device"); err != nil {
		return err
	}
	state, err := v.deviceState(ctx)
	if err != nil {
		return v.saveError("save the devices", err)
	}
	if err := v.d.seam("snapshot.pages"); err != nil {
		return err
	}
	m, overFile, err := v.guestMemory(ctx)
	if err != nil {
		return v.saveError("save the memory", err)
	}
	defer m.Close()
	id, err := atrest.Save(ctx, snap, atrest.VMM{Dir: v.spec.Dir, MemMiB: v.spec.MemMiB, Device: state, Memory: m, OverFile: overFile, Over: v.own.Over,
		Seam: func(op string) error { return v.d.seam("snapshot." + op) }})
	if err != nil {
		return v.saveError("save the memory", err)
	}
	if v.own.Inode != 0 { // pages that are not changed are in it as they are, if the sleep is called off
		v.own.Over = append(v.own.Over, id)
	}
	v.setMemory(memoryWorthless) // it is in the snapshot
	return nil
}

// saveError says what a snapshot failed at, and of a full disk what to do.
func (v *vmm) saveError(what string, err error) error {
	err = mvm.Explain(fmt.Sprintf("%s of %s", what, v.spec.ID), err)
	e := mvm.Errorf(mvm.KindOf(err), "%w", err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Kind = mvm.KindUnavailable
		return e.WithFix("free up to %d MiB on the disk of %s", v.spec.MemMiB, v.spec.Dir)
	}
	return err
}
