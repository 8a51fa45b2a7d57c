package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// fixedSeals keep a file in memory at its size, and whoever has it from sealing it further.
const fixedSeals = unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// NewMemoryFile makes a file of zeros that is in memory only, of a size that nobody can change.
// Whoever gets it open can open it again, as QEMU does. It can't be executed.
func NewMemoryFile(name string, bytes int64) (*os.File, error) {
	const flags = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // a kernel before 6.3
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	err = errors.Join(f.Chmod(0o666), f.Truncate(bytes))
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, fixedSeals)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Punch gives back the memory of pages of a file in memory; they are zero then. What a process
// has changed of its private mapping stays.
func Punch(f *os.File, runs []PageRun) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var perr error
	cerr := raw.Control(func(fd uintptr) {
		for _, r := range runs {
			for {
				perr = unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Page*PageSize, r.Count*PageSize)
				if !errors.Is(perr, unix.EINTR) {
					break
				}
			}
			if perr != nil {
				return
			}
		}
	})
	return errors.Join(cerr, os.NewSyscallError("fallocate", perr))
}
