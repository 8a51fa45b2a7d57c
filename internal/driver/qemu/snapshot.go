package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

type capability struct {
	Capability string `json:"capability"`
	State      bool   `json:"state"`
}

// capabilities make a migration leave the shared memory alone, and tell its states
// as events.
var capabilities = map[string][]capability{"capabilities": {{"x-ignore-shared", true}, {"events", true}}}

// fdName is what the state file is called between SendFile and the migration.
const fdName = "state"

// migrate runs a migration to or from f and waits for its end. QEMU dies of a
// failed incoming one.
func (v *vmm) migrate(ctx context.Context, command string, f *os.File) error {
	states := make(chan string, 32)
	v.mu.Lock()
	v.migration = states
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		v.migration = nil
		v.mu.Unlock()
	}()
	if err := v.do(ctx, "migrate-set-capabilities", capabilities, nil); err != nil {
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

// errMigration says that QEMU could not write or read a device state.
var errMigration = errors.New("the device state can't be passed on")

// Snapshot writes the device state of the paused VMM and makes it and the memory
// file durable; see driver.VMM. A second one needs a Resume and a Pause first, also
// after a failed one: KindState. The state file appears complete or not at all.
func (v *vmm) Snapshot(ctx context.Context, snap driver.Snapshot) (err error) {
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
	dir, name, err := sys.OpenParent(v.spec.Dir, snap.State)
	if err != nil {
		return mvm.Explain("create the snapshot's state file", err)
	}
	defer dir.Close()
	tmp := name + ".tmp"
	f, err := dir.Create(tmp)
	if err != nil {
		return mvm.Explain("create the snapshot's state file", err)
	}
	defer func() {
		if f.Close(); err != nil {
			err = errors.Join(err, dir.Remove(tmp))
		}
	}()
	mem, err := memoryOf(v.spec)
	if err != nil {
		return mvm.Explain("open the memory file", err)
	}
	defer mem.Close()
	_ = startWriteback(mem) // only sooner; sync below is what counts
	if err := v.save(ctx, f); err != nil {
		return err
	}
	if err := v.sync(f, mem); err != nil {
		return err
	}
	if err := v.d.seam("snapshot.commit"); err != nil {
		return err
	}
	if err := v.commit(dir, tmp, name); err != nil {
		return mvm.Errorf(mvm.KindInternal, "commit the snapshot: %w", err)
	}
	v.setMemory(memorySaved)
	return nil
}

func (v *vmm) save(ctx context.Context, f *os.File) error {
	if err := v.d.seam("snapshot.migrate"); err != nil {
		return err
	}
	err := v.migrate(ctx, "migrate", f)
	if err == nil {
		return nil
	}
	// QEMU does not say why a write failed.
	if free, ferr := sys.FreeBytes(filepath.Dir(f.Name())); ferr == nil && free < roomForState {
		return mvm.Errorf(mvm.KindUnavailable, "write the device state of %s: %w", v.spec.ID, fmt.Errorf("%w: %w", syscall.ENOSPC, err)).
			WithFix("free %d MiB on the disk of %s", roomForState>>20, filepath.Dir(f.Name()))
	}
	return mvm.Errorf(mvm.KindOf(err), "write the device state of %s: %w", v.spec.ID, err)
}

// roomForState is more than a device state takes.
const roomForState = 4 << 20

// sync makes the state file and the memory file durable, at the same time.
func (v *vmm) sync(state, memory *os.File) error {
	if err := v.d.seam("snapshot.sync"); err != nil {
		return err
	}
	other := make(chan error, 1)
	go func() { other <- memory.Sync() }()
	err := errors.Join(state.Sync(), <-other)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make the snapshot of %s durable: %w", v.spec.ID, err)
	}
	return nil
}

// commit gives the state file its name, durably; the memory file's entry too.
func (v *vmm) commit(dir *sys.Folder, tmp, name string) error {
	if err := errors.Join(dir.Rename(tmp, dir, name), dir.Sync()); err != nil {
		return err
	}
	return sys.InParent(v.spec.Dir, v.spec.Memory, func(d *sys.Folder, _ string) error { return d.Sync() })
}
