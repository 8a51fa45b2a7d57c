package qemu

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/qemu/spawn"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// exec has QEMU started, and makes it findable. Its vCPUs do not run yet.
func (l *launcher) exec(ctx context.Context, what spawn.Launch) error {
	if err := l.d.seam("start.exec"); err != nil {
		return err
	}
	var out *os.File
	err := sys.InFolder(l.spec.RunDir, func(d *sys.Folder) (err error) {
		out, err = d.Append(logFile)
		return err
	})
	if err != nil {
		return mvm.Explain("make the VMM's log", err)
	}
	defer out.Close()
	s := l.spec
	what.Files, what.Files.Log = l.files, out
	if l.proc, l.rec.Cgroups, err = l.d.host.Launch(ctx, what); err != nil {
		return explain(err, tail(s.RunDir))
	}
	l.undo.Add(func() error {
		ctx := context.WithoutCancel(ctx)
		_ = l.proc.Kill(ctx)
		_, _, _, _ = l.proc.Wait()
		return errors.Join(l.proc.Close(), l.d.host.Leave(ctx, nameOf(s), s.Cgroup, l.rec.Cgroups))
	})
	return l.record()
}

// nameOf is how the VMM of the Spec is found.
func nameOf(s driver.Spec) vmproc.Name { return vmproc.Name{ID: s.ID, RunDir: s.RunDir} }

// record writes vmm.json.
func (l *launcher) record() error {
	if err := l.d.seam("start.record"); err != nil {
		return err
	}
	boot, err := sys.HostBootID()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "read the host's boot id: %w", err)
	}
	pid, start := l.proc.ID()
	l.rec = record{Version: 1, ID: l.spec.ID, PID: pid, Start: start, BootID: boot,
		Cgroups: l.rec.Cgroups, TAP: l.tap, Memory: l.spec.Memory}
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
	const most = 1024
	b := make([]byte, most)
	err := sys.InFolder(runDir, func(d *sys.Folder) error {
		f, err := d.Open(logFile, os.O_RDONLY)
		if err != nil {
			return err
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return err
		}
		n, err := f.ReadAt(b, max(0, st.Size()-most)) // it may be of any size: a VMM writes it
		b = b[:n]
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	if err != nil {
		return ""
	}
	words := strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
	return strings.TrimSpace(strings.TrimPrefix(words, zeroWords))
}

// zeroWords are QEMU's about /dev/zero as the guest's memory. It goes on.
const zeroWords = "ftruncate: Invalid argument"
