package qemu

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// exec starts QEMU and makes it findable. Its vCPUs do not run yet.
func (l *launcher) exec(a vmmArgs) error {
	if err := l.d.seam("start.exec"); err != nil {
		return err
	}
	out, err := os.OpenFile(filepath.Join(l.spec.RunDir, logFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "make the VMM's log: %w", err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	defer null.Close()
	// What this process has inherited itself, from whatever started it, ends here.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return mvm.Errorf(mvm.KindInternal, "close inherited files for the VMM: %w", err)
	}
	p, err := os.StartProcess(l.d.binary, append([]string{l.d.binary}, a.argv()...), &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/bin:/bin", "LANG=C"},
		Files: append([]*os.File{null, out, out}, l.give...),
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: credential(l.spec, a.accel)},
	})
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "start the VMM: %w", err)
	}
	pid := p.Pid
	_ = p.Release()
	if l.proc, err = sys.OpenProcess(pid); err != nil {
		return mvm.Errorf(mvm.KindInternal, "start the VMM: it ended at once: %s", tail(l.spec.RunDir))
	}
	l.undo.Add(func() error {
		_ = l.proc.Signal(syscall.SIGKILL)
		_, _, _, _ = l.proc.Wait()
		return errors.Join(l.proc.Close(), sys.LeaveCgroup(l.rec.Cgroups))
	})
	if err := l.record(pid); err != nil {
		return err
	}
	l.confine(pid)
	return nil
}

// credential is the user of the VMM, in the group that owns /dev/kvm when it needs that.
func credential(s driver.Spec, accel string) *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.GID)}
	if accel == accelKVM {
		var st unix.Stat_t
		if unix.Stat("/dev/kvm", &st) == nil {
			c.Groups = []uint32{st.Gid}
		}
	}
	return c
}

// confine bounds the process as far as this host allows.
func (l *launcher) confine(pid int) {
	err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil) // its memory holds secrets
	largest := uint64(l.spec.MemMiB) << 20
	for _, disk := range l.spec.Disks {
		if st, err := os.Stat(disk.Path); err == nil {
			largest = max(largest, uint64(st.Size()))
		}
	}
	err = errors.Join(err, unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: largest, Max: largest}, nil))
	if l.spec.Cgroup != "" {
		const overhead = (tcgCacheMiB + 512) << 20
		_, cerr := sys.EnterCgroup(l.spec.Cgroup, pid, sys.CgroupLimits{
			MemoryBytes: int64(l.spec.MemMiB)<<20 + overhead, PIDs: 128 + l.spec.VCPUs})
		err = errors.Join(err, cerr)
	}
	if err != nil {
		l.d.log.Warn("the VMM runs without some of its limits", "instance", l.spec.ID, "err", err)
	}
}

// record writes vmm.json, before anything else is made for the process.
func (l *launcher) record(pid int) error {
	if err := l.d.seam("start.record"); err != nil {
		return err
	}
	boot, err := sys.HostBootID()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read the host's boot id: %w", err)
	}
	l.rec = record{Version: 1, ID: l.spec.ID, PID: pid, Start: l.proc.Start, BootID: boot,
		TAP: l.tap, Memory: l.spec.Memory}
	if l.spec.Cgroup != "" { // those that confine will make; a host without any is told there
		l.rec.Cgroups, _ = sys.CgroupDirs(l.spec.Cgroup)
	}
	if err := l.rec.write(l.spec.RunDir); err != nil {
		return mvm.Errorf(mvm.KindInternal, "record the VMM: %w", err)
	}
	return nil
}

// tapName asks the kernel for the name of the interface behind a TAP's file.
func tapName(f *os.File) string {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return ""
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return ""
	}
	_ = raw.Control(func(fd uintptr) { err = unix.IoctlIfreq(int(fd), unix.TUNGETIFF, ifr) })
	if err != nil {
		return ""
	}
	return ifr.Name()
}

// tail returns the last lines of what QEMU itself said, at most 1 KiB.
func tail(runDir string) string {
	b, err := os.ReadFile(filepath.Join(runDir, logFile))
	if err != nil {
		return ""
	}
	if len(b) > 1024 {
		b = b[len(b)-1024:]
	}
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
}
