package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/driver"
	"mvm/internal/sys"
)

// createMemory makes the memory file of a new guest, all zero and all reserved.
// A file of an earlier run is replaced. The VMM is given it when it is started.
func createMemory(s driver.Spec) (f *os.File, err error) {
	err = sys.InParent(s.Dir, s.Memory, func(d *sys.Folder, name string) (err error) {
		f, err = d.Create(name)
		return err
	})
	if err != nil {
		return nil, mvm.Explain("create the memory file", err)
	}
	size := int64(s.MemMiB) << 20
	err = f.Truncate(size)
	if err == nil {
		err = reserve(f, size)
	}
	if err != nil {
		return nil, errors.Join(diskError("create", s, err), f.Close(), removeMemory(s))
	}
	return f, nil
}

// openMemory opens the memory file of a snapshot and reserves again what it does
// not hold. The content is not touched.
func openMemory(s driver.Spec) (*os.File, error) {
	f, err := memoryOf(s)
	if err != nil {
		return nil, openError("memory file", err)
	}
	size := int64(s.MemMiB) << 20
	st, err := f.Stat()
	if err == nil && st.Size() != size {
		err = badSnapshot("open the snapshot's memory file %s: it has %d bytes, the instance %d", s.Memory, st.Size(), size)
		return nil, errors.Join(err, f.Close())
	}
	if err == nil {
		err = reserve(f, size)
	}
	if err != nil {
		_ = release(f)
		return nil, errors.Join(diskError("reserve", s, err), f.Close())
	}
	return f, nil
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

// releaseMemory releases the memory file if it is there.
func releaseMemory(s driver.Spec) error {
	f, err := memoryOf(s)
	if err != nil {
		return sys.IfThere(err)
	}
	return errors.Join(release(f), f.Close())
}

// reserve allocates all of the file on disk, so that no page of the mapping can
// fail for want of space. File systems that can't are left alone.
func reserve(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil
		case err != nil:
			return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
		}
		return nil
	}
}

// diskError names the cause that users meet, a full disk.
func diskError(verb string, s driver.Spec, err error) error {
	e := mvm.Errorf(mvm.KindInternal, "%s the memory file: %w", verb, err)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Kind = mvm.KindUnavailable
		return e.WithFix("free %d MiB on the disk of %s", s.MemMiB, s.Dir)
	}
	return e
}

// startWriteback lets the kernel begin to write the dirty pages of the file.
func startWriteback(f *os.File) error {
	if err := unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return fmt.Errorf("start to write %s: %w", f.Name(), err)
	}
	return nil
}
