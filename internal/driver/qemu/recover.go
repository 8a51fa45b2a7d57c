package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// recoverTimeout bounds the wait for a VMM's greeting: it comes at once, unless
// another agent holds the VMM.
const recoverTimeout = 10 * time.Second

// Recover takes up the VMM that runs for the Spec. One whose start or restore was
// cut off before its guest could run is ended, and counts as not there.
// KindUnavailable when the VMM does not answer, which it does not while another
// process holds it.
func (d *Driver) Recover(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	if err := checkPlace(spec); err != nil { // an image that is lost keeps no VMM from being found
		return nil, err
	}
	if err := d.seam("recover.find"); err != nil {
		return nil, err
	}
	p, rec, err := d.find(ctx, spec)
	if errors.Is(err, sys.ErrNoProcess) {
		return nil, d.notThere(ctx, spec, err)
	}
	if err != nil { // it may be there
		return nil, mvm.Errorf(mvm.KindOf(err), "find the VMM of %s: %w", spec.ID, err)
	}
	v := newVMM(d, spec, p, rec)
	state, err := v.take(ctx)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if state == statePrelaunch || state == stateInmigrate {
		v.q.Close()
		p.Close()
		return nil, d.notThere(ctx, spec, errors.New("its start was cut off"))
	}
	log := d.log.With("instance", spec.ID)
	con, err := v.dialSocket(ctx, conSock)
	if err == nil {
		v.con = startConsole(con, spec, log)
		v.ch, err = channel.Open(channel.Options{Chardev: filepath.Join(spec.RunDir, chanSock), RunDir: spec.RunDir, VMM: v.peer(), Log: log})
		if err != nil {
			v.con.stop()
		}
	}
	if err != nil {
		v.q.Close()
		p.Close()
		return nil, mvm.Errorf(mvm.KindUnavailable, "recover the VMM of %s: %w", spec.ID, err)
	}
	switch state {
	case stateRunning:
		v.memory = memoryLive
	case stateStalled:
		v.memory = memoryLive
		v.setStill(true)
		v.stall()
	case statePostmigr:
		v.memory = memorySaved
	}
	v.watch()
	return v, nil
}

// take connects to the VMM and returns its run state.
func (v *vmm) take(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	conn, err := v.dialSocket(ctx, qmpSock)
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "connect to the VMM of %s: %w", v.spec.ID, err)
	}
	if err := v.connect(ctx, conn); err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "recover the VMM of %s: %w", v.spec.ID, err).
			WithFix("check whether another agent is running")
	}
	state, err := v.runState(ctx)
	if err != nil {
		v.q.Close()
	}
	return state, err
}

// Survey is described at driver.Driver.
func (d *Driver) Survey(ctx context.Context) (nothing func(driver.Spec) bool, err error) {
	found, err := d.host.Survey(ctx)
	if err != nil {
		return nil, err
	}
	return func(spec driver.Spec) bool {
		return found.Nothing(spec.ID, spec.UID) && sys.NothingIn(spec.RunDir, "")
	}, nil
}

// notThere clears up and says that no VMM runs.
func (d *Driver) notThere(ctx context.Context, spec driver.Spec, why error) error {
	if err := d.Destroy(ctx, spec); err != nil {
		return err
	}
	return mvm.Errorf(mvm.KindNotFound, "find the VMM of %s: %w", spec.ID, why)
}

// Destroy ends whatever VMM runs for the Spec and removes the driver's files in
// RunDir and its cgroup. The memory file stays. It is idempotent.
func (d *Driver) Destroy(ctx context.Context, spec driver.Spec) error {
	for {
		p, rec, err := d.find(ctx, spec)
		if errors.Is(err, sys.ErrNoProcess) {
			return d.clear(ctx, spec, rec)
		}
		if err != nil {
			return mvm.Errorf(mvm.KindInternal, "find the VMM of %s: %w", spec.ID, err)
		}
		if err := kill(ctx, p); err != nil {
			return mvm.Errorf(mvm.KindOf(err), "destroy the VMM of %s: %w", spec.ID, err)
		}
	}
}

// kill ends the process, waits for it and lets go of it.
func kill(ctx context.Context, p vmproc.Process) error {
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
func (d *Driver) clear(ctx context.Context, spec driver.Spec, rec record) error {
	err := d.host.Leave(ctx, nameOf(spec), spec.Cgroup, rec.Cgroups)
	if spec.Memory = memoryIn(spec, rec); spec.Memory != "" {
		if rerr := releaseMemory(spec); !errors.Is(rerr, sys.ErrForeign) { // what is not mvm's keeps no VMM from being ended
			err = errors.Join(err, rerr)
		}
	}
	f, lerr := lockAny(ctx, spec.RunDir)
	if errors.Is(lerr, os.ErrNotExist) { // there is no RunDir
		return err
	}
	if mvm.IsKind(lerr, mvm.KindState) && ctx.Err() == nil {
		// No VMM runs: this one had its open lock file passed on to another process.
		return errors.Join(err, removeFiles(spec.RunDir), removeLock(spec.RunDir))
	}
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	return errors.Join(err, removeFiles(spec.RunDir), unlock(spec.RunDir, f))
}

// memoryIn is the memory file of the VMM of the record: the Spec's, or one in the
// instance's folder. A record is not believed if it names anything else.
func memoryIn(spec driver.Spec, rec record) string {
	rel, err := filepath.Rel(spec.Dir, rec.Memory)
	if rec.Memory == "" || rec.Memory != spec.Memory && (spec.Dir == "" || err != nil || !filepath.IsLocal(rel)) {
		return ""
	}
	return rec.Memory
}

// lockAny waits for the lock while the holder of a VMM that just ended cleans up.
func lockAny(ctx context.Context, runDir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	for {
		f, err := lock(runDir)
		if !mvm.IsKind(err, mvm.KindState) || ctx.Err() != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Sweep destroys every VMM with a RunDir right below root that owned does not
// claim, and removes what dead ones left there; see driver.Driver.
func (d *Driver) Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error) {
	root = filepath.Clean(root)
	names, err := d.host.List(ctx, root)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindOf(err), "look for VMMs: %w", err)
	}
	var ended []string
	var errs []error
	for _, n := range names {
		if owned(n.ID) {
			continue
		}
		if err := d.Destroy(ctx, driver.Spec{ID: n.ID, RunDir: n.RunDir}); err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(ended, n.ID) {
			ended = append(ended, n.ID)
		}
	}
	errs = append(errs, d.sweepFiles(ctx, root, owned))
	return ended, errors.Join(errs...)
}

// sweepFiles removes the driver's files of dead VMMs that nobody owns.
func (d *Driver) sweepFiles(ctx context.Context, root string, owned func(id string) bool) error {
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
		rec, err := readRecord(dir)
		if err != nil || owned(rec.ID) {
			continue
		}
		errs = append(errs, d.Destroy(ctx, driver.Spec{ID: rec.ID, RunDir: dir}))
	}
	return errors.Join(errs...)
}
