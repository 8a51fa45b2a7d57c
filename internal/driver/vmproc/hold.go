package vmproc

import (
	"errors"
	"syscall"

	"mvm/internal/sys"
)

// Hold bounds the process of a VMM that was just started with the mark, outside of the
// host's jail, and returns it as Find would: for a VMM that opens its network by name.
// cgroups are the folders that Leave is to remove, made or not. After an error, the process
// is gone.
func (h *Local) Hold(p *sys.Process, n Name, mark string, lim Limits) (_ Process, cgroups []string, err error) {
	if lim.Cgroup { // those that Confine will make; a host without any is told there
		cgroups, _ = sys.CgroupDirs(markedCgroup(n, mark))
	}
	if err := h.Confine(p.PID, n, mark, lim); err != nil {
		return nil, nil, errors.Join(err, p.Signal(syscall.SIGKILL), await(p), sys.LeaveCgroup(cgroups))
	}
	return local{p, search{name: n, mark: mark}.cgroups(), nil}, cgroups, nil
}

// await reaps a process that was killed.
func await(p *sys.Process) error {
	_, _, _, err := p.Wait()
	return errors.Join(err, p.Close())
}
