package cage

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// newRoot is what the new root is put on until it is the root: a folder that every Linux has,
// and of which a cage shows nothing.
const newRoot = "/sys"

// devices are those that Nix gives to builds. One that the host lacks is an empty file.
var devices = []string{"/dev/full", "/dev/null", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}

// ownRoot makes a root in memory that has what the order says, and a /proc of the cage's own.
func ownRoot(o order) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	unix.Umask(0)
	if err := unix.Mount("tmpfs", newRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=0755,size=%d,nr_inodes=%d", o.Disk, o.Inodes)); err != nil {
		return fmt.Errorf("make a root: %w", err)
	}
	show := maps.Clone(o.Binds)
	for _, p := range o.Show {
		if _, err := os.Stat(p); err == nil {
			show = with(show, p, p)
		}
	}
	for _, at := range slices.SortedFunc(maps.Keys(show), func(a, b string) int { return cmp.Compare(len(a), len(b)) }) { // folders before what is in them
		if shown(show, filepath.Dir(at)) {
			continue
		}
		if err := bind(show[at], filepath.Join(newRoot, at), unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV); err != nil {
			return fmt.Errorf("show %s: %w", show[at], err)
		}
	}
	for _, p := range devices {
		if err := device(p); err != nil {
			return fmt.Errorf("show %s: %w", p, err)
		}
	}
	if err := terminals(); err != nil {
		return fmt.Errorf("make /dev/pts: %w", err)
	}
	if err := fill(o); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(newRoot, "proc"), 0o555); err != nil {
		return err
	}
	if err := unix.Mount("proc", filepath.Join(newRoot, "proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("make /proc: %w", err)
	}
	return pivot()
}

// shown reports whether the folder, or one above it, is shown.
func shown(show map[string]string, dir string) bool {
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if show[dir] != "" {
			return true
		}
	}
	return false
}

func with(m map[string]string, k, v string) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[k] = v
	return m
}

// fill makes the texts, and the folders of the cage's user.
func fill(o order) error {
	for p, text := range o.Texts {
		at := filepath.Join(newRoot, p)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, p := range o.Own {
		at := filepath.Join(newRoot, p)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := os.Chown(at, o.User, o.User); err != nil {
			return fmt.Errorf("give %s to user %d: %w", p, o.User, err)
		}
	}
	return nil
}

// bind shows a file or folder at a path, with these attributes of the mount.
func bind(path, at string, attributes uint64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if info.IsDir() {
		err = os.Mkdir(at, 0o755)
	} else {
		err = os.WriteFile(at, nil, 0o644)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.Mount(path, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, at, 0, &unix.MountAttr{Attr_set: attributes})
}

func device(path string) error {
	at := filepath.Join(newRoot, path)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(at, nil, 0o444)
	}
	return bind(path, at, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
}

// terminals makes pseudoterminals of the cage's own: Nix reads the log of a build from one.
func terminals() error {
	at := filepath.Join(newRoot, "/dev/pts")
	if err := os.Mkdir(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("devpts", at, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,max=64"); err != nil {
		return err
	}
	return os.Symlink("pts/ptmx", filepath.Join(newRoot, "/dev/ptmx"))
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
