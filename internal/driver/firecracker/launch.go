package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
	"mvm/internal/undo"
)

// apiTimeout is from exec to the first answer.
const apiTimeout = 30 * time.Second

// The folder in RunDir that the VMM works in, and what is in it.
const (
	dirName     = "vmm"
	apiSock     = "api.sock"
	vsockName   = "v.sock"
	consolePipe = "console"
	metricsPipe = "metrics"
	stateFile   = "state"
)

// Start boots a VMM; see driver.Driver.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	return d.startOrRestore(ctx, spec, nil)
}

// Restore makes a VMM from the snapshot, paused; see driver.Driver. A snapshot that
// Firecracker refuses is a driver.SnapshotError of KindInvalid.
func (d *Driver) Restore(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (driver.VMM, error) {
	return d.startOrRestore(ctx, spec, &snap)
}

func (d *Driver) startOrRestore(ctx context.Context, spec driver.Spec, snap *driver.Snapshot) (driver.VMM, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	if err := d.tested(ctx); err != nil {
		return nil, rundir.Ended(ctx, err)
	}
	v, err := d.launch(ctx, spec, snap)
	if err != nil {
		return nil, rundir.Ended(ctx, err) // not a nil *vmm in the interface
	}
	return v, nil
}

// launcher holds what a VMM under construction needs.
type launcher struct {
	d    *Driver
	spec driver.Spec
	snap *driver.Snapshot // nil: it boots
	undo *undo.Stack

	files   files
	give    []*os.File // those of them that are closed here
	dir     *sys.Folder
	ch      *channel.Vsock
	gone    chan struct{} // closed when the VMM is gone
	console *os.File
	metrics *os.File
	proc    vmproc.Process
	rec     rundir.Record
	log     *rundir.Log
}

// launch makes a VMM step by step; when one fails, what was made is taken back.
func (d *Driver) launch(ctx context.Context, spec driver.Spec, snap *driver.Snapshot) (_ *vmm, err error) {
	var u undo.Stack
	defer u.Run(&err)
	l := &launcher{d: d, spec: spec, snap: snap, undo: &u, gone: make(chan struct{})}
	defer l.closeFiles()
	for _, step := range []func(context.Context) error{l.lock, l.memory, l.open, l.folder, l.exec} {
		if err := ctx.Err(); err != nil {
			return nil, mvm.Errorf(mvm.KindCanceled, "make the VMM of %s: %w", spec.ID, context.Cause(ctx))
		}
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	v := newVMM(d, spec, l.proc, l.rec, l.log)
	v.ch, v.gone = l.ch, l.gone
	v.watch()
	u.Add(func() error { return v.end(context.WithoutCancel(ctx)) })
	if err := l.run(ctx, v); err != nil {
		return nil, v.explain(err)
	}
	return v, nil
}

// pass notes a file that is for the VMM alone.
func (l *launcher) pass(f *os.File) *os.File {
	l.give = append(l.give, f)
	return f
}

func (l *launcher) closeFiles() {
	for _, f := range l.give {
		f.Close()
	}
	l.give = nil
	if l.dir != nil {
		l.dir.Close()
		l.dir = nil
	}
}

// lock takes the instance's lock and clears away what a dead VMM left, such as a v.sock,
// with which Firecracker would not start.
func (l *launcher) lock(ctx context.Context) error {
	f, err := l.d.keep.Begin(ctx, l.spec.RunDir, l.undo)
	if f != nil {
		l.files.lock = l.pass(f)
	}
	return err
}

// memory opens the memory of a snapshot, after what it lacks is put into it, or removes
// that of an earlier run, and makes the file that the next snapshot goes to.
func (l *launcher) memory(context.Context) error {
	if l.snap == nil {
		if err := removeMemory(l.spec); err != nil {
			return mvm.Explain("remove old memory", err)
		}
	} else {
		if err := l.d.seam("restore.memory"); err != nil {
			return err
		}
		if err := settle(l.spec, *l.snap); err != nil {
			return err
		}
		f, err := openMemory(l.spec)
		if err != nil {
			return err
		}
		l.files.memory = l.pass(f)
	}
	f, err := makeStaging(l.spec)
	if err != nil {
		return err
	}
	l.files.staging = l.pass(f)
	l.undo.Add(func() error { return removeStaging(l.spec, rundir.Record{}) })
	return nil
}

// open opens the guest's files for the VMM.
func (l *launcher) open(context.Context) error {
	g, err := rundir.OpenGuest(l.spec, l.snap == nil)
	l.give = append(l.give, g.Own...)
	if err != nil {
		return err
	}
	if g.Kernel != nil {
		if err := checkKernel(g.Kernel, l.d.version); err != nil {
			return err
		}
	}
	l.files.kernel, l.files.initrd, l.files.disks = g.Kernel, g.Initrd, g.Disks
	return l.files.share(l.spec)
}

// folder makes the folder that the VMM works in, with the pipes, and listens on the host's
// end of its vsock.
func (l *launcher) folder(context.Context) error {
	err := sys.InFolder(l.spec.RunDir, func(d *sys.Folder) (err error) {
		l.dir, err = d.MakeShared(dirName, l.spec.GID)
		return err
	})
	if err != nil {
		return mvm.Explain("make the VMM's folder", err)
	}
	for name, f := range map[string]**os.File{consolePipe: &l.console, metricsPipe: &l.metrics} {
		pipe, err := l.dir.MakePipe(name, l.spec.GID)
		if err != nil {
			return mvm.Explain("make the VMM's "+name, err)
		}
		*f = pipe
		l.undo.Add(func() error { pipe.Close(); return nil })
	}
	if l.snap != nil {
		if err := putState(l.spec, *l.snap, l.dir); err != nil {
			return err
		}
	}
	l.ch, err = channel.ListenVsock(channel.VsockOptions{RunDir: l.spec.RunDir, Shared: dirName, GID: l.spec.GID, Gone: l.gone,
		VMM: sys.Peer{UID: l.spec.UID}, Log: l.d.log.With("instance", l.spec.ID)})
	if err != nil {
		return err
	}
	l.undo.Add(l.ch.Close)
	return nil
}

// exec has Firecracker started, and makes it findable.
func (l *launcher) exec(ctx context.Context) error {
	if err := l.d.seam("start.exec"); err != nil {
		return err
	}
	out, log, err := rundir.MakeLog(l.spec.RunDir)
	if err != nil {
		return err
	}
	l.files.log, l.log = l.pass(out), log
	l.undo.Add(func() error { log.Close(); return nil })
	s := l.spec
	var cgroups []string
	if l.proc, cgroups, err = l.d.start(ctx, s, l.files, l.dir); err != nil {
		return err
	}
	l.undo.Add(func() error {
		ctx := context.WithoutCancel(ctx)
		_ = l.proc.Kill(ctx)
		_, _, _, _ = l.proc.Wait()
		return errors.Join(l.proc.Close(), l.d.host.Leave(ctx, rundir.NameOf(s), s.Cgroup, cgroups))
	})
	if err := l.d.seam("start.record"); err != nil {
		return err
	}
	if l.rec, err = rundir.RecordOf(s.ID, l.proc); err != nil {
		return err
	}
	l.rec.Driver, l.rec.Cgroups, l.rec.TAP, l.rec.Memory = Name, cgroups, s.TAPName, s.Memory
	l.rec.Own = own{Dir: s.Dir, Diff: l.snap != nil}.raw()
	return l.rec.Write(s.RunDir)
}

// run waits for the API and has the machine made.
func (l *launcher) run(ctx context.Context, v *vmm) error {
	l.closeFiles()
	if err := l.d.seam("start.api"); err != nil {
		return err
	}
	if err := v.awaitAPI(ctx); err != nil {
		return err
	}
	if err := l.d.seam("start.configure"); err != nil {
		return err
	}
	if err := l.configure(ctx, v.api); err != nil {
		return err
	}
	var err error
	if l.snap == nil {
		if err = l.d.seam("start.boot"); err == nil {
			v.setMemory(memoryLive)
			err = v.api.Act(ctx, api.InstanceStart)
		}
	} else if err = l.d.seam("restore.load"); err == nil {
		v.setMemory(memorySaved)
		err = l.load(ctx, v)
	}
	if err != nil {
		return err
	}
	v.follow(l.console, l.metrics) // Firecracker has them open by now, so they end with it
	return nil
}

// configure tells a new process everything but the snapshot. Log, metrics and console are
// not in a snapshot: each process is told.
func (l *launcher) configure(ctx context.Context, c *api.Client) error {
	err := errors.Join(
		c.SetLogger(ctx, api.Logger{Level: "Warning", ShowLevel: true}),
		c.SetMetrics(ctx, api.Metrics{Path: metricsPipe}),
		c.SetSerial(ctx, api.Serial{Path: consolePipe}))
	if err != nil || l.snap != nil {
		return err
	}
	s := l.spec
	boot := api.BootSource{Kernel: fdPath(fdKernel), Args: cmdline(s)}
	if s.Initrd != "" {
		boot.Initrd = fdPath(fdInitrd)
	}
	steps := []func() error{
		func() error {
			return c.SetMachine(ctx, api.MachineConfig{VCPUs: s.VCPUs, MemMiB: s.MemMiB, TrackDirtyPages: true})
		},
		func() error { return c.SetBootSource(ctx, boot) },
		func() error { return c.SetEntropy(ctx, api.Entropy{}) },
		func() error { return c.SetVsock(ctx, api.Vsock{CID: guestCID, Path: vsockName}) },
	}
	for i, disk := range s.Disks {
		steps = append(steps, func() error {
			return c.AddDrive(ctx, api.Drive{ID: fmt.Sprintf("disk%d", i), Path: fdPath(fdDisks + i), ReadOnly: disk.ReadOnly, Cache: api.Writeback})
		})
	}
	if s.TAPName != "" {
		steps = append(steps, func() error {
			return c.AddNetwork(ctx, api.NetworkInterface{ID: networkID, TAP: s.TAPName, MAC: s.MAC})
		})
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

const (
	guestCID  = 3 // of each guest: vsock is between it and its own VMM
	networkID = "eth0"
)

// load has the snapshot loaded. What changes from then on is counted only where it is said
// again.
func (l *launcher) load(ctx context.Context, v *vmm) error {
	req := api.SnapshotLoad{State: stateFile, Memory: api.MemoryBackend{Type: api.File, Path: fdPath(fdMemory)}, TrackDirtyPages: true}
	if l.spec.TAPName != "" {
		req.Networks = []api.NetworkOverride{{ID: networkID, TAP: l.spec.TAPName}}
	}
	if err := v.api.Load(ctx, req); err != nil {
		return v.loadError(ctx, err)
	}
	info, err := v.api.Describe(ctx)
	if err == nil && info.State != api.Paused {
		err = rundir.BadSnapshot("load the snapshot of %s: the VMM is in state %q after it", l.spec.ID, info.State)
	}
	return err
}

// awaitAPI waits until Firecracker answers, and ends the wait when it is gone.
func (v *vmm) awaitAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		info, err := v.api.Describe(ctx)
		if err == nil && info.State == api.NotStarted {
			return nil
		}
		if err == nil {
			return mvm.Errorf(mvm.KindUnavailable, "start the VMM of %s: it says that it is %q", v.spec.ID, info.State)
		}
		select {
		case <-tick.C:
		case <-v.done:
			return mvm.Errorf(mvm.KindUnavailable, "start the VMM of %s: %w: %s", v.spec.ID, errGone, v.exit.Detail)
		case <-ctx.Done():
			return mvm.Errorf(mvm.KindUnavailable, "start the VMM of %s: it does not answer: %w", v.spec.ID, err)
		}
	}
}

// dialAPI connects to Firecracker's API: to the VMM's own process alone.
func (v *vmm) dialAPI(ctx context.Context) (conn net.Conn, err error) {
	err = dirOf(v.spec, func(d *sys.Folder) (err error) {
		conn, err = d.Dial(ctx, apiSock, sys.Peer{UID: v.spec.UID, PID: v.PID()})
		return err
	})
	return conn, err
}
