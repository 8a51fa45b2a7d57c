package qemu

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/console"
	"mvm/internal/driver/rundir"
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
	p, rec, err := d.keep.Running(ctx, spec)
	if err != nil {
		return nil, err
	}
	v := newVMM(d, spec, p, rec, nil)
	state, err := v.take(ctx)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if state == statePrelaunch || state == stateInmigrate {
		v.q.Close()
		p.Close()
		return nil, d.keep.NotThere(ctx, spec, errors.New("its start was cut off"))
	}
	log := d.log.With("instance", spec.ID)
	con, err := v.dialSocket(ctx, conSock)
	if err == nil {
		v.con = console.Start(con, spec.Dir, spec.Console, log)
		v.ch, err = channel.Open(channel.Options{Chardev: filepath.Join(spec.RunDir, chanSock), RunDir: spec.RunDir, VMM: v.peer(), Log: log})
		if err != nil {
			v.con.Stop()
		}
	}
	if err != nil {
		v.q.Close()
		p.Close()
		return nil, mvm.Errorf(mvm.KindUnavailable, "recover the VMM of %s: %w", spec.ID, err)
	}
	switch state {
	case stateRunning:
		v.memory = memoryWorthless
	case stateStalled:
		v.memory = memoryWorthless
		v.setStill(true)
		v.stall()
	case statePostmigr:
		v.memory = memorySaved
	}
	v.log = rundir.OpenLog(spec.RunDir)
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
	return d.keep.Survey(ctx)
}

// Destroy ends whatever VMM runs for the Spec and removes the driver's files in
// RunDir and its cgroup. The memory file stays. It is idempotent.
func (d *Driver) Destroy(ctx context.Context, spec driver.Spec) error {
	return d.keep.Destroy(ctx, spec)
}

// releaseGone releases the memory file of a VMM that is gone.
func releaseGone(spec driver.Spec, rec rundir.Record) error {
	if spec.Memory = memoryIn(spec, rec); spec.Memory == "" {
		return nil
	}
	err := releaseMemory(spec)
	if errors.Is(err, sys.ErrForeign) { // what is not mvm's keeps no VMM from being ended
		return nil
	}
	return err
}

// memoryIn is the memory file of the VMM of the record: the Spec's, or one in the
// instance's folder. A record is not believed if it names anything else.
func memoryIn(spec driver.Spec, rec rundir.Record) string {
	rel, err := filepath.Rel(spec.Dir, rec.Memory)
	if rec.Memory == "" || rec.Memory != spec.Memory && (spec.Dir == "" || err != nil || !filepath.IsLocal(rel)) {
		return ""
	}
	return rec.Memory
}

// Sweep destroys every VMM with a RunDir right below root that owned does not
// claim, and removes what dead ones left there; see driver.Driver.
func (d *Driver) Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error) {
	return d.keep.Sweep(ctx, root, owned)
}
