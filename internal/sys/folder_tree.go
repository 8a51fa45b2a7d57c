package sys

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Remove takes a name away: of a link the link, and not what it points to. A name that
// is not there is no error; a folder is ErrForeign.
func (d *Folder) Remove(name string) error {
	path, err := d.at(name)
	if err != nil {
		return err
	}
	switch err := unix.Unlinkat(d.fd(), name, 0); {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EISDIR):
		return foreign(path, "a folder, not a file")
	default:
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
}

// trashPrefix begins the name of a folder that RemoveAll has moved up and was killed
// over. The rest is by chance: another call may be at work in the same folder, and an
// earlier process may have had the same number.
const trashPrefix = ".trash-"

// RemoveAll removes what the name names, with all that is in it, whoever owns it. No
// link is followed, and however deep the folders are, few files are open at a time.
func (d *Folder) RemoveAll(name string) error {
	todo := []string{name}
	for len(todo) > 0 {
		name, todo = todo[len(todo)-1], todo[:len(todo)-1]
		path, err := d.at(name)
		if err != nil {
			return err
		}
		err = unix.Unlinkat(d.fd(), name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			continue
		}
		if !errors.Is(err, unix.EISDIR) {
			return &fs.PathError{Op: "remove", Path: path, Err: err}
		}
		more, err := d.empty(name)
		if err != nil {
			return err
		}
		if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
			return &fs.PathError{Op: "remove", Path: path, Err: err}
		}
		todo = append(todo, more...)
	}
	return nil
}

// empty removes all files of a folder in this one, and moves the folders of it here,
// under names that it returns.
func (d *Folder) empty(name string) (moved []string, err error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	sub := &Folder{path: path, f: os.NewFile(uintptr(fd), path)}
	defer sub.Close()
	err = sub.each(func(names []string) error {
		for _, e := range names {
			err := unix.Unlinkat(fd, e, 0)
			if errors.Is(err, unix.EISDIR) {
				as := trashPrefix + rand.Text()
				if err = unix.Renameat(fd, e, d.fd(), as); err == nil {
					moved = append(moved, as)
				}
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return &fs.PathError{Op: "remove", Path: path + "/" + e, Err: err}
			}
		}
		return nil
	})
	return moved, err
}

// Bytes adds up what the regular files of the folder and of those in it take on the
// disk, a file of several names once. What can't be looked at is 0.
func (d *Folder) Bytes() int64 { return d.bytes(map[uint64]bool{}, maxDepth) }

// maxDepth bounds how deep Bytes looks: mvm makes two levels.
const maxDepth = 8

func (d *Folder) bytes(seen map[uint64]bool, depth int) (sum int64) {
	names, err := d.Names()
	if err != nil || depth == 0 {
		return 0
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFREG && !seen[st.Ino]:
			seen[st.Ino] = true
			sum += st.Blocks * 512
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			if sub, err := d.Sub(name); err == nil {
				sum += sub.bytes(seen, depth-1)
				sub.Close()
			}
		}
	}
	return sum
}
