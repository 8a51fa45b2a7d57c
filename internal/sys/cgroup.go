package sys

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CgroupLimits bound the processes of a cgroup; 0 is no bound.
type CgroupLimits struct {
	MemoryBytes int64
	PIDs        int
	// CPUWeight is how much of the CPUs it gets when all want them: cpu.weight of cgroup v2,
	// where 100 is what a cgroup has from the start.
	CPUWeight int
	// CPUMilli is how much CPU time it may take, in thousandths of one CPU.
	CPUMilli int
}

// cpuPeriod is the time in which a cgroup may use up its CPU time, in microseconds.
const cpuPeriod = 100_000

// EnterCgroup puts the process into the cgroup with the name below this process's
// own, or beside it where that is CgroupLeaf, made if need be, with the limits. It does what the host allows, with cgroup
// v1, v2 or both: it returns the folders that it made or found and, joined, what
// could not be done. A caller for whom limits are a bonus logs the error and goes on.
func EnterCgroup(name string, pid int, lim CgroupLimits) (dirs []string, err error) {
	hs, err := hierarchiesFor("", name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range hs {
		dir := filepath.Join(h.dir, name)
		if err := h.enter(dir, pid, lim); err != nil {
			errs = append(errs, err)
			_ = os.Remove(dir) // only an empty one goes
			continue
		}
		dirs = append(dirs, dir)
	}
	return dirs, errors.Join(errs...)
}

// CgroupDirs returns the folders that EnterCgroup would use, so that a caller can
// make a note of them first. They need not exist.
func CgroupDirs(name string) ([]string, error) {
	hs, err := hierarchiesFor("", name)
	var dirs []string
	for _, h := range hs {
		dirs = append(dirs, filepath.Join(h.dir, name))
	}
	return dirs, err
}

// CgroupsHere returns the names of the cgroups that are where EnterCgroup makes its own,
// each once.
func CgroupsHere() ([]string, error) {
	hs, err := cgroupHierarchies("")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, h := range hs {
		entries, err := os.ReadDir(h.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.IsDir() && !slices.Contains(names, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names, nil
}

func hierarchiesFor(root, name string) ([]hierarchy, error) {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("enter cgroup %q: not a single name", name)
	}
	hs, err := cgroupHierarchies(root)
	if err == nil && len(hs) == 0 {
		err = errors.New("enter cgroup: no memory or pids controller is mounted")
	}
	return hs, err
}

// LeaveCgroup removes the folders that EnterCgroup returned, once their processes
// are gone. What is not there is no error.
func LeaveCgroup(dirs []string) error {
	var errs []error
	for _, dir := range dirs {
		deadline := time.Now().Add(time.Second)
		for {
			err := os.Remove(dir)
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				break
			}
			if time.Now().After(deadline) { // a dying process is in it for some ms
				errs = append(errs, err)
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return errors.Join(errs...)
}

// hierarchy is a cgroup tree with the folder of this process in it.
type hierarchy struct {
	dir         string
	v2          bool
	controllers []string // that it has
}

func (h hierarchy) enter(dir string, pid int, lim CgroupLimits) error {
	if h.v2 {
		// Refused where this cgroup has processes of its own; then the limit files
		// below are missing, which is told.
		_ = os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+memory +pids"), 0)
		_ = os.WriteFile(filepath.Join(h.dir, "cgroup.subtree_control"), []byte("+cpu"), 0) // which may not be there
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for _, l := range h.limits(lim) {
		if err := os.WriteFile(filepath.Join(dir, l.file), []byte(l.value), 0); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

type limit struct{ file, value string }

func (h hierarchy) limits(lim CgroupLimits) []limit {
	var out []limit
	add := func(controller, v1, v2 string, value int64) {
		switch {
		case value == 0:
		case h.v2:
			out = append(out, limit{v2, strconv.FormatInt(value, 10)})
		case slices.Contains(h.controllers, controller):
			out = append(out, limit{v1, strconv.FormatInt(value, 10)})
		}
	}
	add("memory", "memory.limit_in_bytes", "memory.max", lim.MemoryBytes)
	add("pids", "pids.max", "pids.max", int64(lim.PIDs))
	return append(out, h.cpu(lim)...)
}

// cpu are the limits of CPU time. Where nobody limits it, what bounds memory and processes
// does without: CPUBound tells.
func (h hierarchy) cpu(lim CgroupLimits) (out []limit) {
	if !slices.Contains(h.controllers, "cpu") {
		return nil
	}
	weight, quota := int64(lim.CPUWeight), int64(lim.CPUMilli)*cpuPeriod/1000
	if weight > 0 && h.v2 {
		out = append(out, limit{"cpu.weight", strconv.FormatInt(min(weight, 10_000), 10)})
	} else if weight > 0 {
		out = append(out, limit{"cpu.shares", strconv.FormatInt(min(max(1024*weight/100, 2), 262_144), 10)})
	}
	if quota > 0 && h.v2 {
		out = append(out, limit{"cpu.max", fmt.Sprintf("%d %d", quota, cpuPeriod)})
	} else if quota > 0 {
		out = append(out, limit{"cpu.cfs_period_us", strconv.Itoa(cpuPeriod)}, limit{"cpu.cfs_quota_us", strconv.FormatInt(quota, 10)})
	}
	return out
}

// cgroupHierarchies finds the trees that have the memory, pids or cpu controller.
func cgroupHierarchies(fsroot string) ([]hierarchy, error) {
	own, err := ownCgroups(fsroot)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join("/", fsroot, "proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var hs []hierarchy
	for s := bufio.NewScanner(f); s.Scan(); {
		left, right, ok := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		root, mount := l[3], filepath.Join("/", fsroot, l[4])
		switch r[0] {
		case "cgroup":
			opts := strings.Split(r[2], ",")
			for _, c := range []string{"memory", "pids", "cpu"} {
				if slices.Contains(opts, c) {
					hs = append(hs, hierarchy{dir: below(mount, root, own[c]), controllers: opts})
					break
				}
			}
		case "cgroup2":
			dir := beside(below(mount, root, own[""]))
			b, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
			if has := strings.Fields(string(b)); slices.Contains(has, "memory") || slices.Contains(has, "pids") {
				hs = append(hs, hierarchy{dir: dir, v2: true, controllers: has})
			}
		}
	}
	return hs, nil
}

// below is where a cgroup path shows under a mount of the subtree root.
func below(mount, root, path string) string {
	if rel, err := filepath.Rel(root, path); err == nil && !strings.HasPrefix(rel, "..") {
		return filepath.Join(mount, rel)
	}
	return mount
}

// ownCgroups maps each v1 controller, and "" for v2, to this process's path.
func ownCgroups(fsroot string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join("/", fsroot, "proc/self/cgroup"))
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			own[c] = parts[2]
		}
	}
	return own, nil
}
