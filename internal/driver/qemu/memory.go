package qemu

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/driver/rundir"
	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// bootMemory is what a guest's memory is at its boot. A memory file of an earlier run is
// removed.
func bootMemory(s driver.Spec) (*os.File, error) {
	if err := removeMemory(s); err != nil {
		return nil, mvm.Explain("remove old memory", err)
	}
	// A private mapping of this device has no file.
	f, err := os.OpenFile(zeroDevice, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "open the VMM's memory: %w", err)
	}
	return f, nil
}

const zeroDevice = "/dev/zero"

// openMemory opens the memory file of a snapshot that an older version left. Its VMM maps it
// privately: the content is not touched.
func openMemory(s driver.Spec) (*os.File, error) {
	f, err := memoryOf(s)
	if err != nil {
		return nil, rundir.OpenError("memory file", err)
	}
	size := int64(s.MemMiB) << 20
	st, err := f.Stat()
	if err == nil && st.Size() != size {
		err = rundir.BadSnapshot("open the snapshot's memory file %s: it has %d bytes, the instance %d", s.Memory, st.Size(), size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// reserve has a memory file on a tmpfs hold all of its pages: there a page that was never
// written takes space when it is read, and the kernel kills a VMM for which there is none.
func reserve(s driver.Spec, f *os.File) error {
	var fs unix.Statfs_t
	err := unix.Fstatfs(int(f.Fd()), &fs)
	if err != nil || fs.Type != unix.TMPFS_MAGIC {
		return mvm.Explain("look at the memory file", err)
	}
	for {
		if err = unix.Fallocate(int(f.Fd()), 0, 0, int64(s.MemMiB)<<20); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ENOSPC) {
		return mvm.Errorf(mvm.KindUnavailable, "reserve the memory file: %w", err).WithFix("free %d MiB on the disk of %s", s.MemMiB, s.Dir)
	}
	return mvm.Explain("reserve the memory file", err)
}

// openPages opens the pages that the memory file lacks; nil where it lacks none.
func openPages(s driver.Spec, snap driver.Snapshot) (*pageReader, error) {
	var f *os.File
	err := sys.InParent(s.Dir, snap.Pages(), func(d *sys.Folder, name string) (err error) {
		f, err = d.Open(name, os.O_RDONLY)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, rundir.OpenError("changed pages", err)
	}
	r, err := readPages(f, int64(s.MemMiB)<<20)
	if err != nil {
		return nil, errors.Join(pagesError(err), f.Close())
	}
	return r, nil
}

// pagesError says of a file of pages that is damaged that it is the snapshot.
func pagesError(err error) error {
	if errors.Is(err, errPages) {
		return rundir.BadSnapshot("read the snapshot's changed pages: %w", err)
	}
	return mvm.Errorf(mvm.KindUnavailable, "read the snapshot's changed pages: %w", err)
}

// guestMemory opens the guest's memory in the VMM. overFile says that it began with a file:
// that of its snapshot, or the memory file of an older version.
func (v *vmm) guestMemory(ctx context.Context) (m vmproc.Memory, overFile bool, err error) {
	size := int64(v.spec.MemMiB) << 20
	if v.own.Inode != 0 {
		m, err = v.proc.Memory(ctx, vmproc.Guest{Inode: v.own.Inode, Bytes: size})
		return m, true, err
	}
	f, err := os.Open(zeroDevice)
	if err != nil {
		return nil, false, mvm.Errorf(mvm.KindUnavailable, "open the guest's memory: %w", err)
	}
	m, err = v.mappedOver(ctx, f, size)
	if err = errors.Join(err, f.Close()); !errors.Is(err, sys.ErrNoMapping) {
		return m, false, err
	}
	f, ferr := memoryOf(v.spec)
	if ferr != nil { // no older version's either: the VMM has unmapped it
		return nil, false, err
	}
	m, err = v.mappedOver(ctx, f, size)
	return m, true, errors.Join(err, f.Close())
}

func (v *vmm) mappedOver(ctx context.Context, f *os.File, size int64) (vmproc.Memory, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, mvm.Errorf(mvm.KindUnavailable, "look at %s: %w", f.Name(), err)
	}
	return v.proc.Memory(ctx, vmproc.Guest{Inode: st.Ino, Bytes: size})
}

// memoryOf opens the memory file that is there. Older versions gave it to the VMM's user.
func memoryOf(s driver.Spec) (f *os.File, err error) {
	err = sys.InParent(s.Dir, s.Memory, func(d *sys.Folder, name string) (err error) {
		f, err = d.Open(name, os.O_RDWR, s.UID)
		return err
	})
	return f, err
}

// removeMemory removes the memory file if it is there.
func removeMemory(s driver.Spec) error {
	return sys.IfThere(sys.InParent(s.Dir, s.Memory, (*sys.Folder).RemoveAll))
}

// releaseMemory releases the memory file of an older version if it is there: it, and a restore
// from a tmpfs, reserve all of it.
func releaseMemory(s driver.Spec) error {
	f, err := memoryOf(s)
	if err != nil {
		return sys.IfThere(err)
	}
	return errors.Join(release(f), f.Close())
}
