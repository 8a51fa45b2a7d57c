// Package qemu runs instances in QEMU: the driver for hosts with and without
// usable hardware virtualisation.
//
// # What a VMM is given
//
// QEMU runs as the Spec's user, in a session of its own, under its own seccomp
// filter, and gets everything as open files: disks, kernel, memory, TAP, and the
// listening sockets of its control protocol, guest channel and console. It needs
// no access to any folder and can make no file. The driver opens them; what needs
// root beside that is done by package spawn, in this process or behind a socket.
//
// # Memory
//
// The guest's memory is private to its VMM: at a boot a mapping of /dev/zero, at a restore
// of a file in memory, which is filled from the snapshot while the VMM starts. So it takes no
// disk while it runs, and the snapshot stays whole. A sleep saves the pages that the guest has
// changed since; package atrest has the files.
// See docs/adr/0009-private-memory.md to 0011-a-woken-guest-maps-a-file-in-memory.md.
//
// # Files in RunDir, beside those of package rundir
//
//	qmp.sock, chan.sock, con.sock   QEMU listens; one client each at a time
//	v.sock     served by package channel
//
// A start that was cut off before vmm.json was written is found by its arguments:
// "-name mvm:<id>:<RunDir>".
//
// # Seams
//
// Options.Seam is called before each named operation, and its error makes just
// that operation fail: start.memory, start.exec, start.record, start.qmp,
// start.cont, restore.memory, restore.load, restore.pages, pause.stop, resume.cont,
// snapshot.create, snapshot.device, snapshot.pages, snapshot.sync, snapshot.commit,
// kill.signal, recover.find.
// (Restore runs the start operations too, but for start.memory and start.cont.)
package qemu

import (
	"bytes"
	"context"
	"log/slog"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// The sockets in RunDir.
const (
	qmpSock  = "qmp.sock"
	chanSock = "chan.sock"
	conSock  = "con.sock"
)

// Options configure a Driver.
type Options struct {
	// Binary is QEMU's name or path; "" is qemu-system-x86_64.
	Binary string
	// Host does what needs root; nil: this process, for any instance.
	Host spawn.Host
	// StateDir is a durable folder for what was found out about this host.
	StateDir string
	// ProbeKernel names a kernel for the probe of hardware virtualisation, or "" as
	// long as there is none. It may be nil: then no probe is made and TCG is used.
	ProbeKernel func() string
	// KVM is the device of hardware virtualisation that is looked at; "" is /dev/kvm, which is
	// the one that VMMs open.
	KVM string
	// KVMOnly refuses to start VMMs in software, for which QEMU promises no isolation.
	KVMOnly bool
	// Seam, when not nil, is called before each named operation (see the package).
	Seam func(op string) error
	Log  *slog.Logger
}

// Driver runs VMMs. See driver.Driver for its promises.
type Driver struct {
	opts   Options
	host   spawn.Host
	keep   *rundir.Keeper
	binary string // absolute
	log    *slog.Logger

	mu      sync.Mutex // held while the host is probed
	info    *driver.Info
	version string // of the binary, and its digest: asked once
	digest  string
	on      machine
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver. KindUnavailable when QEMU is not installed. It starts nothing.
func New(opts Options) (*Driver, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	path, err := spawn.Binary(opts.Binary)
	if err != nil {
		return nil, err
	}
	if opts.Host == nil {
		if opts.Host, err = spawn.New(spawn.Options{Binary: opts.Binary, Log: opts.Log.With("driver", "qemu")}); err != nil {
			return nil, err
		}
	}
	if err := sys.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make the QEMU driver's folder: %w", err)
	}
	keep := &rundir.Keeper{Driver: "qemu", Host: opts.Host, Gone: releaseGone,
		Files: []string{qmpSock, chanSock, conSock, "v.sock", "v.sock.new"}}
	return &Driver{opts: opts, host: opts.Host, keep: keep, binary: path, log: opts.Log.With("driver", "qemu")}, nil
}

func (d *Driver) seam(op string) error {
	if d.opts.Seam == nil {
		return nil
	}
	return d.opts.Seam(op)
}

// Info says what QEMU this is and which accelerator guests get. The first call on
// a host boot may probe it, for up to half a minute; the result is kept in
// StateDir. As long as ProbeKernel has none, the answer is TCG and is not kept.
func (d *Driver) Info(ctx context.Context) (driver.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.info != nil {
		return *d.info, nil
	}
	if err := d.identify(ctx); err != nil {
		return driver.Info{}, err
	}
	v, final, err := d.verdict(ctx, d.digest)
	if err != nil {
		return driver.Info{}, err
	}
	info := driver.Info{Name: "qemu", Version: d.version, Digest: d.digest, Accelerator: v.Accelerator, Why: v.Why,
		Machine:  spawn.Launch{Accel: v.Accelerator, NoArchCaps: v.NoArchCaps}.Machine(),
		Features: driver.Features{Snapshot: true, Process: true, Sealed: true}}
	d.on = machine{v.Accelerator, v.NoArchCaps, v.TSCkHz}
	if info.Missing, err = d.host.Walls(ctx); err != nil {
		d.log.Warn("check the walls around VMMs", "error", err)
	}
	if final {
		d.info = &info
	}
	return info, nil
}

var versionRE = regexp.MustCompile(`version (\d+\.\d+\.\d+)`)

// identify finds out which QEMU this is.
func (d *Driver) identify(ctx context.Context) (err error) {
	if d.version == "" {
		if d.version, err = d.askVersion(ctx); err != nil {
			return err
		}
	}
	if d.digest == "" {
		if d.digest, err = vmproc.Digest(d.binary); err != nil {
			return mvm.Errorf(mvm.KindInternal, "read QEMU's binary: %w", err)
		}
	}
	return nil
}

func (d *Driver) askVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.binary, "-version")
	out, err := cmd.Output()
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "ask %s for its version: %w", d.binary, err)
	}
	m := versionRE.FindSubmatch(bytes.TrimSpace(out))
	if m == nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "ask %s for its version: it says %.100q", d.binary, out)
	}
	return string(m[1]), nil
}
