// Package rundir is what a driver whose VMMs are processes keeps of them in the RunDirs of
// their instances, whatever VMM it is: the lock that a VMM holds for as long as it lives, the
// record of its process, and its log. With these a VMM is found after a restart of the agent,
// ended, and cleaned up after.
//
//	vmm.lock   locked for as long as the VMM lives
//	vmm.json   which process it is, and its cgroup
//	vmm.log    what the VMM itself says
package rundir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
	"mvm/internal/undo"
)

// Keeper finds, ends and sweeps the VMMs of one driver.
type Keeper struct {
	// Driver is its name, as records have it.
	Driver string
	Host   vmproc.Host
	// Files are what the driver makes in RunDir beside what every driver has: files and folders.
	Files []string
	// Gone, when not nil, is called for a VMM that is gone, before its files are removed. The
	// record may be empty, or wrong.
	Gone func(spec driver.Spec, rec Record) error
}

// NameOf is how the VMM of the Spec is found.
func NameOf(s driver.Spec) vmproc.Name { return vmproc.Name{ID: s.ID, RunDir: s.RunDir} }

// RemoveFiles removes what the driver made in RunDir, but not the lock: that goes
// last, by Unlock.
func (k *Keeper) RemoveFiles(runDir string) error {
	return sys.IfThere(sys.InFolder(runDir, func(d *sys.Folder) error {
		var errs []error
		for _, n := range append([]string{RecordFile, RecordFile + ".new", LogFile}, k.Files...) {
			errs = append(errs, d.RemoveAll(n))
		}
		return errors.Join(errs...)
	}))
}

// Kill ends the VMM of an instance at once and waits for done, which is closed when it is gone.
func Kill(ctx context.Context, id string, p vmproc.Process, done <-chan struct{}) error {
	if err := p.Kill(ctx); err != nil && !errors.Is(err, sys.ErrNoProcess) {
		return mvm.Errorf(mvm.KindInternal, "kill the VMM of %s: %w", id, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return mvm.Errorf(mvm.KindTimeout, "wait for the killed VMM of %s: %w", id, context.Cause(ctx))
	}
}

// Begin takes the lock for a VMM that is to be started, as LockToStart does, and clears away
// what a dead one left. What it did is taken back with u. The file is the caller's to close,
// also where there is an error beside it.
func (k *Keeper) Begin(ctx context.Context, runDir string, u *undo.Stack) (*os.File, error) {
	f, err := LockToStart(ctx, runDir)
	if err != nil {
		return nil, err
	}
	u.Add(func() error {
		err := k.RemoveFiles(runDir)
		if g, lerr := Lock(runDir); lerr == nil { // the VMM is gone, or never was
			err = errors.Join(err, Unlock(runDir, g))
		}
		return err
	})
	return f, k.RemoveFiles(runDir)
}

// Find takes hold of the VMM process of the instance. ErrNoProcess when there is
// none. The record is empty when it was not there; it may be wrong.
func (k *Keeper) Find(ctx context.Context, spec driver.Spec) (vmproc.Process, Record, error) {
	hint := vmproc.Hint{UID: spec.UID}
	rec, err := ReadRecord(spec.RunDir)
	if err == nil {
		if boot, berr := sys.HostBootID(); berr == nil && rec.BootID == boot {
			hint.PID, hint.Start = rec.PID, rec.Start
		}
	}
	p, err := k.Host.Find(ctx, NameOf(spec), hint)
	return p, rec, err
}

// Running is Find for a Recover: KindNotFound when no VMM runs, and what one left is then
// cleared away. KindState when another driver started it.
func (k *Keeper) Running(ctx context.Context, spec driver.Spec) (vmproc.Process, Record, error) {
	p, rec, err := k.Find(ctx, spec)
	if errors.Is(err, sys.ErrNoProcess) {
		return nil, rec, k.NotThere(ctx, spec, err)
	}
	if err != nil { // it may be there
		return nil, rec, mvm.Errorf(mvm.KindOf(err), "find the VMM of %s: %w", spec.ID, err)
	}
	if rec.ID != "" && driverOf(rec.Driver) != k.Driver {
		return nil, rec, errors.Join(ofOther(spec.ID, driverOf(rec.Driver), k.Driver), p.Close())
	}
	return p, rec, nil
}

// driverOf is the driver that a record names.
func driverOf(name string) string {
	if name == "" {
		return "qemu"
	}
	return name
}

// NotThere clears up and says that no VMM runs.
func (k *Keeper) NotThere(ctx context.Context, spec driver.Spec, why error) error {
	if err := k.Destroy(ctx, spec); err != nil {
		return err
	}
	return mvm.Errorf(mvm.KindNotFound, "find the VMM of %s: %w", spec.ID, why)
}

// Survey is described at driver.Driver.
func (k *Keeper) Survey(ctx context.Context) (nothing func(driver.Spec) bool, err error) {
	found, err := k.Host.Survey(ctx)
	if err != nil {
		return nil, err
	}
	return func(spec driver.Spec) bool {
		return found.Nothing(spec.ID, spec.UID) && sys.NothingIn(spec.RunDir, "")
	}, nil
}

// Destroy ends whatever VMM runs for the Spec and removes the driver's files in
// RunDir and its cgroup. It is idempotent.
func (k *Keeper) Destroy(ctx context.Context, spec driver.Spec) error {
	for {
		p, rec, err := k.Find(ctx, spec)
		if errors.Is(err, sys.ErrNoProcess) {
			return k.clear(ctx, spec, rec)
		}
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "find the VMM of %s: %w", spec.ID, err)
		}
		if err := end(ctx, p); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "destroy the VMM of %s: %w", spec.ID, err)
		}
	}
}

// end ends the process, waits for it and lets go of it.
func end(ctx context.Context, p vmproc.Process) error {
	defer p.Close()
	stop := context.AfterFunc(ctx, p.Interrupt)
	defer stop()
	if err := p.Kill(ctx); err != nil && !errors.Is(err, sys.ErrNoProcess) {
		return err
	}
	_, _, _, err := p.Wait()
	if ctx.Err() != nil {
		return mvm.Errorf(mvm.KindTimeout, "wait for the killed VMM: %w", context.Cause(ctx))
	}
	return err
}

// clear removes what a VMM that is gone has left.
func (k *Keeper) clear(ctx context.Context, spec driver.Spec, rec Record) error {
	err := k.Host.Leave(ctx, NameOf(spec), spec.Cgroup, rec.Cgroups)
	if k.Gone != nil {
		err = errors.Join(err, k.Gone(spec, rec))
	}
	f, lerr := lockAny(ctx, spec.RunDir)
	if errors.Is(lerr, os.ErrNotExist) { // there is no RunDir
		return err
	}
	if mvm.IsKind(lerr, mvm.KindState) && ctx.Err() == nil {
		// No VMM runs: this one had its open lock file passed on to another process.
		return errors.Join(err, k.RemoveFiles(spec.RunDir), removeLock(spec.RunDir))
	}
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	return errors.Join(err, k.RemoveFiles(spec.RunDir), Unlock(spec.RunDir, f))
}

// Sweep destroys every VMM with a RunDir right below root that owned does not
// claim, and removes what dead ones left there; see driver.Driver.
func (k *Keeper) Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error) {
	root = filepath.Clean(root)
	names, err := k.Host.List(ctx, root)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "look for VMMs: %w", err)
	}
	var ended []string
	var errs []error
	for _, n := range names {
		if owned(n.ID) {
			continue
		}
		if err := k.Destroy(ctx, driver.Spec{ID: n.ID, RunDir: n.RunDir}); err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(ended, n.ID) {
			ended = append(ended, n.ID)
		}
	}
	errs = append(errs, k.sweepFiles(ctx, root, owned))
	return ended, errors.Join(errs...)
}

// sweepFiles removes the driver's files of dead VMMs that nobody owns.
func (k *Keeper) sweepFiles(ctx context.Context, root string, owned func(id string) bool) error {
	var names []string
	err := sys.IfThere(sys.InFolder(root, func(d *sys.Folder) (err error) {
		names, err = d.Names()
		return err
	}))
	if err != nil {
		return mvm.Explain("look for files of VMMs", err)
	}
	var errs []error
	for _, name := range names {
		dir := filepath.Join(root, name)
		rec, err := ReadRecord(dir)
		if err != nil || owned(rec.ID) {
			continue
		}
		errs = append(errs, k.Destroy(ctx, driver.Spec{ID: rec.ID, RunDir: dir}))
	}
	return errors.Join(errs...)
}
