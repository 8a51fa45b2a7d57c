package fake

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// Driver runs instances on a Host. Drivers come and go with their agents; the
// VMMs stay. It is safe for concurrent use.
type Driver struct {
	host *Host
	opt  Options
}

var _ driver.Driver = (*Driver)(nil)

// New returns a driver of the host's VMMs.
func New(host *Host, opt Options) *Driver { return &Driver{host: host, opt: opt} }

// Info describes the fake.
func (d *Driver) Info(ctx context.Context) (driver.Info, error) {
	if err := d.opt.seam(ctx, OpInfo, ""); err != nil {
		return driver.Info{}, err
	}
	return driver.Info{Name: "fake", Version: version, Digest: "sha256:fake", Accelerator: "none", Machine: "fake",
		Why: "the fake driver runs nothing", Features: driver.Features{Snapshot: true, Sealed: true}}, nil
}

// Start boots a guest.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	m, err := d.claim(ctx, OpStart, spec)
	if err != nil {
		return nil, err
	}
	if err := d.boot(ctx, m, spec); err != nil {
		return nil, errors.Join(err, d.abandon(m), removeMemory(spec))
	}
	return d.started(ctx, m), nil
}

// claim checks the Spec and takes its id.
func (d *Driver) claim(ctx context.Context, op Op, spec driver.Spec) (*machine, error) {
	if err := d.opt.seam(ctx, op, spec.ID); err != nil {
		return nil, err
	}
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	rec, err := readRecord(spec.RunDir)
	if err != nil {
		return nil, err
	}
	m := newMachine(d.host, spec)
	if d.host.add(m) != nil || rec != nil {
		d.host.remove(m)
		d.host.violate("%s of %s, which has a VMM already", op, spec.ID)
		return nil, mvm.Errorf(mvm.KindState, "%s %s: it has a VMM already", op, spec.ID)
	}
	if err := removeHalves(spec); err != nil {
		d.host.remove(m)
		return nil, mvm.Errorf(mvm.KindInternal, "%s %s: %w", op, spec.ID, err)
	}
	return m, nil
}

// boot makes the machine run from its disks.
func (d *Driver) boot(ctx context.Context, m *machine, spec driver.Spec) error {
	m.mu.Lock()
	err := errors.Join(m.holdTAP(OpStart, spec.TAP), m.loadDisk())
	m.guest = bootGuest()
	if err == nil {
		err = m.noteRan()
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := d.opt.seam(ctx, OpStartBoot, spec.ID); err != nil {
		return err
	}
	return m.begin(Running, OpStart)
}

// starting returns nil until the machine runs or was ended. mu is held.
func (m *machine) starting(op Op) error {
	if m.state != Starting {
		return mvm.Errorf(mvm.KindState, "%s %s: it was ended meanwhile", op, m.spec.ID)
	}
	return nil
}

// begin makes a machine that is set up visible.
func (m *machine) begin(s State, op Op) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.starting(op); err != nil {
		return err
	}
	m.state = s
	if err := m.save(); err != nil {
		return mvm.Errorf(mvm.KindInternal, "%s %s: %w", op, m.spec.ID, err)
	}
	m.host.note("%s %s", op, m.spec.ID)
	m.cond.Broadcast()
	return nil
}

// abandon takes a Start or Restore back.
func (d *Driver) abandon(m *machine) error {
	m.end(driver.Exit{Detail: "start failed"}, false)
	return removeRecord(m.spec.RunDir)
}

// Restore makes a paused VMM from a snapshot.
func (d *Driver) Restore(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (driver.VMM, error) {
	m, err := d.claim(ctx, OpRestore, spec)
	if err != nil {
		return nil, err
	}
	if err := d.load(ctx, m, spec, snap); err != nil {
		return nil, errors.Join(err, d.abandon(m))
	}
	return d.started(ctx, m), nil
}

// load reads the snapshot into the machine.
func (d *Driver) load(ctx context.Context, m *machine, spec driver.Spec, snap driver.Snapshot) error {
	read := readPlain
	if snap.Key != nil {
		read = unseal
	}
	state, memory, err := read(ctx, spec, snap)
	if err != nil {
		return err
	}
	if err := badSnapshot(checkFits(spec, state)); err != nil {
		return err
	}
	ran := snap.Key != nil && readFile("memory", spec.Dir, spec.Memory, new(memoryFile)) == nil
	if memory.Snapshot != state.Snapshot || ran {
		d.host.violate("restore of %s: memory and device state are not of one snapshot (consumed before?)", spec.ID)
		return badSnapshot(mvm.Errorf(mvm.KindInvalid, "restore %s: %s does not belong to %s", spec.ID, spec.Memory, snap.State))
	}
	if err := d.opt.seam(ctx, OpRestoreLoad, spec.ID); err != nil {
		return err
	}
	m.mu.Lock()
	err = errors.Join(m.holdTAP(OpRestore, spec.TAP), m.loadDisk())
	m.guest, m.loaded = memory.Guest, state.Snapshot
	m.mu.Unlock()
	if err != nil {
		return err
	}
	return m.begin(Paused, OpRestore)
}

// readPlain reads a snapshot that an older version left.
func readPlain(_ context.Context, spec driver.Spec, snap driver.Snapshot) (state stateFile, memory memoryFile, err error) {
	if err := badSnapshot(readFile("device state", spec.Dir, snap.State, &state)); err != nil {
		return state, memory, err
	}
	return state, memory, badSnapshot(readFile("memory", spec.Dir, spec.Memory, &memory))
}

// Recover takes up a VMM of the host, or one that only its record tells of.
func (d *Driver) Recover(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	if err := d.opt.seam(ctx, OpRecover, spec.ID); err != nil {
		return nil, err
	}
	if m := d.host.lookup(spec.ID); m != nil {
		if m.spec.RunDir != spec.RunDir {
			d.host.violate("recover of %s in %s, but it runs in %s", spec.ID, spec.RunDir, m.spec.RunDir)
		}
		return d.hold(m), nil
	}
	m, err := d.revive(spec.ID, spec.RunDir)
	if err != nil {
		return nil, err
	}
	return d.hold(m), nil
}

// Survey is described at driver.Driver.
func (d *Driver) Survey(context.Context) (nothing func(driver.Spec) bool, err error) {
	found := map[string]bool{}
	for _, m := range d.host.all() {
		found[m.spec.ID] = true
	}
	return func(spec driver.Spec) bool {
		return !found[spec.ID] && sys.NothingIn(spec.RunDir, "") && sys.NothingIn(spec.Dir, halfPrefix) && sys.NothingIn(filepath.Dir(spec.Memory), halfPrefix)
	}, nil
}

// revive makes the machine of a record: its process was this host's before it was
// killed.
func (d *Driver) revive(id, runDir string) (*machine, error) {
	rec, err := readRecord(runDir)
	if err != nil {
		return nil, err
	}
	if rec == nil || rec.ID != id {
		return nil, mvm.Errorf(mvm.KindNotFound, "recover %s: no VMM runs in %s", id, runDir)
	}
	m := newMachine(d.host, rec.Spec)
	m.guest, m.loaded, m.state = rec.Guest, rec.Loaded, rec.State
	if err := errors.Join(m.loadDisk(), removeHalves(rec.Spec)); err != nil {
		return nil, err
	}
	if other := d.host.add(m); other != nil {
		return other, nil
	}
	d.host.note("revive %s", id)
	return m, nil
}

// Destroy ends the instance's VMM and removes the driver's files.
func (d *Driver) Destroy(ctx context.Context, spec driver.Spec) error {
	if err := d.opt.seam(ctx, OpDestroy, spec.ID); err != nil {
		return err
	}
	if m := d.host.lookup(spec.ID); m != nil {
		m.end(driver.Exit{Signal: 9, Detail: "destroyed"}, true)
		m.join()
	}
	if err := d.opt.seam(ctx, OpDestroyFiles, spec.ID); err != nil {
		return err
	}
	if err := errors.Join(removeRecord(spec.RunDir), removeHalves(spec)); err != nil {
		return mvm.Errorf(mvm.KindInternal, "destroy %s: %w", spec.ID, err)
	}
	return nil
}

// Sweep destroys every VMM below root that is not owned.
func (d *Driver) Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error) {
	if err := d.opt.seam(ctx, OpSweep, ""); err != nil {
		return nil, err
	}
	found := map[string]string{} // id -> RunDir
	for _, m := range d.host.all() {
		if filepath.Dir(m.spec.RunDir) == filepath.Clean(root) {
			found[m.spec.ID] = m.spec.RunDir
		}
	}
	var names []string
	err := sys.IfThere(sys.InFolder(root, func(dir *sys.Folder) (err error) {
		names, err = dir.Names()
		return err
	}))
	for _, name := range names {
		if rec, e := readRecord(filepath.Join(root, name)); e != nil {
			d.host.note("sweep: not read: %v", e) // it is no record of this driver's
		} else if rec != nil {
			found[rec.ID] = filepath.Join(root, name)
		}
	}
	var ended []string
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if owned(id) {
			continue
		}
		if e := d.Destroy(ctx, driver.Spec{ID: id, RunDir: found[id]}); e != nil {
			err = errors.Join(err, e)
			continue
		}
		ended = append(ended, id)
	}
	return ended, err
}
