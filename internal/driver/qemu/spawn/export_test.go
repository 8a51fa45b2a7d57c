package spawn

import (
	"log/slog"
	"syscall"

	"mvm/internal/sys"
)

// Credential is what the VMM is started as where the device is the KVM device.
func (l Launch) Credential(device string) (*syscall.Credential, error) { return l.credential(device) }

// Confine bounds the process on a host whose cgroups answer with the error.
func Confine(bounded bool, cgroups error, l Launch, pid int) error {
	h := &Local{bounded: bounded, log: slog.New(slog.DiscardHandler),
		enter: func(string, int, sys.CgroupLimits) ([]string, error) { return nil, cgroups }}
	return h.confine(l, pid)
}
