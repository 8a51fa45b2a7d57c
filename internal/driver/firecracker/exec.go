package firecracker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// The numbers that a VMM's files have in it. Those of disks are in its snapshots.
const (
	fdLock = 3 + iota
	fdStaging
	fdMemory
	fdKernel
	fdInitrd
	fdDisks = 10
)

// files are the open files of a VMM. What is nil it does not get.
type files struct {
	lock, log, staging, memory, kernel, initrd *os.File
	disks                                      []*os.File
}

// fdPath is the path by which the VMM opens one of them.
func fdPath(n int) string { return fmt.Sprintf("/proc/self/fd/%d", n) }

// nameIn returns the name of a VMM from its arguments, "" for anything else. Firecracker
// does not look at the argument that is its name.
func nameIn(args []string) string {
	if len(args) > 0 && strings.HasPrefix(args[0], vmproc.NamePrefix) {
		return args[0]
	}
	return ""
}

// overheadBytes are what Firecracker itself takes beside the guest's memory.
const overheadBytes = 128 << 20

// start starts a process that waits for requests, in the folder dir, as Spec's user.
func (d *Driver) start(ctx context.Context, s driver.Spec, f files, dir *sys.Folder) (vmproc.Process, []string, error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, mvm.Errorf(mvm.KindCanceled, "start the VMM of %s: %w", s.ID, context.Cause(ctx))
	}
	name := rundir.NameOf(s)
	mark, err := d.host.Admit(name, s.UID, s.GID)
	if err != nil {
		return nil, nil, err
	}
	p, err := d.exec(s, f, dir, name.Marked(mark))
	if err != nil {
		return nil, nil, err
	}
	cpu := vmproc.DefaultCPU(s.VCPUs)
	if s.Limits != (mvm.Limits{}) {
		cpu = vmproc.CPUOf(s.Limits)
	}
	memory := int64(s.MemMiB) << 20
	lim := vmproc.Limits{CPU: cpu, Cgroup: s.Cgroup != "", MemoryBytes: memory + overheadBytes, PIDs: 16 + s.VCPUs, FileBytes: uint64(memory)}
	for _, disk := range f.disks {
		if st, err := disk.Stat(); err == nil {
			lim.FileBytes = max(lim.FileBytes, uint64(st.Size()))
		}
	}
	return d.host.Hold(p, name, mark, lim)
}

func (d *Driver) exec(s driver.Spec, f files, dir *sys.Folder, name string) (*sys.Process, error) {
	groups, err := d.groups(s)
	if err != nil {
		return nil, err
	}
	credential := &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.GID)}
	for _, g := range groups {
		credential.Groups = append(credential.Groups, uint32(g))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	defer null.Close()
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "close inherited files for the VMM: %w", err)
	}
	p, err := os.StartProcess(d.binary, []string{name, "--id", s.ID, "--api-sock", apiSock}, &os.ProcAttr{
		Dir: dir.ProcPath(), Env: []string{"PATH=/usr/bin:/bin", "LANG=C"}, Files: f.numbered(null),
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: credential},
	})
	if sys.NoProgram(err) {
		return nil, mvm.Errorf(mvm.KindUnavailable, "start the VMM: %w", err).WithFix("install Firecracker: see docs/firecracker.md")
	}
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	held, err := sys.OpenProcess(p.Pid)
	if _, lacks := sys.Fault(err); lacks { // nobody else would find it to end it
		_ = p.Kill()
		_, _ = p.Wait()
		return nil, mvm.Errorf(mvm.KindUnavailable, "take hold of the VMM: %w", err)
	}
	_ = p.Release()
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "start the VMM: it exited at once")
	}
	return held, nil
}

// groups are those that the VMM needs to open its devices.
func (d *Driver) groups(s driver.Spec) ([]int, error) {
	groups, err := vmproc.KVMGroups(d.opts.KVM)
	if err != nil || s.TAPName == "" {
		return groups, err
	}
	tun, err := vmproc.DeviceGroups(d.opts.TUN)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "%w", err).WithFix("let every user open it, as distributions do: chmod 0666 %s", d.opts.TUN)
	}
	return append(groups, tun...), nil
}

// numbered are the files in the order of their numbers; null is where there is none.
func (f files) numbered(null *os.File) []*os.File {
	out := make([]*os.File, fdDisks, fdDisks+len(f.disks))
	for i := range out {
		out[i] = null
	}
	for n, file := range map[int]*os.File{1: f.log, 2: f.log, fdLock: f.lock, fdStaging: f.staging, fdMemory: f.memory, fdKernel: f.kernel, fdInitrd: f.initrd} {
		if file != nil {
			out[n] = file
		}
	}
	return append(out, f.disks...)
}

// share lets the VMM's user open the files of its instance. Those of images everybody
// may read.
func (f files) share(s driver.Spec) error {
	errs := []error{sys.Share(f.staging, s.GID, true)}
	if f.memory != nil {
		errs = append(errs, sys.Share(f.memory, s.GID, false))
	}
	for i, d := range s.Disks {
		if !d.ReadOnly {
			errs = append(errs, sys.Share(f.disks[i], s.GID, true))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return mvm.Errorf(mvm.KindInternal, "let the VMM of %s open its files: %w", s.ID, err)
	}
	return nil
}
