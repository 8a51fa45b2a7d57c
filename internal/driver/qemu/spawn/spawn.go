// Package spawn is the part of running QEMU that needs root, and nothing else: to
// start it as the user of its instance. Package vmm finds, bounds and ends it.
//
// It opens no file that it is told of. Whoever wants a VMM opens the VMM's files with
// rights of its own and hands them over open; the arguments of QEMU are made here,
// from a Launch that has been checked. So it can do its work for a caller that is not
// trusted, on the other side of a socket: see package hostd.
//
// The argument of QEMU after "-name" is the name by which package vmproc finds it.
package spawn

import (
	"context"
	"os"
	"strings"

	"mvm/internal/driver/vmproc"
)

// Host starts VMMs, and finds and ends them.
type Host interface {
	vmproc.Host
	// Launch starts a VMM whose vCPUs do not run. It takes over no file: the caller
	// closes them. cgroups are the folders that Leave is to remove, made or not.
	// KindInvalid when the Launch or a file of it does not fit; after an error nothing
	// runs.
	Launch(ctx context.Context, l Launch) (p vmproc.Process, cgroups []string, err error)
}

// nameOf returns the name of a VMM from its arguments, "" for anything else.
func nameOf(args []string) string {
	for i := 0; i+1 < len(args) && i < 3; i++ {
		if args[i] == "-name" && strings.HasPrefix(args[i+1], vmproc.NamePrefix) {
			return args[i+1]
		}
	}
	return ""
}

// Launch is all that decides about a VMM.
type Launch struct {
	vmproc.Name
	UID    int // the VMM runs as this user and group
	GID    int
	Cgroup string // "mvm-<id>", or "" for none
	Accel  string // AccelKVM or AccelTCG
	// NoArchCaps gives guests of KVM the host's CPU without arch-capabilities. A QEMU whose KVM
	// takes no such register (MSR 0x10a), as of nested hosts, ends when it is to set it.
	NoArchCaps bool
	TSCkHz     int // what TCG gives guests, 0: not known
	VCPUs      int
	MemMiB     int
	Restore    bool   // to take a device state; else it boots a kernel
	Cmdline    string // of the kernel
	MAC        string // with a TAP
	Disks      []Disk

	// Mark is that of the Host, which sets it.
	Mark string

	Files Files
	// Owner is who opened the files: the VMM's memory is taken from no other.
	Owner vmproc.Owner
}

// Disk is one virtio-blk disk.
type Disk struct {
	Serial   string `json:"serial"`
	ReadOnly bool   `json:"read_only"`
}

// Files are the open files of a VMM.
type Files struct {
	Lock, Log *os.File // held for the VMM's life, and what QEMU says
	// Memory is what the guest's memory is at first, mapped privately: a file of MemMiB, which
	// becomes the VMM's unless it is in memory and its size sealed; for a boot /dev/zero. Open
	// for reading and writing, as QEMU opens it again.
	Memory                *os.File
	QMP, Console, Channel *os.File // listening unix sockets
	Kernel, Initrd        *os.File // nil: none; the kernel is nil for a restore
	Disks                 []*os.File
	TAP                   *os.File // nil: no network
}

// AccelKVM and AccelTCG are the accelerators.
const (
	AccelKVM = "kvm"
	AccelTCG = "tcg"
)
