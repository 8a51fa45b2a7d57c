package spawn

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkFiles refuses files that are not what they have to be. It looks at open files
// only, so nothing can be put in their place afterwards.
func (l Launch) checkFiles() error {
	f := l.Files
	if len(f.Disks) != len(l.Disks) {
		return bad("%d files for %d disks", len(f.Disks), len(l.Disks))
	}
	if (f.Kernel == nil) != l.Restore || l.Restore && f.Initrd != nil {
		return bad("a VMM boots a kernel, or takes a device state")
	}
	if (f.TAP != nil) != (l.MAC != "") {
		return bad("a TAP and a MAC go together")
	}
	type want struct {
		what string
		file *os.File
		is   func(*os.File) error
	}
	wants := []want{
		{"lock", f.Lock, regular(unix.O_RDWR)}, {"log", f.Log, isLog}, {"memory", f.Memory, l.isMemory},
		{"control socket", f.QMP, listening}, {"console socket", f.Console, listening}, {"channel socket", f.Channel, listening},
	}
	if f.Kernel != nil {
		wants = append(wants, want{"kernel", f.Kernel, regular(unix.O_RDONLY)})
	}
	if f.Initrd != nil {
		wants = append(wants, want{"initrd", f.Initrd, regular(unix.O_RDONLY)})
	}
	if f.TAP != nil {
		wants = append(wants, want{"TAP", f.TAP, isTAP})
	}
	for i, d := range l.Disks {
		mode := unix.O_RDWR
		if d.ReadOnly {
			mode = unix.O_RDONLY
		}
		wants = append(wants, want{"disk " + d.Serial, f.Disks[i], regular(mode)})
	}
	for _, w := range wants {
		if w.file == nil {
			return bad("there is no %s", w.what)
		}
		if err := w.is(w.file); err != nil {
			return bad("its %s is %w", w.what, err)
		}
	}
	return nil
}

// status is what the file is, and the flags with which it is open.
func status(f *os.File) (st unix.Stat_t, flags int, err error) {
	err = control(f, func(fd int) (err error) {
		if err = unix.Fstat(fd, &st); err == nil {
			flags, err = unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		}
		return err
	})
	return st, flags, err
}

// regular takes a regular file that is open in the mode.
func regular(mode int) func(*os.File) error {
	return func(f *os.File) error {
		st, flags, err := status(f)
		switch {
		case err != nil:
			return fmt.Errorf("no open file: %w", err)
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			return errors.New("no regular file")
		case flags&unix.O_ACCMODE != mode || flags&unix.O_PATH != 0:
			return errors.New("open in another mode")
		}
		return nil
	}
}

// isLog takes a pipe that holds nobody up, and that is open to be read as well, so that its
// VMM gets no signal when nobody else has it open. A file would grow as the VMM likes.
func isLog(f *os.File) error {
	st, flags, err := status(f)
	switch {
	case err != nil:
		return fmt.Errorf("no open file: %w", err)
	case st.Mode&unix.S_IFMT != unix.S_IFIFO:
		return errors.New("no pipe")
	case flags&unix.O_ACCMODE != unix.O_RDWR || flags&unix.O_NONBLOCK == 0:
		return errors.New("open in another mode")
	}
	return nil
}

// isMemory takes a file of the memory's size that has one name, and that belongs to
// who opened it or to the VMM's user already: it is about to be given to that user.
// /dev/zero is taken as it is, and so is a file in memory whose size can't be changed.
func (l Launch) isMemory(f *os.File) error {
	if isZero(f) || l.isBase(f) {
		return nil
	}
	if err := regular(unix.O_RDWR)(f); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return err
	}
	switch {
	case int(st.Uid) != l.Owner.UID && int(st.Uid) != l.UID:
		return fmt.Errorf("a file of user %d", st.Uid)
	case st.Nlink > 1:
		return errors.New("a file of several names")
	case st.Mode&0o7111 != 0:
		return fmt.Errorf("a file of mode %o", st.Mode&0o7777)
	case st.Size != int64(l.MemMiB)<<20:
		return fmt.Errorf("a file of %d bytes", st.Size)
	}
	return nil
}

// isZero reports that the file is the device /dev/zero, open for reading and writing: a private
// mapping of that is memory without a file.
func isZero(f *os.File) bool {
	st, flags, err := status(f)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 5) &&
		flags&unix.O_ACCMODE == unix.O_RDWR && flags&unix.O_PATH == 0
}

// baseSeals keep a file in memory at its size.
const baseSeals = unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL

// isBase reports that the file is in memory, and of the memory's size for good. Whether the VMM
// may change its content is decided by who made it.
func (l Launch) isBase(f *os.File) bool {
	st, flags, err := status(f)
	if err != nil {
		return false
	}
	var seals int
	err = control(f, func(fd int) (err error) {
		seals, err = unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		return err
	})
	return err == nil && seals&baseSeals == baseSeals && st.Size == int64(l.MemMiB)<<20 && flags&unix.O_ACCMODE == unix.O_RDWR
}

// give makes the memory file the VMM's. Who opened it can still read and write it, by
// its group: nobody else is in that.
func (l Launch) give() error {
	if isZero(l.Files.Memory) || l.isBase(l.Files.Memory) {
		return nil
	}
	group, mode := l.GID, uint32(0o600)
	if l.Owner.UID != 0 {
		group, mode = l.Owner.GID, 0o660
	}
	return control(l.Files.Memory, func(fd int) error {
		return errors.Join(unix.Fchown(fd, l.UID, group), unix.Fchmod(fd, mode))
	})
}

func listening(f *os.File) error {
	return control(f, func(fd int) error {
		for _, o := range []struct{ option, want int }{
			{unix.SO_DOMAIN, unix.AF_UNIX}, {unix.SO_TYPE, unix.SOCK_STREAM}, {unix.SO_ACCEPTCONN, 1},
		} {
			got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option)
			if err != nil || got != o.want {
				return errors.New("no listening unix socket")
			}
		}
		return nil
	})
}

func isTAP(f *os.File) error {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	err = control(f, func(fd int) error { return unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr) })
	if err != nil || ifr.Uint16()&unix.IFF_TAP == 0 {
		return errors.New("no TAP")
	}
	return nil
}

// control calls fn with the file's number, which stays its own meanwhile.
func control(f *os.File, fn func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = fn(int(fd)) })
	return errors.Join(cerr, err)
}
