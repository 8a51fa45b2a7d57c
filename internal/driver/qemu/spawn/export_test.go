package spawn

import (
	"log/slog"
	"syscall"

	"mvm/internal/driver/vmproc"
	"mvm/internal/sys"
)

// Credential is what the VMM is started as where the device is the KVM device.
func (l Launch) Credential(device string) (*syscall.Credential, error) {
	c := &syscall.Credential{Uid: uint32(l.UID), Gid: uint32(l.GID)}
	groups, err := l.groups(device)
	for _, g := range groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c, err
}

// Confine bounds the process on a host whose cgroups answer with the error, and returns the
// limits that its cgroup was to have.
func Confine(bounded bool, cgroups error, l Launch, pid int, log *slog.Logger) (limits sys.CgroupLimits, err error) {
	h := vmproc.New(vmproc.Options{Bounded: bounded, Log: log, Enter: func(_ string, _ int, lim sys.CgroupLimits) ([]string, error) {
		limits = lim
		return nil, cgroups
	}})
	err = h.Confine(pid, l.Name, "", l.limits())
	return limits, err
}
