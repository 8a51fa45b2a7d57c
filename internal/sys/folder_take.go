package sys

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// AnyUser stands for whoever a folder belongs to.
const AnyUser = -1

// TakeFolder is OpenFolder for one that may still belong to the user from: older
// versions gave an instance's folders to its VMM. It becomes this user's alone. taken
// says that it was not before, so that what is in it is as the other user left it, and
// can't be changed by that user any more.
func TakeFolder(path string, from int) (d *Folder, taken bool, err error) {
	d, err = openFolder(unix.AT_FDCWD, path, path, os.Geteuid(), from)
	if err != nil || d.owner() == os.Geteuid() {
		return d, false, err
	}
	err = errors.Join(unix.Fchown(d.fd(), os.Geteuid(), os.Getegid()), unix.Fchmod(d.fd(), 0o700))
	if err != nil {
		return nil, false, errors.Join(&fs.PathError{Op: "take over", Path: path, Err: err}, d.Close())
	}
	return d, true, nil
}

// Take makes a file that belongs to the user from this user's alone. It has to be a
// regular file of one name.
func (d *Folder) Take(name string, from int) error {
	f, st, err := d.regular(name, []int{from})
	if err != nil {
		return err
	}
	defer f.Close()
	if int(st.Uid) == os.Geteuid() {
		return nil
	}
	err = unix.Fchownat(int(f.Fd()), "", os.Geteuid(), os.Getegid(), unix.AT_EMPTY_PATH)
	if err == nil {
		err = unix.Chmod(procPath(f), 0o600)
	}
	if err != nil {
		return &fs.PathError{Op: "take over", Path: f.Name(), Err: err}
	}
	return nil
}

// CheckSocket refuses what is no socket of this user.
func (d *Folder) CheckSocket(name string) error { return d.checkKind(name, unix.S_IFSOCK) }

// CheckSub refuses what is no folder of this user.
func (d *Folder) CheckSub(name string) error { return d.checkKind(name, unix.S_IFDIR) }

func (d *Folder) checkKind(name string, kind uint32) error {
	f, st, err := d.look(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return check(f.Name(), st, kind, nil)
}
