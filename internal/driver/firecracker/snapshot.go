package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/sys"
)

// Snapshot writes the device state of the paused VMM and the memory that the memory file
// lacks, and makes both durable; see driver.VMM. The state file appears last.
func (v *vmm) Snapshot(ctx context.Context, snap driver.Snapshot) (err error) {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	s, err := v.state(ctx)
	if err != nil {
		return err
	}
	if s != api.Paused {
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
		{"snapshot.vmm", "have Firecracker write the snapshot", w.write},
		{"snapshot.copy", "copy the snapshot", w.copy},
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
	var fault *api.FaultError
	if errors.As(err, &fault) {
		errno, lacks := sys.FaultIn(fault.Message)
		if lacks {
			err = fmt.Errorf("%w: %w", err, errno)
		}
		err = mvm.Errorf(mvm.KindUnavailable, "%w", err)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return mvm.Errorf(mvm.KindUnavailable, "%w", err).WithFix("free up to %d MiB on the disk of %s", 2*v.spec.MemMiB, v.spec.Dir)
	}
	return err
}

// snapshotWriter writes the files of a snapshot.
type snapshotWriter struct {
	v    *vmm
	dir  *sys.Folder
	snap driver.Snapshot
	diff bool

	files  []*os.File
	rename []string // names that files have with ".tmp" until commit, the state's last
}

// create makes a file that commit gives the path's name.
func (w *snapshotWriter) create(path string) (*os.File, error) {
	name := filepath.Base(path)
	f, err := w.dir.Create(name + ".tmp")
	if err == nil {
		w.files, w.rename = append(w.files, f), append(w.rename, name)
	}
	return f, err
}

// close removes what was not committed, and gives back the space of what Firecracker wrote.
func (w *snapshotWriter) close(failed bool) error {
	var errs []error
	for _, f := range w.files {
		_ = f.Close() // it is synced, or worth nothing
	}
	if failed {
		for _, name := range w.rename {
			errs = append(errs, sys.IfThere(w.dir.Remove(name+".tmp")))
		}
	}
	return errors.Join(append(errs, w.clear())...)
}

// clear empties the file that Firecracker writes memory to, and removes its device state.
func (w *snapshotWriter) clear() error {
	f, err := w.staging()
	if err == nil {
		err = errors.Join(f.Truncate(0), f.Close())
	}
	return errors.Join(err, dirOf(w.v.spec, func(d *sys.Folder) error { return d.Remove(stateFile) }))
}

func (w *snapshotWriter) staging() (f *os.File, err error) {
	err = sys.InFolder(w.v.spec.Dir, func(d *sys.Folder) (err error) {
		f, err = d.Open(stagingName, os.O_RDWR)
		return err
	})
	return f, err
}

// write has Firecracker write the snapshot: what changed where that is known, else all. From
// then on it counts changes from this snapshot on, so the next one has to be of all; that is
// on record first.
func (w *snapshotWriter) write(ctx context.Context) error {
	if err := w.clear(); err != nil { // a file of the memory's size would be written into
		return err
	}
	diff, err := w.v.useDiff()
	if err != nil {
		return err
	}
	req := api.SnapshotCreate{State: stateFile, Memory: fdPath(fdStaging), Type: api.Full}
	if w.diff = diff && keepsZeros(w.v.spec.Dir); w.diff {
		req.Type = api.Diff
	}
	return w.v.ask(ctx, func() error { return w.v.api.Create(ctx, req) })
}

// useDiff reports whether the next snapshot may be of the changes alone, and notes that the
// one after may not.
func (v *vmm) useDiff() (bool, error) {
	v.mu.Lock()
	rec := v.rec
	v.mu.Unlock()
	o := ownOf(rec)
	if !o.Diff {
		return false, nil
	}
	rec.Own = own{Dir: o.Dir}.raw()
	if err := rec.Write(v.spec.RunDir); err != nil {
		return false, err
	}
	v.mu.Lock()
	v.rec = rec
	v.mu.Unlock()
	return true, nil
}

// copy takes what Firecracker has written into files of the agent's, and makes them durable.
func (w *snapshotWriter) copy(context.Context) error {
	from, err := w.staging()
	if err != nil {
		return err
	}
	defer from.Close()
	if err := wholeSize(w.v.spec, from, "memory"); err != nil {
		return mvm.Errorf(mvm.KindUnavailable, "take what Firecracker wrote: %v", err) // no fault of a snapshot that is there
	}
	path, put := w.snap.Whole(), copyWhole
	if w.diff {
		path, put = w.snap.Pages(), copyData
	}
	memory, err := w.create(path)
	if err != nil {
		return err
	}
	if err := put(memory, from, int64(w.v.spec.MemMiB)<<20); err != nil {
		return err
	}
	state, err := w.create(w.snap.State)
	if err != nil {
		return err
	}
	if err := dirOf(w.v.spec, func(d *sys.Folder) error { return copyState(d, w.v.spec.UID, state) }); err != nil {
		return err
	}
	return errors.Join(memory.Sync(), state.Sync())
}

// commit gives the files their names, durably, the state's last; the memory file's entry
// too. What an earlier snapshot of the name had goes first.
func (w *snapshotWriter) commit(context.Context) error {
	for _, old := range []string{w.snap.State, w.snap.Pages(), w.snap.Whole()} {
		if err := sys.IfThere(w.dir.Remove(filepath.Base(old))); err != nil {
			return err
		}
	}
	for len(w.rename) > 0 {
		if err := w.dir.Rename(w.rename[0]+".tmp", w.dir, w.rename[0]); err != nil {
			return err
		}
		w.rename = w.rename[1:]
	}
	if err := w.dir.Sync(); err != nil {
		return err
	}
	return sys.InParent(w.v.spec.Dir, w.v.spec.Memory, func(d *sys.Folder, _ string) error { return d.Sync() })
}
