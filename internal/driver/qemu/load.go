package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
	"mvm/internal/sys"
)

// exitWait bounds the wait for the status of a QEMU that went away while it loaded.
const exitWait = 5 * time.Second

// load has a VMM that was started for it take the snapshot: memory first, then the devices.
// b is nil for one that an older version left.
func (v *vmm) load(ctx context.Context, snap driver.Snapshot, b *base) error {
	v.cmd.Lock()
	defer v.cmd.Unlock()
	if err := v.d.seam("restore.load"); err != nil {
		return err
	}
	f, ignoreShared, err := v.openDevice(snap, b)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := v.d.seam("restore.pages"); err != nil {
		return err
	}
	if b != nil {
		err = v.complete(ctx, b)
	} else {
		err = v.injectPlain(ctx, snap)
	}
	if err != nil {
		return err
	}
	if err := v.migrate(ctx, f, ignoreShared); err != nil {
		return v.loadError(ctx, err)
	}
	s, err := v.runState(ctx)
	if err == nil && !slices.Contains([]string{statePaused, statePostmigr}, s) {
		err = rundir.BadSnapshot("load the snapshot of %s: the VMM is in state %q after it", v.spec.ID, s)
	}
	if err == nil && b != nil {
		v.setBase(b.keep())
	}
	return err
}

// openDevice opens the device state.
func (v *vmm) openDevice(snap driver.Snapshot, b *base) (f *os.File, ignoreShared bool, err error) {
	if b == nil {
		return v.openPlain(snap)
	}
	f, err = inMemory(b.snap.Device())
	return f, false, err
}

// inMemory is a file in memory, for a device state that is in no other in the clear.
func inMemory(content []byte) (*os.File, error) {
	f, w, err := memoryFile()
	if err == nil {
		_, err = w.Write(content)
		err = errors.Join(err, w.Close())
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "read the snapshot's device state: %w", err)
	}
	return f, nil
}

// openPlain opens a device state that an older version left.
func (v *vmm) openPlain(snap driver.Snapshot) (f *os.File, ignoreShared bool, err error) {
	if f, err = openState(v.spec, snap.State); err != nil {
		return nil, false, err
	}
	if ignoreShared, err = leavesOutShared(f); err != nil {
		return nil, false, errors.Join(mvm.Errorf(mvm.KindUnavailable, "read the snapshot's device state: %w", err), f.Close())
	}
	return f, ignoreShared, nil
}

// injectPlain puts into the VMM's memory what the memory file of an older version lacks.
func (v *vmm) injectPlain(ctx context.Context, snap driver.Snapshot) error {
	pages, err := openPages(v.spec, snap)
	if pages == nil || err != nil {
		return err
	}
	defer pages.f.Close()
	m, _, err := v.guestMemory(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	if err := pages.inject(ctx, m); errors.Is(err, errPages) {
		return pagesError(err)
	} else if err != nil {
		return err
	}
	return nil
}

// leavesOutShared reports that a device state was saved by an older version, which left
// the memory out in another way.
func leavesOutShared(f *os.File) (bool, error) {
	head := make([]byte, 512) // where a state says by which capabilities it was saved
	n, err := f.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return bytes.Contains(head[:n], []byte(ignoresShared)), err
}

// openState opens the device state and reads it once, so that a disk that can't give
// it is not taken for a state that is damaged: QEMU calls both an input/output error.
func openState(spec driver.Spec, path string) (f *os.File, err error) {
	err = sys.InParent(spec.Dir, path, func(d *sys.Folder, name string) (err error) {
		f, err = d.Open(name, os.O_RDONLY)
		return err
	})
	if err != nil {
		return nil, rundir.OpenError("device state", err)
	}
	if _, err = io.Copy(io.Discard, f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(mvm.Errorf(mvm.KindUnavailable, "read the snapshot's device state: %w", err), f.Close())
	}
	return f, nil
}

// loadError says whether a load that failed is about the snapshot. It is when QEMU says
// that it can't take the state, or crashes over it, and does not name a lack of the host.
func (v *vmm) loadError(ctx context.Context, err error) error {
	said, crashed := "", false
	switch {
	case errors.Is(err, errMigration):
		said = err.Error() + " " + v.said()
	case v.ended(ctx):
		said, crashed = v.exit.Detail, crash(syscall.Signal(v.exit.Signal))
	default: // it lives, and does not answer
		return err
	}
	if errno, ok := sys.FaultIn(said); ok {
		return mvm.Errorf(mvm.KindUnavailable, "load the snapshot of %s: %w", v.spec.ID, fmt.Errorf("%w: %w: %s", errno, err, said))
	}
	if strings.Contains(said, unreadable) {
		return mvm.Errorf(mvm.KindUnavailable, "load the snapshot of %s: %w", v.spec.ID, fmt.Errorf("%w: %w: %s", syscall.EIO, err, said)).
			WithFix("look for disk errors in `dmesg`")
	}
	if crashed || errors.Is(err, errMigration) || refusesState(said) {
		return rundir.BadSnapshot("load the snapshot of %s: %w: %s", v.spec.ID, err, said)
	}
	return mvm.Errorf(mvm.KindUnavailable, "load the snapshot of %s: %w", v.spec.ID, fmt.Errorf("%w: %s", err, said)).
		WithFix("look for the out-of-memory killer in `dmesg`, and check whether somebody ended the VMM")
}

// unreadable is what QEMU says when reading a state fails. Of one that it could read, and
// that is damaged, it says that the load failed with the same errno (io/channel-file.c,
// migration/savevm.c).
const unreadable = "Unable to read from file: Input/output error"

// ended reports that QEMU has gone away, and waits until it is known how.
func (v *vmm) ended(ctx context.Context) bool {
	v.qmu.Lock()
	q := v.q
	v.qmu.Unlock()
	select {
	case <-q.Done():
	default:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, exitWait)
	defer cancel()
	select {
	case <-v.done:
		return true
	case <-ctx.Done():
		return false
	}
}

// refusesState reports that QEMU's last words are those by which it refuses a state.
func refusesState(said string) bool {
	return strings.Contains(said, "load of migration failed") || strings.Contains(said, "error while loading state")
}

// crash reports a signal by which a program ends of its own fault. SIGBUS is none: the
// page of a file could not be had.
func crash(s syscall.Signal) bool {
	return slices.Contains([]syscall.Signal{syscall.SIGSEGV, syscall.SIGABRT, syscall.SIGFPE, syscall.SIGILL, syscall.SIGTRAP}, s)
}
