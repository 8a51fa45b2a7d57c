package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What the new root is put on until it is the root: a folder that every Linux has, and from
// which no program needs anything.
const newRoot = "/sys"

// root makes a root that has the program's files alone, read-only, and a /proc that has no
// process but the program's own.
func (c *child) root() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	defer unix.Umask(unix.Umask(0)) // that of mvm hostd hides what it makes from the program's user
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=1m,nr_inodes=1k"); err != nil {
		return fmt.Errorf("make a root: %w", err)
	}
	for _, p := range c.Root {
		if err := bind(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("show %s: %w", p, err)
		}
	}
	if err := c.proc(); err != nil {
		return fmt.Errorf("make /proc: %w", err)
	}
	still := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	for _, p := range c.Devices { // what is under it stays a device
		if err := bind(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("show %s: %w", p, err)
		}
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, newRoot, unix.AT_RECURSIVE, &still); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	device := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOEXEC, Attr_clr: unix.MOUNT_ATTR_NODEV}
	for _, p := range c.Devices {
		if err := unix.MountSetattr(unix.AT_FDCWD, filepath.Join(newRoot, p), 0, &device); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("make %s a device: %w", p, err)
		}
	}
	return pivot()
}

// bind shows a file or folder of the host in the new root, where it is in the host. It makes
// few system calls: a wake waits for it.
func bind(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	at := filepath.Join(newRoot, path)
	var err error
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = unix.Mkdir(at, 0o755)
	} else {
		err = unix.Mknod(at, unix.S_IFREG|0o644, 0)
	}
	if errors.Is(err, unix.ENOENT) { // a folder above it
		if err := folders(filepath.Dir(at)); err != nil {
			return err
		}
		return bind(path)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return unix.Mount(path, at, "", unix.MS_BIND, "")
}

// folders makes the folder, and those above it.
func folders(dir string) error {
	err := unix.Mkdir(dir, 0o755)
	if errors.Is(err, unix.ENOENT) {
		if err = folders(filepath.Dir(dir)); err == nil {
			err = unix.Mkdir(dir, 0o755)
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// proc mounts what the program sees of processes: in its PID namespace itself alone, and
// elsewhere those of its user.
func (c *child) proc() error {
	at := filepath.Join(newRoot, "proc")
	if err := unix.Mkdir(at, 0o555); err != nil {
		return err
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("proc", at, "proc", flags, "hidepid=2,subset=pid")
	if errors.Is(err, unix.EINVAL) { // a kernel before 5.8
		err = unix.Mount("proc", at, "proc", flags, "hidepid=2")
	}
	return err
}

// pivot makes the new root the root, and lets go of the old one.
func pivot() error {
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return unix.Chdir("/")
}
