package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// CgroupLeaf is the name of the cgroup that a process which has to bound others with
// cgroup v2 is started in, where the cgroup above is delegated to it (systemd's
// DelegateSubgroup). Those others get cgroups beside it: one that has processes can't
// limit cgroups below itself.
const CgroupLeaf = "mvm-self"

// CgroupsBound is nil where EnterCgroup can bound both memory and the number of
// processes, and says otherwise why it can't. It changes nothing. root is the file system
// with proc and the cgroups, for tests; "" is the real one.
func CgroupsBound(root string) error { return bounds(root, "memory", "pids") }

// CPUBound is CgroupsBound for CPU time.
func CPUBound(root string) error { return bounds(root, "cpu") }

func bounds(root string, controllers ...string) error {
	hs, err := cgroupHierarchies(root)
	if err != nil {
		return fmt.Errorf("look at cgroups: %w", err)
	}
	for _, c := range controllers {
		why := fmt.Errorf("no cgroup tree with the %s controller is mounted or delegated to this process", c)
		for _, h := range hs {
			if slices.Contains(h.controllers, c) {
				why = h.bounds()
				break
			}
		}
		if why != nil {
			return why
		}
	}
	return nil
}

// bounds is nil where cgroups below the hierarchy's folder can have limits.
func (h hierarchy) bounds() error {
	if !h.v2 {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(h.dir, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return nil // the root of all: it alone may have processes as well
	}
	b, err := os.ReadFile(filepath.Join(h.dir, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("look at cgroup: %w", err)
	}
	if len(strings.Fields(string(b))) > 0 {
		return fmt.Errorf("with cgroup v2, a cgroup with processes can't limit others, and %s has processes", h.dir)
	}
	return nil
}

// beside is the cgroup v2 folder below which others' are made.
func beside(own string) string {
	if filepath.Base(own) == CgroupLeaf {
		return filepath.Dir(own)
	}
	return own
}
