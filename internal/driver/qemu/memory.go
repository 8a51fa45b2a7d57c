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
)

// createMemory makes the memory file of a new guest, all zero and all reserved.
// A file of an earlier run is replaced. The VMM is given it when it is started.
func createMemory(s driver.Spec) (f *os.File, err error) {
	if err := os.Remove(s.Memory); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, mvm.Errorf(mvm.KindInternal, "replace the memory file: %w", err)
	}
	f, err = os.OpenFile(s.Memory, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, mvm.Errorf(mvm.KindInternal, "create the memory file: %w", err)
	}
	size := int64(s.MemMiB) << 20
	err = f.Truncate(size)
	if err == nil {
		err = reserve(f, size)
	}
	if err != nil {
		return nil, errors.Join(diskError("create", s, err), f.Close(), os.Remove(s.Memory))
	}
	return f, nil
}

// openMemory opens the memory file of a snapshot and reserves again what it does
// not hold. The content is not touched.
func openMemory(s driver.Spec) (*os.File, error) {
	f, err := os.OpenFile(s.Memory, os.O_RDWR|syscall.O_NOFOLLOW, 0)
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
