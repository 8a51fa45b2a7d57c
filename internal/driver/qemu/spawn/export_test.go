package spawn

import (
	"log/slog"
	"syscall"

	"mvm/internal/sys"
)

// Credential is what the VMM is started as where the device is the KVM device.
func (l Launch) Credential(device string) (*syscall.Credential, error) { return l.credential(device) }

// Confine bounds the process on a host whose cgroups answer with the error, and returns the
// limits that its cgroup was to have.
func Confine(bounded bool, cgroups error, l Launch, pid int, log *slog.Logger) (limits sys.CgroupLimits, err error) {
	h := &Local{bounded: bounded, log: log, enter: func(_ string, _ int, lim sys.CgroupLimits) ([]string, error) {
		limits = lim
		return nil, cgroups
	}}
	err = h.confine(l, pid)
	return limits, err
}
