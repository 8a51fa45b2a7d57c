// Package firecracker runs instances in Firecracker: a small VMM for hosts with KVM.
//
// It was developed and tested without KVM: against Firecracker's description of its API and
// a stand-in for the program (test/fakevmm). See docs/firecracker.md.
//
// # What a VMM is given
//
// Firecracker opens files by their paths, so its files are handed to it open, with fixed
// numbers, and named /proc/self/fd/N: a snapshot has the names of disks in it. They are
// opened again with the rights of the instance's user, so those of the instance are made
// accessible to its group. It works in a folder of RunDir that it shares with the agent
// (dirName), where it makes its sockets, and opens its TAP by name.
//
// # Memory
//
// A restored guest's memory is a private mapping of Spec.Memory, which must not change for
// as long as the VMM lives. So a snapshot is written to a file beside it (stagingName), and
// copied from there without pages of zeros: all of the memory after a boot, and later what
// changed since the restore, which is put into Spec.Memory when the VMM is gone.
//
// Firecracker forgets what has changed whenever it writes a snapshot. So of two snapshots of
// one process, as when a sleep is cancelled, only the first can be of the changes alone; and
// on file systems that may not tell a page of zeros from one that was never written, none.
//
// # Files in RunDir, beside those of package rundir
//
//	vmm/          the folder that the VMM works in
//	  api.sock    Firecracker's API
//	  v.sock      Firecracker's vsock; v.sock_53 is the host's end, see channel.Vsock
//	  console     pipe: what the guest writes to its serial port
//	  metrics     pipe: what Firecracker counts
//	  state       device state, on its way
//	v.sock        served by package channel
//
// # Seams
//
// Options.Seam is called before each named operation, and its error makes just
// that operation fail: start.exec, start.record, start.api, start.configure, start.boot,
// restore.memory, restore.load, pause.vm, resume.vm, snapshot.create, snapshot.vmm,
// snapshot.copy, snapshot.commit, kill.signal, recover.find.
package firecracker

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"sync"
	"time"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/firecracker/api"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// Name is the driver's.
const Name = "firecracker"

// Options configure a Driver.
type Options struct {
	// Binary is Firecracker's name or path; "" is firecracker.
	Binary string
	// StateDir is a durable folder for what was found out about this host.
	StateDir string
	// ProbeImage names what the self-test boots; ok is false as long as there is none.
	ProbeImage func() (image ProbeImage, ok bool)
	// Bounds, Bounded and Mark are those of vmproc.Options.
	Bounds  vmproc.Bounds
	Bounded bool
	Mark    func() (string, error)
	// KVM is the device for hardware virtualisation; "" is /dev/kvm.
	KVM string
	// TUN is the device by which Firecracker opens TAPs; "" is /dev/net/tun, and Firecracker
	// knows no other.
	TUN string
	// Seam, when not nil, is called before each named operation (see the package).
	Seam func(op string) error
	Log  *slog.Logger
}

// ProbeImage is a kernel and an initrd with mvm-guest, and a root disk where it has one.
type ProbeImage struct{ Kernel, Initrd, Cmdline, Root string }

// Driver runs VMMs. See driver.Driver for its promises.
type Driver struct {
	opts   Options
	host   *vmproc.Local
	keep   *rundir.Keeper
	binary string // absolute
	log    *slog.Logger
	answer time.Duration // that a guest may take in a self-test

	mu      sync.Mutex // held while the binary is looked at or tested
	version string
	digest  string
	verdict *verdict
}

var _ driver.Driver = (*Driver)(nil)

// New makes a driver. KindUnavailable when Firecracker is not installed. It starts nothing.
func New(opts Options) (*Driver, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.KVM == "" {
		opts.KVM = "/dev/kvm"
	}
	if opts.TUN == "" {
		opts.TUN = "/dev/net/tun"
	}
	path, err := Binary(opts.Binary)
	if err != nil {
		return nil, err
	}
	if err := sys.MkdirAll(opts.StateDir, 0o700); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "make the Firecracker driver's folder: %w", err)
	}
	log := opts.Log.With("driver", Name)
	d := &Driver{opts: opts, binary: path, log: log, answer: answerWithin}
	d.host = vmproc.New(vmproc.Options{Program: path, NameIn: nameIn, Bounds: opts.Bounds, Bounded: opts.Bounded, Mark: opts.Mark, Log: log})
	d.keep = &rundir.Keeper{Driver: Name, Host: d.host, Files: []string{dirName, "v.sock", "v.sock.new"}, Gone: removeStaging}
	return d, nil
}

// Binary finds Firecracker by its name or path, "" for the usual one, and returns its path
// without symbolic links.
func Binary(name string) (string, error) {
	if name == "" {
		name = "firecracker"
	}
	path, err := vmproc.Program(name)
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "find Firecracker: %w", err).
			WithFix("install a release of Firecracker 1.15 as /usr/local/bin/firecracker (see docs/firecracker.md), or use driver = \"qemu\"")
	}
	return path, nil
}

func (d *Driver) seam(op string) error {
	if d.opts.Seam == nil {
		return nil
	}
	return d.opts.Seam(op)
}

// NeverRun is what every user of the driver is told.
const NeverRun = "this driver was tested against a stand-in for Firecracker alone, never with KVM"

// Info says which Firecracker this is, and how its self-test ended. It starts none.
func (d *Driver) Info(ctx context.Context) (driver.Info, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.identify(ctx); err != nil {
		return driver.Info{}, err
	}
	why := NeverRun + "; its self-test on this host "
	switch v, ok := d.kept(); {
	case !ok:
		why += "runs before the first VM starts"
	case v.Failed != "":
		why += "failed: " + v.Failed
	default:
		why += "passed"
	}
	return driver.Info{Name: Name, Version: d.version, Digest: d.digest, Accelerator: "kvm", Why: why, Machine: "firecracker mmio host",
		Features: driver.Features{Snapshot: true, Process: true, TAPByName: true}}, nil
}

// identify finds out which Firecracker this is, and refuses one that is known not to work.
func (d *Driver) identify(ctx context.Context) (err error) {
	if d.version == "" {
		if d.version, err = askVersion(ctx, d.binary); err != nil {
			return err
		}
	}
	if d.digest == "" {
		if d.digest, err = vmproc.Digest(d.binary); err != nil {
			return mvm.Errorf(mvm.KindInternal, "read Firecracker's binary: %w", err)
		}
	}
	return api.CheckVersion(d.version)
}

func askVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "ask %s for its version: %w", binary, err)
	}
	if v, ok := api.VersionIn(string(out)); ok {
		return v, nil
	}
	return "", mvm.Errorf(mvm.KindUnavailable, "ask %s for its version: it says %.100q", binary, out)
}

// Recover takes up the VMM that runs for the Spec. One whose start or restore was
// cut off before its guest could run is ended, and counts as not there.
func (d *Driver) Recover(ctx context.Context, spec driver.Spec) (driver.VMM, error) {
	if err := checkPlace(spec); err != nil {
		return nil, err
	}
	if err := d.seam("recover.find"); err != nil {
		return nil, err
	}
	p, rec, err := d.keep.Running(ctx, spec)
	if err != nil {
		return nil, err
	}
	v, err := d.takeUp(ctx, spec, p, rec)
	if errors.Is(err, errCutOff) {
		return nil, d.keep.NotThere(ctx, spec, err)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
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

// Sweep is described at driver.Driver.
func (d *Driver) Sweep(ctx context.Context, root string, owned func(id string) bool) ([]string, error) {
	return d.keep.Sweep(ctx, root, owned)
}
