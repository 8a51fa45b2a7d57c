package sys

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove takes a name away: of a link the link, and not what it points to. A name that
// is not there is no error; a folder is ErrForeign.
func (d *Folder) Remove(name string) error {
	path, err := d.at(name)
	if err != nil {
		return err
	}
	isFolder, err := d.unlink(name)
	if isFolder {
		return foreign(path, "a folder, not a file")
	}
	return err
}

// TrashPrefix begins the name of a folder that RemoveAll has moved up. The rest is by
// chance: an earlier call may have ended over one.
const TrashPrefix = ".trash-"

// RemoveAll removes what the name names, with all that is in it, whoever owns it. No
// link is followed, and however deep the folders are, few files are open at a time. What a
// call that failed has left is in the folder that the name names, for the next call.
func (d *Folder) RemoveAll(name string) error {
	path, err := d.at(name)
	if err != nil {
		return err
	}
	isFolder, err := d.unlink(name)
	if err != nil || !isFolder {
		return err
	}
	top, err := d.anyFolder(name)
	if err != nil {
		return IfThere(err)
	}
	err = top.drain()
	if err = errors.Join(err, top.Close()); err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// unlink removes the name, unless it is a folder's. One that is not there is no error.
func (d *Folder) unlink(name string) (isFolder bool, err error) {
	path := filepath.Join(d.path, name)
	if err := seam(FileRemove, path); err != nil {
		return false, err
	}
	switch err := unix.Unlinkat(d.fd(), name, 0); {
	case err == nil || errors.Is(err, unix.ENOENT):
		return false, nil
	case errors.Is(err, unix.EISDIR):
		return true, nil
	default:
		return false, &fs.PathError{Op: "remove", Path: path, Err: err}
	}
}

// anyFolder opens a folder in this one, or this one, whoever owns it or may write to it.
func (d *Folder) anyFolder(name string) (*Folder, error) {
	path := filepath.Join(d.path, name)
	if err := seam(FolderOpen, path); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Folder{path: path, f: os.NewFile(uintptr(fd), path)}, nil
}

// drain removes all that is in the folder. The folders in the folders of it are moved up
// first, so that none but these two is ever open.
func (d *Folder) drain() error {
	for left := true; left; {
		left = false
		err := d.each(func(names []string) error {
			left = true
			for _, name := range names {
				if err := d.drainSub(name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// drainSub removes the name. Of a folder it removes the files, and moves the folders here.
func (d *Folder) drainSub(name string) error {
	isFolder, err := d.unlink(name)
	if err != nil || !isFolder {
		return err
	}
	sub, err := d.anyFolder(name)
	if err != nil {
		return IfThere(err)
	}
	defer sub.Close()
	err = sub.each(func(names []string) error {
		for _, e := range names {
			isFolder, err := sub.unlink(e)
			if err == nil && isFolder {
				err = IfThere(sub.Rename(e, d, TrashPrefix+rand.Text()))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTEMPTY) {
		return &fs.PathError{Op: "remove", Path: sub.path, Err: err}
	}
	return nil
}

// Bytes adds up what the regular files of the folder and of those in it take on the
// disk, a file of several names once. What can't be looked at is 0.
func (d *Folder) Bytes() (sum int64) {
	d.EachFile(func(_ string, allocated int64) { sum += allocated })
	return sum
}

// EachFile calls fn for each regular file of the folder and of those in it, with its path below
// the folder and the bytes that it takes on the disk. A file of several names comes once. What
// can't be looked at is left out, and so is what is more than maxDepth folders down.
func (d *Folder) EachFile(fn func(path string, allocated int64)) {
	d.eachFile("", fn, map[uint64]bool{}, maxDepth)
}

// maxDepth bounds how deep EachFile looks.
const maxDepth = 8

func (d *Folder) eachFile(above string, fn func(path string, allocated int64), seen map[uint64]bool, depth int) {
	names, err := d.Names()
	if err != nil || depth == 0 {
		return
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFREG && !seen[st.Ino]:
			seen[st.Ino] = true
			fn(above+name, st.Blocks*512)
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			if sub, err := d.Sub(name); err == nil {
				sub.eachFile(above+name+"/", fn, seen, depth-1)
				sub.Close()
			}
		}
	}
}
