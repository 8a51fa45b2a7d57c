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

// Snapshot writes the device state of the paused VMM and the pages that the memory file
// lacks, and makes both durable; see driver.VMM. The state file appears last.
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
	dir, _, err := sys.OpenParent(v.spec.Dir, snap.State)
	if err != nil {
		return mvm.Explain("create the snapshot", err)
	}
	defer dir.Close()
	w := &snapshotWriter{v: v, dir: dir, snap: snap}
	defer func() {
		if left := w.close(err != nil); left != nil {
			err = errors.Join(err, left)
		}
	}()
	for _, step := range []struct {
		op, what string
		do       func(context.Context) error
	}{
		{"snapshot.device", "save the devices", w.device},
		{"snapshot.pages", "save the memory", w.pages},
		{"snapshot.sync", "sync the snapshot", w.sync},
		{"snapshot.commit", "commit the snapshot", w.commit},
	} {
		if err := v.d.seam(step.op); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return v.saveError(step.what, err)
		}
	}
	v.mu.Lock()
	v.memory, v.saved = memorySaved, &snap
	v.mu.Unlock()
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

// snapshotWriter writes the files of a snapshot.
type snapshotWriter struct {
	v    *vmm
	dir  *sys.Folder
	snap driver.Snapshot

	files  []*os.File        // to be made durable
	rename map[string]string // of those in dir that are not named yet
}

// create makes a file that commit gives the path's name.
func (w *snapshotWriter) create(path string) (*os.File, error) {
	name := filepath.Base(path)
	f, err := w.dir.Create(name + ".tmp")
	if err != nil {
		return nil, err
	}
	if w.rename == nil {
		w.rename = map[string]string{}
	}
	w.rename[name+".tmp"] = name
	w.files = append(w.files, f)
	return f, nil
}

// close removes what was not committed.
func (w *snapshotWriter) close(failed bool) error {
	var errs []error
	for _, f := range w.files {
		_ = f.Close() // it is synced, or worth nothing
	}
	if failed {
		for tmp := range w.rename {
			errs = append(errs, sys.IfThere(w.dir.Remove(tmp)))
		}
	}
	return errors.Join(errs...)
}

// device writes the state of the devices. It comes before the pages: saving it may still
// change the guest's memory.
func (w *snapshotWriter) device(ctx context.Context) error {
	state, err := w.v.deviceState(ctx)
	if err != nil {
		return err
	}
	f, err := w.create(w.snap.State)
	if err != nil {
		return err
	}
	_, err = f.Write(state)
	return err
}

// pages writes what the memory file lacks.
func (w *snapshotWriter) pages(ctx context.Context) error {
	m, whole, err := w.v.guestMemory(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if m.Shared() { // an older version's: the memory file lacks nothing
		f, err := memoryOf(w.v.spec)
		w.files = append(w.files, f)
		return err
	}
	path := w.snap.Pages()
	if whole {
		path = w.snap.Whole()
	}
	f, err := w.create(path)
	if err != nil {
		return err
	}
	return newPageWriter(f, int64(w.v.spec.MemMiB)<<20, whole).changed(ctx, m)
}

// sync makes the files durable, at the same time.
func (w *snapshotWriter) sync(context.Context) error {
	errs := make(chan error, len(w.files))
	for _, f := range w.files {
		go func() { errs <- f.Sync() }()
	}
	var all []error
	for range w.files {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// commit gives the files their names, durably, the state's last; the memory file's entry
// too. What an earlier snapshot of the name had goes first.
func (w *snapshotWriter) commit(context.Context) error {
	for _, old := range []string{w.snap.State, w.snap.Pages(), w.snap.Whole()} {
		if err := sys.IfThere(w.dir.Remove(filepath.Base(old))); err != nil {
			return err
		}
	}
	for _, path := range []string{w.snap.Pages(), w.snap.Whole(), w.snap.State} {
		name := filepath.Base(path)
		if _, made := w.rename[name+".tmp"]; !made {
			continue
		}
		if err := w.dir.Rename(name+".tmp", w.dir, name); err != nil {
			return err
		}
		delete(w.rename, name+".tmp")
	}
	if err := w.dir.Sync(); err != nil {
		return err
	}
	return sys.InParent(w.v.spec.Dir, w.v.spec.Memory, func(d *sys.Folder, _ string) error { return d.Sync() })
}
