package qemu

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"time"

	"mvm"
	"mvm/internal/channel"
	"mvm/internal/driver"
	"mvm/internal/driver/console"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
	"mvm/internal/undo"
)

// greetTimeout is from exec to the control protocol's greeting.
const greetTimeout = 30 * time.Second

// Start boots a VMM; see driver.Driver.
func (d *Driver) Start(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	return d.startOrRestore(ctx, spec, nil)
}

// Restore makes a VMM from the snapshot, paused; see driver.Driver. A snapshot
// that QEMU refuses is a driver.SnapshotError of KindInvalid.
func (d *Driver) Restore(ctx context.Context, spec driver.Spec, snap driver.Snapshot) (driver.VMM, error) {
	return d.startOrRestore(ctx, spec, &snap)
}

func (d *Driver) startOrRestore(ctx context.Context, spec driver.Spec, snap *driver.Snapshot) (driver.VMM, error) {
	on, err := d.machine(ctx)
	if err != nil {
		return nil, rundir.Ended(ctx, err)
	}
	v, err := d.launch(ctx, spec, snap, on)
	if err != nil {
		return nil, rundir.Ended(ctx, err) // not a nil *vmm in the interface
	}
	return v, nil
}

// launch makes a VMM step by step; when one fails, what was made is taken back.
func (d *Driver) launch(ctx context.Context, spec driver.Spec, snap *driver.Snapshot, on machine) (v *vmm, err error) {
	what, err := launchOf(spec, snap != nil, on)
	if err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.Run(&err)
	l := &launcher{d: d, spec: spec, snap: snap, undo: &u}
	defer l.closeFiles()
	defer l.closeBase()
	for _, step := range []func(context.Context) error{l.lock, l.memory, l.sockets, l.open} {
		if err := ctx.Err(); err != nil {
			return nil, mvm.Errorf(mvm.KindCanceled, "make the VMM of %s: %w", spec.ID, context.Cause(ctx))
		}
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.exec(ctx, what); err != nil {
		return nil, err
	}
	if v, err = l.hold(ctx); err != nil {
		return nil, err
	}
	if err := l.begin(ctx, v); err != nil {
		return nil, v.explain(err)
	}
	return v, nil
}

// begin has the VMM take its limits, and then the snapshot or the boot.
func (l *launcher) begin(ctx context.Context, v *vmm) error {
	if err := v.limitStart(ctx); err != nil {
		return err
	}
	if l.snap != nil {
		return v.load(ctx, *l.snap, l.base)
	}
	if err := l.d.seam("start.cont"); err != nil {
		return err
	}
	return v.cont(ctx)
}

// launcher holds what a VMM under construction needs.
type launcher struct {
	d    *Driver
	spec driver.Spec
	snap *driver.Snapshot // nil: it boots
	undo *undo.Stack

	tap   string
	files spawn.Files // for the VMM
	give  []*os.File  // those of them that are closed here
	qmp   *net.UnixConn
	con   net.Conn
	ch    net.Conn
	proc  vmproc.Process
	rec   rundir.Record
	log   *rundir.Log

	base *base // nil: it boots, or has a snapshot of an older version
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
}

// closeBase lets go of the snapshot and the memory.
func (l *launcher) closeBase() {
	if l.base != nil {
		l.base.close()
	}
}

// lock makes RunDir, takes the instance's lock and clears away what a dead VMM left.
func (l *launcher) lock(ctx context.Context) error {
	f, err := l.d.keep.Begin(ctx, l.spec.RunDir, l.undo)
	if f != nil {
		l.files.Lock = l.pass(f)
	}
	return err
}

// memory opens what the guest's memory is at first, and the snapshot.
func (l *launcher) memory(ctx context.Context) error {
	if l.snap == nil {
		return l.memoryFrom("start.memory", bootMemory)
	}
	if l.snap.Key == nil {
		return l.plainMemory()
	}
	if err := l.d.seam("restore.memory"); err != nil {
		return err
	}
	b, err := l.newBase(ctx)
	if err == nil {
		l.base, l.files.Memory = b, b.f
	}
	return err
}

func (l *launcher) memoryFrom(op string, get func(driver.Spec) (*os.File, error)) error {
	if err := l.d.seam(op); err != nil {
		return err
	}
	f, err := get(l.spec)
	if err != nil {
		return err
	}
	l.files.Memory = l.pass(f)
	return nil
}

// plainMemory is memory for a snapshot that an older version left.
func (l *launcher) plainMemory() error {
	if err := rundir.TakeWhole(l.spec, *l.snap); err != nil {
		return err
	}
	if err := l.memoryFrom("restore.memory", openMemory); err != nil {
		return err
	}
	l.undo.Add(func() error { return releaseMemory(l.spec) })
	return reserve(l.spec, l.files.Memory)
}

// sockets listens for the VMM and connects to it already: nobody has to wait for a
// socket to appear, and a VMM that dies takes the connections with it.
func (l *launcher) sockets(ctx context.Context) (err error) {
	if l.files.QMP, l.qmp, err = l.socket(ctx, qmpSock); err != nil {
		return err
	}
	var c *net.UnixConn
	if l.files.Console, c, err = l.socket(ctx, conSock); err != nil {
		return err
	}
	l.con = c
	if l.files.Channel, c, err = l.socket(ctx, chanSock); err != nil {
		return err
	}
	l.ch = c
	return nil
}

func (l *launcher) socket(ctx context.Context, name string) (file *os.File, conn *net.UnixConn, err error) {
	err = sys.InFolder(l.spec.RunDir, func(d *sys.Folder) error {
		ln, err := d.Listen(name)
		if err != nil {
			return err
		}
		defer ln.Close()
		if file, err = ln.File(); err != nil {
			return err
		}
		l.pass(file)
		conn, err = d.Dial(ctx, name, sys.Peer{Self: true})
		return err
	})
	if err != nil {
		return nil, nil, mvm.Explain("make the VMM's "+name, err)
	}
	l.undo.Add(func() error { conn.Close(); return nil })
	return file, conn, nil
}

// open opens the guest's files for the VMM.
func (l *launcher) open(context.Context) error {
	g, err := rundir.OpenGuest(l.spec, l.snap == nil)
	l.give = append(l.give, g.Own...)
	if err != nil {
		return err
	}
	l.files.Kernel, l.files.Initrd, l.files.Disks = g.Kernel, g.Initrd, g.Disks
	if l.spec.TAP != nil {
		l.files.TAP = l.spec.TAP
		l.tap = rundir.TAPName(l.spec.TAP)
	}
	return nil
}

// hold waits for the control protocol and begins to serve channel and console.
func (l *launcher) hold(ctx context.Context) (*vmm, error) {
	l.closeFiles() // or a dead VMM's sockets would not be seen to close
	v := newVMM(l.d, l.spec, l.proc, l.rec, l.log)
	err := l.d.seam("start.qmp")
	if err == nil {
		gctx, cancel := context.WithTimeout(ctx, greetTimeout)
		defer cancel()
		err = v.connect(gctx, l.qmp)
	}
	if err != nil {
		return nil, v.explain(err)
	}
	v.con = console.Start(l.con, l.spec.Dir, l.spec.Console, l.d.log.With("instance", l.spec.ID))
	l.undo.Add(func() error { v.q.Close(); v.con.Stop(); return nil })
	v.ch, err = channel.Open(channel.Options{Chardev: filepath.Join(l.spec.RunDir, chanSock), RunDir: l.spec.RunDir,
		VMM: v.peer(), Log: l.d.log.With("instance", l.spec.ID), First: l.ch, Hold: l.snap != nil})
	if err != nil {
		return nil, err
	}
	if l.snap != nil {
		v.memory = memorySaved
	}
	v.watch()
	l.undo.Add(func() error { return v.end(context.WithoutCancel(ctx)) })
	return v, nil
}
