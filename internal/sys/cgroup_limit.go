package sys

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
)

// LimitCgroup changes the limits of the cgroups that EnterCgroup made for the name; those
// that are 0 stay. It is an error where no controller of the host takes one of them. root is
// the file system with proc and the cgroups, for tests; "" is the real one.
func LimitCgroup(root, name string, lim CgroupLimits) error {
	hs, err := hierarchiesFor(root, name)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range lim.controllers() {
		if !slices.ContainsFunc(hs, func(h hierarchy) bool { return slices.Contains(h.controllers, c) }) {
			errs = append(errs, fmt.Errorf("limit cgroup: no tree has the %s controller", c))
		}
	}
	for _, h := range hs {
		for _, l := range h.limits(lim) {
			if err := putCgroup(filepath.Join(h.dir, name), l.file, l.value); err != nil {
				errs = append(errs, fmt.Errorf("limit cgroup: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// controllers are those that the limits need.
func (l CgroupLimits) controllers() (out []string) {
	if l.MemoryBytes != 0 {
		out = append(out, "memory")
	}
	if l.PIDs != 0 {
		out = append(out, "pids")
	}
	if l.CPUWeight != 0 || l.CPUMilli != 0 {
		out = append(out, "cpu")
	}
	return out
}
