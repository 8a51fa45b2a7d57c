package linux

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"mvm"
	"mvm/internal/guest/definition"
)

// RootStage is the argument with which Boot starts this program again in the root
// file system.
const RootStage = "root-stage"

// Where the root file system is put together, within the initrd.
const (
	stageDir = definition.StageDir
	lowerDir = stageDir + "/lower" // the disk, read-only
	writeDir = stageDir + "/rw"    // tmpfs: what root's writes go to
	rootDir  = stageDir + "/root"  // the overlay of both
)

// switchRoot mounts the disk under an overlay in memory, frees the initrd, and
// executes a copy of this program there.
func switchRoot(serial, kind string) error {
	self, err := copySelf()
	if err != nil {
		return mvm.Errorf(mvm.KindInternal, "switch root: copy mvm-guest: %w", err)
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount the root disk", func() error { return mountRoot(serial, kind) }},
		{"move mounts", moveMounts},
		{"free the initrd", freeInitrd},
		{"enter the root disk", enterRoot},
	} {
		if err := step.do(); err != nil {
			return mvm.Errorf(mvm.KindInternal, "switch root: %s: %w", step.name, err)
		}
	}
	err = unix.Exec("/proc/self/fd/"+strconv.Itoa(self), []string{"mvm-guest", RootStage}, os.Environ())
	return mvm.Errorf(mvm.KindInternal, "switch root: execute mvm-guest: %w", err)
}

// copySelf puts this program into a file that has no name and needs no file system.
func copySelf() (fd int, err error) {
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, err
	}
	defer exe.Close()
	fd, err = unix.MemfdCreate("mvm-guest", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	dup, err := unix.Dup(fd)
	if err != nil {
		return 0, err
	}
	mem := os.NewFile(uintptr(dup), "mvm-guest")
	_, err = io.Copy(mem, exe)
	return fd, errors.Join(err, mem.Close())
}

func mountRoot(serial, kind string) error {
	dev := findDisk(serial)
	if dev == "" {
		return fmt.Errorf("no virtio disk has the serial %q", serial)
	}
	if kind == "" {
		return errors.New("the kernel command line has no mvm.rootfstype")
	}
	if err := waitFor(dev, func() bool { return there(dev) }); err != nil {
		return err
	}
	for _, dir := range []string{lowerDir, writeDir, rootDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount(dev, lowerDir, kind, unix.MS_RDONLY|unix.MS_NOATIME, ""); err != nil {
		return fmt.Errorf("mount %s as %s: %w", dev, kind, err)
	}
	if err := unix.Mount("tmpfs", writeDir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	upper, work := writeDir+"/upper", writeDir+"/work"
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755)); err != nil {
		return err
	}
	lower := lowerDir
	if there(definition.AddedDir) {
		lower = definition.AddedDir + ":" + lower
	}
	options := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", rootDir, "overlay", unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

func moveMounts() error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		if err := os.MkdirAll(rootDir+dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, rootDir+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	return nil
}

// freeInitrd removes all that was unpacked into memory. Nothing is mounted in it
// any more but what is below stageDir.
func freeInitrd() error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join("/", e.Name())
		if path == stageDir {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func enterRoot() error {
	if err := unix.Chdir(rootDir); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}
