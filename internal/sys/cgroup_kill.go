package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	cgroupKillTimeout = 5 * time.Second
	cgroupKillPoll    = 5 * time.Millisecond
)

// CgroupProcesses returns the numbers of the processes in the cgroups that EnterCgroup
// makes for the name; none where there are no such. A process can't leave a cgroup
// without rights, whatever else of itself it hides.
func CgroupProcesses(name string) []int {
	dirs, _ := CgroupDirs(name) // a host may have none
	var all []int
	for _, dir := range dirs {
		pids, _ := processesIn(dir)
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func processesIn(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, syscall.ENODEV) { // it was just removed
		err = fs.ErrNotExist
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 0 { // 0: of another PID namespace
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// CgroupNames returns the last names of the paths of the cgroups that the process is in.
func CgroupNames(pid int) []string {
	var names []string
	for dir := range threads(pid) { // a thread that has exited may show none any more
		b, _ := os.ReadFile(dir + "/cgroup")
		for line := range strings.Lines(string(b)) {
			if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(parts) == 3 {
				names = append(names, path.Base(parts[2]))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// SignalCgroup has every process in the folders of cgroups ended, and does not wait for
// it. With version 2 the kernel does it at once; elsewhere no process can be made in them
// while those that there are get killed. What is not there is no error.
func SignalCgroup(dirs []string) error {
	return eachCgroup(dirs, func(dir string, pids []int) error {
		signalCgroup(dir, pids)
		return nil
	})
}

// KillCgroup is SignalCgroup until the cgroups are empty.
func KillCgroup(dirs []string) error {
	return eachCgroup(dirs, func(dir string, pids []int) error {
		for end := time.Now().Add(cgroupKillTimeout); ; time.Sleep(cgroupKillPoll) {
			signalCgroup(dir, pids)
			var err error
			if pids, err = processesIn(dir); err != nil || len(pids) == 0 {
				return err
			}
			if time.Now().After(end) {
				return fmt.Errorf("%d are there after %s", len(pids), cgroupKillTimeout)
			}
		}
	})
}

// eachCgroup calls do for the cgroups that have processes.
func eachCgroup(dirs []string, do func(dir string, pids []int) error) error {
	var errs []error
	for _, dir := range dirs {
		pids, err := processesIn(dir)
		if err == nil && len(pids) > 0 {
			err = do(dir, pids)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("end the processes of cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

func signalCgroup(dir string, pids []int) {
	if putCgroup(dir, "cgroup.kill", "1") == nil { // Linux 5.14
		return
	}
	defer holdCgroup(dir)()
	if now, err := processesIn(dir); err == nil {
		pids = now
	}
	for _, pid := range pids {
		killIn(dir, pid)
	}
}

// holdCgroup keeps the processes of the cgroup from making others until release is
// called, as far as the cgroup can: frozen with version 2, and without room for more
// processes with version 1, where one that is frozen can't be killed.
func holdCgroup(dir string) (release func()) {
	if putCgroup(dir, "cgroup.freeze", "1") == nil {
		return func() { _ = putCgroup(dir, "cgroup.freeze", "0") }
	}
	_ = putCgroup(dir, "pids.max", "0") // another controller's folder has none
	return func() {}
}

// putCgroup writes to a file that the kernel has made, and makes none.
func putCgroup(dir, name, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// killIn kills the process if it is in the cgroup still: its number may be another's.
func killIn(dir string, pid int) {
	p, err := openProcess(pid, false) // how it ended is its parent's to know
	if err != nil {
		return
	}
	defer p.Close()
	if pids, err := processesIn(dir); err == nil && slices.Contains(pids, pid) {
		_ = p.Signal(syscall.SIGKILL)
	}
}
