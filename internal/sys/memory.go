package sys

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Undumpable has the kernel keep this process's memory to itself: no other process of
// its user can trace it or read its memory or environment, and it leaves no core. Root
// still can. Programs that it starts are as any other.
func Undumpable() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make this process undumpable: %w", err)
	}
	return nil
}

// LockedCopy returns a copy of the bytes that is in no swap and no core, in pages of its
// own, for the life of the process. It needs that much of RLIMIT_MEMLOCK.
func LockedCopy(b []byte) ([]byte, error) {
	size := (len(b)/unix.Getpagesize() + 1) * unix.Getpagesize()
	m, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err == nil {
		err = unix.Mlock(m)
		if err == nil {
			err = unix.Madvise(m, unix.MADV_DONTDUMP)
		}
		if err != nil {
			_ = unix.Munmap(m)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("lock %d bytes of memory: %w", size, err)
	}
	return m[:copy(m, b)], nil
}
