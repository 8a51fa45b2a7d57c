package sys

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mvm"
)

// ErrForeign says that something is in a folder of mvm's that mvm did not make: a
// link, a pipe, a file of somebody else. Nothing was done with it.
var ErrForeign = errors.New("mvm did not make it")

// Folder is a hold on a folder of this process's user in which nobody else can replace anything.
// What is in it is named by single names, never by paths, and no link is ever
// followed: a file is looked at first, and opened only where it is a regular file of
// one name and of the right owner. Anything else is ErrForeign, of KindPolicy, with
// the path and what to do. A Folder may be used from many goroutines.
type Folder struct {
	path string // for messages
	f    *os.File
}

// foreign says what is wrong at the path.
func foreign(path, format string, args ...any) error {
	return mvm.Errorf(mvm.KindPolicy, "use %s: it is %s: %w", path, fmt.Sprintf(format, args...), ErrForeign).
		WithFix("find out who created it, because a VMM may be compromised; then move it away and try again")
}

// OpenFolder takes hold of the folder at the path, whose parents are trusted. Its last
// part may be no link.
func OpenFolder(path string) (*Folder, error) {
	return openFolder(unix.AT_FDCWD, path, path, os.Geteuid())
}

// openFolder opens the name in the folder with the number. The folder belongs to one of
// the owners.
func openFolder(at int, name, path string, owners ...int) (*Folder, error) {
	if err := seam(FolderOpen, path); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, foreign(path, "no folder")
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	d := &Folder{path: path, f: os.NewFile(uintptr(fd), path)}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	switch {
	case err != nil:
		err = &fs.PathError{Op: "stat", Path: path, Err: err}
	case !slices.Contains(owners, int(st.Uid)) && !slices.Contains(owners, AnyUser):
		err = foreign(path, "a folder of user %d", st.Uid)
	case st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 && int(st.Uid) == os.Geteuid():
		err = foreign(path, "a folder that others may write to, mode %04o", st.Mode&0o7777)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenParent takes hold of the folder of the path, and returns the last part of it.
// Below root each part is a folder of its own right, and no link.
func OpenParent(root, path string) (*Folder, string, error) {
	dir, name := filepath.Dir(path), filepath.Base(path)
	rel, err := filepath.Rel(root, dir)
	if err != nil || !filepath.IsLocal(rel) {
		d, err := OpenFolder(dir)
		return d, name, err
	}
	d, err := OpenFolder(root)
	for _, part := range strings.Split(rel, "/") {
		if err != nil || part == "." {
			continue
		}
		up := d
		d, err = up.Sub(part)
		err = errors.Join(err, up.Close())
	}
	return d, name, err
}

// InFolder calls fn with a hold on the folder at the path, and ends the hold.
func InFolder(path string, fn func(*Folder) error) error {
	d, err := OpenFolder(path)
	if err != nil {
		return err
	}
	return errors.Join(fn(d), d.Close())
}

// InParent calls fn with a hold on the folder of the path, as OpenParent gives it, and
// the last part of the path.
func InParent(root, path string, fn func(d *Folder, name string) error) error {
	d, name, err := OpenParent(root, path)
	if err != nil {
		return err
	}
	return errors.Join(fn(d, name), d.Close())
}

// InSub calls fn with a hold on a folder in this one.
func (d *Folder) InSub(name string, fn func(*Folder) error) error {
	sub, err := d.Sub(name)
	if err != nil {
		return err
	}
	return errors.Join(fn(sub), sub.Close())
}

// IfThere takes away the error that something is not there.
func IfThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// NothingIn reports that nothing in the folder has a name that begins so, or that the
// folder is not there. It is false where it could not find out.
func NothingIn(path, prefix string) bool {
	var names []string
	err := IfThere(InFolder(path, func(d *Folder) (err error) {
		names, err = d.Names()
		return err
	}))
	return err == nil && !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, prefix) })
}

// Close lets go of the folder.
func (d *Folder) Close() error { return d.f.Close() }

// Path is where the folder was when it was opened, for messages.
func (d *Folder) Path() string { return d.path }

func (d *Folder) fd() int { return int(d.f.Fd()) }

// at is the path of the name, for messages. A name that is none is refused.
func (d *Folder) at(name string) (string, error) {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", mvm.Errorf(mvm.KindInternal, "use %q in %s: it is no name of a file", name, d.path)
	}
	return filepath.Join(d.path, name), nil
}

// Sub takes hold of a folder in this one.
func (d *Folder) Sub(name string) (*Folder, error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	return openFolder(d.fd(), name, path, os.Geteuid())
}

// MakeSub is Sub, of a folder that is made where it is not there.
func (d *Folder) MakeSub(name string) (*Folder, error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	if err := seam(FolderMake, path); err != nil {
		return nil, err
	}
	if err := unix.Mkdirat(d.fd(), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "make folder", Path: path, Err: err}
	}
	return d.Sub(name)
}

// look takes hold of a name without opening what it names, and says what that is.
func (d *Folder) look(name string) (*os.File, unix.Stat_t, error) {
	var st unix.Stat_t
	path, err := d.at(name)
	if err != nil {
		return nil, st, err
	}
	if err := seam(FileLook, path); err != nil {
		return nil, st, err
	}
	fd, err := unix.Openat(d.fd(), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, st, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, st, errors.Join(&fs.PathError{Op: "stat", Path: path, Err: err}, f.Close())
	}
	return f, st, nil
}

// kinds are the words for what a name may name.
var kinds = map[uint32]string{unix.S_IFREG: "a file", unix.S_IFDIR: "a folder", unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a pipe",
	unix.S_IFSOCK: "a socket", unix.S_IFCHR: "a device", unix.S_IFBLK: "a device"}

// check refuses what is not of the kind, of one name, and this user's or one of the
// owners'.
func check(path string, st unix.Stat_t, kind uint32, owners []int) error {
	switch is := st.Mode & unix.S_IFMT; {
	case is != kind:
		return foreign(path, "%s, not %s", kinds[is], kinds[kind])
	case int(st.Uid) != os.Geteuid() && !slices.Contains(owners, int(st.Uid)):
		return foreign(path, "%s of user %d", kinds[is], st.Uid)
	case st.Nlink != 1 && kind != unix.S_IFDIR:
		return foreign(path, "%s that has %d names", kinds[is], st.Nlink)
	}
	return nil
}

// regular is look for a regular file of one name, of this user or one of the owners.
func (d *Folder) regular(name string, owners []int) (*os.File, unix.Stat_t, error) {
	f, st, err := d.look(name)
	if err != nil {
		return nil, st, err
	}
	if err := check(f.Name(), st, unix.S_IFREG, owners); err != nil {
		return nil, st, errors.Join(err, f.Close())
	}
	return f, st, nil
}

// Open opens a file that is there. It belongs to this user or to one of the owners.
// The flag is an access mode, with O_APPEND or not.
func (d *Folder) Open(name string, flag int, owners ...int) (*os.File, error) {
	held, _, err := d.regular(name, owners)
	if err != nil {
		return nil, err
	}
	defer held.Close()
	if err := seam(FileOpen, held.Name()); err != nil {
		return nil, err
	}
	fd, err := unix.Open(procPath(held), flag&(unix.O_ACCMODE|unix.O_APPEND)|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: held.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), held.Name()), nil
}

// procPath names the very file that is held.
func procPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// Create makes a new file, 0600, open to read and write. What had its name before
// loses it, whatever it was, but for a folder.
func (d *Folder) Create(name string) (*os.File, error) {
	path, err := d.at(name)
	if err != nil {
		return nil, err
	}
	if err := d.Remove(name); err != nil {
		return nil, err
	}
	if err := seam(FileCreate, path); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(d.fd(), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// OpenOrCreate is Open of a file that is made, 0600, where it is not there. Of several
// callers one makes it.
func (d *Folder) OpenOrCreate(name string, flag int) (*os.File, error) {
	for {
		f, err := d.Open(name, flag)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		if err := d.seam(FileCreate, name); err != nil {
			return nil, err
		}
		fd, err := unix.Openat(d.fd(), name, flag&unix.O_ACCMODE|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &fs.PathError{Op: "create", Path: filepath.Join(d.path, name), Err: err}
		}
	}
}

// Append opens a file to append to, and makes it where it is not there.
func (d *Folder) Append(name string) (*os.File, error) {
	return d.OpenOrCreate(name, os.O_WRONLY|os.O_APPEND)
}

// IsNamed reports whether the file is what the name names.
func (d *Folder) IsNamed(f *os.File, name string) bool {
	held, st, err := d.look(name)
	if err != nil {
		return false
	}
	defer held.Close()
	var own unix.Stat_t
	return unix.Fstat(int(f.Fd()), &own) == nil && own.Dev == st.Dev && own.Ino == st.Ino
}

// ReadFile reads a file of at most limit bytes.
func (d *Folder) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = mvm.Errorf(mvm.KindInvalid, "read %s: it has more than %d bytes", f.Name(), limit)
	}
	return b, err
}

// WriteFile replaces a file whole. With durable it is on disk when this returns; else
// it outlives this process, and not a crash of the host.
func (d *Folder) WriteFile(name string, data []byte, durable bool) (err error) {
	tmp := name + ".new"
	f, err := d.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.Rename(tmp, d, name)
	}
	if err == nil && durable {
		return d.Sync()
	}
	if err != nil {
		return errors.Join(err, d.Remove(tmp))
	}
	return nil
}

// Rename moves what a name names, and not what a link of the name points to, to
// another folder or name. What had that name loses it.
func (d *Folder) Rename(name string, to *Folder, as string) error {
	from, err1 := d.at(name)
	_, err2 := to.at(as)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := seam(FileRename, from); err != nil {
		return err
	}
	if err := unix.Renameat(d.fd(), name, to.fd(), as); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: filepath.Join(to.path, as), Err: err}
	}
	return nil
}

// Sync makes what was made, renamed and removed in the folder durable.
func (d *Folder) Sync() error {
	if err := seam(FolderSync, d.path); err != nil {
		return err
	}
	return d.f.Sync()
}

// Size returns the bytes of a file, and how many of them take space on the disk.
func (d *Folder) Size(name string, owners ...int) (bytes, allocated int64, err error) {
	f, st, err := d.regular(name, owners)
	if err != nil {
		return 0, 0, err
	}
	return st.Size, st.Blocks * 512, f.Close()
}

// Free is the space that the file system of the folder has left for this user.
func (d *Folder) Free() (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd(), &st); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: d.path, Err: err}
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// Names lists what is in the folder.
func (d *Folder) Names() ([]string, error) {
	var names []string
	err := d.each(func(batch []string) error {
		names = append(names, batch...)
		return nil
	})
	return names, err
}

// each calls fn with the names in the folder, some at a time.
func (d *Folder) each(fn func(names []string) error) error {
	if err := seam(FolderList, d.path); err != nil {
		return err
	}
	list, err := d.anyFolder(".")
	if err != nil {
		return err
	}
	defer list.Close()
	for {
		names, err := list.f.Readdirnames(1000)
		if len(names) > 0 {
			if err := fn(names); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// owner is the folder's owner, this user where it can't be told.
func (d *Folder) owner() int {
	var st unix.Stat_t
	if unix.Fstat(d.fd(), &st) != nil {
		return os.Geteuid()
	}
	return int(st.Uid)
}
