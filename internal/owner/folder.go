package owner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The files in an agent's own folders.
const (
	dataLock = "agent.lock" // in the data dir
	runLock  = "owner"      // in the run dir
)

// TakeDataDir holds the data dir, which one agent at a time works on, by whatever path.
func TakeDataDir(o Owner) (*Hold, error) {
	return take(what{name: "data dir " + o.DataDir, path: filepath.Join(o.DataDir, dataLock), wait: patience,
		fix: "use the running agent, or stop it first"}, o)
}

// TakeRunDir holds the run dir. One that belongs to another data dir, whose agent does
// not run, is taken when no instance of that has a folder in it. One that belonged to a
// data dir at the same path, whose device number may change with a mount, is taken when no
// VMM runs in it.
func TakeRunDir(runDir string, o Owner) (*Hold, error) {
	instances := filepath.Join(runDir, "i")
	return take(what{name: "run dir " + runDir, path: filepath.Join(runDir, runLock), wait: patience,
		free: func(of Owner) error {
			if of.none() {
				return adopt(instances, o)
			}
			if of.DataDir == o.DataDir { // the same folder after a new mount, or another in its place
				return running(instances)
			}
			return leftBy(instances)
		},
		fix: "give this agent a run dir of its own (--run-dir), or stop the instances of the other; where that is gone and no VMM runs, remove " + runDir}, o)
}

// leftBy says why the run dir of an owner that does not run can't be taken: instances
// of it that hold memory have folders there.
func leftBy(instances string) error {
	entries, err := os.ReadDir(instances)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("its instances are in %s, such as %s", instances, entries[0].Name())
	}
	return nil
}

// adopt says why a run dir that names no owner, as mvm had it before it wrote owners
// down, is not this owner's: a VMM runs in it of an instance that this one has not.
func adopt(instances string, o Owner) error {
	entries, err := os.ReadDir(instances)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		_, err := os.Lstat(filepath.Join(o.DataDir, "instances", e.Name()))
		if err == nil || !strings.HasPrefix(e.Name(), "i-") {
			continue
		}
		if locked(filepath.Join(instances, e.Name(), "vmm.lock")) {
			return fmt.Errorf("the VMM of %s runs there, and data dir %s has no such instance", e.Name(), o.DataDir)
		}
	}
	return nil
}

// running says that a VMM runs in the run dir.
func running(instances string) error {
	entries, err := os.ReadDir(instances)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if locked(filepath.Join(instances, e.Name(), "vmm.lock")) {
			return fmt.Errorf("the VMM of %s runs there, of an earlier data dir at the same path", e.Name())
		}
	}
	return nil
}

// locked reports whether a process holds the file's lock, as a VMM does for its life.
func locked(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
