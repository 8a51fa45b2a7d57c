package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// MakeShared makes a folder in this one, empty, in which the processes of a group can make
// files and sockets too. It stays this user's: what this user makes there no other can
// replace or remove. A folder of the name that was there before goes.
func (d *Folder) MakeShared(name string, gid int) (*Folder, error) {
	if err := d.RemoveAll(name); err != nil {
		return nil, err
	}
	sub, err := d.MakeSub(name)
	if err != nil {
		return nil, err
	}
	if err = share(sub.fd(), gid, unix.S_ISVTX|0o770); err != nil {
		return nil, errors.Join(&fs.PathError{Op: "share", Path: sub.path, Err: err}, sub.Close())
	}
	return sub, nil
}

func share(fd, gid int, mode uint32) error {
	return errors.Join(unix.Fchown(fd, -1, gid), unix.Fchmod(fd, mode))
}

// Share lets the processes of a group open the file: for writing too where write is set.
func Share(f *os.File, gid int, write bool) error {
	mode := uint32(0o640)
	if write {
		mode = 0o660
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = share(int(fd), gid, mode) })
	if err = errors.Join(cerr, err); err != nil {
		return &fs.PathError{Op: "share", Path: f.Name(), Err: err}
	}
	return nil
}

// MakePipe makes a named pipe that the processes of a group can write to, -1: this user's alone,
// and opens it to be read. What had its name before loses it.
func (d *Folder) MakePipe(name string, gid int) (*os.File, error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	if err := d.Remove(name); err != nil {
		return nil, err
	}
	if err := unix.Mknodat(d.fd(), name, unix.S_IFIFO|0o600, 0); err != nil {
		return nil, &fs.PathError{Op: "make pipe", Path: path, Err: err}
	}
	f, err := d.OpenPipe(name)
	if err != nil {
		return nil, err
	}
	if gid < 0 {
		return f, nil
	}
	if err := Share(f, gid, true); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// PipeEnd opens a named pipe, of which one end is held, to be written by another process, and
// has it hold so many bytes; less where its user has too many pipes. Writes do not wait: what
// does not fit is refused with EAGAIN. It is open for reading, too: who writes gets no signal
// when nobody else has it open.
func PipeEnd(held *os.File, bytes int) (end *os.File, err error) {
	raw, err := held.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		if _, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, bytes); err != nil && !errors.Is(err, unix.EPERM) {
			return
		}
		var to int
		if to, err = unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			end = os.NewFile(uintptr(to), held.Name())
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, &fs.PathError{Op: "open pipe", Path: held.Name(), Err: err}
	}
	return end, nil
}

// OpenPipe opens a named pipe of this user to be read. Reading ends when nobody has it open
// to be written, and can be given a deadline.
func (d *Folder) OpenPipe(name string) (*os.File, error) {
	held, st, err := d.look(name)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if err := check(held.Name(), st, unix.S_IFIFO, nil); err != nil {
		return nil, err
	}
	fd, err := unix.Open(procPath(held), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: held.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), held.Name()), nil
}

// ListenShared is Listen on a socket to which the processes of a group can connect.
func (d *Folder) ListenShared(name string, gid int) (*net.UnixListener, error) {
	l, err := d.Listen(name)
	if err != nil {
		return nil, err
	}
	held, _, err := d.look(name)
	if err == nil {
		err = errors.Join(unix.Fchownat(int(held.Fd()), "", -1, gid, unix.AT_EMPTY_PATH), unix.Chmod(procPath(held), 0o660), held.Close())
	}
	if err != nil {
		return nil, errors.Join(err, l.Close(), d.Remove(name))
	}
	return l, nil
}

// ProcPath is a path by which this process, and one that it starts, finds the very folder,
// whatever is at its path by then. It holds for as long as the Folder is open.
func (d *Folder) ProcPath() string { return procPath(d.f) }
