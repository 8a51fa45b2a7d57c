package qemu

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// release gives back what is reserved in the file and was never written. It is an
// optimisation: where it fails the file is as right as before. Nobody may write to
// the file meanwhile.
func release(f *os.File) error {
	for pos := uint64(0); ; {
		extents, err := mapExtents(f, pos)
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
			return releaseHoles(f)
		}
		if err != nil {
			return &fs.PathError{Op: "fiemap", Path: f.Name(), Err: err}
		}
		for _, e := range extents {
			if e.Flags&extentUnwritten != 0 {
				if err := punch(f, int64(e.Logical), int64(e.Length)); err != nil {
					return err
				}
			}
			pos = e.Logical + e.Length
			if e.Flags&extentLast != 0 {
				return nil
			}
		}
		if len(extents) == 0 {
			return nil
		}
	}
}

// releaseHoles is release for file systems that can't list extents. Where a
// reserved page was read and is cached, it counts as data and is kept.
func releaseHoles(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	for pos := int64(0); pos < st.Size(); {
		hole, err := f.Seek(pos, unix.SEEK_HOLE)
		if err != nil || hole >= st.Size() {
			return err
		}
		data, err := f.Seek(hole, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) { // nothing but hole up to the end
			data, err = st.Size(), nil
		}
		if err != nil {
			return err
		}
		if err := punch(f, hole, data-hole); err != nil {
			return err
		}
		pos = data
	}
	return nil
}

func punch(f *os.File, pos, length int64) error {
	const mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(f.Fd()), mode, pos, length); err != nil {
		return &fs.PathError{Op: "punch", Path: f.Name(), Err: err}
	}
	return nil
}

// extent is struct fiemap_extent of Linux.
type extent struct {
	Logical, Physical, Length uint64
	_                         [2]uint64
	Flags                     uint32
	_                         [3]uint32
}

// What <linux/fiemap.h> defines.
const (
	fsIocFiemap     = 0xC020660B
	fiemapSync      = 0x1 // write dirty pages first
	extentLast      = 0x1
	extentUnwritten = 0x800
)

// mapExtents lists extents of the file from pos on, as many as fit.
func mapExtents(f *os.File, pos uint64) ([]extent, error) {
	var req struct {
		Start, Length        uint64
		Flags, Mapped, Count uint32
		_                    uint32
		Extents              [128]extent
	}
	req.Start, req.Length, req.Flags, req.Count = pos, ^uint64(0)-pos, fiemapSync, uint32(len(req.Extents))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), fsIocFiemap, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return nil, errno
	}
	return req.Extents[:min(int(req.Mapped), len(req.Extents))], nil
}
