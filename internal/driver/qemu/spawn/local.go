package spawn

import (
	"context"
	"log/slog"
	"os"

	"mvm"
	"mvm/internal/driver/vmproc"
	"mvm/internal/jail"
	"mvm/internal/sys"
)

// Options configure a Local.
type Options struct {
	// Binary is QEMU's name or path; "" is qemu-system-x86_64.
	Binary string
	// Bounds are what it takes on.
	Bounds vmproc.Bounds
	// Bounded refuses to run a VMM whose memory and processes can't be bounded, as
	// production mode wants it.
	Bounded bool
	// Mark returns what the VMMs that it starts carry, so that they are told from those
	// of other owners on this host; nil: they carry nothing. It finds those of the mark,
	// and by name alone those of an older mvm, which carry none.
	Mark func() (string, error)
	Log  *slog.Logger // nil: log nothing
	// Jail has the walls around VMMs; the zero value has none.
	Jail jail.Jail
}

// Local is the Host of a process that has the rights itself.
type Local struct {
	*vmproc.Local
	binary string // absolute, as /proc/PID/exe shows it
	shown  *shown
}

var _ Host = (*Local)(nil)

// New makes a Local. KindUnavailable when QEMU is not installed. It starts nothing.
func New(o Options) (*Local, error) {
	binary, err := Binary(o.Binary)
	if err != nil {
		return nil, err
	}
	return &Local{binary: binary, shown: &shown{binary: binary}, Local: vmproc.New(vmproc.Options{Program: binary, NameIn: nameOf,
		Bounds: o.Bounds, Bounded: o.Bounded, Mark: o.Mark, Log: o.Log, Jail: o.Jail})}, nil
}

// Binary finds QEMU by its name or path, "" for the usual one, and returns its path
// without symbolic links.
func Binary(name string) (string, error) {
	if name == "" {
		name = "qemu-system-x86_64"
	}
	path, err := vmproc.Program(name)
	if err != nil {
		return "", mvm.Errorf(mvm.KindUnavailable, "find QEMU: %w", err).WithFix("apt-get install qemu-system-x86")
	}
	return path, nil
}

// Launch is described at Host.
func (h *Local) Launch(ctx context.Context, l Launch) (vmproc.Process, []string, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, mvm.Errorf(mvm.KindCanceled, "start the VMM of %s: %w", l.ID, context.Cause(ctx))
	}
	if err := l.Check(); err != nil {
		return nil, nil, err
	}
	mark, err := h.Admit(l.Name, l.UID, l.GID)
	if err != nil {
		return nil, nil, err
	}
	if err := l.checkFiles(); err != nil {
		return nil, nil, err
	}
	l.Mark = mark
	if err := l.give(); err != nil {
		return nil, nil, mvm.Errorf(mvm.KindInternal, "give the memory file to user %d: %w", l.UID, err)
	}
	return h.exec(ctx, l)
}

// limits are what the VMM may take of the host.
func (l Launch) limits() vmproc.Limits {
	const overhead = (tcgCacheMiB + 512) << 20
	memory := int64(l.MemMiB) << 20
	most := memory + overhead
	if l.isBase(l.Files.Memory) { // until the driver gives them back, pages that the guest changes are there twice
		most += memory
	}
	lim := vmproc.Limits{CPU: vmproc.DefaultCPU(l.VCPUs), Cgroup: l.Cgroup != "", MemoryBytes: most, PIDs: 128 + l.VCPUs, FileBytes: uint64(memory), Files: 1024 + 4*uint64(l.VCPUs)}
	for _, disk := range l.Files.Disks {
		if st, err := disk.Stat(); err == nil {
			lim.FileBytes = max(lim.FileBytes, uint64(st.Size()))
		}
	}
	return lim
}

// exec starts QEMU.
func (h *Local) exec(ctx context.Context, l Launch) (vmproc.Process, []string, error) {
	groups, err := l.groups(kvmDevice)
	if err != nil {
		return nil, nil, err
	}
	root, err := h.shown.files(ctx)
	if err != nil {
		return nil, nil, mvm.Errorf(mvm.KindUnavailable, "start the VMM: %w", err).WithFix("apt-get install --reinstall qemu-system-x86")
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	defer null.Close()
	files, numbers := l.number([]*os.File{null, l.Files.Log, l.Files.Log})
	prog := jail.Program{Path: h.binary, Args: append([]string{h.binary}, l.Args(numbers)...), Env: []string{"PATH=/usr/bin:/bin", "LANG=C"},
		Files: files, UID: l.UID, GID: l.GID, Groups: groups, Root: root, Devices: l.devices(), Calls: l.calls()}
	p, cgroups, err := h.Run(ctx, l.Name, l.Mark, l.limits(), prog)
	switch _, lacks := sys.Fault(err); {
	case err == nil:
		return p, cgroups, nil
	case sys.NoProgram(err):
		err = mvm.Errorf(mvm.KindUnavailable, "start the VMM: %w", err).WithFix("apt-get install qemu-system-x86")
	case lacks:
		err = mvm.Errorf(mvm.KindUnavailable, "start the VMM: %w", err)
	case mvm.KindOf(err) == mvm.KindInternal:
		err = mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	return nil, nil, err
}

// number adds the VMM's files to those that it has already, and says which number
// each gets.
func (l Launch) number(files []*os.File) ([]*os.File, Numbers) {
	pass := func(f *os.File) int {
		if f == nil {
			return 0
		}
		files = append(files, f)
		return len(files) - 1
	}
	f := l.Files
	pass(f.Lock)
	n := Numbers{Memory: pass(f.Memory), QMP: pass(f.QMP), Console: pass(f.Console), Channel: pass(f.Channel),
		Kernel: pass(f.Kernel), Initrd: pass(f.Initrd)}
	for _, d := range f.Disks {
		n.Disks = append(n.Disks, pass(d))
	}
	n.TAP = pass(f.TAP)
	return files, n
}
