package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What Landlock handles, by the version in which it learnt to.
const (
	lockRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_EXECUTE
	lockWrite = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	lockV1    = unix.LANDLOCK_ACCESS_FS_MAKE_SYM<<1 - 1 // all up to it
	lockFile  = lockWrite | unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
)

// landlockRules are what is handled on this kernel.
func landlockRules() (unix.LandlockRulesetAttr, error) {
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return unix.LandlockRulesetAttr{}, errno
	}
	a := unix.LandlockRulesetAttr{Handled_access_fs: lockV1}
	if version >= 2 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if version >= 3 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 4 {
		a.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if version >= 5 {
		a.Handled_access_fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if version >= 6 {
		a.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	return a, nil
}

// landlock allows what the program's root shows, and its open files as they are open.
func (c *child) landlock() error {
	if err := noNewPrivileges(); err != nil {
		return err
	}
	attr, err := landlockRules()
	if err != nil {
		return err
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return fmt.Errorf("make rules: %w", errno)
	}
	rules := int(fd)
	defer unix.Close(rules)
	allow := func(at int, access uint64) error {
		rule := unix.LandlockPathBeneathAttr{Allowed_access: access & attr.Handled_access_fs, Parent_fd: int32(at)}
		_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(rules), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&rule)), 0, 0, 0)
		if errno != 0 && errno != unix.EBADFD { // which is not of a path, and not restricted
			return errno
		}
		return nil
	}
	shown := append([]string{"/proc"}, c.Root...)
	if c.stands(Mount) { // its root has nothing else
		shown = []string{"/"}
	}
	for _, p := range shown {
		err = errors.Join(err, allowPath(p, lockRead, allow))
	}
	for _, p := range c.Devices {
		err = errors.Join(err, allowPath(p, lockWrite|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV, allow))
	}
	for n := range c.Files {
		err = errors.Join(err, allowOpen(n, allow))
	}
	if err != nil {
		return fmt.Errorf("make rules: %w", err)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules), 0, 0); errno != 0 {
		return errno
	}
	return nil
}

func allowPath(path string, access uint64, allow func(at int, access uint64) error) error {
	fd, err := unix.Open(filepath.Clean(path), unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		access &= lockFile
	}
	return allow(fd, access)
}

// allowOpen lets the program open a file again that it has open, in the same way.
func allowOpen(n int, allow func(at int, access uint64) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(n, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFCHR {
		return nil
	}
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	switch flags & unix.O_ACCMODE {
	case unix.O_RDWR:
		return allow(n, lockWrite)
	case unix.O_RDONLY:
		return allow(n, unix.LANDLOCK_ACCESS_FS_READ_FILE)
	}
	return nil
}
